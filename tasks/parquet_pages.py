"""How large the pages of a parquet file are, without unpacking any: its footer and the pages' headers.

Arrow says neither: it unpacks a page before it is asked, and ends the process at some footers that are damaged.
"""

import io
from collections.abc import Iterator
from typing import NamedTuple

from tasks.formats import BROKEN, LARGEST_BYTES, Unreadable

MAGIC = b"PAR1"
HEADER_BYTES = 64 * 1024  # of a page, read at first; some hold a whole value as their largest
# Fields by number (parquet-format, parquet.thrift): of FileMetaData, RowGroup, ColumnChunk and ColumnMetaData, the
# last being where its data pages and its dictionary's start; of PageHeader.
ROW_GROUPS, COLUMNS, META_DATA, PATH, CHUNK_SIZE, STARTS = 4, 1, 3, 3, 7, (9, 11)
UNPACKED, PACKED = 2, 3
# Kinds of values (thrift-compact-protocol.md); of maps parquet has none.
TRUTHS = {1, 2}
NUMBERS = {4, 5, 6}
STRING, STRUCTURE = 8, 12
LISTS = {9, 10}
WIDTHS = {1: 0, 2: 0, 3: 1, 7: 8}  # bytes of the kinds that always take as many
DEEPEST = 16  # structures within one another; there are at most 5


class Chunk(NamedTuple):
    """Where the pages of one column of a row group lie in the file."""

    column: str
    start: int
    size_bytes: int


def row_groups(file: io.BufferedReader) -> list[list[Chunk]]:
    """The chunks of each row group. Raises Unreadable where the footer is damaged, or over 16 MiB."""
    end = file.seek(0, io.SEEK_END) - 8
    file.seek(max(0, end))
    tail = file.read(8)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != MAGIC or not 0 < length <= min(end, LARGEST_BYTES):
        raise Unreadable(BROKEN)
    file.seek(end - length)
    footer = _Compact(file.read(length))
    found: list[list[Chunk]] = []
    try:
        for field, kind in footer.fields():
            if field == ROW_GROUPS:
                found += [_chunks(footer) for _ in footer.items()]
            else:
                footer.skip(kind)
    except (IndexError, ValueError):
        raise Unreadable(BROKEN) from None
    return found


def _chunks(footer: "_Compact") -> list[Chunk]:
    found: list[Chunk] = []
    for field, kind in footer.fields():
        if field == COLUMNS:
            found += [_chunk(footer) for _ in footer.items()]
        else:
            footer.skip(kind)
    return found


def _chunk(footer: "_Compact") -> Chunk:
    path, numbers = [b""], {CHUNK_SIZE: 0}
    for column_field, column_kind in footer.fields():
        if column_field != META_DATA:
            footer.skip(column_kind)
            continue
        for field, kind in footer.fields():
            if field == PATH:
                path = [footer.text() for _ in footer.items()]
            elif kind in NUMBERS:
                numbers[field] = footer.signed()
            else:
                footer.skip(kind)
    starts = [numbers[field] for field in STARTS if numbers.get(field)]
    return Chunk(path[0].decode("utf-8", "replace"), min(starts, default=0), numbers[CHUNK_SIZE])


def largest_page_bytes(file: io.BufferedReader, chunk: Chunk) -> int:
    """What the largest page of a chunk unpacks to. Raises Unreadable where the header of a page is none."""
    at, largest = chunk.start, 0
    while at < chunk.start + chunk.size_bytes:
        length, packed, unpacked = _page(file, at)
        largest = max(largest, unpacked)
        at += length + packed
    return largest


def _page(file: io.BufferedReader, at: int) -> tuple[int, int, int]:
    """Bytes of a page's header, of the page, and of what it unpacks to."""
    wanted = HEADER_BYTES
    while wanted < LARGEST_BYTES:
        file.seek(at)
        data = file.read(wanted)
        header, numbers = _Compact(data), {UNPACKED: -1, PACKED: -1}
        try:
            for field, kind in header.fields():
                if kind in NUMBERS:
                    numbers[field] = header.signed()
                else:
                    header.skip(kind)
        except IndexError:
            wanted = 8 * wanted if len(data) == wanted else LARGEST_BYTES
            continue
        except ValueError:
            break
        if min(numbers[UNPACKED], numbers[PACKED]) < 0:
            break
        return header.at, numbers[PACKED], numbers[UNPACKED]
    raise Unreadable(BROKEN)


class _Compact:
    """Values in Thrift's compact protocol, one after the other.

    Raises IndexError where the data ends too soon, ValueError where it is something else.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self._depth = 0

    def fields(self) -> Iterator[tuple[int, int]]:
        """Number and kind of a structure's fields; whoever asks reads or skips each value before the next."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise ValueError("structures within structures")
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self.signed()
            yield field, head & 15
        self._depth -= 1

    def items(self) -> Iterator[int]:
        """The kind of a list's values, once for each."""
        head = self._byte()
        count = head >> 4 if head >> 4 < 15 else self.number()
        for _ in range(count):
            yield head & 15

    def number(self) -> int:
        """A number that is not below 0."""
        value = shift = 0
        while (byte := self._byte()) & 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift > 63:
                raise ValueError("a number without end")
        return value | byte << shift

    def signed(self) -> int:
        """A whole number."""
        value = self.number()
        return (value >> 1) ^ -(value & 1)

    def text(self) -> bytes:
        """A string."""
        return self._take(self.number())

    def skip(self, kind: int) -> None:
        """Passes over a value; a truth value of a structure is in its kind."""
        if kind in NUMBERS:
            self.number()
        elif kind == STRING:
            self.text()
        elif kind == STRUCTURE:
            for _, inner in self.fields():
                self.skip(inner)
        elif kind in LISTS:
            for inner in self.items():
                self.skip(3 if inner in TRUTHS else inner)  # in lists, a truth value is a byte
        elif kind in WIDTHS:
            self._take(WIDTHS[kind])
        else:
            raise ValueError("a value of no known kind")

    def _take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise IndexError
        self.at += count
        return self.data[self.at - count : self.at]

    def _byte(self) -> int:
        byte = self.data[self.at]
        self.at += 1
        return byte
