"""How far a score hangs on the luck of its training: an estimate, of how many runs it is, and which."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from tasks.scores import standard_error
from training.held_out import SCORES, read_scores
from training.law import PRIORS
from training.metrics import bits
from training.model import Head

FEWEST_SIBLINGS = (
    3  # two seeds that happen to agree say nothing, and a t-test of one degree asks for the impossible
)
FEWEST_FOLDS = 3
# The degrees of freedom of the stored estimate: other texts and recipes differ by a third or so, as s of six runs does.
STORED_FREEDOM = 5.0  # by eye


class SeedNoise(BaseModel):
    """The standard deviation, relative to the score, of trainings that differ in their seeds alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    relative: float
    freedom: float  # degrees of, as a variance that is estimated from few runs may be far off
    source: str


def stored_noise(head: Head) -> SeedNoise:
    """What was measured on other texts, where there is nothing of one's own."""
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


def noise_of_folds(folder: Path, head: Head) -> SeedNoise | None:
    """By the folds in a run's folder; None where there are too few.

    Each fold has a seed and documents of its own: what the documents explain of their variance is taken out. They
    trained for less than the final run, and on different text, so this is rather too much than too little; and never
    less than the stored estimate, as three or four folds often agree by chance.
    """
    seen = [read_scores(path).T for path in sorted(folder.glob("[0-9]*")) if (path / SCORES).exists()]
    folds = [(nats, weight) for _, nats, weight in seen if len(nats) > 1]
    if len(folds) < FEWEST_FOLDS:
        return None
    scores = np.array([bits(nats.sum(), weight.sum()) for nats, weight in folds])
    errors = np.array([standard_error(nats, weight) for nats, weight in folds])
    variance = float(np.var(np.log(scores), ddof=1) - np.mean((errors / scores) ** 2))
    known = stored_noise(head)
    if variance <= known.relative**2:
        return known.model_copy(update={"source": f"the stored estimate, as {len(folds)} folds show no more"})
    return SeedNoise(
        relative=variance**0.5,
        freedom=len(folds) - 1,
        source=f"{len(folds)} folds, less what documents explain",
    )
