"""Packed bytes unpacked as they are read, with bounded memory; what would unpack without end is given up."""

import gzip
import io
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyarrow as pa

from tasks.artifacts import InputError
from tasks.formats import BROKEN, LARGEST_BYTES, Reason, Unreadable

BUFFER_BYTES = 256 * 1024  # of each stream
STEP_BYTES = 64 * 1024  # unpacked at once; what of it a broken zstd stream holds is lost
SPOOLED_BYTES = 8 * 1024**3  # of what is packed and must be read back and forth, in a temporary file
# Text packs to a tenth or so, and logs to a thirtieth; deflate reaches 1,032 (zlib's technical notes).
BOMB_RATIO = 100
BOMB_FREE_BYTES = 4 * LARGEST_BYTES  # any file may unpack to this much

BOMB = Reason("unpacks to over 100 times its size")
TOO_LARGE_PACKED = Reason("packed table or archive of over 8 GiB")


def check_ratio(packed_bytes: int, unpacked_bytes: int) -> None:
    """Raises Unreadable where so much cannot be text that was packed into so little."""
    if unpacked_bytes > max(BOMB_FREE_BYTES, BOMB_RATIO * packed_bytes):
        raise Unreadable(BOMB)


class Meter(io.RawIOBase):
    """A file, whose bytes it counts, and those unpacked from them; raises Unreadable where these are too many."""

    def __init__(self, file: io.RawIOBase | io.BytesIO, size_bytes: int | None) -> None:
        self._file = file
        self._size = size_bytes
        self._read = self._unpacked = 0

    def unpacked(self, size_bytes: int) -> None:
        """So many bytes more have been unpacked."""
        self._unpacked += size_bytes
        check_ratio(self._read if self._size is None else min(self._read, self._size), self._unpacked)

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Bytes read into the buffer."""
        read = self._file.readinto(buffer) or 0
        self._read += read
        return read

    def readable(self) -> bool:
        """Whether the file is."""
        return True

    def seekable(self) -> bool:
        """Whether the file is."""
        return self._file.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """The new position."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The position."""
        return self._file.tell()


class _Unpacking(io.RawIOBase):
    """What a stream unpacks to; a truncated one raises Unreadable, after all that was whole."""

    def __init__(self, packed: io.BufferedReader, how: str, meter: Meter) -> None:
        self._read: Callable[[int], bytes] = (
            gzip.GzipFile(fileobj=packed).read1  # read would lose what is before the error that it meets
            if how == "gzip"
            else pa.CompressedInputStream(pa.PythonFile(packed, mode="r"), how).read
        )
        self._meter = meter
        self._broken = False

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        filled = 0
        while filled < len(buffer) and not self._broken:
            try:
                data = self._read(min(STEP_BYTES, len(buffer) - filled))
            except (ConnectionError, Unreadable):
                raise
            except (OSError, EOFError, zlib.error):
                self._broken = True
                break
            if not data:
                break
            buffer[filled : filled + len(data)] = data
            filled += len(data)
        if self._broken and not filled:
            raise Unreadable(BROKEN)
        self._meter.unpacked(filled)
        return filled

    def readable(self) -> bool:
        return True


def buffered(raw: io.RawIOBase, size_bytes: int | None) -> io.BufferedReader:
    """A reader of the stream with no more room than its size asks for; making room takes longer than a small file."""
    return io.BufferedReader(raw, BUFFER_BYTES if size_bytes is None else min(BUFFER_BYTES, size_bytes + 1))


def unpacked(stream: io.BufferedReader, how: str | None, meter: Meter) -> io.BufferedReader:
    """The stream, unpacked (`how`: gzip or zstd) where it is packed."""
    return stream if how is None else io.BufferedReader(_Unpacking(stream, how, meter), BUFFER_BYTES)


@contextmanager
def seekable(stream: io.BufferedReader) -> Iterator[io.BufferedReader]:
    """The stream itself, or its copy in a temporary file where it can be read in order only.

    Raises Unreadable where it is longer than SPOOLED_BYTES, InputError where the disk has no room for it.
    """
    if stream.seekable():
        yield stream
        return
    with tempfile.TemporaryFile() as spool:
        while block := stream.read(BUFFER_BYTES):
            try:
                spool.write(block)
                spool.flush()
            except OSError as error:
                raise InputError(
                    f"{tempfile.gettempdir()}: no room to unpack a table or archive: {error}"
                ) from error
            if spool.tell() > SPOOLED_BYTES:
                raise Unreadable(TOO_LARGE_PACKED)
        spool.seek(0)
        yield io.BufferedReader(spool.raw, BUFFER_BYTES)
