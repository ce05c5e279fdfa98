"""How far a score hangs on the luck of its training: an estimate, of how many runs it is, and which.

Nothing here imports torch, so that commands which only look are quick.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from tasks.heads import USES
from training.law import PRIORS

FEWEST_SIBLINGS = 3  # two seeds may agree by chance, and a t-test of one degree asks for the impossible
# The degrees of freedom of the stored estimate: other texts and recipes differ by a third or so, as s of six runs does.
STORED_FREEDOM = 5.0  # by eye


class SeedNoise(BaseModel):
    """The standard deviation, relative to the score, of trainings that differ in their seeds alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    relative: float
    freedom: float  # degrees of, as a variance that is estimated from few runs may be far off
    source: str


def stored_noise(unit: str) -> SeedNoise:
    """What was measured on other texts, of scores in this unit, where there is nothing of one's own."""
    head = next(head for head, use in USES.items() if use.unit == unit)
    return SeedNoise(
        relative=PRIORS[head].noise, freedom=STORED_FREEDOM, source="the stored estimate, of other texts"
    )


def noise_of_siblings(scores: Sequence[float]) -> SeedNoise | None:
    """By trainings of the same recipe; None where there are too few. Scores are bits."""
    if len(scores) < FEWEST_SIBLINGS:
        return None
    return SeedNoise(
        relative=float(np.std(np.log(scores), ddof=1)),
        freedom=len(scores) - 1,
        source=f"{len(scores)} seeds of the recipe",
    )
