"""The rows of a parquet file, page by page: how much Arrow would unpack at once is looked at before it does."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks import formats, parquet_pages
from tasks.formats import BROKEN, LARGEST_BYTES, TOO_LARGE, Reason, Unreadable
from tasks.parquet_pages import Chunk, largest_page_bytes
from tasks.unpacking import check_ratio, seekable

READ_ROWS = 16  # at once: each may be as large as the largest document
READ_BYTES = 1024**2  # of a column at once; without such a buffer, Arrow reads a row group whole
ROW_BYTES = 8  # that a row counts for at least, so that even empty ones come to an end
# Arrow unpacks a page at once and takes up to three times its size. Writers aim at 1 MiB (parquet-format, Data Page
# Size), but Arrow's own puts at least 1,024 rows into a page.
LARGEST_PAGE_BYTES = 20 * LARGEST_BYTES

TOO_LARGE_PAGE = Reason("rows of a parquet page of over 320 MiB")


def rows(stream: io.BufferedReader, columns: list[str]) -> Iterator[dict[str, Any] | Reason]:
    """Rows with these columns, missing ones left out; strings as bytes, because one may not be UTF-8.

    A group of rows that cannot be read is one Reason. Raises OSError where the file cannot.
    """
    with seekable(stream) as file:
        groups = parquet_pages.row_groups(file)
        table = _Table(file, columns)
        for number, chunks in enumerate(groups):
            yield from formats.until_broken(table.group(number, chunks))


def columns(stream: io.BufferedReader) -> list[str] | None:
    """The names of its columns; None where they cannot be read, or only from a copy of the whole file."""
    try:
        return _Table(stream, []).columns if stream.seekable() else None
    except ConnectionError:
        raise
    except OSError:
        return None


class _Table:
    """A parquet file and the columns that are wanted of it; raises Unreadable where it has no sound footer."""

    def __init__(self, file: io.BufferedReader, wanted: list[str]) -> None:
        self._file = file
        self._packed, self._unpacked = file.seek(0, io.SEEK_END), 0
        with _damage_told():
            self._table = pq.ParquetFile(file, pre_buffer=False, buffer_size=READ_BYTES)
            self.columns: list[str] = self._table.schema_arrow.names
        self._wanted = [name for name in wanted if name in self.columns]

    def group(self, number: int, chunks: list[Chunk]) -> Iterator[dict[str, Any] | Reason]:
        """The rows of a group. Raises Unreadable where it is damaged, or would take too much memory."""
        for chunk in chunks:
            if chunk.column in self._wanted and largest_page_bytes(self._file, chunk) > LARGEST_PAGE_BYTES:
                raise Unreadable(TOO_LARGE_PAGE)
        with _damage_told():
            for batch in self._table.iter_batches(READ_ROWS, [number], self._wanted, use_threads=False):
                values = [_plain(batch.column(name)) for name in self._wanted]
                self._unpacked += batch.num_rows * ROW_BYTES + sum(array.nbytes for array in values)
                check_ratio(self._packed, self._unpacked)
                for row in zip(*map(_values, values), strict=True) if values else [()] * batch.num_rows:
                    yield dict(zip(self._wanted, row, strict=True))


@contextmanager
def _damage_told() -> Iterator[None]:
    """Raises Unreadable for what Arrow raises about damaged files, in the many ways that it does."""
    try:
        yield
    except OSError:
        raise
    except (pa.ArrowException, ValueError, LookupError, ArithmeticError, NotImplementedError):
        raise Unreadable(BROKEN) from None


def _plain(column: Any) -> Any:
    """Strings as bytes, because one that is not UTF-8 would end the reading."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return column.cast(pa.large_binary()) if text else column


def _values(column: Any) -> list[Any]:
    """Its values; a text that is too large is not copied once more."""
    if pa.types.is_large_binary(column.type) and column.nbytes > LARGEST_BYTES:
        return [
            TOO_LARGE if value.is_valid and value.as_buffer().size > LARGEST_BYTES else value.as_py()
            for value in column
        ]
    return list(column.to_pylist())
