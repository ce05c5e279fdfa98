"""Files where they lie: on a disk of this machine, or in a store that fsspec knows (`s3://bucket/folder`)."""

import glob
import io
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from tasks import formats
from tasks.artifacts import InputError
from tasks.documents import SetAside, digest, shown
from tasks.formats import Reason
from tasks.secrets import HOW, MASK, from_environment, holds_secret, without_secrets

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(?:::|://)")
DISK_PROTOCOLS = {"file", "local"}
BLOCK_BYTES, BLOCKS = 8 * 1024**2, 8  # asked of a store at once, and kept of a file
# What a store may say about a file's content and, where it says nothing, about when it was written.
CONTENT_MARKS = ("ETag", "etag", "md5Hash", "content_md5", "checksum", "blob_id", "sha")
TIME_MARKS = ("LastModified", "last_modified", "updated", "modified", "mtime", "created")

NO_FILE = Reason("a device, pipe or socket")
NO_TARGET = Reason("a link that leads nowhere")
CLOSED_FOLDER = Reason("a folder that may not be read")
NOTHING_TO_READ = (
    f"holds no file that can be read (such as {', '.join(sorted(formats.TABLES))}, .txt, .md, .html, .zip)"
)


class StoreError(ConnectionError):
    """A store did not answer as it should; trying again may help. Its words hold no secret."""

    def __init__(self, message: str) -> None:
        super().__init__(without_secrets(message))


@dataclass(frozen=True)
class LocalFile:
    """A file on a disk of this machine."""

    path: Path

    @property
    def name(self) -> str:
        """Its path, as valid Unicode."""
        return shown(self.path)

    @property
    def folder(self) -> str:
        """The name of the folder that it lies in, or that what it links to does."""
        path = self.path.resolve() if self.path.is_symlink() else self.path.absolute()
        return _folder_name(path.parent)

    def size_bytes(self) -> int | None:
        """Its size; None where it is gone."""
        try:
            return self.path.stat().st_size
        except OSError:
            return None

    def fingerprint(self) -> str:
        """Names its content."""
        return digest(self.path)

    def open(self) -> io.RawIOBase:
        """Its bytes. Raises OSError where it cannot be read."""
        return self.path.open("rb", buffering=0)


@dataclass(frozen=True)
class StoredFile:
    """A file in a store; `mark` is what that says about its content."""

    name: str
    path: str
    size: int | None
    mark: str
    store: Any = field(compare=False, repr=False)

    @property
    def folder(self) -> str:
        """The name of the folder, or the bucket, that it lies in."""
        return self.name.rpartition("/")[0].rpartition("/")[2]

    def size_bytes(self) -> int | None:
        """Its size; None where the store does not say."""
        return self.size

    def fingerprint(self) -> str:
        """Names its content, as far as the store does."""
        return f"{self.size} {self.mark}"

    def open(self) -> io.RawIOBase:
        """Its bytes. Raises OSError where it cannot be read, StoreError where the store does not answer."""
        with _answers(self.name):
            file = self.store.open(
                self.path,
                "rb",
                block_size=BLOCK_BYTES,
                cache_type="blockcache",
                cache_options={"maxblocks": BLOCKS},
            )
        return _Answering(file, self)


Place = LocalFile | StoredFile


class _Answering(io.RawIOBase):
    """A file of a store; raises StoreError where that does not answer."""

    def __init__(self, file: Any, place: StoredFile) -> None:
        self._file = file
        self._place = place

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        with _answers(self._place.name):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._place.size is not None

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        self._file.close()
        super().close()


@lru_cache(maxsize=1000)  # following links takes longer than reading a short text
def _folder_name(folder: Path) -> str:
    return shown(folder.resolve().name)


def find(paths: Iterable[str]) -> list[Place | SetAside]:
    """The files that paths, globs and addresses mean, each once, in order, and what cannot be read there.

    Raises InputError where one of them means none, StoreError where a store does not answer.
    """
    found = dict.fromkeys(one for path in paths for one in (_stored if ADDRESS.match(path) else _local)(path))
    return sorted(found, key=lambda one: (one.source if isinstance(one, SetAside) else one.name).split("/"))


def named(address: str) -> str:
    """An address as it is written down: without the names, passwords and signatures that may be in it."""
    shown = without_secrets(address).replace(f"//{MASK}@", "//") if ADDRESS.match(address) else address
    return shown.partition("?")[0] if shown.startswith(("http:", "https:")) else shown


def _local(given: str) -> Sequence[LocalFile | SetAside]:
    path, mode = Path(given), 0
    try:
        path = path.expanduser()
        mode = path.stat().st_mode
    except PermissionError:
        raise _refused(given, "may not be read by this user; give another") from None
    except (OSError, ValueError, RuntimeError):  # no such file, no name of one, no such user
        pass
    found: list[LocalFile | SetAside]
    if stat.S_ISREG(mode):
        return [LocalFile(path)]
    if stat.S_ISDIR(mode):
        found, missing = list(_below(path)), NOTHING_TO_READ
    elif mode:
        found, missing = [], f"is {NO_FILE}, not a file"
    elif glob.has_magic(given):
        found, missing = (
            [_checked(match) for match in _matching(path) if not match.is_dir()],
            "matches no file",
        )
    else:
        found, missing = [], "does not exist"
    if not found:
        raise _refused(given, f"{missing}. Paths start from {Path.cwd()}; give another")
    return found


def _matching(path: Path) -> Iterator[Path]:
    """What a glob matches, without what is hidden; `**` follows no links, which may lead in circles."""
    if "**" in path.parts:
        pattern = path / "*" if path.name == "**" else path
        start = Path(path.anchor)
        for match in start.glob(str(pattern.relative_to(start))):
            if not any(part.startswith(".") and part not in path.parts for part in match.parts):
                yield match
    else:
        yield from map(Path, glob.glob(str(path)))  # noqa: PTH207 (pathlib finds what is hidden)


def _below(folder: Path) -> Iterator[LocalFile | SetAside]:
    """What is to be read under a folder; links to folders are not followed, nothing hidden is looked at."""
    closed: list[OSError] = []
    for place, folders, names in os.walk(folder, onerror=closed.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and formats.ending(name) in formats.READABLE:
                yield _checked(Path(place, name))
    yield from (SetAside(shown(error.filename), 0, CLOSED_FOLDER) for error in closed)


def _checked(path: Path) -> LocalFile | SetAside:
    """A file to be read, unless it is none; reading a pipe or a device might never end."""
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except PermissionError:
        return LocalFile(path)  # whose reading says so
    except OSError:
        return SetAside(shown(path), 0, NO_TARGET)
    return LocalFile(path) if regular else SetAside(shown(path), 0, NO_FILE)


def _stored(given: str) -> Sequence[StoredFile | LocalFile | SetAside]:
    from fsspec import get_filesystem_class  # takes a moment, and only addresses need it
    from fsspec.core import url_to_fs

    if holds_secret(given):
        raise _refused(given, HOW)
    protocol = given.partition("://")[0].partition("::")[0]
    try:
        get_filesystem_class(protocol)
    except ImportError as error:
        raise _refused(given, f"needs a package that is not there. {error}") from None
    except ValueError:
        raise _refused(given, f"is no address: fsspec knows no protocol {protocol!r}") from None
    address = _whole(given)
    try:
        with _answers(named(given)):
            store, path = url_to_fs(address)
            if protocol not in DISK_PROTOCOLS:
                infos, missing = _listed(store, path, glob.has_magic(path) and "http" not in store.protocol)
    except FileNotFoundError:
        raise _refused(given, "does not exist") from None
    except PermissionError:
        raise _refused(
            given, "may not be read. Give credentials the way the store's own tools take them"
        ) from None
    if protocol in DISK_PROTOCOLS:
        return _local(path)
    if not infos:
        raise _refused(given, missing)
    return [_stored_file(store, info) for info in infos]


def _listed(store: Any, path: str, many: bool) -> tuple[list[dict[str, Any]], str]:
    """What a store says about the files at a path, and what is the matter where there are none."""
    store.invalidate_cache()
    if many:
        matches = store.glob(path, detail=True).values()
        return [info for info in matches if info["type"] == "file"], "matches no file"
    info = store.info(path)
    if info["type"] != "directory":
        return [info], ""
    found = []
    for name, info in store.find(path, detail=True).items():
        hidden = "/." in name.removeprefix(path.rstrip("/"))
        if not hidden and formats.ending(name) in formats.READABLE:
            found.append(info)
    return found, NOTHING_TO_READ


def _stored_file(store: Any, info: dict[str, Any]) -> StoredFile:
    path = info["name"]
    marks = [f"{name} {info[name]}" for name in (*CONTENT_MARKS, *TIME_MARKS) if info.get(name)]
    return StoredFile(
        name=named(store.unstrip_protocol(path)),
        path=path,
        size=info.get("size"),
        mark=marks[0] if marks else "",
        store=store,
    )


@contextmanager
def _answers(address: str) -> Iterator[None]:
    """Raises StoreError for what a store's package or the network raises; of their words none is passed on."""
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # botocore, aiohttp and all the others have their own
        kind = type(error).__name__
        if "Credential" in kind:
            raise PermissionError(kind) from None
        raise StoreError(f"{address}: the store does not answer ({kind}).") from None


def _refused(given: str, why: str) -> InputError:
    return InputError(f"source.paths: {named(given)} {why}.")


def _whole(given: str) -> str:
    """The address with what the environment keeps for it. Raises InputError where that has no such variable."""
    try:
        return from_environment(given)
    except KeyError as missing:
        raise _refused(given, f"names the variable {missing}, which the environment does not have") from None
