import json
import math
import random

import pytest

from training.guard import MOST_SKIPPED, WINDOW, Guard


def watched(steps: int = WINDOW, seed: int = 0) -> Guard:
    """A guard that has seen a loss fall, and a norm vary, for so many steps."""
    dice, guard = random.Random(seed), Guard()
    for step in range(steps):
        assert guard.objection(6 / (1 + step / 50) + dice.gauss(0, 0.05), dice.lognormvariate(0, 0.3)) is None
    return guard


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_caught_at_once(value: float) -> None:
    assert "loss" in (Guard().objection(value, 1.0) or "")
    assert "gradient norm" in (Guard().objection(1.0, value) or "")


def test_a_spike_is_caught_once_enough_is_known() -> None:
    assert watched(WINDOW - 1).objection(50.0, 1.0) is None
    assert "sigma" in (watched().objection(50.0, 1.0) or "")
    assert "gradient norm" in (watched().objection(2.0, 1e3) or "")


@pytest.mark.parametrize("seed", range(20))
def test_an_ordinary_training_is_left_alone(seed: int) -> None:
    guard = watched(3000, seed)
    assert guard.skipped == 0
    assert guard.objection(0.01, 0.01) is None  # lower is never wrong


def test_a_step_that_was_objected_to_is_not_remembered() -> None:
    guard = watched()
    losses = list(guard.losses)
    for number in range(MOST_SKIPPED):
        assert not guard.gives_up
        assert guard.objection(100.0 + number, 1.0)
    assert list(guard.losses) == losses
    assert guard.gives_up


def test_rows_of_another_length_have_another_level() -> None:
    guard = watched()
    guard.expect(32)
    assert guard.objection(50.0, 1e3) is None
    for _ in range(WINDOW):
        guard.expect(32)
        assert guard.objection(50.0, 1e3) is None
    assert guard.objection(500.0, 1e3)
    guard.expect(64)
    assert guard.objection(500.0, 1e3) is None


def test_a_guard_survives_a_checkpoint_exactly() -> None:
    guard = watched()
    guard.length = 32
    guard.objection(99.0, 1.0)
    assert Guard.from_state(json.loads(json.dumps(guard.state()))) == guard
