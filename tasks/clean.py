"""Documents to a corpus: each goes through the steps, copies are found among all; every drop is counted."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from prefect import task
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task
from pydantic import Field

from tasks import corpus_report, duplicates, formats, home, near, parts, steps
from tasks import source as sources
from tasks.artifacts import Corpus, InputError
from tasks.documents import Document, SetAside
from tasks.drafts import Drafts, drafting
from tasks.duplicates import Documents as Known
from tasks.duplicates import Duplicates, Found
from tasks.parts import Counts, Work
from tasks.places import StoreError
from tasks.source import Source
from tasks.steps import AnyStep, Kind, Preset
from tasks.store import cache_key, code_key, content_key, stored, storing
from tasks.telemetry import stage
from tasks.text import ReadsFiles, Step
from training.config import Section

GROUP_BYTES = 8 * 1024**2  # of text in a row group: what every later stage holds in memory at once
GROUP_ROWS = 16_384
RECORD = "corpus.json"
CLEANING_SHARE = 0.85  # of the time; in the rest copies are found, and all is written

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "source": pa.string(),
        "position": pa.int64(),
        "group": pa.string(),
        "label": pa.string(),
        "language": pa.string(),
        "cluster": pa.string(),
        "text": pa.large_string(),
        "bytes": pa.int64(),
    }
)


class Cleaning(Section):
    """What happens to documents before anything is learnt from them."""

    preset: Preset = Field(
        default="any",
        description="Which steps a document goes through. any: mends it, and drops what is no text; suits prose and"
        " code alike. code: drops also what a machine made. prose: also what reads badly, in English. web: also"
        " menus, notices, other languages, and personal data. none: only the steps of `also`.",
    )
    without: tuple[Kind, ...] = Field(default=(), description="Steps of the preset that are left out.")
    also: tuple[AnyStep, ...] = Field(
        default=(),
        description="More steps, after those of the preset; one of a kind that the preset has takes its place.",
    )
    cut_bytes: int | None = Field(
        default=None,
        ge=256,
        le=formats.LARGEST_BYTES // 2,
        description="Cuts longer documents at blank lines into pieces of about this size, which are documents of"
        " their own. Empty: none is cut.",
    )
    duplicates: Duplicates = Field(
        default="near",
        description="Which copies go. near: of documents that hardly differ the longest stays. equal: of equal ones"
        " the first stays. none: all stay, and are learnt by heart. Those that stay never part in a split.",
    )
    similarity: float = Field(
        default=near.SIMILARITY,
        ge=0.5,
        le=1,
        description="Documents that share this part of their runs of five words hardly differ. Lower, documents go"
        " that only quote each other.",
    )

    def steps(self) -> tuple[Step, ...]:
        """The steps, in order."""
        own: dict[str, Step] = {step.kind: step for step in self.also}
        preset = [own.pop(step.kind, step) for step in steps.PRESETS[self.preset]]
        return tuple(step for step in (*preset, *own.values()) if step.kind not in self.without)


def clean(
    documents: Iterable[Document | SetAside],
    cleaning: Cleaning,
    folder: Path,
    place: Path,
    size_bytes: int | None = None,
    progress: Callable[[float], None] = lambda share: None,
    workers: int | None = None,
) -> tuple[Counts, Counter[str], dict[str, int]]:
    """Writes what is kept to `documents.parquet`, in order, with a picture and examples beside it.

    The counts (`kept + sum(dropped) == read + cut`), the languages, and the lengths. The result is the same for
    any number of `workers` (see `tasks.spread`) and after any number of kills, what lies in `place` being used.
    `size_bytes` is what `progress` takes for the whole.
    """
    made = Drafts(place)
    work = Work(cleaning.steps(), cleaning.cut_bytes)
    counts = made.make(
        documents,
        work,
        lambda done: progress(CLEANING_SHARE * min(1.0, done / (size_bytes or sys.maxsize))),
        workers,
    )
    progress(CLEANING_SHARE)
    known = made.known()
    found = duplicates.find(known, cleaning.duplicates, cleaning.similarity)
    _count_copies(counts, made, known, found)
    languages = Counter[str]()
    with _Writer(folder / "documents.parquet") as writer:
        for number, rows in enumerate(_kept(made, known.ids, found)):
            languages.update(rows["language"].to_pylist())
            writer.add(rows)
            progress(CLEANING_SHARE + (1 - CLEANING_SHARE) * (number + 1) / made.count)
    sizes = known.sizes[found.kept]
    corpus_report.write(folder, counts, sizes)
    progress(1.0)
    return counts, languages, corpus_report.lengths(sizes)


def _count_copies(counts: Counts, made: Drafts, known: Known, found: Found) -> None:
    """Takes the copies that go out of what was kept, with a few of them as examples."""
    for reason, copies in (
        (duplicates.EQUAL, ~found.kept & found.repeats),
        (duplicates.NEAR, ~found.kept & ~found.repeats),
    ):
        numbers = np.flatnonzero(copies)
        if not len(numbers):
            continue
        counts.kept -= len(numbers)
        counts.bytes -= int(known.sizes[numbers].sum())
        counts.dropped[reason] += len(numbers)
        for copy in numbers[np.argsort(known.ids[numbers], kind="stable")][: parts.EXAMPLES].tolist():
            counts.show(reason, made.document(copy), known.text_of(int(found.instead[copy])))


def _kept(made: Drafts, ids: duplicates.Hashes, found: Found) -> Iterator[pa.Table]:
    """Each part's rows that stay, with the names of their clusters."""
    start = 0
    for part in made.parts():
        here = slice(start, start + len(part.rows))
        start = here.stop
        there = np.flatnonzero(found.kept[here])
        rows = part.rows.take(there)
        named = {
            "id": pa.array(names(ids[here][there]), pa.string()),
            "cluster": pa.array(names(ids[found.clusters[here][there]]), pa.string()),
        }
        yield pa.table(
            {name: named[name] if name in named else rows[name] for name in SCHEMA.names}, schema=SCHEMA
        )


def names(ids: duplicates.Hashes) -> list[str]:
    """Ids as they are written: 16 hexadecimal digits."""
    return [f"{one:016x}" for one in ids.tolist()]


class _Writer:
    """Rows to a parquet file, in row groups whose ends hang on the rows alone."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetWriter(path, SCHEMA, compression="zstd")
        self._waiting = SCHEMA.empty_table()

    def add(self, rows: pa.Table) -> None:
        self._waiting = pa.concat_tables([self._waiting, rows])
        while (end := self._end()) is not None:
            self._file.write_table(self._waiting.slice(0, end), row_group_size=end)
            self._waiting = self._waiting.slice(end)

    def _end(self) -> int | None:
        """Where the first row group ends, if it does."""
        full = int(np.searchsorted(np.cumsum(self._waiting["bytes"].to_numpy()), GROUP_BYTES)) + 1
        end = min(full, GROUP_ROWS)
        return end if end <= len(self._waiting) else None

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is None and len(self._waiting):
            self._file.write_table(self._waiting)
        self._file.close()


def corpus_key(source: Source, cleaning: Cleaning) -> str:
    """Names the corpus by the source's content, the settings and the code."""
    files = [step.fingerprint() for step in cleaning.steps() if isinstance(step, ReadsFiles)]
    code = code_key(sys.modules[__name__], duplicates, parts, sources, steps)
    return content_key(source.fingerprint(), cleaning, files, code)


def network_failed(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again may help: only where the Hub or a store did not answer."""
    return isinstance(state.result(raise_on_failure=False), StoreError)


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
    return store_corpus(source, cleaning)


def store_corpus(source: Source, cleaning: Cleaning) -> Corpus:
    """The same without Prefect; what the store has is taken from there."""
    key = corpus_key(source, cleaning)
    with stage(Corpus.stage) as shown:
        if not stored(Corpus.kind, key):
            with drafting(Corpus.kind, key) as place, storing(Corpus.kind, key) as folder:
                corpus = _cleaned(source, cleaning, key, folder, place, shown)
                (folder / RECORD).write_text(corpus.model_dump_json(indent=1))
        corpus = Corpus.model_validate_json((home.store(Corpus.kind) / key / RECORD).read_text())
        shown.result = (
            f"{corpus.documents:,} of {corpus.documents_read:,} documents, {corpus.bytes / 1e6:.1f} MB"
        )
    return corpus


def _cleaned(
    source: Source, cleaning: Cleaning, key: str, folder: Path, place: Path, shown: Callable[[float], None]
) -> Corpus:
    """The record of what is then in `folder`."""
    size = source.size_bytes()
    counts, languages, lengths = clean(source.documents(), cleaning, folder, place, size, shown)
    if not counts.kept:
        raise InputError(_nothing_left(source, counts))
    return Corpus(
        key=key,
        source=source.describe(),
        documents_read=counts.read,
        cut=counts.cut,
        documents=counts.kept,
        bytes=counts.bytes,
        dropped=dict(counts.dropped.most_common()),
        changed=dict(counts.changed.most_common()),
        languages=corpus_report.told_apart(languages),
        lengths=lengths,
    )


def _nothing_left(source: Source, counts: Counts) -> str:
    why = "; ".join(f"{reason}: {number}" for reason, number in counts.dropped.most_common())
    if not counts.read:
        return f"{source.describe()} holds no documents: name other data in the source's settings."
    return (
        f"No document of {source.describe()} is left after cleaning. Of {counts.read} were dropped: {why}."
        " Choose another cleaning.preset, leave steps out with cleaning.without, or name other data."
    )
