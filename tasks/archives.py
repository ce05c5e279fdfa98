"""What lies in a file: the file itself, or the members of a tar or zip, one after the other and never on disk."""

import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

from tasks import formats
from tasks.formats import BROKEN, Reason, Unreadable
from tasks.unpacking import BUFFER_BYTES, Meter, buffered, seekable, unpacked

BLOCK_BYTES = tarfile.BLOCKSIZE
LONGEST_NAME_BYTES = 64 * 1024  # of a tar's member, with all that is said about it; the rest is left out
LARGEST_MEMBER_BYTES = 2**60  # a header may say more, or less than nothing
DIRECTORY_BYTES = 32 * 1024**2  # of a zip: half a million members, whose names take 300 MB of memory

LINK = Reason("a link or device in an archive")
SPARSE = Reason("a sparse file in an archive")
NESTED = Reason("an archive in an archive")
ENCRYPTED = Reason("encrypted in its archive")
OTHER_PACKING = Reason("packed in another way than zip's usual one")
LARGE_DIRECTORY = Reason("zip whose directory is over 32 MiB")

# Headers of tars that are about the member after them, or whose content is of no use here.
LONG_NAME = {tarfile.GNUTYPE_LONGNAME}
EXTENDED = {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE}
OF_OTHERS = {tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE}
LINKS = {tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE}
MORE_AT, MORE_AGAIN_AT = 482, 504  # where a GNU header, or a block after it, says that its map goes on
ENCRYPTED_FLAG = 0x1  # of a zip's member (PKWARE's APPNOTE, 4.4.4)
# What zipfile raises about damaged ones, in the many ways that it does.
BAD_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    LookupError,
    ArithmeticError,
    NotImplementedError,
)


class Part(NamedTuple):
    """Something to read, unpacked: its address, the folder that it lies in, how to read it."""

    name: str
    folder: str
    ending: str
    stream: io.BufferedReader | Reason


class _Member(NamedTuple):
    name: str
    stream: io.BufferedReader | Reason


def parts(name: str, folder: str, file: io.RawIOBase | io.BytesIO, size_bytes: int | None) -> Iterator[Part]:
    """The file, or those members of an archive that can be read; each is gone when the next is asked for.

    Members of other endings are passed over like files in a folder. Nothing is written but a temporary
    file, so names, links and devices have no effect. Raises OSError where an archive breaks off.
    """
    meter = Meter(file, size_bytes)
    stream = unpacked(buffered(meter, size_bytes), formats.packing(name), meter)
    kind = formats.ending(name)
    if kind not in formats.ARCHIVES:
        yield Part(name, folder, kind, stream)
        return
    for member in _tar(stream) if kind == ".tar" else _zip(stream, meter):
        inner = formats.ending(member.name)
        if inner in formats.READABLE:
            found: io.BufferedReader | Reason = NESTED if inner in formats.ARCHIVES else member.stream
            if not isinstance(found, Reason):
                found = unpacked(found, formats.packing(member.name), meter)
            within = member.name.rpartition("/")[0].rpartition("/")[2]
            outside = name.rpartition("/")[2].partition(".")[0]
            yield Part(f"{name}!{member.name}", within.strip(".") or outside, inner, found)


class _Entry(NamedTuple):
    name: str
    size: int
    type: bytes
    sparse: bool


def _tar(stream: io.BufferedReader) -> Iterator[_Member]:
    """A tar's members; tarfile would read names and maps of any length, and keep all members in memory."""
    while entry := _entry(stream):
        padding = -entry.size % BLOCK_BYTES
        if entry.type in LINKS:
            yield _Member(entry.name, LINK)
        elif entry.sparse:
            yield _Member(entry.name, SPARSE)
            _skip(stream, entry.size + padding)
        elif entry.type != tarfile.DIRTYPE:
            member = _Slice(stream, entry.size)
            yield _Member(entry.name, buffered(member, entry.size))
            if member.broken:  # which who read it has met
                return
            _skip(stream, member.left + padding)


def _entry(stream: io.BufferedReader) -> _Entry | None:
    """The next member's header with those before it that belong to it; None at the archive's end mark."""
    said: dict[bytes, bytes] = {}
    while (block := stream.read(BLOCK_BYTES)) != bytes(BLOCK_BYTES):
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
        except tarfile.HeaderError:
            raise Unreadable(BROKEN) from None
        size = int(said.get(b"size", header.size))
        if not 0 <= min(size, header.size) <= max(size, header.size) <= LARGEST_MEMBER_BYTES:
            raise Unreadable(BROKEN)
        if header.type in LONG_NAME | EXTENDED | OF_OTHERS:
            text = stream.read(min(header.size, LONGEST_NAME_BYTES))
            _skip(stream, header.size - len(text) + -header.size % BLOCK_BYTES)
            said |= {b"path": text.rstrip(b"\0")} if header.type in LONG_NAME else {}
            said |= _records(text) if header.type in EXTENDED else {}
            continue
        name = said.get(b"path", b"").decode("utf-8", "backslashreplace") or header.name
        gnu_sparse = header.type == tarfile.GNUTYPE_SPARSE
        more = gnu_sparse and block[MORE_AT] != 0
        while more:  # of the map of its holes
            block = stream.read(BLOCK_BYTES)
            more = len(block) == BLOCK_BYTES and block[MORE_AGAIN_AT] != 0
        sparse = gnu_sparse or any(key.startswith(b"GNU.sparse.") for key in said)
        return _Entry(name, size, header.type, sparse)
    return None


def _records(data: bytes) -> dict[bytes, bytes]:
    """What a pax header says: `length key=value\\n`, over and over (POSIX.1-2001, pax Interchange Format)."""
    found, at = {}, 0
    while (digits := data[at : at + 20].partition(b" ")[0]).isdigit() and int(digits) > len(digits):
        key, _, value = data[at + len(digits) + 1 : at + int(digits) - 1].partition(b"=")
        if key != b"size" or value.isdigit():
            found[key] = value
        at += int(digits)
    return found


def _skip(stream: io.BufferedReader, count: int) -> None:
    if stream.seekable():
        stream.seek(count, io.SEEK_CUR)
        return
    while count and (read := len(stream.read(min(count, BUFFER_BYTES)))):
        count -= read
    if count:
        raise Unreadable(BROKEN)


class _Slice(io.RawIOBase):
    """The next bytes of a stream; raises OSError where it is shorter."""

    def __init__(self, stream: io.BufferedReader, size: int) -> None:
        self._stream = stream
        self.left = size
        self.broken = False

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), self.left)
        try:
            read = self._stream.readinto(memoryview(buffer)[:wanted])
        except OSError:
            self.broken = True
            raise
        if wanted and not read:
            self.broken = True
            raise Unreadable(BROKEN)
        self.left -= read
        return read

    def readable(self) -> bool:
        return True


def _zip(stream: io.BufferedReader, meter: Meter) -> Iterator[_Member]:
    with seekable(stream) as file:
        try:
            archive = zipfile.ZipFile(_Directory(file))
        except BAD_ZIP:
            raise Unreadable(BROKEN) from None
        for member in archive.infolist():
            if not member.filename.endswith("/"):
                yield _Member(member.filename, _unzipped(archive, member, meter))


def _unzipped(archive: zipfile.ZipFile, member: zipfile.ZipInfo, meter: Meter) -> io.BufferedReader | Reason:
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
        return LINK
    if member.flag_bits & ENCRYPTED_FLAG:
        return ENCRYPTED
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return OTHER_PACKING  # bzip2 and lzma are unpacked by zipfile without a bound on memory
    try:
        return buffered(_Unzipped(archive.open(member), meter), member.file_size)
    except BAD_ZIP:
        return BROKEN


class _Unzipped(io.RawIOBase):
    """A zip's member; raises Unreadable where it is broken, or is not what its checksum says."""

    def __init__(self, file: IO[bytes], meter: Meter) -> None:
        self._file = file
        self._meter = meter

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        try:
            data = self._file.read(len(buffer))
        except BAD_ZIP:
            raise Unreadable(BROKEN) from None
        buffer[: len(data)] = data
        self._meter.unpacked(len(data))
        return len(data)

    def readable(self) -> bool:
        return True


class _Directory(io.BufferedReader):
    """A zip, of which no more is read at once than a directory may be long."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > DIRECTORY_BYTES:
            raise Unreadable(LARGE_DIRECTORY)
        return super().read(size)
