"""Has what a model sees changed: lengths and the model's own surprise, held against its test documents."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict
from scipy.stats import ks_2samp

from tasks.generate import context_of, load
from tasks.heads import head_of
from tasks.scores import encode, score_within
from training.metrics import class_log_probabilities
from training.model import autocast

Floats = npt.NDArray[np.float64]
MOST_DOCUMENTS = (
    1000  # that are looked at, drawn at random; they find a shift of a twentieth of the documents
)
FEWEST_DOCUMENTS = 20  # below, both tests see only what anybody would; by eye
LENGTH, SURPRISE, DOUBT = "length in bytes", "bits per byte", "bits of doubt"
NATS_PER_BIT = float(np.log(2))


class Shift(BaseModel):
    """One figure of documents then and now, and how likely a difference as large is if nothing has changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    figure: str
    before: float  # median
    now: float  # median
    distance: float  # Kolmogorov and Smirnov's, between the two distributions, from 0 to 1
    p_value: float
    documents_before: int
    documents_now: int

    @classmethod
    def between(cls, figure: str, before: Floats, now: Floats) -> Self:
        """The two-sample test of Kolmogorov and Smirnov, which sees shifts of any shape."""
        found = ks_2samp(before, now)
        return cls(
            figure=figure,
            before=float(np.median(before)),
            now=float(np.median(now)),
            distance=float(found.statistic),
            p_value=float(found.pvalue),
            documents_before=len(before),
            documents_now=len(now),
        )

    @property
    def sentence(self) -> str:
        """For a person."""
        return f"{self.figure} {self.now:.4g}, before {self.before:.4g} (medians; p = {self.p_value:.2g})"


def drifted(shifts: Sequence[Shift], alpha: float) -> bool:
    """Whether any figure has shifted, beyond chance; where nothing has, true in at most `alpha` of cases.

    Bonferroni's correction, which holds however lengths and surprise hang together.
    """
    return any(shift.p_value < alpha / len(shifts) for shift in shifts)


def shifts_between(before: pa.Table, now: pa.Table) -> tuple[Shift, ...]:
    """The figures of two tables as `surprise` makes them; none where one has too few documents to tell."""
    if min(len(before), len(now)) < FEWEST_DOCUMENTS:
        return ()
    names = [name for name in (LENGTH, SURPRISE, DOUBT) if name in before.column_names]
    return tuple(
        Shift.between(name, before[name].to_numpy().astype(float), now[name].to_numpy().astype(float))
        for name in names
    )


def as_judged(scores: pa.Table) -> pa.Table:
    """The figures of the test documents that a model was judged on, from its `report/test_documents.parquet`."""
    if "probability" in scores.column_names:
        return _figures(scores["bytes"], DOUBT, -np.log2(scores["probability"].to_numpy()))
    return _figures(scores["bytes"], SURPRISE, _bits_per_byte(scores))


def surprise(model_folder: Path, documents: pa.Table, limit_seconds: float, seed: int = 0) -> pa.Table:
    """The figures of documents (id, text, bytes): a random sample of them, as large as time allows.

    Beside the length, a language model's bits per byte, and a classifier's doubt of the label that it
    gives: bits, as it would judge itself, so that no true label is needed.
    """
    dice = np.random.default_rng(seed)
    few = documents.take(dice.permutation(len(documents))[:MOST_DOCUMENTS])
    model, tokenizer = load(model_folder)
    if head_of(model.config) != "classification":
        scores = score_within(model, tokenizer, few, limit_seconds, seed=seed).documents
        return _figures(scores["bytes"], SURPRISE, _bits_per_byte(scores))
    ids, context = encode(tokenizer, few["text"].to_pylist()), context_of(model, tokenizer)
    chances = class_log_probabilities(model, ids, context, autocast(model.device))
    return _figures(few["bytes"], DOUBT, -chances.max(axis=1) / NATS_PER_BIT)


def _bits_per_byte(scores: pa.Table) -> Floats:
    found: Floats = scores["nats"].to_numpy() / scores["bytes"].to_numpy() / NATS_PER_BIT
    return found


def _figures(sizes: pa.ChunkedArray, name: str, values: Floats) -> pa.Table:
    return pa.table({LENGTH: sizes, name: pa.array(values)})
