"""Text to tokens: the packed shards that trainings read, in the spelling that suits objective and model."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from prefect import task

from tasks import artifacts, spelling, split
from tasks.artifacts import InputError, Splits, Tokens, cache_key, code_key, content_key, storing
from tasks.spelling import Spelling, Tokenizer, checkpoint_key
from tasks.telemetry import stage
from training import data
from training.model import Model, Pretrained
from training.objectives import Objective

SAMPLE_BYTES = 10_000_000  # of the train split, that byte pairs are learnt from
BATCH_BYTES = 2_000_000  # encoded at once; an encoding takes about 40 times its text's memory
CHECKED_SHARE = 1 / 32  # of train documents that are decoded again; of the others all are
MINIMUM_TRAIN_TOKENS = 20_000  # about ten steps of the smallest plan; by eye
LEARNING_SHARE = 0.4  # of this stage's time

SPLITS = get_args(data.Split)


class Clock(Protocol):
    """What is needed of `tasks.clock.Clock`."""

    @property
    def like_seconds(self) -> float: ...


@dataclass(frozen=True)
class Texts:
    """A corpus with its sides, read in batches of bounded memory, in the corpus' order."""

    corpus: Path  # documents.parquet
    assignment: Path  # assignment.parquet

    def batches(self) -> Iterator[pa.Table]:
        """The corpus' columns with split, fold and cluster, about BATCH_BYTES of text at a time."""
        sides = pq.read_table(self.assignment, columns=["split", "fold", "cluster"])
        start = 0
        with pq.ParquetFile(self.corpus) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                for name in sides.column_names:
                    table = table.append_column(name, sides[name].slice(start, len(table)).combine_chunks())
                start += len(table)
                ends = np.cumsum(table["bytes"].to_numpy())
                cuts = np.searchsorted(ends, np.arange(BATCH_BYTES, ends[-1], BATCH_BYTES)).tolist()
                for first, last in zip([0, *cuts], [*cuts, len(table)], strict=True):
                    if first < last:
                        yield table.slice(first, last - first)

    def labels(self) -> tuple[str, ...]:
        """The labels of the documents in a split, in alphabetical order."""
        names = pq.read_table(self.corpus, columns=["label"])["label"].to_pylist()
        sides = pq.read_table(self.assignment, columns=["split"])["split"].to_pylist()
        return tuple(sorted({name for name, side in zip(names, sides, strict=True) if side and name}))

    def sample(self, share: float) -> Iterator[str]:
        """Texts of about this share of the train split, chosen by their ids."""
        for batch in self.batches():
            for name, side, text in zip(*map(_values(batch), ("id", "split", "text")), strict=True):
                if side == "train" and _chosen(name, share):
                    yield text


class Packer:
    """Writes shards as `training.data.Shards` reads them."""

    def __init__(
        self,
        folder: Path,
        vocabulary: int,
        files: ExitStack,
        start_token: int = 0,
        mask_token: int | None = None,
        labels: Sequence[str] = (),
    ) -> None:
        self.dtype = np.dtype(np.uint16 if vocabulary <= 2**16 else np.uint32)
        self.rows: dict[str, list[tuple[int, int, int, int, int]]] = {name: [] for name in SPLITS}
        self.tokens = dict.fromkeys(SPLITS, 0)
        self._folder = folder
        self._header = {
            "dtype": self.dtype.name,
            "vocabulary": vocabulary,
            "start_token": start_token,
            "mask_token": mask_token,
            "labels": list(labels),
        }
        self._ids = {label: number for number, label in enumerate(labels)}
        self._files = {name: files.enter_context((folder / f"{name}.bin").open("wb")) for name in SPLITS}

    def add(self, name: str, ids: list[int], size_bytes: int, fold: int, label: str | None = None) -> int:
        """The document's offset, in tokens, in its split."""
        offset = self.tokens[name]
        self._files[name].write(np.array(ids, self.dtype).tobytes())
        number = -1 if label is None else self._ids.get(label, -1)
        self.rows[name].append((offset, len(ids), size_bytes, fold, number))
        self.tokens[name] += len(ids)
        return offset

    def finish(self) -> None:
        """Writes the indices and the header."""
        for name, rows in self.rows.items():
            np.save(self._folder / f"{name}.npy", np.array(rows, np.int64).reshape(-1, 5))
        (self._folder / "shards.json").write_text(json.dumps(self._header))


@dataclass
class Checked:
    """How many documents were decoded again, and how many of them came back as another text."""

    documents: int = 0
    changed: int = 0


def pack(
    texts: Texts,
    spelling: Spelling,
    folder: Path,
    labels: Sequence[str] = (),
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[dict[str, int], Checked]:
    """Encodes everything, in parallel, into shards and `documents.parquet`; the tokens of each split.

    Documents of validation and test, and a sample of train, are decoded again. Raises ValueError
    where one comes back changed, though the spelling is exact.
    """
    total = max(1, pq.read_metadata(texts.corpus).num_rows)
    done, checked = 0, Checked()
    with ExitStack() as files:
        special = spelling.start_token, spelling.mask_token
        packer = Packer(folder, spelling.vocabulary, files, *special, labels)
        writer: pq.ParquetWriter | None = None
        for batch in texts.batches():
            table = _pack_batch(batch, spelling, packer, checked)
            if writer is None:
                writer = files.enter_context(
                    pq.ParquetWriter(folder / "documents.parquet", table.schema, compression="zstd")
                )
            writer.write_table(table)
            done += len(batch)
            progress(done / total)
        packer.finish()
    return packer.tokens, checked


def _pack_batch(batch: pa.Table, spelling: Spelling, packer: Packer, checked: Checked) -> pa.Table:
    """The batch without its text, with each document's tokens and offset; null for those in no split."""
    values = _values(batch)
    names, sides, folds, sizes, labels, texts = map(values, ("id", "split", "fold", "bytes", "label", "text"))
    encoded = spelling.encode(texts)
    rows = [row for row, side in enumerate(sides) if side != "train" or _chosen(names[row], CHECKED_SHARE)]
    decoded = spelling.decode([encoded[row] for row in rows])
    for row, text in zip(rows, decoded, strict=True):
        if text != texts[row] and spelling.exact:
            raise ValueError(f"The tokenizer loses text of document {names[row]}: this is a defect of ours.")
        checked.documents += 1
        checked.changed += text != texts[row]
    lengths: list[int | None] = [len(ids) if side else None for ids, side in zip(encoded, sides, strict=True)]
    offsets = [
        packer.add(side, ids, size, fold, label) if side else None
        for side, ids, size, fold, label in zip(sides, encoded, sizes, folds, labels, strict=True)
    ]
    table = batch.drop_columns(["text"])
    table = table.append_column("tokens", pa.array(lengths, pa.int64()))
    return table.append_column("offset", pa.array(offsets, pa.int64()))


def tokens_key(splits: Splits, tokenizer: Tokenizer, objective: Objective, model: Model, clock: Clock) -> str:
    """Names the tokens by the splits, the tokenizer's kind and size, what it is for, and the code."""
    code = code_key(sys.modules[__name__], artifacts, data, spelling, split)
    if isinstance(model, Pretrained):
        return content_key(splits.key, checkpoint_key(model), objective.head, code)
    return content_key(splits.key, tokenizer.kind, _size(splits, tokenizer, clock), objective.head, code)


@task(
    name="Tokenize the corpus",
    task_run_name="tokenize-{tokenizer.kind}",
    persist_result=True,
    result_serializer="json",
    cache_key_fn=cache_key(Tokens, tokens_key),
)
def tokenize_corpus(
    splits: Splits, tokenizer: Tokenizer, objective: Objective, model: Model, clock: Clock
) -> Tokens:
    """Tokenizer and shards, in the store; a checkpoint is fed by its own tokenizer.

    Raises InputError where the train split is too small for a batch, or a checkpoint has no tokenizer
    that serves the objective.
    """
    key = tokens_key(splits, tokenizer, objective, model, clock)
    texts = Texts(splits.corpus.folder / "documents.parquet", splits.folder / "assignment.parquet")
    labels = texts.labels() if objective.head == "classification" else ()
    with stage("Tokenize the corpus") as shown, storing(Tokens.kind, key) as folder:
        if isinstance(model, Pretrained):
            spelt = Spelling.of_checkpoint(model, objective.head)
        else:
            sample = texts.sample(SAMPLE_BYTES / max(1, splits.bytes["train"]))
            spelt = Spelling.learnt(tokenizer, sample, _size(splits, tokenizer, clock), objective.head)
        shown(LEARNING_SHARE)
        spelt.save(folder / "tokenizer")
        rest = partial(_after_learning, shown)
        tokens, checked = pack(texts, spelt, folder, labels, rest)
        if tokens["train"] < MINIMUM_TRAIN_TOKENS:
            raise InputError(_too_little(splits, tokens["train"]))
        bytes_per_token = sum(splits.bytes.values()) / sum(tokens.values())
        shown.result = f"{sum(tokens.values()):,} tokens, {bytes_per_token:.2f} bytes each" + _changes(
            checked
        )
    return Tokens(
        key=key,
        splits=splits,
        vocabulary=spelt.vocabulary,
        tokens=tokens,
        bytes_per_token=bytes_per_token,
        start_token=spelt.start_token,
        mask_token=spelt.mask_token,
        labels=labels,
        changed_share=checked.changed / max(1, checked.documents),
    )


def _size(splits: Splits, tokenizer: Tokenizer, clock: Clock) -> int:
    return tokenizer.size(splits.bytes["train"], clock.like_seconds)


def _after_learning(shown: Callable[[float], None], share: float) -> None:
    shown(LEARNING_SHARE + (1 - LEARNING_SHARE) * share)


def _changes(checked: Checked) -> str:
    """What a person must know of a tokenizer that changes texts; nothing of one that does not."""
    if not checked.changed:
        return ""
    return (
        f"; {checked.changed:,} of {checked.documents:,} documents are not given back as they were"
        " by the checkpoint's tokenizer, which makes bits per byte look better"
    )


def _values(table: pa.Table) -> Callable[[str], list[Any]]:
    return lambda column: cast(list[Any], table[column].to_pylist())


def _chosen(name: str, share: float) -> bool:
    """By the id's last digits, which the split does not look at."""
    return int(name[-8:], 16) < share * 2**32


def _too_little(splits: Splits, train_tokens: int) -> str:
    present = splits.corpus.bytes
    wanted = present * MINIMUM_TRAIN_TOKENS / max(1, train_tokens)
    return (
        f"The train split holds {train_tokens:,} tokens; a training needs at least {MINIMUM_TRAIN_TOKENS:,}."
        f" Give about {wanted / 1000:,.0f} kB of text (there are {present / 1000:,.1f} kB)."
    )
