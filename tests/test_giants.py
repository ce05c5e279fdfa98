"""What is too much for memory or patience is given up in seconds and in little memory, and the rest is read."""

import gzip
import io
import multiprocessing
import struct
import tarfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tasks import formats, unpacking, webpages
from tasks.documents import Document, SetAside
from tasks.source import Files

MIB = 1024**2
GIB = 1024 * MIB
MOST_SECONDS = 5.0  # of processor time, for one of them
MOST_BYTES = 300 * MIB  # that reading them takes


class Seen(NamedTuple):
    """What was read of a file, and what that cost."""

    documents: int
    reasons: dict[str, int]
    seconds: float
    peak_bytes: int


def see(path: str) -> Seen:
    """Runs in a process of its own, whose memory is measured."""
    before = time.process_time()
    kinds, reasons = Counter[type](), Counter[str]()
    source = Files(paths=(path,))
    source.check()
    for one in source.documents():
        kinds[type(one)] += 1
        if isinstance(one, SetAside):
            reasons[one.reason] += 1
    seconds = time.process_time() - before
    status = Path("/proc/self/status").read_text()  # getrusage remembers the process that started this one
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return Seen(kinds[Document], dict(reasons), seconds, peak * 1024)


@pytest.fixture(scope="module")
def process() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as found:
        yield found


@pytest.fixture(scope="module")
def at_rest(process: ProcessPoolExecutor, tmp_path_factory: pytest.TempPathFactory) -> int:
    """Bytes that the process takes without a giant."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "a.parquet").write_bytes(parquet_of(["one"]))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "two"}'))
    return process.submit(see, str(folder)).result().peak_bytes


def parquet_of(texts: list[str]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), sink)
    return sink.getvalue()


def long_line(path: Path) -> None:
    """A line of 1 GiB of nothing between two rows; a hole takes no room on the disk."""
    first, last = (b"one", b"two") if path.suffix == ".csv" else (b'{"text": "one"}', b'{"text": "two"}')
    with path.open("wb") as file:
        file.write((b"text\n" if path.suffix == ".csv" else b"") + first + b"\n")
        file.seek(GIB - 99 * MIB, io.SEEK_CUR)
        file.write(b"\n" + last + b"\n")


def hole(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(GIB)


ZEROS = bytes(16 * MIB)


def gzip_bomb(path: Path) -> None:
    path.write_bytes(gzip.compress(b'{"text": "one"}\n') + gzip.compress(ZEROS, 1) * 64)


def zstd_bomb(path: Path) -> None:
    path.write_bytes(zstandard.compress(b'{"text": "one"}\n') + zstandard.compress(ZEROS) * 64)


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    found = tarfile.TarInfo(name)
    found.size, found.type = size, kind
    return found.tobuf(tarfile.GNU_FORMAT)


def tar_bomb(path: Path) -> None:
    path.write_bytes(gzip.compress(header("a.jsonl", GIB)) + gzip.compress(ZEROS, 1) * 64)


def endless_name(path: Path) -> None:
    """A member whose name has a gigabyte."""
    path.write_bytes(
        gzip.compress(header("long", GIB, tarfile.GNUTYPE_LONGNAME)) + gzip.compress(ZEROS, 1) * 64
    )


def zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("a.txt", "one")
        for number in range(12):
            archive.writestr(f"{number}.jsonl", ZEROS)


MANY = 100_000


def many_in_tar(path: Path) -> None:
    with gzip.open(path, "wb", 1) as file:
        for number in range(MANY):
            file.write(header(f"{number}.txt", 4) + b"text".ljust(tarfile.BLOCKSIZE, b"\0"))
        file.write(bytes(2 * tarfile.BLOCKSIZE))


def many_in_zip(path: Path) -> None:
    """By hand: zipfile takes 4 seconds to write it."""
    checksum, directory = zlib.crc32(b"text"), []
    with path.open("wb") as file:
        for number in range(MANY):
            name = b"%d.txt" % number
            same = struct.pack("<5H3I2H", 20, 0, 0, 0, 0, checksum, 4, 4, len(name), 0)
            directory.append(
                b"PK\1\2\x14\0" + same + struct.pack("<3H2I", 0, 0, 0, 0, file.tell()) + name,
            )
            file.write(b"PK\3\4" + same + name + b"text")
        start, entries = file.tell(), b"".join(directory)
        file.write(entries)
        file.write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0, 0, len(entries), start, 0))


def nested_tags(path: Path) -> None:
    path.write_bytes(b"<div>" * 1_000_000)


def nested_tags_with_text(path: Path) -> None:
    path.write_bytes(b"<div>" * 1_000_000 + b"a text down there" + b"</div>" * 1_000_000)


def page_that_multiplies(path: Path) -> None:
    """Each paragraph takes over all fonts that are open: 12 million elements from 70 kB."""
    path.write_text("<p>" + "".join(f"<font a{n}>" for n in range(900)) + "x<p>x" * 13_000)


def many_scripts(path: Path) -> None:
    path.write_bytes(b"<script>'<p>no text'</script>" * 400_000)


TOO_LARGE: dict[str, int] = {formats.TOO_LARGE: 1}
BOMB: dict[str, int] = {unpacking.BOMB: 1}
GIANTS: dict[str, tuple[Callable[[Path], None], int, dict[str, int]]] = {
    "line.jsonl": (long_line, 2, TOO_LARGE),
    "line.csv": (long_line, 2, TOO_LARGE),
    "hole.txt": (hole, 0, TOO_LARGE),
    "hole.html": (hole, 0, TOO_LARGE),
    "hole.parquet": (hole, 0, {formats.BROKEN: 1}),
    "hole.zip": (hole, 0, {formats.BROKEN: 1}),
    "hole.tar": (hole, 0, {}),
    "bomb.txt.gz": (gzip_bomb, 0, TOO_LARGE),
    "bomb.jsonl.gz": (gzip_bomb, 1, BOMB | TOO_LARGE),
    "bomb.jsonl.zst": (zstd_bomb, 1, BOMB | TOO_LARGE),
    "bomb.csv.zst": (zstd_bomb, 0, BOMB),
    "bomb.parquet.gz": (gzip_bomb, 0, BOMB),
    "bomb.tar.gz": (tar_bomb, 0, BOMB | TOO_LARGE),
    "name.tar.gz": (endless_name, 0, BOMB),
    "bomb.zip": (zip_bomb, 1, {formats.MALFORMED: 3, unpacking.BOMB: 9}),
    "nested.html": (nested_tags, 0, {webpages.NO_TEXT: 1}),
    "text.html": (nested_tags_with_text, 1, {}),
    "multiplies.html": (page_that_multiplies, 0, {webpages.TOO_COSTLY: 1}),
    "scripts.html": (many_scripts, 0, {webpages.NO_TEXT: 1}),
}


def check(process: ProcessPoolExecutor, path: Path, at_rest: int, kept: int, reasons: dict[str, int]) -> Seen:
    seen = process.submit(see, str(path)).result()
    assert (seen.documents, seen.reasons) == (kept, reasons)
    assert seen.peak_bytes - at_rest < MOST_BYTES
    return seen


@pytest.mark.parametrize("name", GIANTS)
def test_a_giant_is_given_up_in_time_and_in_little_memory(
    tmp_path: Path, process: ProcessPoolExecutor, at_rest: int, name: str
) -> None:
    write, kept, reasons = GIANTS[name]
    write(tmp_path / name)
    assert check(process, tmp_path / name, at_rest, kept, reasons).seconds < MOST_SECONDS


@pytest.mark.slow
@pytest.mark.parametrize("write", [many_in_tar, many_in_zip])
def test_a_hundred_thousand_members_are_read_in_little_memory(
    tmp_path: Path, process: ProcessPoolExecutor, at_rest: int, write: Callable[[Path], None]
) -> None:
    path = tmp_path / f"many.{'tar.gz' if write is many_in_tar else 'zip'}"
    write(path)
    check(process, path, at_rest, MANY, {})
