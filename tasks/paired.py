"""Whether two runs differ, or chance has made it look so: on the documents that both were judged on, and of many pairs.

Nothing here imports torch or MLflow, so that commands which only look are quick.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tasks.difference import Difference, difference
from tasks.resampling import Floats, Ints
from tasks.seed_noise import SeedNoise
from training.units import bits

ALPHA = 0.05  # how often any difference of a whole table may be called one where there is none
FEWEST_DOCUMENTS = 5  # below that, all of them may favour either by chance: 2 ** -4 > ALPHA
LEAST_SHARED = 0.5  # of the documents of the run that was judged on fewer


class Scored(NamedTuple):
    """Documents that a run was judged on: ids, nats, and what each weighs (bytes, or 1 for a label)."""

    ids: Sequence[str]
    nats: Floats
    weight: Ints

    @property
    def bits(self) -> float:
        """Bits per weight of all of them."""
        return bits(float(self.nats.sum()), float(self.weight.sum()))


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


def held_against(first: Scored, second: Scored, noise: SeedNoise) -> Difference:
    """The first run's bits less the second's on the documents that both have; `noise` is that of either's training.

    Raises ValueError where `why_not` has a reason in the documents.
    """
    if problem := why_not(first, second, ("", "")):
        raise ValueError(problem)
    here, there = shared(first, second)
    return difference(first.nats[here], second.nats[there], first.weight[here], (noise, noise), exact=True)


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
