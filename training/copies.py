"""Copies of train documents in other words, beside the shards that hold the documents.

`augmented/` in a folder of shards is such a folder itself: its train split holds the copies, with the folds and
labels of their documents. `augmented/makers.json` says of each maker where its copies begin and how many a
document has; those of a document stand together, in the order of the documents in `train.npy`.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from training.data import LENGTH, OFFSET, Ids, Shards, Slice

FOLDER = "augmented"
MAKERS = "makers.json"


class Place(NamedTuple):
    """Where a maker's copies stand: the row of the first, and how many each document has."""

    first: int
    each: int


def write_makers(folder: Path, makers: dict[str, Place]) -> None:
    """Writes `makers.json` into the folder of the copies."""
    (folder / MAKERS).write_text(json.dumps(makers))


class Copies:
    """One maker's copies. Raises ValueError where the shards have none of its."""

    def __init__(self, slice_: Slice, maker: str) -> None:
        folder = slice_.shards.folder / FOLDER
        makers = json.loads((folder / MAKERS).read_text()) if folder.exists() else {}
        if slice_.split != "train" or maker not in makers:
            raise ValueError(
                f"{slice_.shards.folder} holds no copies of its {slice_.split} split by {maker}: they are made with"
                " the tokens, for the learning.augmentation of the recipe"
            )
        self._place = Place(*makers[maker])
        shards = Shards(folder)
        self._ids, self._index = shards.ids("train"), shards.documents("train")

    def read(self, row: int, number: int, length: int) -> Ids:
        """int64 [up to length]: the beginning of one copy, by its document's row in the train split."""
        at = self._place.first + row * self._place.each + number
        offset, size = self._index[at, [OFFSET, LENGTH]].tolist()
        return self._ids[offset : offset + min(size, length)].astype(np.int64)
