"""A batch of documents, cleaned: what was kept, and count and examples of all else.

A part hangs on its documents and the settings alone. Whoever makes it, it is the same.
"""

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import pyarrow as pa

from tasks import formats
from tasks.documents import Document, SetAside
from tasks.language import language_of
from tasks.near import COLUMNS, signatures
from tasks.personal import masked
from tasks.text import Outcome, Step, Text

BATCH_BYTES = 2 * 1024**2  # of text; what a process has in hand
BATCH_DOCUMENTS = 4096
EXAMPLES = 3  # of every reason, to be looked at
EXCERPT_CHARACTERS = 300
DIGITS = re.compile(r"\d+")
DIGITS_SHARE = 0.2  # by eye: prose and code have under 0.05, tables of numbers over 0.4

SCHEMA = pa.schema(
    {
        "id": pa.uint64(),
        "source": pa.string(),
        "position": pa.int64(),
        "group": pa.string(),
        "label": pa.string(),
        "language": pa.string(),
        "text": pa.large_string(),
        "bytes": pa.int64(),
        "alike": pa.uint64(),
        "bands": pa.list_(pa.uint64(), COLUMNS),
    }
)


class Example(NamedTuple):
    """A document that was dropped or changed, for a person to judge by; personal data are masked."""

    order: int  # the least of a reason are kept: a draw that does not hang on batches
    source: str
    position: int
    before: str
    after: str


@dataclass
class Counts:
    """What came in and what became of it: `kept + sum(dropped) == read + cut`."""

    read: int = 0
    cut: int = 0  # pieces of long documents beyond their first
    kept: int = 0
    bytes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Example]] = field(default_factory=dict)

    def add(self, other: Self) -> None:
        """Takes in what another batch counted."""
        self.read += other.read
        self.cut += other.cut
        self.kept += other.kept
        self.bytes += other.bytes
        self.dropped += other.dropped
        self.changed += other.changed
        for reason, examples in other.examples.items():
            self.examples[reason] = sorted([*self.examples.get(reason, []), *examples])[:EXAMPLES]

    def drop(self, reason: str, one: Document | SetAside) -> None:
        """A document less, and why."""
        self.dropped[reason] += 1
        self.show(reason, one)

    def change(self, what: str, one: Document, after: str) -> None:
        """Something was changed in a document that became `after`."""
        self.changed[what] += 1
        self.show(what, one, after)

    def show(self, reason: str, one: Document | SetAside, after: str | None = None) -> None:
        """Takes the document as an example of the reason, if it is drawn: by its hash, not by its batch."""
        shown = self.examples.setdefault(reason, [])
        before = one.text if isinstance(one, Document) else ""
        order = document_id(f"{one.source} {one.position} {before[:EXCERPT_CHARACTERS]}")
        if len(shown) < EXAMPLES or order < shown[-1].order:
            start = 0 if after is None else max(0, differ_at(before, after) - EXCERPT_CHARACTERS // 3)
            excerpts = (masked(text[start : start + EXCERPT_CHARACTERS]) for text in (before, after or ""))
            shown.append(Example(order, one.source, one.position, *excerpts))
            shown.sort()
            del shown[EXAMPLES:]


@dataclass(frozen=True)
class Part:
    """What a batch became: the rows of SCHEMA, and the counts."""

    rows: pa.Table
    counts: Counts

    def save(self, path: Path, batch: str) -> None:
        """Writes it at once, with the name of its batch; nothing is packed, so that texts can be read singly."""
        header = json.dumps({"batch": batch, **vars(self.counts)})
        draft = path.with_suffix(".draft")
        with (
            pa.OSFile(str(draft), "wb") as file,
            pa.ipc.new_file(file, SCHEMA.with_metadata({"part": header})) as writer,
        ):
            writer.write_table(self.rows)
        draft.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Part":
        """The part as it was saved; its rows are read from the disk when they are looked at."""
        rows = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        return cls(rows.replace_schema_metadata(None), _counts(rows))

    @staticmethod
    def known(path: Path, batch: str) -> bool:
        """Whether the part of this very batch lies there whole."""
        try:
            with pa.memory_map(str(path)) as file:
                return bool(json.loads(pa.ipc.open_file(file).schema.metadata[b"part"])["batch"] == batch)
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
            return False


def _counts(rows: pa.Table) -> Counts:
    header = json.loads(rows.schema.metadata[b"part"])
    del header["batch"]
    examples = {reason: [Example(*one) for one in shown] for reason, shown in header.pop("examples").items()}
    dropped, changed = Counter(header.pop("dropped")), Counter(header.pop("changed"))
    return Counts(**header, dropped=dropped, changed=changed, examples=examples)


@dataclass(frozen=True)
class Work:
    """What is done to each document by itself."""

    steps: tuple[Step, ...]
    cut_bytes: int | None = None

    def __call__(self, batch: Sequence[Document | SetAside]) -> Part:
        """The batch's part."""
        counts = Counts(read=len(batch))
        rows = [row for one in batch for row in self._rows(one, counts)]
        bands = signatures([row["text"] for row in rows])
        columns = [
            pa.array([row[name] for row in rows], SCHEMA.field(name).type) for name in SCHEMA.names[:-1]
        ]
        columns.append(pa.FixedSizeListArray.from_arrays(pa.array(bands.ravel(), pa.uint64()), COLUMNS))
        return Part(pa.Table.from_arrays(columns, schema=SCHEMA), counts)

    def _rows(self, one: Document | SetAside, counts: Counts) -> Iterator[dict[str, Any]]:
        if isinstance(one, SetAside):
            counts.drop(one.reason, one)
            return
        outcome = applied(self.steps, one.text)
        if outcome.reason is not None:
            counts.drop(outcome.reason, one)
            return
        for what in outcome.changes:
            counts.change(what, one, outcome.text)
        for number, piece in enumerate(pieces(outcome.text, self.cut_bytes)):
            size = len(piece.encode())
            counts.cut += number > 0
            counts.kept += 1
            counts.bytes += size
            yield {
                **one._asdict(),
                "id": document_id(piece),
                "language": language_of(piece)[0],
                "text": piece,
                "bytes": size,
                "alike": alike(piece),
            }


def applied(steps: Iterable[Step], text: str) -> Outcome:
    """What becomes of a text, step by step, until one drops it."""
    now, changes = Text(text), list[str]()
    for step in steps:
        outcome = step.apply(now)
        if outcome.reason is not None:
            return outcome
        now = outcome.text
        changes += outcome.changes
    if not now.strip():
        return Outcome(now, reason="empty")
    return Outcome(now, tuple(dict.fromkeys(changes)))


def batches(documents: Iterable[Document | SetAside]) -> Iterator[list[Document | SetAside]]:
    """The documents in runs of about BATCH_BYTES; where one ends hangs on the documents alone."""
    batch, size = list[Document | SetAside](), 0
    for one in documents:
        batch.append(one)
        size += len(one.text) if isinstance(one, Document) else 0
        if size >= BATCH_BYTES or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def batch_name(batch: Sequence[Document | SetAside]) -> str:
    """Names a batch by its content."""
    hashed = hashlib.sha256()
    for one in batch:
        hashed.update(repr(one[:-1]).encode())
        hashed.update(one[-1].encode("utf-8", "surrogatepass"))
    return hashed.hexdigest()


def pieces(text: str, size_bytes: int | None) -> list[str]:
    """A text cut as `formats.pieces` cuts files; blank lines go with what follows, those at the end are left out."""
    if size_bytes is None or len(text) <= size_bytes // 4 or len(text.encode()) <= 2 * size_bytes:
        return [text]
    found, blank = list[str](), ""
    for piece in formats.pieces(io.BufferedReader(io.BytesIO(text.encode())), size_bytes):
        if isinstance(piece, bytes):  # as all are: no line is longer than a document may be
            blank += piece.decode()
        if blank.strip():
            found.append(blank)
            blank = ""
    return found


def document_id(text: str) -> int:
    """64 bits of the text's SHA-256: uniform, and its own."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def alike(text: str) -> int:
    """The 64-bit hash that texts share which differ in case, blanks and numbers alone.

    Where digits are over DIGITS_SHARE of the text, numbers are what it says, and are compared too.
    """
    same_blanks = " ".join(text.lower().split())
    bare = DIGITS.sub("", same_blanks)
    said_in_numbers = len(same_blanks) - len(bare) > DIGITS_SHARE * len(same_blanks)
    return document_id(same_blanks if said_in_numbers else bare)


def differ_at(one: str, other: str) -> int:
    """The first place where two texts are not the same."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (here, there) in pairs if here != there), min(len(one), len(other)))
