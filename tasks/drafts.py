"""The parts of a corpus in the making; a cleaning that was killed finds those that it had finished."""

import fcntl
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

import numpy as np

from tasks import home
from tasks.artifacts import InputError
from tasks.documents import Document, SetAside
from tasks.duplicates import Documents
from tasks.near import COLUMNS
from tasks.parts import Counts, Part, Work, batch_name, batches
from tasks.spread import spread

OPEN_PARTS = 2  # whose texts are at hand while copies are compared, in ascending order
DAYS_KEPT = 7.0  # drafts that nobody went on with
LOCK = ".lock"
Batch = list[Document | SetAside]


@dataclass(frozen=True)
class _Numbered:
    """The work on a batch that knows its place."""

    work: Work

    def __call__(self, item: tuple[int, str, Batch]) -> tuple[int, str, Part]:
        number, name, batch = item
        return number, name, self.work(batch)


class Drafts:
    """The parts in a folder, in the order of the documents."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0
        self._ends = np.zeros(0, np.int64)  # of the parts, in documents
        self._opened = lru_cache(OPEN_PARTS)(lambda number: Part.load(self._path(number)).rows)
        folder.mkdir(parents=True, exist_ok=True)

    def make(
        self,
        documents: Iterable[Document | SetAside],
        work: Work,
        progress: Callable[[int], None],
        workers: int | None = None,
    ) -> Counts:
        """Has every part in the folder, cleaned now or found there; what they count together.

        `progress` hears of the bytes of text that are done.
        """
        done, counts = 0, Counts()
        for number, name, part in spread(_Numbered(work), self._missing(documents), workers):
            part.save(self._path(number), name)
            done += part.counts.bytes
            progress(done)
        for part in self.parts():
            counts.add(part.counts)
        return counts

    def _missing(self, documents: Iterable[Document | SetAside]) -> Iterator[tuple[int, str, Batch]]:
        for number, batch in enumerate(batches(documents)):
            self.count = number + 1
            name = batch_name(batch)
            if not Part.known(self._path(number), name):
                yield number, name, batch

    def parts(self) -> Iterator[Part]:
        """All parts, one after the other."""
        return (Part.load(self._path(number)) for number in range(self.count))

    def known(self) -> Documents:
        """What is known of all documents to find copies by; texts are read as they are asked for."""
        self._ends = np.cumsum([len(part.rows) for part in self.parts()], dtype=np.int64)
        count = int(self._ends[-1]) if self.count else 0
        ids, alike, sizes = np.empty(count, np.uint64), np.empty(count, np.uint64), np.empty(count, np.int64)
        bands = np.empty((count, COLUMNS), np.uint64)
        for part, end in zip(
            self.parts(), self._ends, strict=True
        ):  # copied: a view would hold the part's texts
            here = slice(end - len(part.rows), end)
            for name, found in (("id", ids), ("alike", alike), ("bytes", sizes)):
                found[here] = part.rows[name].to_numpy()
            bands[here] = part.rows["bands"].combine_chunks().flatten().to_numpy().reshape(-1, COLUMNS)
        return Documents(ids, alike, sizes, bands, lambda number: self.document(number).text)

    def document(self, number: int) -> Document:
        """One document, read from its part."""
        part = int(np.searchsorted(self._ends, number, side="right"))
        rows = self._opened(part)
        at = number - (int(self._ends[part]) - len(rows))
        return Document(*(rows[name][at].as_py() for name in Document._fields))

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.arrow"


@contextmanager
def drafting(kind: str, key: str) -> Iterator[Path]:
    """A folder for the drafts of what is stored under this key, as the last run of the same left it.

    It is removed when the block ends well, or by what the user gave. Another run that has it in hand is left
    alone: this one begins anew.
    """
    _sweep(home.store(kind))
    folder = home.store(kind) / f".{key}-drafts"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            folder = folder.with_name(f".{key}-{uuid4().hex[:8]}-drafts")
            folder.mkdir()
        try:
            yield folder
        except InputError:  # whoever mends it has another key
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def hand_over(place: Path, folder: Path) -> None:
    """Moves what was drafted to where it stays."""
    for path in place.iterdir():
        if path.name != LOCK:
            path.replace(folder / path.name)


def _sweep(store: Path) -> None:
    """Removes drafts that have lain about for too long."""
    for folder in store.glob(".*-drafts"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > DAYS_KEPT * 24 * 3600:
                shutil.rmtree(folder)
