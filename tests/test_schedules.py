from typing import get_args

import pytest

from training.schedules import Constant, Cosine, Schedule, WarmupStableDecay

MEMBERS = get_args(get_args(Schedule)[0])


@pytest.mark.parametrize("member", MEMBERS)
def test_the_factor_stays_between_zero_and_one(member: type[Cosine]) -> None:
    rates = [member().rate(step / 1000) for step in range(1001)]
    assert all(0 <= rate <= 1 for rate in rates)
    assert max(rates) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("member", [WarmupStableDecay, Cosine])
def test_decaying_schedules_end_at_zero(member: type[Cosine]) -> None:
    assert member().rate(1.0) == pytest.approx(0, abs=1e-9)


def test_the_rate_falls_over_the_share_that_was_asked_for() -> None:
    schedule = WarmupStableDecay(warmup=0.1, decay=0.4)
    assert schedule.rate(0.05) == pytest.approx(0.5)
    assert schedule.rate(0.6) == pytest.approx(1)
    assert schedule.rate(0.8) == pytest.approx(0.5)


def test_constant_is_constant() -> None:
    assert {Constant().rate(share) for share in (0, 0.5, 1)} == {1.0}
