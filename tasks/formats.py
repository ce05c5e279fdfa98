"""What a file may hold, and its text: valid Unicode of bounded size, or the reason why it is none."""

import codecs
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

import pyarrow as pa

LARGEST_BYTES = 16 * 1024**2  # of one document; bounds the memory of every reader
SKIPPED_BYTES = 1024**3  # how far an over-long line is followed before the rest of its file is given up
READ_BYTES = 64 * 1024  # of a text at once
BLOCK_BYTES = 256 * 1024  # of lines at once

TABLES = {".jsonl", ".ndjson", ".csv", ".tsv", ".parquet"}
ARCHIVES = {".tar", ".zip"}
PAGES = {".html", ".htm"}
PACKED = {".gz": "gzip", ".zst": "zstd", ".tgz": "gzip", ".tzst": "zstd"}
SHORT = {".tgz": ".tar", ".tzst": ".tar"}  # two endings in one
TEXTS = (
    "txt text md markdown rst tex org adoc xml json yaml yml toml py pyi ipynb c h cc cpp hpp cs go java"
    " js jsx ts tsx kt lua php pl r rb rs scala sh sql swift"
)
PLAIN = {f".{name}" for name in TEXTS.split()}
READABLE = TABLES | ARCHIVES | PAGES | PLAIN

# UTF-32 first: its little-endian mark begins like that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

LINE = re.compile(rb"[^\n]*\n|[^\n]+")

T = TypeVar("T")


class Reason(str):
    """Why a value is not a text."""


TOO_LARGE = Reason("larger than 16 MiB")
NOT_UTF8 = Reason("not UTF-8")
NUL_BYTES = Reason("has NUL bytes")
NO_TEXT = Reason("no text in its column")
MALFORMED = Reason("malformed row")
UNCLOSED = Reason("a quote that is not closed")
GIVEN_UP = Reason("rest of a file, after a line of over 1 GiB")
BROKEN = Reason("broken, truncated or unreadable file")
FORBIDDEN = Reason("a file that may not be read")


class Unreadable(OSError):
    """Reading ends here, for a reason that is known."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def ending(name: str) -> str:
    """The ending that says how to read a file of this name: `.csv` of `a.csv.gz`, `.tar` of `a.tgz`."""
    stem, last = _split(name)
    if last in SHORT:
        return SHORT[last]
    return _split(stem)[1] if last in PACKED else last


def packing(name: str) -> str | None:
    """What a file of this name is packed with: gzip, zstd or nothing."""
    return PACKED.get(_split(name)[1])


def _split(name: str) -> tuple[str, str]:
    """A name and its last ending in lower case, where it has one; pathlib takes ten times as long."""
    stem, dot, last = name.rpartition(".")
    return (
        (stem, f".{last.lower()}") if dot and stem[-1:] not in ("", "/") and "/" not in last else (name, "")
    )


def text_of(value: object) -> str | Reason:
    """A value as text of valid Unicode without NULs, or why it is none; a byte-order mark is dropped."""
    if isinstance(value, Reason):
        return value
    if not isinstance(value, bytes | str):
        return NO_TEXT
    if len(value) > LARGEST_BYTES:
        return TOO_LARGE
    try:
        if isinstance(value, bytes):
            text = value.decode()
        else:
            text = value
            if not text.isascii() and len(text.encode()) > LARGEST_BYTES:
                return TOO_LARGE
    except UnicodeError:
        return NOT_UTF8
    return NUL_BYTES if "\0" in text else text.removeprefix("\ufeff")


def until_broken(found: Iterator[T]) -> Iterator[T | Reason]:
    """What is found and, where reading breaks off, why; a store that does not answer is no broken file."""
    try:
        yield from found
    except ConnectionError:
        raise
    except Unreadable as error:
        yield error.reason
    except PermissionError:
        yield FORBIDDEN
    except (OSError, pa.ArrowException):
        yield BROKEN


def whole(path: Path) -> bytes | Reason:
    """A file's bytes, cut just above the largest size."""
    try:
        with path.open("rb") as stream:
            return stream.read(LARGEST_BYTES + 1)
    except OSError:
        return BROKEN


def texts(stream: io.BufferedReader, cut_bytes: int | None = None) -> Iterator[bytes | Reason]:
    """The text that a stream holds, in UTF-8, cut just above the largest size; or in pieces of `cut_bytes`."""
    return pieces(stream, cut_bytes) if cut_bytes else until_broken(_whole(stream))


def _whole(stream: io.BufferedReader) -> Iterator[bytes]:
    yield beginning(in_utf8(stream))


def beginning(stream: io.BufferedReader) -> bytes:
    """All bytes, or those just above the largest size; `read` would make room for all of these at once."""
    found, length = list[bytes](), 0
    while length <= LARGEST_BYTES and (data := stream.read(min(READ_BYTES, LARGEST_BYTES + 1 - length))):
        found.append(data)
        length += len(data)
    return b"".join(found)


def pieces(stream: io.BufferedReader, cut_bytes: int) -> Iterator[bytes | Reason]:
    """Lines in runs that end at the first blank line after `cut_bytes`, or at twice that."""
    piece, length = list[bytes](), 0
    for line in until_broken(lines(stream)):
        if isinstance(line, Reason):
            yield line
            continue
        piece.append(line)
        length += len(line)
        if length >= 2 * cut_bytes or (length >= cut_bytes and not line.strip()):
            yield b"".join(piece)
            piece, length = [], 0
    if piece:
        yield b"".join(piece)


def lines(stream: io.BufferedReader) -> Iterator[bytes | Reason]:
    """Lines in UTF-8 with their ends; an over-long one as a Reason, whatever its length."""
    for block in blocks(stream):
        if isinstance(block, Reason):
            yield block
        else:
            yield from LINE.findall(block)


def blocks(stream: io.BufferedReader) -> Iterator[bytes | Reason]:
    """Whole lines in UTF-8, many at once; an over-long one as a Reason, whatever its length."""
    stream = in_utf8(stream)
    held, length = list[bytes](), 0  # of a line that goes on
    while block := stream.read1(BLOCK_BYTES):
        first = block.find(b"\n") + 1
        if length + (first or len(block)) > LARGEST_BYTES:
            yield TOO_LARGE
            while not first:
                length += len(block)
                if length > LARGEST_BYTES + SKIPPED_BYTES:
                    yield GIVEN_UP
                    return
                block = stream.read1(BLOCK_BYTES)
                first = block.find(b"\n") + 1 if block else 1
            held, length, block = [], 0, block[first:]
        last = block.rfind(b"\n") + 1
        if last:
            yield b"".join([*held, block[:last]])
            held, length, block = [], 0, block[last:]
        held.append(block)
        length += len(block)
    if length:
        yield b"".join(held)


def in_utf8(stream: io.BufferedReader) -> io.BufferedReader:
    """The same text in UTF-8, where a mark at its start says that it is UTF-16 or UTF-32; else the stream itself."""
    start = stream.peek(4)[:4]
    for mark, encoding in MARKS.items():
        if start.startswith(mark):
            return io.BufferedReader(_Recoded(stream, encoding), READ_BYTES)
    return stream


class _Recoded(io.RawIOBase):
    """UTF-8 of what is in another encoding; raises Unreadable where it is not."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._waiting = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._waiting:
            data = self._stream.read(READ_BYTES)
            try:
                self._waiting = memoryview(self._decoder.decode(data, final=not data).encode())
            except UnicodeError:
                raise Unreadable(NOT_UTF8) from None
            if not data:
                break
        taken = min(len(buffer), len(self._waiting))
        buffer[:taken] = self._waiting[:taken]
        self._waiting = self._waiting[taken:]
        return taken
