"""What a model is asked, many texts at once: lines, files and rows, in the order in which they stand."""

import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

from tasks import formats, places, tables
from tasks.artifacts import InputError
from tasks.documents import Document, SetAside, document
from tasks.places import ADDRESS, StoreError
from tasks.source import Files, parts_in
from tasks.unpacking import buffered

PIPE = "-"  # in place of a file: standard input
Each = Literal["line", "file"]
Piped = Literal["txt", "jsonl", "csv", "tsv"]
AT_ONCE, AT_ONCE_CHARACTERS = 256, 4_000_000  # texts that are answered together, at most

Text = Document | SetAside


def texts_in(
    paths: Sequence[str], column: str = "text", each: Each | None = None, piped: Piped = "txt"
) -> Iterator[Text]:
    """The texts of files, folders, globs, addresses and `-`, in this order; what cannot be read as a reason.

    Of a table (jsonl, csv, tsv, parquet) every row's `column`. A text file that is named, and standard
    input unless `piped` says that it is a table, hold a text a line, a blank one too; in a folder or an
    archive, every file is a text. `each` says otherwise. Raises InputError where a path means nothing, or
    a table lacks the column.
    """
    if named := tuple(path for path in paths if path != PIPE):
        Files(paths=named, text_column=column).check()
    try:
        for path in paths:
            if path == PIPE:
                yield from _piped(piped, column, each)
            elif each == "line" or (each is None and _named_text(path)):
                yield from _by_line(path, column)
            else:
                yield from Files(paths=(path,), text_column=column).documents()
    except StoreError as error:
        raise InputError(f"{error} Look at the address, and whether it can be reached.") from None


def _piped(piped: Piped, column: str, each: Each | None) -> Iterator[Text]:
    source, stream = "standard input", buffered(_Unclosed(sys.stdin.buffer), None)
    if piped != "txt":
        for position, row in enumerate(tables.rows(stream, f".{piped}", [column])):
            value = row if isinstance(row, formats.Reason) else row.get(column)
            yield document(source, position, "", None, value)
    elif each == "file":
        yield from (document(source, 0, "", None, value) for value in formats.texts(stream))
    else:
        yield from _lines(source, stream)


def batches(texts: Iterable[Text]) -> Iterator[list[Text]]:
    """Texts to be answered together, few enough for any memory."""
    batch, length = list[Text](), 0
    for text in texts:
        batch.append(text)
        length += len(text.text) if isinstance(text, Document) else 0
        if len(batch) == AT_ONCE or length >= AT_ONCE_CHARACTERS:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


def _named_text(path: str) -> bool:
    """Whether a path names one text file, rather than a table, a page, an archive, or many files."""
    if formats.ending(path) in formats.TABLES | formats.ARCHIVES | formats.PAGES:
        return False
    return formats.ending(path) in formats.PLAIN if ADDRESS.match(path) else Path(path).expanduser().is_file()


def _by_line(path: str, column: str) -> Iterator[Text]:
    for place in places.find([path]):
        if isinstance(place, SetAside):
            yield place
        elif formats.ending(place.name) in formats.TABLES:
            yield from Files(paths=(place.name,), text_column=column).documents()
        else:
            for part in formats.until_broken(parts_in(place)):
                if isinstance(part, formats.Reason):
                    yield SetAside(place.name, 0, part)
                elif isinstance(part.stream, formats.Reason):
                    yield SetAside(part.name, 0, part.stream)
                else:
                    yield from _lines(part.name, part.stream)


def _lines(source: str, stream: io.BufferedReader) -> Iterator[Text]:
    for position, line in enumerate(formats.until_broken(formats.lines(stream))):
        value = line if isinstance(line, formats.Reason) else line.rstrip(b"\r\n")
        yield document(source, position, "", None, value)


class _Unclosed(io.RawIOBase):
    """Standard input as it comes, line by line from a terminal; it stays open when who reads it has gone."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        read = getattr(self._stream, "read1", self._stream.read)
        data: bytes = read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
