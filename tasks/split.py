"""A corpus to its sides and folds, by what `tasks.sides` decides for each document."""

import sys
from array import array
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from prefect import task

from tasks import quotes, sides
from tasks.artifacts import Corpus, Splits
from tasks.duplicates import Hashes, Numbers
from tasks.parts import document_id
from tasks.quotes import quoting
from tasks.sides import (
    NO_LABEL,
    NO_SIDE,
    NOT_LABELLED,
    QUOTES,
    RARE_LABEL,
    SIDES,
    TRAIN,
    Labels,
    Sides,
    Validation,
    assign,
    least_documents,
)
from tasks.store import cache_key, code_key, content_key, storing
from tasks.telemetry import stage
from training.objectives import Objective

REPEATED_SHARE = 0.01  # of train documents near others, from which on what they would leak is measured


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
    ids, clusters, groups = array("Q"), array("Q"), array("Q")
    sizes, labels = array("q"), array("q")
    names: dict[str, int] = {}
    with pq.ParquetFile(corpus) as file:
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=["id", "cluster", "group", "bytes", "label"])
            ids.extend(int(name, 16) for name in rows["id"].to_pylist())
            clusters.extend(int(name, 16) for name in rows["cluster"].to_pylist())
            groups.extend(map(document_id, rows["group"].to_pylist()) if validation.whole_groups else ())
            sizes.extend(rows["bytes"].to_pylist())
            for name in rows["label"].to_pylist() if labelled else ():
                labels.append(NOT_LABELLED if name is None else names.setdefault(name, len(names)))
            progress((group + 1) / file.num_row_groups)
    hashes = np.array(ids, dtype=np.uint64)
    known = Labels(np.array(labels, dtype=np.int64), list(names)) if labelled else None
    counted = np.array(sizes, dtype=np.int64)
    found = assign(
        hashes,
        np.array(clusters, dtype=np.uint64),
        validation,
        known,
        None if labelled else counted,
        np.array(groups, dtype=np.uint64) if validation.whole_groups else None,
        partial(quoting, corpus, words) if (words := validation.quoted_words) else None,
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
    return content_key(corpus.key, validation, labelled, code_key(sys.modules[__name__], quotes, sides))


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
        quoted = f"{validation.quoted_words} words as in a document to judge by"
        reasons = {"no label": NO_LABEL, rare: RARE_LABEL, quoted: QUOTES}
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
