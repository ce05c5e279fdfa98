"""Sides and folds: each document's side is its own hash, and never moves when documents are added.

Folds are dealt out anew when documents are added, so that they stay alike in size. Where documents
are classified, they are stratified: of every label each fold has its share.
"""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from tasks.artifacts import InputError
from tasks.duplicates import Flags, Hashes, Numbers, first_of, joined
from training.config import Section

SIDES = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)
# In no split: near-duplicates of validation or test documents, and, where documents are classified,
# those without a label and those of a label that is too rare; and those that quote what is judged on.
NO_SIDE, NO_LABEL, RARE_LABEL, QUOTES = range(3, 7)
NOT_LABELLED = -1
NO_FOLD = -1  # of documents that are not trained on, and of all where there are no folds
CONFIDENCE = 0.95  # with which the number of documents that a refusal asks for suffices


class Validation(Section):
    """What is kept apart to judge by."""

    test_share: float = Field(
        default=0.08,
        gt=0,
        le=0.5,
        description="Share of documents that only the final verdict sees. Less makes its interval wider.",
    )
    validation_share: float = Field(
        default=0.04,
        gt=0,
        le=0.4,
        description="Share for early stopping and the choice of recipe; never trained on. Less makes them noisier.",
    )
    folds: Literal[0, 2, 3, 4, 5, 6, 7, 8, 9, 10] = Field(
        default=4,
        description="Trainings that show how much the score hangs on the choice of documents; 4 fill the rounds of"
        " one, two and four workers. More have less time each; 0 does without.",
    )
    whole_groups: bool = Field(
        default=False,
        description="Keeps each group on one side and in one fold: a folder of files, a file's rows, or what"
        " source.group_column says. On where documents of a group say what others say, such as one author's.",
    )
    quoted_words: int | None = Field(
        default=None,
        ge=8,
        le=100,
        description="Train documents that share so many words in a row with a test or validation document leave train;"
        " 13 is usual (Brown et al. 2020). Words that stand in over ten of these are ignored. Empty: all stay.",
    )


@dataclass(frozen=True)
class Sides:
    """Of each document, in the corpus' order: its cluster, its side (index into SIDES, or beyond), its fold."""

    clusters: Hashes
    sides: Numbers
    folds: Numbers


@dataclass(frozen=True)
class Labels:
    """Of each document, in the corpus' order, the number of its label in `names`, or NOT_LABELLED."""

    numbers: Numbers
    names: list[str]


def assign(
    ids: Hashes,
    clusters: Hashes,
    validation: Validation,
    labels: Labels | None = None,
    sizes: Numbers | None = None,
    groups: Hashes | None = None,
    quotes: Callable[[Flags, Flags], Flags] | None = None,
) -> Sides:
    """A side by each document's own hash; near-duplicates of others leave train, and share a fold within it.

    With `groups` (hashes of their names) it is the group's hash that decides, and groups share a fold, too.
    `quotes` says which train documents quote those that are judged on; they leave train as well.
    Folds are alike in `sizes` (bytes; None: documents). With `labels` they are stratified, and labels with
    fewer than `least_documents` to train on left out. Raises InputError where fewer than two labels remain,
    where a side stays empty (moving a document there would move it back when documents are added, and a
    test document might by then have been trained on), or where there are fewer clusters than folds.
    """
    drawn = (ids if groups is None else groups) / 2.0**64
    sides = np.full(len(ids), TRAIN, dtype=np.int64)
    sides[drawn < validation.test_share + validation.validation_share] = VALIDATION
    sides[drawn < validation.test_share] = TEST
    if labels is not None:
        sides[labels.numbers == NOT_LABELLED] = NO_LABEL
    judged = np.isin(clusters, clusters[(sides == TEST) | (sides == VALIDATION)])
    sides[(sides == TRAIN) & judged] = NO_SIDE
    if quotes is not None:
        sides[quotes((sides == TEST) | (sides == VALIDATION), sides == TRAIN)] = QUOTES
    if labels is not None:
        counts = np.bincount(labels.numbers[sides == TRAIN], minlength=len(labels.names))
        frequent = np.flatnonzero(counts >= least_documents(validation))
        _check_labels(labels, counts, len(frequent), validation)
        sides[(sides < NO_LABEL) & ~np.isin(labels.numbers, frequent)] = RARE_LABEL
    kept, trained = sides < NO_LABEL, sides == TRAIN
    together = clusters if groups is None else joined(first_of(clusters), first_of(groups)).astype(np.uint64)
    _check(drawn[kept], sides[kept], together[trained], validation)
    folds = np.full(len(ids), NO_FOLD, dtype=np.int64)
    if validation.folds:
        strata = np.zeros(len(ids), np.int64) if labels is None else labels.numbers
        counted = np.ones(len(ids), np.int64) if sizes is None else np.maximum(1, sizes)
        folds[trained] = _dealt(together[trained], strata[trained], counted[trained], validation.folds)
    return Sides(clusters, sides, folds)


def least_documents(validation: Validation) -> int:
    """Documents of a label to train on; with fewer, a training without one fold hardly sees it."""
    return validation.folds + 2


def _dealt(clusters: Hashes, strata: Numbers, sizes: Numbers, folds: int) -> Numbers:
    """Folds: clusters, the largest first, each to the fold that has least of its stratum so far.

    So no fold has more of a stratum than another by over its largest cluster (Graham 1969). A cluster of
    several strata goes with its first.
    """
    unique, first, inverse = np.unique(clusters, return_index=True, return_inverse=True)
    weights = np.bincount(inverse, sizes)
    kinds = strata[first]
    dealt = np.empty(len(unique), dtype=np.int64)
    totals = [0.0] * folds
    for _, stratum in groupby(np.lexsort((unique, -weights, kinds)).tolist(), lambda at: int(kinds[at])):
        piles = [(0.0, totals[fold], fold) for fold in range(folds)]
        heapq.heapify(piles)
        for cluster in stratum:
            pile, total, fold = piles[0]
            dealt[cluster] = fold
            heapq.heapreplace(piles, (pile + weights[cluster], total + weights[cluster], fold))
        for _, total, fold in piles:
            totals[fold] = total
    found: Numbers = dealt[inverse]
    return found


def _check_labels(labels: Labels, counts: Numbers, frequent: int, validation: Validation) -> None:
    """Raises InputError where there are not two labels with enough documents to train on, naming what there is."""
    remedy = "check source.label_column (text files are labelled with their folder's name)"
    if not labels.names:
        raise InputError(f"None of the {len(labels.numbers):,} documents has a label to learn: {remedy}.")
    if frequent < 2:
        order = np.argsort(-counts, kind="stable")[:3]
        common = ", ".join(f"{labels.names[at]!r} on {counts[at]:,}" for at in order)
        raise InputError(
            f"To classify, at least two labels with {least_documents(validation)} train documents each are"
            f" needed. Of {len(labels.names):,} found, the most frequent are {common}: {remedy}."
        )


def _check(drawn: npt.NDArray[np.float64], sides: Numbers, clusters: Hashes, validation: Validation) -> None:
    """Raises InputError for the first side that is empty, with what fills it, or for more folds than train clusters."""
    test, judged = validation.test_share, validation.test_share + validation.validation_share
    for side, field, share, start in (
        (TEST, "test_share", test, 0.0),
        (VALIDATION, "validation_share", judged - test, test),
    ):
        if not np.any(sides == side):
            needed = min((float(at) - start for at in drawn if at >= start), default=1.0)
            raise InputError(
                f"{_too_few(len(drawn), share, f'the {SIDES[side]} split ({share:.0%})')}"
                f", or set validation.{field} to {math.ceil(needed * 1000 + 1) / 1000:g}{_or_cut()}"
            )
    if not np.any(sides == TRAIN):
        raise InputError(_too_few(len(drawn), 1 - judged, "the train split") + _or_cut())
    unlike = len(np.unique(clusters))
    if unlike < validation.folds:
        near = f" in {unlike} groups of near-duplicates" * (unlike < len(clusters))
        raise InputError(
            f"validation.folds is {validation.folds}, but the train split has {len(clusters)} documents{near},"
            f" and each fold needs one: add about {validation.folds - unlike} documents, or set validation.folds"
            f" to {unlike if unlike > 1 else 0}{_or_cut()}"
        )


def _too_few(documents: int, share: float, where: str) -> str:
    wanted = math.ceil(math.log(1 - CONFIDENCE) / math.log(1 - share))
    return (
        f"The corpus has {documents} documents, and none falls to {where}. A document's hash decides where it"
        f" belongs, so none can be moved: add about {max(1, wanted - documents)} documents"
    )


def _or_cut() -> str:
    return ", or have long text files cut into several documents with source.cut_bytes."
