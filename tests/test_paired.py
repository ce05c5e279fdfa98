"""What is called a difference between two runs is one: chance and the luck of trainings do not make any."""

import numpy as np
import pytest

from tasks.paired import (
    ALPHA,
    FEWEST_DOCUMENTS,
    Scored,
    held_against,
    holm,
    why_not,
)
from tasks.seed_noise import STORED_FREEDOM, SeedNoise, stored_noise
from training.law import LABELS_NOISE, NOISE

BYTES = ("bits per byte", "bits per byte")


def documents(count: int, dice: np.random.Generator) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Ids, bytes, and what an average model makes of each, in nats."""
    weight = dice.integers(200, 4000, count)
    return [f"d{n}" for n in range(count)], weight, weight * dice.normal(1.0, 0.2, count).clip(0.4)


def two_runs(
    count: int, dice: np.random.Generator, luck: float, better: float = 0.0
) -> tuple[Scored, Scored]:
    """Two trainings of a recipe, the second `better` by a share, each lucky or not by `luck`."""
    ids, weight, nats = documents(count, dice)
    runs = []
    for gain in (0.0, better):
        seen = nats * (1 - gain) * (1 + luck * dice.normal()) * (1 + 0.02 * dice.normal(size=count))
        runs.append(Scored(ids, seen, weight))
    return runs[0], runs[1]


def seeds(noise: float) -> SeedNoise:
    return SeedNoise(relative=noise, freedom=STORED_FREEDOM, source="a test")


def found_apart(trials: int, luck: float, noise: float, better: float = 0.0, count: int = 40) -> float:
    dice = np.random.default_rng(1)
    pairs = (held_against(*two_runs(count, dice, luck, better), seeds(noise)) for _ in range(trials))
    return float(np.mean([pair.chance_either() < ALPHA for pair in pairs]))


def test_seeds_that_differ_as_they_do_are_rarely_called_different() -> None:
    assert found_apart(60, luck=NOISE, noise=NOISE) <= 0.1
    assert found_apart(40, luck=NOISE, noise=0.0) > 0.4  # what documents alone would have said
    assert found_apart(20, luck=NOISE, noise=NOISE, better=0.06) > 0.9


def test_the_difference_is_that_of_the_documents_both_have() -> None:
    first, second = two_runs(30, np.random.default_rng(0), 0.0)
    longer = Scored(["z", *second.ids], np.array([1e6, *second.nats]), np.array([10, *second.weight]))
    noise = seeds(NOISE)
    found, other = held_against(first, longer, noise), held_against(longer, first, noise)
    assert found.bits == pytest.approx(first.bits - second.bits)
    low, high = found.interval()
    assert low < found.bits < high
    assert -other.bits == pytest.approx(found.bits)
    assert other.chance_either() == pytest.approx(found.chance_either())


def test_a_better_run_is_below_zero_and_the_same_one_is_no_other() -> None:
    first, second = two_runs(30, np.random.default_rng(0), 0.0, better=0.3)
    assert held_against(second, first, seeds(NOISE)).interval()[1] < 0
    assert held_against(first, first, seeds(0.0)).interval() == (0.0, 0.0)
    assert held_against(first, first, seeds(0.0)).chance_either() == 1.0
    assert held_against(first, first, seeds(NOISE)).chance_either() == 1.0


@pytest.mark.parametrize(
    ("ids", "weight", "units", "reason"),
    [
        (range(20), 1, ("bits per byte", "bits per label"), "bits per byte and bits per label"),
        (range(15, 35), 1, BYTES, r"different documents \(5 of 20 are the same\)"),
        (range(FEWEST_DOCUMENTS - 1), 1, BYTES, "4 documents are too few"),
        (range(20), 2, BYTES, "do not weigh the same"),
    ],
)
def test_what_cannot_be_compared_has_a_reason(
    ids: range, weight: int, units: tuple[str, str], reason: str
) -> None:
    first = Scored([f"{n}" for n in range(20)], np.ones(20), np.ones(20, np.int64))
    second = Scored([f"{n}" for n in ids], np.ones(len(ids)), np.full(len(ids), weight))
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(why_not(first, second, units))
    if units == BYTES:
        with pytest.raises(ValueError, match=reason):
            held_against(first, second, seeds(NOISE))
    assert why_not(first, first, BYTES) == ""


def test_many_comparisons_of_nothing_find_nothing() -> None:
    """Holm's example: each counts as often as there are left, and none less than a smaller one."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
    dice = np.random.default_rng(0)
    families = dice.uniform(size=(1000, 10))
    assert np.mean([min(holm(list(family))) < ALPHA for family in families]) == pytest.approx(
        ALPHA, abs=0.025
    )


def test_labels_are_noisier_than_text() -> None:
    assert stored_noise("bits per label").relative == LABELS_NOISE
    assert LABELS_NOISE > stored_noise("pseudo-bits per byte").relative == NOISE
