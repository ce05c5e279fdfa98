import math
from itertools import pairwise
from typing import get_args

import pytest

from training.config import tunable_fields, with_fields
from training.schedules import (
    FIRST_RATE,
    Constant,
    Cosine,
    Exponential,
    Linear,
    Schedule,
    Step,
    WarmupStableDecay,
)

MEMBERS = get_args(get_args(Schedule)[0])
FALLING = [member for member in MEMBERS if member is not Constant]
SMOOTH = [member for member in MEMBERS if member is not Step]
WAYS = [step / 10_000 for step in range(10_001)]


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
def test_the_factor_stays_between_zero_and_one(member: type[Cosine], warmup: float) -> None:
    rates = [member(warmup=warmup).rate(progress) for progress in WAYS]
    assert all(0 <= rate <= 1 for rate in rates)


@pytest.mark.parametrize("member", MEMBERS)
def test_the_full_rate_is_reached(member: type[Cosine]) -> None:
    assert max(member().rate(progress) for progress in WAYS) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("member", MEMBERS)
def test_no_step_is_wasted(member: type[Cosine]) -> None:
    """The first has no progress yet, the last is short of the end."""
    assert member().rate(0.0) >= FIRST_RATE
    assert all(member(warmup=0.1).rate(progress) > 0 for progress in WAYS[:-1])


@pytest.mark.parametrize("member", MEMBERS)
def test_the_rate_rises_over_the_warmup(member: type[Cosine]) -> None:
    rates = [member(warmup=0.1).rate(progress) for progress in WAYS if progress < 0.1]
    assert rates[0] == FIRST_RATE
    assert rates == sorted(set(rates))
    assert rates[-1] > 0.99


@pytest.mark.parametrize("member", FALLING)
def test_it_never_rises_afterwards_and_ends_low(member: type[Cosine]) -> None:
    rates = [member(warmup=0.1).rate(progress) for progress in WAYS if progress >= 0.1]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.05


@pytest.mark.parametrize("member", SMOOTH)
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
def test_it_makes_no_jumps(member: type[Cosine], warmup: float) -> None:
    rates = [member(warmup=warmup).rate(progress) for progress in WAYS]
    assert max(abs(a - b) for a, b in pairwise(rates)) < 0.002


@pytest.mark.parametrize("member", [Linear, Cosine, WarmupStableDecay])
def test_these_end_at_zero(member: type[Cosine]) -> None:
    assert member().rate(1.0) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("member", [Linear, Cosine, Exponential])
def test_they_end_at_the_floor_that_was_asked_for(member: type[Cosine]) -> None:
    assert member(floor=0.2).rate(1.0) == pytest.approx(0.2)


def test_the_rate_falls_over_the_share_that_was_asked_for() -> None:
    schedule = WarmupStableDecay(warmup=0.1, decay=0.4)
    assert schedule.rate(0.05) == pytest.approx((1 + FIRST_RATE) / 2)
    assert schedule.rate(0.6) == pytest.approx(1)
    assert schedule.rate(0.8) == pytest.approx(0.5)


@pytest.mark.parametrize("member", MEMBERS)
def test_a_search_may_set_anything_in_its_ranges(member: type[Cosine]) -> None:
    for name, tune in tunable_fields(member()).items():
        assert tune.low < getattr(member(), name) < tune.high
        for value in (tune.low, 0.37 * tune.low + 0.63 * tune.high, tune.high):
            assert getattr(with_fields(member(), {name: value}), name) == value


def test_steps_are_equally_long() -> None:
    schedule = Step(warmup=0.0, drops=3, factor=0.5)
    assert [schedule.rate(progress) for progress in (0, 0.24, 0.25, 0.5, 0.75, 0.99, 1.0)] == [
        *(1.0, 1.0, 0.5, 0.25),
        *(0.125, 0.125, 0.125),
    ]


def test_exponential_falls_by_equal_shares() -> None:
    schedule = Exponential(warmup=0.0, floor=0.01)
    assert schedule.rate(0.5) == pytest.approx(math.sqrt(0.01))


def test_linear_is_half_way_in_the_middle() -> None:
    assert Linear(warmup=0.0).rate(0.5) == Cosine(warmup=0.0).rate(0.5) == pytest.approx(0.5)


def test_constant_is_constant() -> None:
    assert {Constant().rate(share) for share in (0, 0.5, 1)} == {1.0}
