"""A text and where it came from, or why it could not be read; what every source is made of."""

import hashlib
import math
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from tasks import formats
from tasks.formats import Reason, text_of

UNREADABLE = "unreadable"  # in place of a digest


class Document(NamedTuple):
    """One text, and where it came from; `position` counts the documents of one source from 0."""

    source: str
    position: int
    group: str
    label: str | None
    text: str


class SetAside(NamedTuple):
    """A document that could not be read, and why; the rest goes on."""

    source: str
    position: int
    reason: str


def document(source: str, position: int, group: str, label: object, value: object) -> Document | SetAside:
    """The value as a document, or set aside with what is wrong with it."""
    text = text_of(value)
    if isinstance(text, Reason):
        return SetAside(source, position, str(text))
    return Document(source, position, group, name_in(label), text)


def shown(path: str | Path) -> str:
    """A path as valid Unicode; bytes of a name that are not UTF-8 as `\\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def name_in(value: object) -> str | None:
    """What a column holds as a name, None where that is blank or NaN; what is not Unicode becomes question marks."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    data = value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")
    return data.decode("utf-8", "replace").strip() or None


def below(folder: Path, endings: set[str] | None, without: Iterable[str] = ()) -> list[Path]:
    """Files under a folder with these endings (None: all), sorted; nothing hidden or in `without` folders."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in without]
        paths = [Path(place, name) for name in names if not name.startswith(".")]
        found += [path for path in paths if endings is None or formats.ending(path.name) in endings]
    return sorted(path for path in found if path.is_file())


def digest(path: Path) -> str:
    """The content's SHA-256, remembered while size and time of change stay."""
    try:
        facts = path.stat()
    except OSError:
        return UNREADABLE
    return _content_digest(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=100_000)
def _content_digest(path: Path, size: int, changed_ns: int) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:  # documents() sets an unreadable file aside
        return UNREADABLE
