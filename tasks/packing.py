"""Texts to packed shards: encoded by all cores, in the corpus' order; a packing that was killed goes on."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, tee
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.encoding import Engine
from tasks.spread import spread
from training import data

if TYPE_CHECKING:
    from tasks.artifacts import Splits

BATCH_BYTES = 2_000_000  # of text, encoded at once
SPLITS = get_args(data.Split)
ROW = np.dtype((np.int64, 5))  # of an index, as `training.data` describes it

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Texts:
    """A corpus with its sides, read in batches of bounded memory, in the corpus' order."""

    corpus: Path  # documents.parquet
    assignment: Path  # assignment.parquet

    @classmethod
    def of(cls, splits: "Splits") -> Self:
        """The splits' documents."""
        return cls(splits.corpus.folder / "documents.parquet", splits.folder / "assignment.parquet")

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The corpus' columns (None: all) with split and fold, about BATCH_BYTES of text at a time."""
        sides = pq.read_table(self.assignment, columns=["split", "fold"])
        start = 0
        with pq.ParquetFile(self.corpus) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=None if columns is None else [*columns, "bytes"])
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
        for batch in self.batches(["id", "text"]):
            for name, side, text in zip(*map(values(batch), ("id", "split", "text")), strict=True):
                if side == "train" and _chosen(name, share):
                    yield text


class Encoded(NamedTuple):
    """A batch's ids, one document after the other, each after its start token, and which are not given back."""

    ids: npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
    lengths: Numbers
    changed: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Encoding:
    """Encodes a batch, and decodes it again to see that nothing is lost."""

    engine: Engine
    start_token: int
    dtype: str

    def __call__(self, texts: Sequence[str]) -> Encoded:
        """The ids of the texts."""
        encoded = self.engine.encode(texts)
        changed = self.engine.changed(encoded, texts)
        lengths = np.array([1 + len(ids) for ids in encoded], np.int64)
        whole = np.full(int(lengths.sum()), self.start_token, self.dtype)
        starts = np.cumsum(lengths) - lengths
        there = np.ones(len(whole), np.bool_)
        there[starts] = False
        whole[there] = np.concatenate(encoded or [np.zeros(0, np.uint32)])
        return Encoded(whole, lengths, changed)


@dataclass
class Progress:
    """How far a packing has come: what of each file is valid."""

    batches: int = 0
    changed: int = 0  # documents that are not given back as they were
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    documents: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))


class Packer:
    """Writes shards as `training.data.Shards` reads them; what another has left in the folder is gone on with."""

    def __init__(
        self,
        folder: Path,
        vocabulary: int,
        start_token: int = 0,
        mask_token: int | None = None,
        labels: Sequence[str] = (),
    ) -> None:
        self.dtype = np.dtype(np.uint16 if vocabulary <= 2**16 else np.uint32)
        self.folder = folder
        self._header = {
            "dtype": self.dtype.name,
            "vocabulary": vocabulary,
            "start_token": start_token,
            "mask_token": mask_token,
            "labels": list(labels),
        }
        self._label_ids = {label: number for number, label in enumerate(labels)}
        self._mark = folder / "progress.json"
        self.done = Progress(**json.loads(self._mark.read_text())) if self._mark.exists() else Progress()
        self._ids = {name: (folder / f"{name}.bin").open("ab") for name in SPLITS}
        self._rows = {name: self._path(name).open("ab") for name in SPLITS}
        for name in SPLITS:
            self._ids[name].truncate(self.done.tokens[name] * self.dtype.itemsize)
            self._rows[name].truncate(self.done.documents[name] * ROW.itemsize)

    def add(
        self, name: str, ids: Sequence[int], size_bytes: int, fold: int, label: str | None = None
    ) -> None:
        """One document, start token included, at the end of its split."""
        self.add_all(
            name, np.array(ids, self.dtype), np.array([[len(ids), size_bytes, fold, self.label(label)]])
        )

    def label(self, name: str | None) -> int:
        """A label's number; -1: none, or none of these."""
        return -1 if name is None else self._label_ids.get(name, -1)

    def add_all(self, name: str, ids: npt.NDArray[Any], facts: Numbers) -> None:
        """Documents at the end of a split; `facts` [documents, 4]: their length, bytes, fold and label."""
        ends = self.done.tokens[name] + np.cumsum(facts[:, 0])
        self._ids[name].write(np.ascontiguousarray(ids, self.dtype).tobytes())
        self._rows[name].write(np.column_stack([ends - facts[:, 0], facts]).astype(np.int64).tobytes())
        self.done.tokens[name] += len(ids)
        self.done.documents[name] += len(facts)

    def mark(self) -> None:
        """What was added so far stays, whatever happens now."""
        for file in (*self._ids.values(), *self._rows.values()):
            file.flush()
        draft = self._mark.with_suffix(".draft")
        draft.write_text(json.dumps(vars(self.done)))
        draft.replace(self._mark)

    def finish(self) -> None:
        """Writes the indices and the header; then the shards are whole."""
        self.mark()
        for name, count in self.done.documents.items():
            with (self.folder / f"{name}.npy").open("wb") as index, self._path(name).open("rb") as rows:
                np.lib.format.write_array_header_1_0(
                    index, {"descr": "<i8", "fortran_order": False, "shape": (count, 5)}
                )
                shutil.copyfileobj(rows, index)
        (self.folder / "shards.json").write_text(json.dumps(self._header))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.rows"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        for file in (*self._ids.values(), *self._rows.values()):
            file.close()
        if kind is None:
            for path in (self._mark, *map(self._path, SPLITS)):
                path.unlink(missing_ok=True)


def pack(
    texts: Texts,
    encoding: Encoding,
    packer: Packer,
    progress: Callable[[float], None] = lambda share: None,
    workers: int | None = None,
) -> Progress:
    """Encodes everything into shards, and writes `documents.parquet`; how much of what there is.

    Every document is decoded again, and those that come back as another text are counted. The files are the same
    for any number of `workers` (see `tasks.spread`) and after any number of kills.
    """
    total = max(1, pq.read_metadata(texts.corpus).num_rows)
    done = 0
    for batch in islice(texts.batches(["id"]), packer.done.batches):
        done += len(batch)
    ahead, here = tee(islice(texts.batches(), packer.done.batches, None))
    encoded = spread(encoding, (values(batch)("text") for batch in ahead), workers)
    for batch, found in zip(here, encoded, strict=True):
        _add_batch(packer, batch, found)
        packer.mark()
        done += len(batch)
        progress(done / total)
    packer.finish()
    write_documents(texts, packer.folder)
    return packer.done


def _add_batch(packer: Packer, batch: pa.Table, found: Encoded) -> None:
    sides, folds, sizes = (batch[name].to_numpy() for name in ("split", "fold", "bytes"))
    labels = np.array([packer.label(label) for label in values(batch)("label")], np.int64)
    facts = np.column_stack([found.lengths, sizes, folds, labels]).astype(np.int64)
    for name in SPLITS:
        there = sides == name
        packer.add_all(name, found.ids[np.repeat(there, found.lengths)], facts[there])
        packer.done.changed += int(found.changed[there].sum())
    packer.done.batches += 1


def write_documents(texts: Texts, folder: Path) -> None:
    """The corpus without its texts, with each document's tokens and its offset; null for those in no split."""
    index = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in SPLITS}
    read = dict.fromkeys(SPLITS, 0)
    names = [name for name in pq.read_schema(texts.corpus).names if name != "text"]
    writer: pq.ParquetWriter | None = None
    for batch in texts.batches([name for name in names if name != "bytes"]):
        sides = batch["split"].to_numpy()
        found = np.zeros((2, len(batch)), np.int64)
        for name in SPLITS:
            there = np.flatnonzero(sides == name)
            rows = index[name][read[name] : read[name] + len(there)]
            found[:, there] = rows[:, [data.LENGTH, data.OFFSET]].T
            read[name] += len(there)
        nowhere = np.array([side is None for side in sides])
        for column, value in zip(("tokens", "offset"), found, strict=True):
            batch = batch.append_column(column, pa.array(value, pa.int64(), mask=nowhere))
        writer = writer or pq.ParquetWriter(folder / "documents.parquet", batch.schema, compression="zstd")
        writer.write_table(batch)
    if writer is not None:
        writer.close()


def values(table: pa.Table) -> Callable[[str], list[Any]]:
    """A table's columns as lists, by their names."""
    return lambda column: cast(list[Any], table[column].to_pylist())


def _chosen(name: str, share: float) -> bool:
    """By the id's last digits, which the split does not look at."""
    return int(name[-8:], 16) < share * 2**32
