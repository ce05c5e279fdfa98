"""Documents to a corpus: repaired, filtered, deduplicated; every drop is counted by its reason."""

import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import ftfy
import pyarrow as pa
import pyarrow.parquet as pq
from prefect import task
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task
from pydantic import Field

from tasks import artifacts, documents, filters, formats, library
from tasks import source as sources
from tasks.artifacts import Corpus, InputError, cache_key, code_key, content_key, storing
from tasks.documents import Document, SetAside
from tasks.filters import Filter
from tasks.source import HubError, Source
from tasks.telemetry import stage
from training.config import Section

GROUP_BYTES = 8 * 1024**2  # of text in a row group: what every later stage holds in memory at once
GROUP_ROWS = 16_384

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "source": pa.string(),
        "position": pa.int64(),
        "group": pa.string(),
        "label": pa.string(),
        "language": pa.string(),
        "text": pa.large_string(),
        "bytes": pa.int64(),
    }
)

# Repairs the encoding alone: ligatures, wide letters, curly quotes and HTML entities are content.
REPAIR = ftfy.TextFixerConfig(
    uncurl_quotes=False,
    unescape_html=False,
    fix_latin_ligatures=False,
    fix_character_width=False,
    explain=False,
)


class Cleaning(Section):
    """What happens to documents before anything is learnt from them."""

    repair: bool = Field(
        default=True,
        description="Mends text that was decoded wrongly (ftfy) and composes accents (NFC). Off, the same word may"
        " come in several spellings.",
    )
    deduplicate: bool = Field(
        default=True,
        description="Keeps the first of equal documents. Off, copies are learnt by heart, and those of a test"
        " document still leave training.",
    )
    filters: tuple[Filter, ...] = Field(
        default=(
            filters.TooShort(),
            filters.Unprintable(),
            filters.MostlySymbols(),
            filters.UnbrokenRun(),
            filters.Repetitive(),
        ),
        description="A document goes for the first of these that objects.",
    )


@dataclass
class Counts:
    """What came in and what became of it."""

    read: int = 0
    kept: int = 0
    bytes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)


def document_id(text: str) -> str:
    """16 hexadecimal digits of the text's SHA-256: uniform, and its own."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cleaned(text: str, repair: bool) -> tuple[str, list[str]]:
    """The text with `\\n` line ends and mended Unicode, and what was changed."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
    changed = ["line ends"] if lines != text else []
    mended = ftfy.fix_text(lines, REPAIR) if repair and not lines.isascii() else lines
    return mended, changed + (["Unicode repaired"] if mended != lines else [])


def clean(
    documents: Iterable[Document | SetAside],
    cleaning: Cleaning,
    folder: Path,
    size_bytes: int | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Counts:
    """Writes what is kept to `documents.parquet`, in order; memory stays at one row group and 16 bytes a document.

    `kept + sum(dropped) == read`. `size_bytes` is what `progress` takes for the whole.
    """
    counts = Counts()
    with _Writer(folder / "documents.parquet") as writer:
        read_bytes = 0
        for row in _kept(documents, cleaning, counts):
            writer.add(row)
            read_bytes += row["bytes"]
            if size_bytes:
                progress(min(1.0, read_bytes / size_bytes))
    progress(1.0)
    return counts


def _kept(
    documents: Iterable[Document | SetAside], cleaning: Cleaning, counts: Counts
) -> Iterator[dict[str, Any]]:
    seen: set[int] = set()
    for document in documents:
        counts.read += 1
        if isinstance(document, SetAside):
            counts.dropped[document.reason] += 1
            continue
        text, changes = cleaned(document.text, cleaning.repair)
        name = document_id(text)
        if reason := _objection(text, cleaning):
            counts.dropped[reason] += 1
        elif cleaning.deduplicate and int(name, 16) in seen:
            counts.dropped["exact duplicate"] += 1
        else:
            seen.add(int(name, 16))
            size = len(text.encode())
            counts.kept += 1
            counts.bytes += size
            counts.changed.update(changes)
            yield {
                "id": name,
                **document._asdict(),
                "language": None,
                "text": text,
                "bytes": size,
            }


def _objection(text: str, cleaning: Cleaning) -> str | None:
    if not text.strip():
        return "empty"
    return next((reason for filter_ in cleaning.filters if (reason := filter_.reason(text))), None)


class _Writer:
    """Rows to a parquet file, a row group at a time."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetWriter(path, SCHEMA, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        self._bytes += row["bytes"]
        if self._bytes >= GROUP_BYTES or len(self._rows) >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._file.write_table(pa.Table.from_pylist(self._rows, SCHEMA))
        self._rows, self._bytes = [], 0

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is None:
            self._flush()
        self._file.close()


def corpus_key(source: Source, cleaning: Cleaning) -> str:
    """Names the corpus by the source's content, the settings and the code."""
    code = code_key(sys.modules[__name__], artifacts, documents, filters, formats, library, sources)
    return content_key(source.fingerprint(), cleaning, code)


def network_failed(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again may help: only where the Hub did not answer."""
    return isinstance(state.result(raise_on_failure=False), HubError)


@task(
    name="Clean the corpus",
    task_run_name="clean-{source.kind}",
    persist_result=True,
    result_serializer="json",
    cache_key_fn=cache_key(Corpus, corpus_key),
    retries=2,
    retry_delay_seconds=5,
    retry_condition_fn=network_failed,
)
def clean_corpus(source: Source, cleaning: Cleaning) -> Corpus:
    """The source's documents, cleaned, in the store. Raises InputError where nothing is left."""
    key = corpus_key(source, cleaning)
    with stage("Clean the corpus") as shown, storing(Corpus.kind, key) as folder:
        counts = clean(source.documents(), cleaning, folder, source.size_bytes(), shown)
        if not counts.kept:
            raise InputError(_nothing_left(source, counts))
        shown.result = f"{counts.kept:,} of {counts.read:,} documents, {counts.bytes / 1e6:.1f} MB"
    return Corpus(
        key=key,
        source=source.describe(),
        documents_read=counts.read,
        documents=counts.kept,
        bytes=counts.bytes,
        dropped=dict(counts.dropped.most_common()),
        changed=dict(counts.changed.most_common()),
    )


def _nothing_left(source: Source, counts: Counts) -> str:
    why = "; ".join(f"{reason}: {number}" for reason, number in counts.dropped.most_common())
    if not counts.read:
        return f"{source.describe()} holds no documents: name other data in the source's settings."
    return (
        f"No document of {source.describe()} is left after cleaning. Of {counts.read} were dropped: {why}."
        " Turn off filters in cleaning.filters, or name other data."
    )
