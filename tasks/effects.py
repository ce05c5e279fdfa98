"""What each technique is worth, counted from the scores of trainings that differ in it alone.

Seeds are blocks: every variant is trained under each, and what a seed does to all of them cancels out
(the randomised block design of Fisher 1935). How much a difference varies by chance is taken from all
variants together, as three seeds of one say next to nothing; so all are held to vary alike. The
intervals hold at once, with the confidence given, by Bonferroni's correction for as many comparisons
with one reference as there are (Dunn 1961; Dunnett 1955 is a little sharper and needs tables).
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy import stats

CONFIDENCE = 0.9  # that every interval holds its technique's worth
FEWEST_SEEDS = 2  # of which the scatter can be told
NOTHING_SEEN = "no difference seen"
Scores = npt.NDArray[np.float64]


class Effect(BaseModel):
    """What a technique is worth in bits, positive where it pays; None where it cannot be told."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    technique: str
    added: bool  # to the recipe, instead of taken out of it
    was: str  # in the recipe
    instead: str
    scores: tuple[float | None, ...]  # of its trainings, by seed; None: it failed
    tokens_per_second: float | None
    worth: float | None = None  # bits without it less bits with it; a mean over seeds
    low: float | None = None
    high: float | None = None  # of its interval, which covers seeds, not documents
    relative: float | None = None  # worth over the recipe's bits
    verdict: str = ""


def half_width(scores: Scores) -> float | None:
    """Of the interval about each difference from the first row, in the scores' unit; float64 [variants, seeds].

    None with fewer than two seeds.
    """
    variants, seeds = scores.shape
    if seeds < FEWEST_SEEDS or variants < 2:
        return None
    rest = scores - scores.mean(1, keepdims=True) - scores.mean(0, keepdims=True) + scores.mean()
    freedom = (variants - 1) * (seeds - 1)
    variance = 2 * float((rest**2).sum()) / freedom / seeds
    tail = (1 - CONFIDENCE) / 2 / (variants - 1)
    return float(stats.t.ppf(1 - tail, freedom)) * math.sqrt(variance)


def verdict_of(worth: float, half: float | None) -> str:
    """One word, and honest where nothing can be told."""
    if half is None:
        return "one seed: nothing can be told"
    return "pays" if worth > half else "costs" if worth < -half else NOTHING_SEEN


def effects_of(described: Sequence[Effect], recipe: Sequence[float | None]) -> tuple[list[Effect], list[int]]:
    """Each technique's worth, the largest first, and the seeds that count: those under which the recipe was trained.

    `described` hold scores alone. A variant that failed under one of these seeds has no worth, and is told apart.
    """
    seeds = [number for number, score in enumerate(recipe) if score is not None]
    whole = [one for one in described if all(one.scores[number] is not None for number in seeds)]
    table = np.array(
        [[scores[n] for n in seeds] for scores in (recipe, *(one.scores for one in whole))], float
    )
    half = half_width(table) if len(seeds) else None
    found = []
    for one, row in zip(whole, table[1:], strict=True):
        worth = float((row - table[0]).mean()) * (-1 if one.added else 1)
        found.append(
            one.model_copy(
                update={
                    "worth": worth,
                    "low": None if half is None else worth - half,
                    "high": None if half is None else worth + half,
                    "relative": worth / float(table[0].mean()),
                    "verdict": verdict_of(worth, half),
                }
            )
        )
    failed = [
        one.model_copy(update={"verdict": f"training fails with{'' if one.added else 'out'} it"})
        for one in described
        if one not in whole
    ]
    return [*failed, *sorted(found, key=lambda one: -(one.worth or 0.0))], seeds
