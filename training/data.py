"""Tokens on disk to batches for a rank; the position in the data is part of the checkpoint.

A folder of shards holds, for each split (train, validation, test):
`<split>.bin`   the token ids of all documents, one after the other, each opened by the start token;
`<split>.npy`   int64 [documents, 4]: offset and length in tokens (start token included), UTF-8 bytes, fold;
`shards.json`   dtype ("uint16" or "uint32"), vocabulary, start_token.

Shapes: B rows of a batch, T positions of the context.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

OFFSET, LENGTH, BYTES, FOLD = range(4)
Split = Literal["train", "validation", "test"]
Stored = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shards:
    """One folder of packed tokens, opened as memory maps."""

    folder: Path

    @property
    def start_token(self) -> int:
        return int(self._header["start_token"])

    @property
    def vocabulary(self) -> int:
        return int(self._header["vocabulary"])

    @property
    def _header(self) -> dict[str, str | int]:
        header: dict[str, str | int] = json.loads((self.folder / "shards.json").read_text())
        return header

    def ids(self, split: Split) -> Stored:
        """All token ids of a split, as a read-only memory map."""
        path = self.folder / f"{split}.bin"
        dtype = np.dtype(str(self._header["dtype"]))
        if path.stat().st_size == 0:
            return np.zeros(0, dtype)
        ids: Stored = np.memmap(path, dtype=dtype, mode="r")
        return ids

    def documents(self, split: Split) -> npt.NDArray[np.int64]:
        """int64 [documents, 4]: offset, length, bytes, fold."""
        index: npt.NDArray[np.int64] = np.load(self.folder / f"{split}.npy")
        return index


@dataclass(frozen=True)
class Slice:
    """Which documents a training sees, or a score is taken on: a mask over the shards."""

    shards: Shards
    split: Split = "train"
    without_fold: int | None = None
    only_fold: int | None = None

    def documents(self) -> npt.NDArray[np.int64]:
        """The rows of the index that the mask lets through."""
        index = self.shards.documents(self.split)
        if self.without_fold is not None:
            index = index[index[:, FOLD] != self.without_fold]
        if self.only_fold is not None:
            index = index[index[:, FOLD] == self.only_fold]
        return index

    def tokens(self) -> int:
        """Tokens in the slice, start tokens included."""
        return int(self.documents()[:, LENGTH].sum())

    def texts(self) -> tuple[list[npt.NDArray[np.int64]], npt.NDArray[np.int64]]:
        """Every document's token ids, and the documents' UTF-8 bytes."""
        ids, index = self.shards.ids(self.split), self.documents()
        documents = [ids[row[OFFSET] : row[OFFSET] + row[LENGTH]].astype(np.int64) for row in index]
        return documents, index[:, BYTES]


class Stream:
    """The slice as endless rows: every epoch all its blocks of text in a new seeded order.

    A block is as long as the longest row, so that the rows of a batch come from different places, and
    a row never joins two. Where blocks begin changes with the epoch. The global order of samples
    depends on the seed and on the batch shapes alone, never on how many ranks share the rows.
    """

    def __init__(self, slice_: Slice, seed: int, block: int) -> None:
        self._ids = slice_.shards.ids(slice_.split)
        self._index = slice_.documents()
        self._ends = np.cumsum(self._index[:, LENGTH])
        self._seed, self._block = seed, block
        self.tokens = int(self._ends[-1]) if len(self._ends) else 0
        self._blocks = max(1, self.tokens // block)
        self._epoch: int | None = None
        if self.tokens == 0:
            raise ValueError("the slice holds no tokens to train on")

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

    def batch(
        self, position: int, rows: int, context: int, rank: int = 0, world_size: int = 1
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets, int64 [B/world_size, T] each, of this rank's rows of the global batch.

        Rank r takes rows r, r + world_size, ...; the next global batch starts at
        `position + rows * context`.
        """
        mine = range(rank, rows, world_size)
        tokens = torch.from_numpy(np.stack([self.row(position + row * context, context + 1) for row in mine]))
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
