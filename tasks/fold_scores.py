"""What folds say together: mean, standard error, interval, and what near-duplicates would have done to them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import stats

from tasks.artifacts import Folds
from training.data import BYTES, FOLD, Shards
from training.held_out import read_scores
from training.units import bits

CONFIDENCE = 0.9
NAIVE: Literal["naive"] = "naive"  # the training on a fold that ignores near-duplicates


def corrected_interval(scores: Sequence[float], held_out_ratio: float) -> tuple[float, float]:
    """The CONFIDENCE t-interval of a mean over folds, whose trainings share most of their text.

    The variance of the mean is (1/k + n_test/n_train) s², with k - 1 degrees of freedom: the corrected
    resampled t-test (Nadeau and Bengio 2003, section 3.1; for k folds see Bouckaert and Frank 2004).
    """
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(scores) - 1) * np.std(scores, ddof=1)
    half *= math.sqrt(1 / len(scores) + held_out_ratio)
    return float(np.mean(scores) - half), float(np.mean(scores) + half)


def summarise(scores: Sequence[float], held_out_ratio: float, covers: str, **others: Any) -> Folds:
    """Mean, standard error and corrected interval; of one fold the mean alone, of none nothing."""
    mean = float(np.mean(scores)) if scores else None
    error, low, high = None, None, None
    if len(scores) > 1:
        error = float(np.std(scores, ddof=1)) / math.sqrt(len(scores))
        low, high = corrected_interval(scores, held_out_ratio)
    return Folds(
        scores=tuple(scores),
        mean=mean,
        standard_error=error,
        low=low,
        high=high,
        interval_covers=covers if len(scores) > 1 else "nothing: it takes two folds",
        **others,
    )


def held_out_ratio(shards: Shards, folds: Sequence[int], counts_documents: bool) -> float:
    """How much text, or how many documents, these folds hold out, for each that they train on."""
    index = shards.documents("train")
    sizes = np.ones(len(index)) if counts_documents else index[:, BYTES]
    held_out = np.bincount(index[:, FOLD], sizes)[list(folds)]
    return float(held_out.sum() / (sizes.sum() - held_out).sum()) if len(folds) else 0.0


def compare(folder: Path, folds: Sequence[int]) -> tuple[float, float, int]:
    """Bits of the documents that both the naive fold and one of `folds` scored, by either; and how many they are."""
    naive = read_scores(folder / NAIVE)
    ours = np.concatenate([read_scores(folder / f"{fold}") for fold in folds])
    _, there, here = np.intersect1d(naive[:, 0], ours[:, 0], assume_unique=True, return_indices=True)
    (_, theirs, weight), (_, own, own_weight) = naive[there].sum(0), ours[here].sum(0)
    return float(bits(theirs, weight)), float(bits(own, own_weight)), len(there)


def describe(folds: Folds, unit: str) -> str:
    """One line: the score with its interval, of how many folds, and what near-duplicates would have done to it."""
    if folds.mean is None:
        return f"no score by folds: {folds.reason}"
    spread = (
        f" (90 % {folds.low:.3f} to {folds.high:.3f}, standard error {folds.standard_error:.3f})"
        if folds.low is not None
        else ""
    )
    leaked = (
        f"; a split that ignores near-duplicates would have said {folds.naive:.3f} instead of {folds.instead_of:.3f}"
        if folds.naive is not None
        else ""
    )
    return f"{folds.mean:.3f} {unit}{spread}, {folds.reason}{leaked}"
