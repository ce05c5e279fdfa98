"""The time of a comparison: how many seeds there is time for, how long each training is, and in which order."""

import math

import numpy as np

from tasks.artifacts import InputError
from tasks.effects import FEWEST_SEEDS
from training.budget import Amount

LEAST_SECONDS = 10.0  # of a training; a shorter one says nothing of longer ones. By eye
PREPARING_SECONDS = 15.0  # before the first training, at least
# Table, plot, MLflow and exit; and a share of the budget for what no plan foresees.
END_SECONDS, END_SHARE = 6.0, 0.02
GRACE_SHARE = 0.4  # of that, which the last look at validation may take
# From the end of a training's clock to the next training; and what the look at validation takes, of its time.
# By eye: rounds of 23 s took 0.6 s more, the look included.
BETWEEN_SECONDS, LOOK_SHARE = 0.5, 0.05


def share_out(amount: Amount, left: float, variants: int, seeds: int, workers: int) -> tuple[int, float]:
    """Seeds that there is time for, at most `seeds`, and seconds of each training, of `left` seconds to train in.

    `variants` counts the recipe itself. Raises InputError, with a budget that suffices, where even
    with FEWEST_SEEDS each training would have less than LEAST_SECONDS.
    """
    each, rounds = 0.0, 1
    for fewer in range(seeds, FEWEST_SEEDS - 1, -1):
        rounds = math.ceil(variants * fewer / workers)
        each = (left / rounds - BETWEEN_SECONDS) / (1 + LOOK_SHARE)
        if each >= LEAST_SECONDS:
            return fewer, each
    least = rounds * (LEAST_SECONDS * (1 + LOOK_SHARE) + BETWEEN_SECONDS)
    if amount.unit == "seconds":
        enough = f"{math.ceil((amount.value - left + least) / 60)}m"
    else:
        enough = f"{amount.value * least / left:.1e} {amount.unit}"
    raise InputError(
        f"the recipe and {variants - 1} variants of it, with {FEWEST_SEEDS} seeds each, are"
        f" {variants * FEWEST_SEEDS} trainings, and each would have {max(0.0, each):.0f} s. Less than"
        f" {LEAST_SECONDS:.0f} s says nothing: give at least {enough}"
    )


def in_rounds(variants: int, seeds: range, workers: int) -> list[tuple[int, int]]:
    """Trainings as (variant, seed), seed after seed, each in an order of its own: what drifts meets all alike.

    The last round is filled up with variant 0 under further seeds, which do not count: whoever has the
    machine for itself is faster.
    """
    found = []
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(variants)
        found += [(number, seed) for number in order.tolist()]
    spare = range(seeds.stop, seeds.stop + -len(found) % workers)
    return found + [(0, seed) for seed in spare]
