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
    """The slice as one endless sequence: every epoch all documents in a new seeded order.

    Batches are consecutive pieces of the stream, so the global order of samples depends on the
    seed and on the batch shapes alone, never on how many ranks share the rows.
    """

    def __init__(self, slice_: Slice, seed: int) -> None:
        self._ids = slice_.shards.ids(slice_.split)
        self._index = slice_.documents()
        self._seed = seed
        self._epoch_tokens = int(self._index[:, LENGTH].sum())
        self._epoch: int | None = None
        if self._epoch_tokens == 0:
            raise ValueError("the slice holds no tokens to train on")

    def _enter(self, epoch: int) -> None:
        if epoch != self._epoch:
            order = np.random.default_rng([self._seed, epoch]).permutation(len(self._index))
            self._order = self._index[order]
            self._ends = np.cumsum(self._order[:, LENGTH])
            self._epoch = epoch

    def read(self, position: int, length: int) -> npt.NDArray[np.int64]:
        """int64 [length]: the stream from `position` on, across documents and epochs."""
        pieces: list[Stored] = []
        while length > 0:
            epoch, within = divmod(position, self._epoch_tokens)
            self._enter(epoch)
            row = int(np.searchsorted(self._ends, within, side="right"))
            start, size = self._order[row, OFFSET], int(self._order[row, LENGTH])
            skipped = within - (int(self._ends[row]) - size)
            take = min(size - skipped, length)
            pieces.append(self._ids[start + skipped : start + skipped + take])
            position += take
            length -= take
        return np.concatenate(pieces).astype(np.int64)

    def batch(
        self, position: int, rows: int, context: int, rank: int = 0, world_size: int = 1
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets, int64 [B/world_size, T] each, of this rank's rows of the global batch.

        Rank r takes rows r, r + world_size, ...; the next global batch starts at
        `position + rows * context`.
        """
        mine = range(rank, rows, world_size)
        taken = np.stack([self.read(position + row * context, context + 1) for row in mine])
        tokens = torch.from_numpy(taken)
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
