"""What champions before were tested on: the gate does not forget it, as long as the store holds it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks import home
from tasks.artifacts import Splits, Trained
from tasks.scores import held_out_in
from tasks.store import stored
from training.model import Head

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

TESTS_TAG = "shoestring.tests"  # of a version: what it was tested on, then what its champions were
MOST_TESTS = 4  # that are remembered, the newest; each takes time
EARLIER_SHARE = (
    0.5  # of the bytes of this run's own test, that earlier ones may have together: two models read them
)


class Tested(NamedTuple):
    """A corpus and its sides, by their keys."""

    corpus: str
    splits: str

    @property
    def folders(self) -> tuple[Path, Path]:
        return home.store("corpus") / self.corpus, home.store(Splits.kind) / self.splits

    @property
    def there(self) -> bool:
        """Whether the store still holds the bytes."""
        return stored("corpus", self.corpus) and stored(Splits.kind, self.splits)


def known_tests(version: "ModelVersion | None") -> list[Tested]:
    """What a version was tested on, its own first; nothing where it does not say."""
    return [Tested(*pair) for pair in json.loads(version.tags.get(TESTS_TAG, "[]"))] if version else []


def remembered(trained: Trained, champion: "ModelVersion | None") -> list[Tested]:
    """What the version of this run was tested on: its own documents, then the champion's."""
    own = Tested(trained.tokens.splits.corpus.key, trained.tokens.splits.key)
    return [own, *(other for other in known_tests(champion) if other != own)][:MOST_TESTS]


def trained_on(tested: Tested) -> pa.Array:
    """The ids of all documents that a model of this split has seen; none where that is not known any more."""
    if not stored(Splits.kind, tested.splits):
        return pa.array([], pa.string())
    assignment = pq.read_table(tested.folders[1] / "assignment.parquet", columns=["id", "split"])
    seen = assignment.filter(pc.is_in(assignment["split"], pa.array(["train", "validation"])))
    return seen["id"].combine_chunks()


def earlier_documents(
    others: Sequence[Tested],
    trained: Trained,
    head: Head,
    labels: Sequence[str],
    seen: pa.Array,
    most_bytes: int,
) -> tuple[list[tuple[str, pa.Table]], list[str]]:
    """Test documents of other corpora: each corpus' name with a seeded sample of them, and what was skipped, and why.

    Documents that are on any side of this run's own split are left out, as it tests on them itself or has seen
    them, and so are those that the champion has `seen`.
    """
    found: list[tuple[str, pa.Table]] = []
    notes: list[str] = []
    if not others:
        return found, notes
    own = pq.read_table(trained.tokens.splits.folder / "assignment.parquet", columns=["id"])["id"]
    known = pa.concat_arrays([own.combine_chunks(), seen])
    for tested in others:
        name = f"corpus {tested.corpus}"
        if not tested.there:
            notes.append(f"the earlier test of {name} is skipped, as the store does not hold it any more")
            continue
        documents = held_out_in(*tested.folders, head)
        documents = documents.filter(pc.invert(pc.is_in(documents["id"], known)))
        if head == "classification":
            documents = documents.filter(pc.is_in(documents["label"], pa.array(labels)))
        if not len(documents):
            notes.append(f"the earlier test of {name} is skipped, as all of it is in this run's corpus")
            continue
        order = np.random.default_rng(0).permutation(len(documents))
        ends = np.cumsum(np.asarray(documents["bytes"].to_numpy())[order])
        fit = int(np.searchsorted(ends, most_bytes / len(others), side="right"))
        found.append((name, documents.take(order[: max(1, fit)])))
    return found, notes
