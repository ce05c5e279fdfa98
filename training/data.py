"""Tokens on disk to rows for a rank; the position in the data is part of the checkpoint.

A folder of shards holds, for each split (train, validation, test):
`<split>.bin`   the token ids of all documents, one after the other, each opened by the start token;
`<split>.npy`   int64 [documents, 5]: offset and length in tokens (start token included), UTF-8 bytes, fold,
                label (-1: none);
`shards.json`   dtype ("uint16" or "uint32"), vocabulary, start_token, mask_token, labels (their names);
`tokenizer/`    what `AutoTokenizer` loads;
`augmented/`    where they were asked for, copies of train documents in other words: see `training.copies`.
"""

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

OFFSET, LENGTH, BYTES, FOLD, LABEL = range(5)
DEALT_SEED = 1  # of folds that ignore near-duplicates
SORTED_BATCHES = 32  # whose documents are put in order of length, so that the rows of a batch are alike
Split = Literal["train", "validation", "test"]
Stored = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shards:
    """One folder of packed tokens, opened as memory maps."""

    folder: Path

    @property
    def start_token(self) -> int:
        return int(self.header["start_token"])

    @property
    def vocabulary(self) -> int:
        return int(self.header["vocabulary"])

    @cached_property
    def header(self) -> dict[str, Any]:
        """What `shards.json` says."""
        header: dict[str, Any] = json.loads((self.folder / "shards.json").read_text())
        return header

    def ids(self, split: Split) -> Stored:
        """All token ids of a split, as a read-only memory map."""
        path = self.folder / f"{split}.bin"
        dtype = np.dtype(str(self.header["dtype"]))
        if path.stat().st_size == 0:
            return np.zeros(0, dtype)
        ids: Stored = np.memmap(path, dtype=dtype, mode="r")
        return ids

    def documents(self, split: Split) -> Ids:
        """int64 [documents, 5]: offset, length, bytes, fold, label."""
        index: Ids = np.load(self.folder / f"{split}.npy")
        return index


@dataclass(frozen=True)
class Slice:
    """Which documents a training sees, or a score is taken on: a mask over the shards.

    `naive` folds are as many, but dealt out document by document, near-duplicates or not: to see what
    they would leak.
    """

    shards: Shards
    split: Split = "train"
    without_fold: int | None = None
    only_fold: int | None = None
    naive: bool = False

    def documents(self) -> Ids:
        """The rows of the index that the mask lets through."""
        return self.shards.documents(self.split)[self.rows()]

    def rows(self) -> Ids:
        """The numbers of these rows."""
        folds = self.shards.documents(self.split)[:, FOLD]
        if self.naive:
            folds = np.random.default_rng(DEALT_SEED).permutation(len(folds)) % (folds.max() + 1)
        there = np.ones(len(folds), dtype=np.bool_)
        if self.without_fold is not None:
            there &= folds != self.without_fold
        if self.only_fold is not None:
            there &= folds == self.only_fold
        return np.flatnonzero(there)

    def tokens(self) -> int:
        """Tokens in the slice, start tokens included."""
        return int(self.documents()[:, LENGTH].sum())

    def texts(self) -> "Sample":
        """Every document whole, with its label and its UTF-8 bytes."""
        ids, index = self.shards.ids(self.split), self.documents()
        documents = [ids[row[OFFSET] : row[OFFSET] + row[LENGTH]].astype(np.int64) for row in index]
        return Sample(documents, index[:, LABEL], index[:, BYTES].astype(np.float64))


class Sample(NamedTuple):
    """Documents to score: token ids from the start token on, label ids, and what each counts in the mean."""

    documents: list[Ids]
    labels: Ids
    weights: npt.NDArray[np.float64]

    def share(self, rank: int, world_size: int) -> "Sample":
        """This rank's part; the parts of all ranks are the whole."""
        return self.part(slice(rank, None, world_size))

    def part(self, part: slice) -> "Sample":
        """Some of its documents."""
        return Sample(self.documents[part], self.labels[part], self.weights[part])


class Source(Protocol):
    """A slice as endless rows in a seeded global order, which knows nothing of ranks."""

    def rows_in(self, batch_tokens: int, length: int) -> float: ...

    def rows(self, numbers: range, position: int, length: int) -> Sample: ...

    def moved(self, position: int, rows: int, length: int) -> tuple[int, int]: ...


class Stream:
    """Text without end: every epoch all blocks of the slice in a new seeded order.

    A block is as long as the longest row, so that the rows of a batch come from different places, and
    a row never joins two. Where blocks begin changes with the epoch. `reach` tokens beyond its length
    come with each row, as targets of its last ones. Positions count tokens.
    """

    def __init__(self, slice_: Slice, seed: int, block: int, reach: int = 0) -> None:
        self._ids = slice_.shards.ids(slice_.split)
        self._index = slice_.documents()
        self._ends = np.cumsum(self._index[:, LENGTH])
        self._seed, self._block, self._reach = seed, block, reach
        self.tokens = int(self._ends[-1]) if len(self._ends) else 0
        self._blocks = max(1, self.tokens // block)
        self._epoch: int | None = None
        if self.tokens == 0:
            raise ValueError("the slice holds no tokens to train on")

    def rows_in(self, batch_tokens: int, length: int) -> float:
        """How many rows a batch of so many tokens has."""
        return batch_tokens / length

    def rows(self, numbers: range, position: int, length: int) -> Sample:
        """The rows of these numbers in the global batch that starts at `position`."""
        found = [self.row(position + number * length, length + self._reach) for number in numbers]
        return Sample(found, np.full(len(found), -1), np.ones(len(found)))

    def moved(self, position: int, rows: int, length: int) -> tuple[int, int]:
        """Where the batch after one of so many rows starts, and the tokens that this one took."""
        return position + rows * length, rows * length

    def row(self, position: int, length: int) -> Ids:
        """int64 [length]: the row that starts at this place of the endless order."""
        epoch, within = divmod(position, self._blocks * self._block)
        if epoch != self._epoch:
            dice = np.random.default_rng([self._seed, epoch])
            self._order, self._phase = dice.permutation(self._blocks), int(dice.integers(self._block))
            self._epoch = epoch
        number, offset = divmod(within, self._block)
        return self.read(self._phase + int(self._order[number]) * self._block + offset, length)

    def read(self, start: int, length: int) -> Ids:
        """int64 [length]: the slice's tokens from `start` on, document after document, round and round."""
        pieces: list[Stored] = []
        while length > 0:
            start %= self.tokens
            row = int(np.searchsorted(self._ends, start, side="right"))
            left = min(int(self._ends[row]) - start, length)
            at = int(self._index[row, OFFSET] + self._index[row, LENGTH]) - (int(self._ends[row]) - start)
            pieces.append(self._ids[at : at + left])
            start += left
            length -= left
        return np.concatenate(pieces).astype(np.int64)


class Documents:
    """Whole documents: every epoch all of them in a new seeded order, neighbours of about one length.

    A document longer than a row is cut to its beginning. Positions count documents. Where `balanced`,
    the weights of all documents of a label are the same in sum for every label, and 1 on average.
    """

    def __init__(
        self, slice_: Slice, seed: int, context: int, batch_tokens: int, balanced: bool = False
    ) -> None:
        self._ids = slice_.shards.ids(slice_.split)
        self._index = slice_.documents()
        if not len(self._index):
            raise ValueError("the slice holds no documents to train on")
        self._seed = seed
        self._order = lru_cache(2)(self._dealt)  # a batch may reach into the next epoch
        self._lengths = np.minimum(self._index[:, LENGTH], context)
        self._group = max(1, int(self.rows_in(batch_tokens, context)))
        self.labels = self._index[:, LABEL]
        self._weights = np.ones(len(self._index))
        if balanced:
            counts = np.bincount(np.maximum(self.labels, 0))
            self._weights = len(self.labels) / (np.count_nonzero(counts) * counts[self.labels])

    def rows_in(self, batch_tokens: int, length: int) -> float:
        """How many documents of the mean length make a batch of so many tokens."""
        return batch_tokens / float(self._lengths.mean())

    def rows(self, numbers: range, position: int, length: int) -> Sample:
        """The rows of these numbers in the global batch that starts at `position`."""
        chosen = [self.document(position + number) for number in numbers]
        found = [
            self._ids[offset : offset + min(size, length)].astype(np.int64)
            for offset, size in self._index[chosen][:, [OFFSET, LENGTH]].tolist()
        ]
        return Sample(found, self.labels[chosen], self._weights[chosen])

    def moved(self, position: int, rows: int, length: int) -> tuple[int, int]:
        """Where the batch after one of so many rows starts, and the tokens that this one took."""
        taken = [self.document(position + number) for number in range(rows)]
        return position + rows, int(np.minimum(self._lengths[taken], length).sum())

    def document(self, position: int) -> int:
        """The number, in the slice, of the document at this place of the endless order."""
        epoch, within = divmod(position, len(self._index))
        return int(self._order(epoch)[within])

    def _dealt(self, epoch: int) -> Ids:
        """All documents in the order of this epoch."""
        dice = np.random.default_rng([self._seed, epoch])
        order = dice.permutation(len(self._index))
        window = SORTED_BATCHES * self._group
        for start in range(0, len(order), window):
            part = order[start : start + window]
            part = part[np.argsort(self._lengths[part], kind="stable")]
            batches = [part[at : at + self._group] for at in range(0, len(part), self._group)]
            whole, rest = batches[: len(part) // self._group], batches[len(part) // self._group :]
            shuffled = [whole[number] for number in dice.permutation(len(whole))]
            order[start : start + window] = np.concatenate([*shuffled, *rest])
        return order
