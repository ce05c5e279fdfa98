"""The gate: a challenger becomes champion only where it is better on the same documents, beyond chance."""

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from tasks.artifacts import Report, Trained
from tasks.evaluate import RESAMPLES, bootstrap, held_out_documents, score_texts
from tasks.generate import fetch
from training.metrics import bits

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

Floats = npt.NDArray[np.float64]
TAG = "shoestring.gate"


class Verdict(BaseModel):
    """What the gate decided, and on which numbers; differences are challenger - champion, bits per byte."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    promoted: bool
    reason: str  # "first", "better", "not better", "too few documents", "champion cannot be scored: ..."
    champion_version: int | None = None  # before
    challenger_bits_per_byte: float
    champion_bits_per_byte: float | None = None
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
            f"({self.difference:+.4f} bits per byte, 95 % {self.difference_low:+.4f} to "
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

    A champion that cannot be scored keeps its place, and the reason says why.
    """
    scores = pq.read_table(report.folder / "report" / "test_documents.parquet")
    sizes, challenger = scores["bytes"].to_numpy(), scores["nats"].to_numpy()
    value = bits(challenger.sum(), int(sizes.sum()))
    if champion is None:
        return Verdict(
            promoted=True, reason="first", challenger_bits_per_byte=value, alpha=alpha, documents=len(scores)
        )
    documents = held_out_documents(trained.tokens.splits)
    texts = dict(zip(documents["id"].to_pylist(), documents["text"].to_pylist(), strict=True))
    try:
        nats = score_texts(fetch(client, champion), [texts[i] for i in scores["id"].to_pylist()])
    except Exception as problem:  # whatever is wrong with a stored model, the run itself is sound
        why = f"{type(problem).__name__}: {problem}"[:500]
        return Verdict(
            promoted=False,
            reason=f"version {champion.version}, the champion, cannot be scored: {why}",
            champion_version=int(champion.version),
            challenger_bits_per_byte=value,
            alpha=alpha,
            documents=len(scores),
        )
    return compare(challenger, nats, sizes, int(champion.version), alpha)


def compare(
    challenger: Floats, champion: Floats, sizes: npt.NDArray[np.int64], version: int, alpha: float
) -> Verdict:
    """The paired bootstrap over documents: is the challenger's bits per byte lower, beyond chance?

    One-sided; p is the share of resamples in which the challenger is not better. Below log2(1/alpha)
    documents no comparison is accepted: so few can all favour the worse model by chance.
    """
    differences = bootstrap(challenger - champion, sizes)
    low, high = np.quantile(differences, [0.025, 0.975])
    p_value = (1 + int((differences >= 0).sum())) / (1 + RESAMPLES)  # never 0: Davison and Hinkley 1997, 4.2
    total = int(sizes.sum())
    needed = math.ceil(math.log2(1 / alpha))
    promoted = p_value < alpha and len(sizes) >= needed
    few = f"too few documents to tell ({needed} needed), so no better"
    return Verdict(
        promoted=promoted,
        reason="better" if promoted else "not better" if len(sizes) >= needed else few,
        champion_version=version,
        challenger_bits_per_byte=bits(challenger.sum(), total),
        champion_bits_per_byte=bits(champion.sum(), total),
        difference=bits((challenger - champion).sum(), total),
        difference_low=float(low),
        difference_high=float(high),
        p_value=p_value,
        alpha=alpha,
        documents=len(sizes),
    )
