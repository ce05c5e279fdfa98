"""What the stages hand to each other: small frozen records; the bytes stay in the store."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict

from tasks import home

if TYPE_CHECKING:
    from prefect.context import TaskRunContext


class InputError(ValueError):
    """Something that the user gave cannot work; the message says what, where and what to do."""


class Record(BaseModel):
    """What a stage hands over: a content key and its own report, never the data."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: ClassVar[str]
    stage: ClassVar[str]  # the name of the stage that makes it
    key: str

    @property
    def folder(self) -> Path:
        """Where this record's bytes lie in the store of this machine."""
        return home.store(self.kind) / self.key

    def rows(self) -> list[dict[str, Any]]:
        """The record's own figures as a table; records inside it show themselves."""
        found: list[dict[str, Any]] = []
        for name, value in self:
            if isinstance(value, Mapping):
                found += [{"figure": f"{name}: {part}", "value": entry} for part, entry in value.items()]
            elif not isinstance(value, BaseModel) and name != "key":
                found.append(
                    {"figure": name, "value": value if isinstance(value, int | float | str) else str(value)}
                )
        return found


class Corpus(Record):
    """Cleaned documents: `documents.parquet` with id, source, position, group, label, language, text, bytes."""

    kind: ClassVar[str] = "corpus"
    stage: ClassVar[str] = "Clean the corpus"
    source: str  # one line that a person recognises
    documents_read: int
    documents: int
    bytes: int
    dropped: dict[str, int]  # reason -> documents; documents + sum(dropped) == documents_read
    changed: dict[str, int]  # reason -> documents

    def rows(self) -> list[dict[str, Any]]:
        """What came in, what became of it, and what was kept."""
        dropped = [{"what": f"dropped: {reason}", "documents": n} for reason, n in self.dropped.items()]
        changed = [{"what": f"changed: {reason}", "documents": n} for reason, n in self.changed.items()]
        kept = {"what": f"kept ({self.bytes:,} bytes)", "documents": self.documents}
        return [{"what": f"read: {self.source}", "documents": self.documents_read}, *dropped, kept, *changed]


class Splits(Record):
    """Sides and folds: `assignment.parquet` with id, split, fold, cluster, in the corpus' order."""

    kind: ClassVar[str] = "splits"
    stage: ClassVar[str] = "Split the corpus"
    corpus: Corpus
    documents: dict[str, int]  # train, validation, test -> documents
    bytes: dict[str, int]  # the same -> UTF-8 bytes
    folds: int
    near_duplicates: int  # of test or validation documents; they are in no split
    repeated: int = 0  # train documents with a near-duplicate in train, which is in the same fold
    left_out: dict[str, int] = {}  # of a classification: reason -> documents; they are in no split either

    def rows(self) -> list[dict[str, Any]]:
        """Each side's size."""
        sides = [
            {"split": side, "documents": n, "bytes": self.bytes[side]} for side, n in self.documents.items()
        ]
        others = {"train, with a near-duplicate there": self.repeated}
        others |= {"none: near-duplicates": self.near_duplicates}
        others |= {f"none: {why}": n for why, n in self.left_out.items()}
        return sides + [{"split": what, "documents": n, "bytes": None} for what, n in others.items()]


class Tokens(Record):
    """Packed shards as `training.data.Shards` reads them, `tokenizer/`, and `documents.parquet`."""

    kind: ClassVar[str] = "tokens"
    stage: ClassVar[str] = "Tokenize the corpus"
    splits: Splits
    vocabulary: int
    tokens: dict[str, int]  # train, validation, test -> tokens
    bytes_per_token: float
    start_token: int = 0  # opens every document
    mask_token: int | None = None  # where gaps are to be filled
    labels: tuple[str, ...] = ()  # of a classification, in order of their ids
    changed_share: float = 0.0  # of documents that a checkpoint's tokenizer does not give back as they were

    def rows(self) -> list[dict[str, Any]]:
        """Each split's tokens, start tokens included."""
        rows = [
            {
                "split": split,
                "documents": self.splits.documents[split],
                "tokens": n,
                "bytes": self.splits.bytes[split],
            }
            for split, n in self.tokens.items()
        ]
        facts = [f"vocabulary {self.vocabulary}, {self.bytes_per_token:.2f} bytes a token"]
        if self.labels:
            facts.append(f"{len(self.labels)} labels: {', '.join(self.labels)}")
        if self.changed_share:
            facts.append(f"{self.changed_share:.0%} of documents are changed by the checkpoint's tokenizer")
        return rows + [{"split": fact} for fact in facts]


class Folds(Record):
    """Scores of the chosen recipe on each fold, trained at a fraction of the budget."""

    kind: ClassVar[str] = "folds"
    stage: ClassVar[str] = "Cross-validate"
    scores: tuple[float, ...]  # bits of each fold, per what the objective says; empty: see `reason`
    mean: float | None
    standard_error: float | None = None  # as if folds shared no training text, so too small
    low: float | None
    high: float | None  # 90 % interval, corrected for what folds share; see tasks.cross_validate
    interval_covers: str = "nothing"
    naive: float | None = None  # of a fold that ignores near-duplicates
    instead_of: float | None = None  # of the same documents, as the folds scored them
    near_duplicates: str = ""  # what they do to a split that ignores them
    seconds_each: float  # of training
    reason: str  # why so many, or why none


class Trained(Record):
    """What the final run left in its run folder."""

    kind: ClassVar[str] = "trained"
    stage: ClassVar[str] = "Train the final model"
    run_id: str  # the flow run's id
    model: str  # relative to the run folder: a Hugging Face folder with tokenizer
    journal: str  # relative to the run folder
    objective: str
    parameters: int
    steps: int
    tokens_trained: int
    training_seconds: float
    final_seconds: float
    ended: float | None = None  # Unix time, of the training
    workers: int
    kept: str  # which weights are in `model`, as they validated best: last, average or best
    validation_bits: float | None  # of these, in the objective's unit
    tokens: Tokens

    @property
    def folder(self) -> Path:
        """The run folder."""
        return home.run_folder(self.run_id)

    @property
    def model_folder(self) -> Path:
        """The model: config, safetensors, tokenizer."""
        return self.folder / self.model


class Baseline(BaseModel):
    """What a classifier is worth without reading: the commonest label of the train split, said always."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    label: str
    accuracy: float  # on the test documents
    macro_f1: float
    bits: float  # per label, of saying every label with its share of the train split


class Report(Record):
    """The verdict on the test split; per-document scores lie in `report/test_documents.parquet`."""

    kind: ClassVar[str] = "report"
    stage: ClassVar[str] = "Evaluate on the test split"
    run_id: str
    head: Literal["causal", "masked", "classification"]
    unit: str  # of `bits`, as the objective calls it: bits per byte, pseudo-bits per byte, bits per label
    bits: float  # the number that decides
    low: float
    high: float  # 95 % bootstrap interval
    interval_covers: str  # "documents": another sample of test documents, not another training
    metrics: dict[str, tuple[float, float, float]]  # others: value, low, high; as `interval_covers` says
    baseline: Baseline | None  # of a classifier
    test_documents: int  # scored
    test_bytes: int
    split_documents: int  # that could be scored; more than were: a seeded sample, time was short
    samples: tuple[tuple[str, str], ...]  # what the model was given, and what it made of it
    plots: tuple[str, ...]  # relative to the run folder
    folds: Folds
    seconds: float

    @property
    def folder(self) -> Path:
        """The run folder."""
        return home.run_folder(self.run_id)

    def rows(self) -> list[dict[str, Any]]:
        """The figures with their intervals, then what they were taken on."""
        figures = {self.unit: (self.bits, self.low, self.high), **self.metrics}
        found: list[dict[str, Any]] = [
            {"figure": name.replace("_", " "), "value": value, "low": low, "high": high}
            for name, (value, low, high) in figures.items()
        ]
        if self.baseline:
            always = f"always saying {self.baseline.label!r}"
            found += [
                {"figure": f"{name}, {always}", "value": value}
                for name, value in (
                    ("accuracy", self.baseline.accuracy),
                    ("macro f1", self.baseline.macro_f1),
                )
            ]
        for name in ("interval_covers", "test_documents", "test_bytes", "split_documents", "seconds"):
            found.append({"figure": name.replace("_", " "), "value": getattr(self, name)})
        return found


class Registered(Record):
    """The registered version, and whether it is the champion now."""

    kind: ClassVar[str] = "registered"
    stage: ClassVar[str] = "Register and gate"
    model_name: str
    version: int
    aliases: tuple[str, ...]
    mlflow_run_id: str
    verdict: str  # one sentence: champion or challenger, and why
    champion_version_before: int | None


def content_key(*parts: Any) -> str:
    """16 hexadecimal digits that name `parts` (JSON-like values and pydantic models) by content."""
    text = json.dumps(parts, sort_keys=True, default=lambda value: value.model_dump(mode="json"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_key(*modules: ModuleType) -> str:
    """Names the source code of `modules`: a changed file is a changed key."""
    return content_key(*(Path(str(module.__file__)).read_text() for module in modules))


def stored(kind: str, key: str) -> bool:
    """Whether the store holds finished bytes under this key."""
    return (home.store(kind) / key / "complete").exists()


def once_a_run(context: "TaskRunContext", inputs: Mapping[str, Any]) -> str:
    """Names a stage within its flow run, so that a run that goes on does not do it again."""
    import prefect.runtime

    return f"{context.task.task_key}-{prefect.runtime.flow_run.id}-{inputs.get('fold', '')}"


def cache_key(record: type[Record], key: Callable[..., str]) -> Callable[..., str | None]:
    """Prefect's name for a task's record: the store's own key, `key(**inputs)`.

    For `@task(cache_key_fn=...)`. A record whose bytes are gone counts as absent, and the body runs
    again. Inputs that cannot work have no key: the body runs and says why.
    """

    def name_of(context: "TaskRunContext", inputs: dict[str, Any]) -> str | None:
        try:
            bytes_key = key(**inputs)
        except InputError:
            return None
        name, results = f"{record.kind}-{bytes_key}", context.result_store
        if not stored(record.kind, bytes_key) and results.exists(name):
            from prefect.types import DateTime

            forgotten = results.create_result_record(None, key=name, expiration=DateTime.now(UTC))
            results.persist_result_record(forgotten)
        return name

    return name_of


@contextmanager
def storing(kind: str, key: str) -> Iterator[Path]:
    """A folder to fill; it appears under its key all at once, when the block ends well.

    Two processes that store the same key write the same bytes: the first wins.
    """
    final = home.store(kind) / key
    draft = final.with_name(f".{key}-{uuid4().hex[:8]}")
    draft.mkdir(parents=True)
    try:
        yield draft
        (draft / "complete").touch()
        if final.exists() and not stored(kind, key):
            shutil.rmtree(final)
        try:
            draft.rename(final)
        except OSError:
            if not stored(kind, key):
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
