"""What the stages hand to each other: small frozen records; the bytes stay in the store."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from tasks import home
from tasks.secrets import without_secrets

if TYPE_CHECKING:
    pass


class InputError(ValueError):
    """Something that the user gave cannot work; the message says what, where and what to do, and no secret."""

    def __init__(self, message: str) -> None:
        super().__init__(without_secrets(message))


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

    def examples(self) -> list[dict[str, Any]]:
        """Single cases behind the figures, for a person to judge by; most records have none."""
        return []

    def files(self) -> tuple[Path, ...]:
        """What belongs into the report of a run."""
        return ()


EXAMPLES, PICTURE = "examples.json", "corpus.png"  # beside a corpus' documents


class Corpus(Record):
    """Cleaned documents: `documents.parquet` with id, source, position, group, label, language, cluster, text, bytes.

    Beside it lie `corpus.png` and `examples.json`: examples of what was dropped and changed.
    """

    kind: ClassVar[str] = "corpus"
    stage: ClassVar[str] = "Clean the corpus"
    source: str  # one line that a person recognises
    documents_read: int
    cut: int = 0  # pieces of long documents beyond their first
    documents: int
    bytes: int
    dropped: dict[str, int]  # reason -> documents; documents + sum(dropped) == documents_read + cut
    changed: dict[str, int]  # reason -> documents
    languages: dict[str, int] = {}  # ISO 639-1 -> documents
    lengths: dict[str, int] = {}  # rank -> bytes

    def rows(self) -> list[dict[str, Any]]:
        """What came in, what became of it, and what was kept."""
        dropped = [{"what": f"dropped: {reason}", "documents": n} for reason, n in self.dropped.items()]
        changed = [{"what": f"changed: {reason}", "documents": n} for reason, n in self.changed.items()]
        read = [{"what": f"read: {self.source}", "documents": self.documents_read}]
        read += [{"what": "more, as long ones were cut", "documents": self.cut}] * (self.cut > 0)
        kept = [{"what": f"kept ({self.bytes:,} bytes)", "documents": self.documents}]
        kept += [{"what": f"in language {name}", "documents": n} for name, n in self.languages.items()]
        ranks = ", ".join(f"{rank} {length:,}" for rank, length in self.lengths.items())
        return [*read, *dropped, *kept, *changed, {"what": f"lengths in bytes: {ranks}", "documents": None}]

    def examples(self) -> list[dict[str, Any]]:
        """Documents that were dropped or changed, a few of every reason; personal data are masked."""
        found: list[dict[str, Any]] = json.loads((self.folder / EXAMPLES).read_text())
        return found

    def files(self) -> tuple[Path, ...]:
        """The picture, and the examples."""
        return self.folder / PICTURE, self.folder / EXAMPLES


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
    copies: dict[str, int] = {}  # who made copies of train documents, in other words -> of each document

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
        facts += [f"{each} copies of each train document by {maker}" for maker, each in self.copies.items()]
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
    device: str = "cpu"
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
