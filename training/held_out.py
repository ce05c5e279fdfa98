"""What a fold is judged on: documents that its training did not see, as many as there is time to score."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from training.data import BYTES, FOLD, LABEL, LENGTH, OFFSET, Ids, Sample, Slice
from training.metrics import Floats, parts_in_time

SCORES = "scores.npy"  # in a fold's folder, float64 [documents, 3]: row of the split's index, nats, weight
ORDER_SEED = 0
LEAST_TOKENS = 64  # of each document that is so long, by eye: fewer say how documents open, and no more
FIRST_TOKENS, CHUNK_TOKENS = 2048, 32_768  # scored between two looks at the clock


def held_out_sample(slice_: Slice, tokens: int, context: int | None = None) -> tuple[Ids, Sample]:
    """A fold's documents, in a random order that all folds share, and their rows in the index.

    The first tokens of each, about `tokens` in all, and the bytes that they stand for: all documents in part
    say more than a few of them whole, as documents differ more than their parts. Of too many, those that come
    first, so that two folds which share documents score the same ones of them. A classifier reads `context`
    tokens of every document, and each counts as one.
    """
    every = slice_.shards.documents(slice_.split)
    all_tokens = tokens * (int(every[:, FOLD].max()) + 1)
    longest = context or max(LEAST_TOKENS, all_tokens // len(every))
    places, rows = np.random.default_rng(ORDER_SEED).permutation(len(every)), slice_.rows()
    rows = rows[np.argsort(places[rows])]
    if context is None:
        rows = rows[places[rows] < all_tokens / longest]
    ids, index = slice_.shards.ids(slice_.split), every[rows]
    lengths = np.minimum(index[:, LENGTH], longest)
    documents = [
        ids[start : start + length].astype(np.int64)
        for start, length in zip(index[:, OFFSET].tolist(), lengths.tolist(), strict=True)
    ]
    weights = index[:, BYTES] * (lengths - 1) / np.maximum(1, index[:, LENGTH] - 1)
    return rows, Sample(documents, index[:, LABEL], np.ones(len(rows)) if context else weights)


def score_in_time(score: Callable[[Sample], Floats], sample: Sample, until: float | None = None) -> Floats:
    """Nats of the sample's first documents: of all, or of those that can be scored by `until` (Unix time)."""
    if not sample.documents or (until is not None and time.time() >= until):
        return np.zeros(0)
    ends = np.cumsum([len(ids) for ids in sample.documents])
    limit = None if until is None else until - time.time()
    parts = parts_in_time(ends, FIRST_TOKENS, CHUNK_TOKENS, limit)
    return np.concatenate([score(sample.part(part)) for part in parts])


def write_scores(folder: Path, rows: Ids, nats: Floats, weights: Floats) -> None:
    """Writes SCORES."""
    np.save(folder / SCORES, np.stack([rows.astype(np.float64), nats, weights], axis=1))


def read_scores(folder: Path) -> Floats:
    """float64 [documents, 3]: row of the split's index, nats, weight."""
    scores: Floats = np.load(folder / SCORES)
    return scores
