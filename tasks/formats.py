"""What lies in one file: a text, or the rows of a table, read with bounded memory whatever the file holds."""

import csv
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

LARGEST_BYTES = 16 * 1024**2  # of one document; bounds the memory of every reader
SKIPPED_BYTES = 1024**3  # how far an over-long line is followed before the rest of its file is given up
SPOOLED_BYTES = 8 * 1024**3  # of a packed parquet file, which is read from a temporary file
PARQUET_ROWS = 64  # read at once

TABLES = {".jsonl", ".ndjson", ".csv", ".tsv", ".parquet"}
PACKED = {".gz", ".zst"}
TEXTS = (
    "txt text md markdown rst tex org adoc html xml json yaml yml toml py pyi ipynb c h cc cpp hpp cs go java"
    " js jsx ts tsx kt lua php pl r rb rs scala sh sql swift"
)
PLAIN = {f".{name}" for name in TEXTS.split()}


class Reason(str):
    """Why a value is not a text."""


TOO_LARGE = Reason("larger than 16 MiB")
NOT_UTF8 = Reason("not UTF-8")
NUL_BYTES = Reason("has NUL bytes")
NO_TEXT = Reason("no text in its column")
MALFORMED = Reason("malformed row")
GIVEN_UP = Reason("rest of a file, after a line of over 1 GiB")
BROKEN = Reason("broken, truncated or unreadable file")

Row = dict[str, Any] | Reason


def ending(path: Path) -> str:
    """The ending that says how to read a file: `.csv` of `a.csv.gz`."""
    return Path(path.stem if path.suffix.lower() in PACKED else path.name).suffix.lower()


def text_of(value: object) -> str | Reason:
    """A value as text of valid Unicode without NULs, or why it is none; a byte-order mark is dropped."""
    if isinstance(value, Reason):
        return value
    if not isinstance(value, bytes | str):
        return NO_TEXT
    if len(value) > LARGEST_BYTES:
        return TOO_LARGE
    try:
        data = value.encode() if isinstance(value, str) else value
        text = data.decode()
    except UnicodeError:
        return NOT_UTF8
    if len(data) > LARGEST_BYTES:
        return TOO_LARGE
    return NUL_BYTES if "\0" in text else text.removeprefix("\ufeff")


def whole(path: Path) -> bytes | Reason:
    """A file's unpacked bytes, cut just above the largest size."""
    try:
        with _opened(path) as stream:
            return stream.read(LARGEST_BYTES + 1)
    except OSError:
        return BROKEN


def pieces(path: Path, size_bytes: int) -> Iterator[bytes | Reason]:
    """A file's lines in runs that end at the first blank line after `size_bytes`, or at twice that."""
    piece, length = list[bytes](), 0
    try:
        with _opened(path) as stream:
            for line in _lines(stream):
                if isinstance(line, Reason):
                    yield line
                    continue
                piece.append(line)
                length += len(line)
                if length >= 2 * size_bytes or (length >= size_bytes and not line.strip()):
                    yield b"".join(piece)
                    piece, length = [], 0
        if piece:
            yield b"".join(piece)
    except OSError:
        yield BROKEN


def rows(path: Path, columns: list[str], header: bool = True) -> Iterator[Row]:
    """A table's rows with these columns, missing ones left out; a bad row is a Reason, the rest goes on.

    Without a header, the columns of csv and tsv are called 1, 2, ...; other tables name their own.
    """
    try:
        with _opened(path) as stream:
            match ending(path):
                case ".parquet":
                    yield from _parquet_rows(path, stream, columns)
                case ".csv":
                    yield from _csv_rows(stream, ",", header)
                case ".tsv":
                    yield from _csv_rows(stream, "\t", header)
                case _:
                    yield from _json_rows(stream)
    except (OSError, pa.ArrowException):
        yield BROKEN


def columns(path: Path, header: bool = True) -> list[str] | None:
    """The names of a table's columns; None where its first row cannot be read."""
    if ending(path) == ".parquet" and path.suffix.lower() not in PACKED:
        try:
            return list(pq.read_schema(path).names)
        except (OSError, pa.ArrowException):
            return None
    first = next(rows(path, [], header), None)
    return None if first is None or isinstance(first, Reason) else list(first)


def _opened(path: Path) -> IO[bytes]:
    """The unpacked bytes; a truncated archive raises OSError where it ends."""
    packing = "detect" if path.suffix.lower() in PACKED else None
    return io.BufferedReader(pa.input_stream(str(path), compression=packing))


def _lines(stream: IO[bytes]) -> Iterator[bytes | Reason]:
    """Lines with their ends; an over-long one as a Reason, whatever its length."""
    while line := stream.readline(LARGEST_BYTES + 1):
        if len(line) <= LARGEST_BYTES:
            yield line
            continue
        yield TOO_LARGE
        skipped = 0
        while line and not line.endswith(b"\n"):
            line = stream.readline(LARGEST_BYTES)
            skipped += len(line)
            if skipped > SKIPPED_BYTES:
                yield GIVEN_UP
                return


def _json_rows(stream: IO[bytes]) -> Iterator[Row]:
    for line in _lines(stream):
        if isinstance(line, Reason):
            yield line
        elif line.strip():
            try:
                row = json.loads(line)
            except UnicodeError:
                yield NOT_UTF8
            except (ValueError, RecursionError):
                yield MALFORMED
            else:
                yield row if isinstance(row, dict) else MALFORMED


def _csv_rows(stream: IO[bytes], delimiter: str, named: bool) -> Iterator[Row]:
    """Bytes that are not UTF-8 pass as lone surrogates, which `text_of` refuses one row at a time."""
    skipped: list[Reason] = []

    def lines() -> Iterator[str]:
        for number, line in enumerate(_lines(stream)):
            if isinstance(line, Reason):
                skipped.append(line)
            else:
                text = line.decode("utf-8", "surrogateescape")
                yield text if number else text.removeprefix("\ufeff")

    csv.field_size_limit(LARGEST_BYTES)
    reader = csv.reader(lines(), delimiter=delimiter)
    header: list[str] | None = None
    while True:
        try:
            row = next(reader, None)
        except csv.Error:
            row = []
            yield MALFORMED
        yield from skipped
        skipped.clear()
        if row is None:
            return
        if header is None:
            header = row if named else [str(number + 1) for number in range(len(row))]
            if named:
                continue
        if len(row) == len(header):
            yield dict(zip(header, row, strict=True))
        elif row:
            yield MALFORMED


def _parquet_rows(path: Path, stream: IO[bytes], columns: list[str]) -> Iterator[Row]:
    with tempfile.TemporaryFile() as spool:
        if path.suffix.lower() in PACKED:
            if _copy(stream, spool) > SPOOLED_BYTES:
                yield TOO_LARGE
                return
            file = pq.ParquetFile(spool)
        else:
            file = pq.ParquetFile(path)
        names = [name for name in columns or file.schema_arrow.names if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=names):
            values = [_values(batch.column(name)) for name in names]
            for row in zip(*values, strict=True) if names else [()] * batch.num_rows:
                yield dict(zip(names, row, strict=True))


def _values(column: Any) -> list[Any]:
    """Strings as bytes, because one that is not UTF-8 would end the reading."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    return list(column.to_pylist())


def _copy(stream: IO[bytes], spool: IO[bytes]) -> int:
    """Bytes copied: all, or just above the most that is spooled."""
    while (block := stream.read(LARGEST_BYTES)) and spool.tell() <= SPOOLED_BYTES:
        spool.write(block)
    return spool.tell()
