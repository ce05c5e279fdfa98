"""The gate: a challenger becomes champion only where it is better on the same documents, beyond chance."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from tasks.artifacts import Report, Trained
from tasks.generate import fetch
from tasks.heads import USES, head_of
from tasks.scores import RESAMPLES, Floats, Ints, bootstrap, held_out_documents, refuse_unfair, score_texts
from training.metrics import bits
from training.model import Head
from training.pretrained import read_config

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

TAG = "shoestring.gate"


class Verdict(BaseModel):
    """What the gate decided, and on which numbers; differences are challenger - champion, in bits."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    promoted: bool
    reason: str  # "first", "better", "not better", "too few documents", "... cannot be compared/scored: ..."
    champion_version: int | None = None  # before
    unit: str  # of the numbers
    challenger_bits: float
    champion_bits: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None  # 95 % over documents
    p_value: float | None = None
    alpha: float
    documents: int

    @property
    def sentence(self) -> str:
        """The verdict for a person."""
        if self.reason == "first":
            return "champion, as the first of its name"
        role = "champion" if self.promoted else "challenger"
        if self.difference is None:
            return f"{role}: {self.reason}"
        return (
            f"{role}: {self.reason} than version {self.champion_version} by the gate "
            f"({self.difference:+.4f} {self.unit}, 95 % {self.difference_low:+.4f} to "
            f"{self.difference_high:+.4f} over {self.documents:,} documents, "
            f"p = {self.p_value:.4f}, alpha {self.alpha:g})"
        )

    def overtaken(self, version: int) -> "Verdict":
        """The same numbers without the promotion, as another champion was named while they were taken."""
        reason = f"meanwhile version {version} became champion, with which it was not compared"
        return self.model_copy(update={"promoted": False, "reason": reason, "difference": None})

    def tags(self) -> dict[str, str]:
        """The verdict as MLflow tags: one to read, one to parse."""
        return {TAG: self.sentence, f"{TAG}.verdict": self.model_dump_json()}

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> "Verdict":
        """The verdict that `tags` were made of."""
        return cls.model_validate(json.loads(tags[f"{TAG}.verdict"]))


def judge(
    client: "MlflowClient", champion: "ModelVersion | None", trained: Trained, report: Report, alpha: float
) -> Verdict:
    """Scores the champion again on the documents that the challenger was scored on, and compares.

    A champion that cannot be scored, or was made for something else, keeps its place, and the reason
    says why.
    """
    scores = pq.read_table(report.folder / "report" / "test_documents.parquet")
    weight, challenger = scores["weight"].to_numpy(), scores["nats"].to_numpy()
    alone = Verdict(
        promoted=champion is None,
        reason="first",
        unit=USES[report.head].unit,
        challenger_bits=bits(challenger.sum(), int(weight.sum())),
        alpha=alpha,
        documents=len(scores),
    )
    if champion is None:
        return alone
    named = f"version {champion.version}, the champion,"
    try:
        folder = fetch(client, champion)
        if why := difference_in_kind(trained.model_folder, folder):
            reason = (
                f"{named} cannot be compared: {why}; give another promotion.name, or move the alias by hand"
            )
            return alone.model_copy(update={"reason": reason, "champion_version": int(champion.version)})
        texts, labels = texts_and_labels(scores, trained, report.head)
        if labels is None:
            refuse_unfair((trained.model_folder, folder), texts)
        nats = score_texts(folder, texts, labels)
    except Exception as problem:  # whatever is wrong with a stored model, the run itself is sound
        why = " ".join(f"{type(problem).__name__}: {problem}".split())
        reason = f"{named} cannot be scored: {why}"[:500]
        return alone.model_copy(update={"reason": reason, "champion_version": int(champion.version)})
    return compare(challenger, nats, weight, int(champion.version), alpha, USES[report.head].unit)


def difference_in_kind(challenger: Path, champion: Path) -> str:
    """Why two model folders were not made for the same: another head, other labels; empty if they were."""
    new, old = map(read_config, (challenger, champion))
    if head_of(new) != head_of(old):
        return f"it is {USES[head_of(old)].article_noun}, and this {USES[head_of(new)].article_noun}"
    if head_of(new) != "classification":
        return ""
    unknown = [f"it does not know {label!r}" for label in sorted(set(new.label2id) - set(old.label2id))]
    gone = [f"only it knows {label!r}" for label in sorted(set(old.label2id) - set(new.label2id))]
    parts = unknown[:1] + gone[:1]
    return f"it has other labels ({', and '.join(parts)})" if parts else ""


def texts_and_labels(scores: pa.Table, trained: Trained, head: Head) -> tuple[list[str], list[str] | None]:
    """The scored documents' texts, in the order of `scores`, and their labels where there are any to tell."""
    documents = held_out_documents(trained.tokens.splits, head)
    texts = dict(zip(documents["id"].to_pylist(), documents["text"].to_pylist(), strict=True))
    labels = scores["label"].to_pylist() if head == "classification" else None
    return [texts[name] for name in scores["id"].to_pylist()], labels


def compare(
    challenger: Floats,
    champion: Floats,
    weight: Ints,
    version: int,
    alpha: float,
    unit: str = "bits per byte",
) -> Verdict:
    """The paired bootstrap over documents: are the challenger's nats per weight lower, beyond chance?

    One-sided; p is the share of resamples in which the challenger is not better. Below log2(1/alpha)
    documents no comparison is accepted: so few can all favour the worse model by chance.
    """
    differences = bootstrap(challenger - champion, weight)
    low, high = np.quantile(differences, [0.025, 0.975])
    p_value = (1 + int((differences >= 0).sum())) / (1 + RESAMPLES)  # never 0: Davison and Hinkley 1997, 4.2
    total = int(weight.sum())
    needed = math.ceil(math.log2(1 / alpha))
    promoted = p_value < alpha and len(weight) >= needed
    few = f"too few documents to tell ({needed} needed), so no better"
    return Verdict(
        promoted=promoted,
        reason="better" if promoted else "not better" if len(weight) >= needed else few,
        champion_version=version,
        unit=unit,
        challenger_bits=bits(challenger.sum(), total),
        champion_bits=bits(champion.sum(), total),
        difference=bits((challenger - champion).sum(), total),
        difference_low=float(low),
        difference_high=float(high),
        p_value=p_value,
        alpha=alpha,
        documents=len(weight),
    )
