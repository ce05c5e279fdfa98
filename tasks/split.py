"""Sides and folds: each document's side is its own hash, and never moves when documents are added.

Folds are dealt out anew when documents are added, so that they stay alike in size. Where documents
are classified, they are stratified: of every label each fold has its share.
"""

import hashlib
import heapq
import math
import re
import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from prefect import task
from pydantic import Field

from tasks import artifacts
from tasks.artifacts import Corpus, InputError, Splits, cache_key, code_key, content_key, storing
from tasks.telemetry import stage
from training.config import Section
from training.objectives import Objective

SIDES = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)
# In no split: near-duplicates of validation or test documents, and, where documents are classified,
# those without a label and those of a label that is too rare.
NO_SIDE, NO_LABEL, RARE_LABEL = range(3, 6)
NOT_LABELLED = -1
NO_FOLD = -1  # of documents that are not trained on, and of all where there are no folds
CONFIDENCE = 0.95  # with which the number of documents that a refusal asks for suffices
DIGITS = re.compile(r"\d+")
DIGITS_SHARE = 0.2  # by eye: prose and code have under 0.05, tables of numbers over 0.4
REPEATED_SHARE = 0.01  # of train documents near others, from which on what they would leak is measured

Hashes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]


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


def cluster_of(text: str) -> int:
    """The 64-bit hash that near-duplicates share: those that differ in case, blanks and numbers alone.

    Where digits are over DIGITS_SHARE of the text, numbers are what it says, and are compared too.
    """
    same_blanks = " ".join(text.lower().split())
    bare = DIGITS.sub("", same_blanks)
    said_in_numbers = len(same_blanks) - len(bare) > DIGITS_SHARE * len(same_blanks)
    compared = same_blanks if said_in_numbers else bare
    return int.from_bytes(hashlib.sha256(compared.encode()).digest()[:8])


def assign(
    ids: Hashes,
    clusters: Hashes,
    validation: Validation,
    labels: Labels | None = None,
    sizes: Numbers | None = None,
) -> Sides:
    """A side by each document's own hash; near-duplicates of others leave train, and share a fold within it.

    Folds are alike in `sizes` (bytes; None: documents). With `labels` they are stratified, and labels with
    fewer than `least_documents` to train on left out. Raises InputError where fewer than two labels remain,
    where a side stays empty (moving a document there would move it back when documents are added, and a
    test document might by then have been trained on), or where there are fewer clusters than folds.
    """
    drawn = ids / 2.0**64
    sides = np.full(len(ids), TRAIN, dtype=np.int64)
    sides[drawn < validation.test_share + validation.validation_share] = VALIDATION
    sides[drawn < validation.test_share] = TEST
    if labels is not None:
        sides[labels.numbers == NOT_LABELLED] = NO_LABEL
    judged = np.isin(clusters, clusters[(sides == TEST) | (sides == VALIDATION)])
    sides[(sides == TRAIN) & judged] = NO_SIDE
    if labels is not None:
        counts = np.bincount(labels.numbers[sides == TRAIN], minlength=len(labels.names))
        frequent = np.flatnonzero(counts >= least_documents(validation))
        _check_labels(labels, counts, len(frequent), validation)
        sides[(sides < NO_LABEL) & ~np.isin(labels.numbers, frequent)] = RARE_LABEL
    kept, trained = sides < NO_LABEL, sides == TRAIN
    _check(drawn[kept], sides[kept], clusters[trained], validation)
    folds = np.full(len(ids), NO_FOLD, dtype=np.int64)
    if validation.folds:
        strata = np.zeros(len(ids), np.int64) if labels is None else labels.numbers
        counted = np.ones(len(ids), np.int64) if sizes is None else np.maximum(1, sizes)
        folds[trained] = _dealt(clusters[trained], strata[trained], counted[trained], validation.folds)
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


def near_others(found: Sides) -> int:
    """Train documents that have a near-duplicate in train."""
    _, inverse, counts = np.unique(
        found.clusters[found.sides == TRAIN], return_inverse=True, return_counts=True
    )
    return int(np.sum(counts[inverse] > 1))


def fold_trainings(splits: Splits) -> int:
    """Trainings of a cross-validation: one for each fold, and, for many near-duplicates, one that ignores them."""
    ignoring = splits.repeated >= REPEATED_SHARE * splits.documents["train"] and splits.repeated > 0
    return splits.folds + ignoring if splits.folds else 0


def split(
    corpus: Path,
    validation: Validation,
    folder: Path,
    progress: Callable[[float], None] = lambda share: None,
    labelled: bool = False,
) -> tuple[Sides, Numbers]:
    """Writes `assignment.parquet` for a corpus' `documents.parquet`; the sides and each document's bytes.

    Raises InputError where the corpus is too small, or `labelled` and has not two labels that are frequent enough.
    """
    ids, clusters, sizes, labels = array("Q"), array("Q"), array("q"), array("q")
    names: dict[str, int] = {}
    with pq.ParquetFile(corpus) as file:
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=["id", "text", "bytes", "label"])
            ids.extend(int(name, 16) for name in rows["id"].to_pylist())
            clusters.extend(map(cluster_of, rows["text"].to_pylist()))
            sizes.extend(rows["bytes"].to_pylist())
            for name in rows["label"].to_pylist() if labelled else ():
                labels.append(NOT_LABELLED if name is None else names.setdefault(name, len(names)))
            progress((group + 1) / file.num_row_groups)
    hashes = np.array(ids, dtype=np.uint64)
    known = Labels(np.array(labels, dtype=np.int64), list(names)) if labelled else None
    counted = np.array(sizes, dtype=np.int64)
    found = assign(
        hashes, np.array(clusters, dtype=np.uint64), validation, known, None if labelled else counted
    )
    table = {
        "id": _names(hashes),
        "split": [SIDES[side] if side < NO_SIDE else None for side in found.sides],
        "fold": found.folds,
        "cluster": _names(found.clusters),
    }
    pq.write_table(pa.table(table), folder / "assignment.parquet", compression="zstd")
    return found, counted


def splits_key(corpus: Corpus, validation: Validation, objective: Objective) -> str:
    """Names the splits by the corpus, the settings, whether documents are classified, and the code."""
    labelled = objective.head == "classification"
    return content_key(corpus.key, validation, labelled, code_key(sys.modules[__name__], artifacts))


@task(
    name="Split the corpus",
    task_run_name="split-{corpus.documents}-documents",
    persist_result=True,
    result_serializer="json",
    cache_key_fn=cache_key(Splits, splits_key),
)
def split_corpus(corpus: Corpus, validation: Validation, objective: Objective) -> Splits:
    """Test, validation and train with its folds, which are stratified where the objective is to classify.

    Raises InputError where the corpus is too small for them, or has not the labels that the objective needs.
    """
    key, labelled = splits_key(corpus, validation, objective), objective.head == "classification"
    with stage("Split the corpus") as shown, storing(Splits.kind, key) as folder:
        table = corpus.folder / "documents.parquet"
        found, sizes = split(table, validation, folder, shown, labelled)
        documents = {name: int(np.sum(found.sides == side)) for side, name in enumerate(SIDES)}
        counts = ", ".join(f"{number:,} {name}" for name, number in documents.items())
        near = int(np.sum(found.sides == NO_SIDE))
        rare = f"a label with fewer than {least_documents(validation)} documents to train on"
        reasons = {"no label": NO_LABEL, rare: RARE_LABEL}
        left_out = {why: int(np.sum(found.sides == side)) for why, side in reasons.items()}
        left_out = {why: number for why, number in left_out.items() if number}
        shown.result = "; ".join(
            [
                counts,
                f"{near:,} near-duplicates left out",
                *(f"{n:,} with {why}" for why, n in left_out.items()),
            ]
        )
    return Splits(
        key=key,
        corpus=corpus,
        documents=documents,
        bytes={name: int(sizes[found.sides == side].sum()) for side, name in enumerate(SIDES)},
        folds=validation.folds,
        near_duplicates=near,
        repeated=near_others(found),
        left_out=left_out,
    )


def _names(hashes: Hashes) -> list[str]:
    return [f"{value:016x}" for value in hashes.tolist()]


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
