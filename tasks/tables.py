"""The rows of tables: JSON lines, comma- and tab-separated values, parquet; a bad row does not stop the rest."""

import csv
import io
import json
import re
from collections import deque
from collections.abc import Iterator
from typing import Any

import orjson

from tasks import formats, parquet
from tasks.formats import LARGEST_BYTES, MALFORMED, NOT_UTF8, UNCLOSED, Reason

REREAD_BYTES = 16 * LARGEST_BYTES  # of a file, after quotes that are not closed; bounds what they cost

LINE = re.compile(r"[^\n]*\n|[^\n]+")

Row = dict[str, Any]


def rows(
    stream: io.BufferedReader, ending: str, columns: list[str], header: bool = True
) -> Iterator[Row | Reason]:
    """A table's rows with these columns, missing ones left out; a bad row is a Reason, the rest goes on.

    Without a header, the columns of csv and tsv are called 1, 2, ...; other tables name their own.
    """
    match ending:
        case ".parquet":
            found = parquet.rows(stream, columns)
        case ".csv" | ".tsv":
            found = _csv_rows(stream, "," if ending == ".csv" else "\t", columns, header)
        case _:
            found = _json_rows(stream, columns)
    return formats.until_broken(found)


def columns(stream: io.BufferedReader, ending: str, header: bool = True) -> list[str] | None:
    """The names of a table's columns; None where its first row cannot be read, or only by unpacking all of it."""
    if ending == ".parquet":
        return parquet.columns(stream)
    first = next(rows(stream, ending, [], header), None)
    return None if first is None or isinstance(first, Reason) else list(first)


def _json_rows(stream: io.BufferedReader, columns: list[str]) -> Iterator[Row | Reason]:
    for line in formats.lines(stream):
        if isinstance(line, Reason):
            yield line
            continue
        try:
            row = orjson.loads(line)
        except ValueError:
            if not line.strip():
                continue
            row = _lenient(line)
        else:
            if isinstance(row, dict) and any(isinstance(row.get(name), float) for name in columns):
                row = _lenient(
                    line
                )  # whole numbers of over 64 bits stay whole, such as those that name a group
        yield row if isinstance(row, dict | Reason) else MALFORMED


def _lenient(line: bytes) -> object:
    """What orjson refuses and Python's reader takes: NaN, a byte-order mark; what both refuse as a Reason."""
    try:
        return json.loads(line)
    except UnicodeError:
        return NOT_UTF8
    except (ValueError, RecursionError):
        return MALFORMED


def _csv_rows(
    stream: io.BufferedReader, delimiter: str, columns: list[str], header: bool
) -> Iterator[Row | Reason]:
    """Bytes that are not UTF-8 pass as lone surrogates, which `text_of` refuses one row at a time."""
    names: list[str] | None = None
    wanted: list[tuple[str, int]] = []
    for record in _records(formats.blocks(stream), delimiter):
        if isinstance(record, Reason):
            yield record
            continue
        if names is None:
            names = record if header else [str(number + 1) for number in range(len(record))]
            wanted = [(name, at) for at, name in enumerate(names) if not columns or name in columns]
            if header:
                continue
        if len(record) == len(names):
            yield {name: record[at] for name, at in wanted}
        elif record:
            yield MALFORMED


def _records(blocks: Iterator[bytes | Reason], delimiter: str) -> Iterator[list[str] | Reason]:
    """Records; of one whose quote is not closed only the first line is lost, reading goes on at its second."""
    csv.field_size_limit(LARGEST_BYTES)
    source = _Lines(blocks)
    reader = csv.reader(source, delimiter=delimiter)
    while True:
        source.begin()
        record: list[str] | Reason | None
        try:
            record = next(reader, None)
        except csv.Error:
            record = UNCLOSED if len(source.record) > 1 else MALFORMED
        if record is not None and source.ended:
            record = UNCLOSED
        if record is UNCLOSED:
            source.back_to_second()
        yield from source.refused
        source.refused.clear()
        if record is None:
            return
        yield record


class _Lines:
    """Lines for `csv.reader`, which remembers those of the record that is being read."""

    def __init__(self, blocks: Iterator[bytes | Reason]) -> None:
        self._new = self._decoded(blocks)
        self._again: deque[str] = deque()
        self._length = self._reread = 0
        self.record: list[str] = []
        self.refused: list[Reason] = []
        self.ended = False

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        try:
            line = self._again.popleft() if self._again else next(self._new)
        except StopIteration:
            self.ended = True
            raise
        self.record.append(line)
        self._length += len(line)
        if self._length > 2 * LARGEST_BYTES:
            raise csv.Error("a record without end")
        return line

    def begin(self) -> None:
        """The next line is the first of a record."""
        self.record.clear()
        self._length = 0

    def back_to_second(self) -> None:
        """The next line is the second of the record just read, unless too much has been read again by now."""
        self._reread += self._length
        if self._reread <= REREAD_BYTES:
            self._again.extendleft(reversed(self.record[1:]))
            self.ended = False

    def _decoded(self, blocks: Iterator[bytes | Reason]) -> Iterator[str]:
        start = True
        for block in blocks:
            if isinstance(block, Reason):
                self.refused.append(block)
                continue
            text = block.decode("utf-8", "surrogateescape")
            yield from LINE.findall(text.removeprefix("\ufeff") if start else text)
            start = False
