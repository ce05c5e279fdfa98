"""Whether two runs differ, or chance has made it look so: paired over documents, with the luck of trainings in it.

Nothing here imports torch or MLflow, so that commands which only look are quick.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from training.law import LABELS_NOISE, NOISE

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RESAMPLES = 2000
CONFIDENCE = 0.95
ALPHA = 0.05  # how often any difference of a whole table may be called one where there is none
FEWEST_DOCUMENTS = 5  # below that, all of them may favour either by chance: 2 ** -4 > ALPHA
NOISE_FREEDOM = 50  # degrees of freedom that the trainings' noise was measured with; see DECISIONS, The plan
LEAST_SHARED = 0.5  # of the documents of the run that was judged on fewer


class Scored(NamedTuple):
    """Documents that a run was judged on: ids, nats, and what each weighs (bytes, or 1 for a label)."""

    ids: Sequence[str]
    nats: Floats
    weight: Ints

    @property
    def bits(self) -> float:
        """Bits per weight of all of them."""
        return bits_per(self.nats.sum(), self.weight.sum())


class Difference(NamedTuple):
    """By how many bits a first run is above a second on the same documents; negative: it is better."""

    bits: float
    low: float
    high: float  # 95 %, over documents and trainings, of this pair alone
    p_value: float  # two-sided, of this pair alone
    documents: int


def bits_per(nats: float, weight: float) -> float:
    """Nats in all as bits per weight."""
    return float(nats / (weight * math.log(2)))


def noise_of(unit: str) -> float:
    """Relative standard deviation of a score over trainings that differ in their seed alone."""
    return LABELS_NOISE if unit == "bits per label" else NOISE


def bootstrap(nats: Floats, weight: Ints, seed: int = 0) -> Floats:
    """float64 [RESAMPLES]: bits per weight of resamples of the documents, sum over sum.

    `nats` may also be differences between two models on the same documents: the paired bootstrap.
    """
    count, dice = len(nats), np.random.default_rng(seed)
    found = np.empty(RESAMPLES)
    for draw in range(RESAMPLES):
        rows = dice.integers(count, size=count, dtype=np.int32)
        found[draw] = bits_per(nats[rows].sum(), weight[rows].sum())
    return found


def shared(first: Scored, second: Scored) -> tuple[Ints, Ints]:
    """Where the documents lie, in the first and in the second, that both were judged on."""
    places = {name: place for place, name in enumerate(second.ids)}
    both = [(place, places[name]) for place, name in enumerate(first.ids) if name in places]
    found = np.array(both, np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def why_not(first: Scored, second: Scored, units: tuple[str, str]) -> str:
    """Why two runs cannot be compared; empty where they can."""
    if units[0] != units[1]:
        return f"{units[0]} and {units[1]} are not the same"
    here, there = shared(first, second)
    fewer = min(len(first.ids), len(second.ids))
    if len(here) < LEAST_SHARED * fewer:
        return f"judged on different documents ({len(here):,} of {fewer:,} are the same)"
    if len(here) < FEWEST_DOCUMENTS:
        return f"{len(here)} documents are too few to tell ({FEWEST_DOCUMENTS} needed)"
    if not np.array_equal(first.weight[here], second.weight[there]):
        return "the documents do not weigh the same"
    return ""


def difference(first: Scored, second: Scored, noise: float) -> Difference:
    """The first run's bits less the second's on the documents that both have.

    The variance is that of the paired bootstrap over documents and that of two trainings, whose scores
    have a relative standard deviation of `noise` each; its degrees of freedom are those of Welch and
    Satterthwaite. Raises ValueError where `why_not` has a reason in the documents.
    """
    if problem := why_not(first, second, ("", "")):
        raise ValueError(problem)
    here, there = shared(first, second)
    apart, weight = first.nats[here] - second.nats[there], first.weight[here]
    value = bits_per(apart.sum(), weight.sum())
    scores = (bits_per(part.sum(), weight.sum()) for part in (first.nats[here], second.nats[there]))
    of_documents = float(np.var(bootstrap(apart, weight)))
    of_trainings = sum((noise * score) ** 2 for score in scores)
    total = of_documents + of_trainings
    if total == 0.0:  # the same model twice
        return Difference(value, value, value, 1.0, len(here))
    freedom = total**2 / (of_documents**2 / (len(here) - 1) + of_trainings**2 / NOISE_FREEDOM)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(total)
    p_value = 2 * float(stats.t.sf(abs(value) / math.sqrt(total), freedom))
    return Difference(value, value - half, value + half, p_value, len(here))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values, corrected for their number: to call those below ALPHA different is wrong once in 1 / ALPHA tables.

    Holm 1979: the smallest counts as often as there are, the next one time less, and none less than one before it.
    """
    order = np.argsort(p_values)
    found, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        found[int(place)] = highest
    return found
