import time

import pytest

from training.budget import (
    SMALLEST_BUDGET_SECONDS,
    TokenCount,
    Wall,
    expected_loss_nats,
    parse_budget,
    training_flops_per_token,
    vocabulary_rule,
    worth,
)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("1h30m", 5400), ("2d", 172_800), ("1.5h", 5400)]
)
def test_budgets_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["0", "5 parsecs", "", "m5", "5m later", "-3m"])
def test_what_is_no_budget_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="such as 90s"):
        parse_budget(text)


@pytest.mark.parametrize("text", ["1s", "0s", "0.5m"])
def test_a_budget_too_small_names_the_smallest(text: str) -> None:
    with pytest.raises(ValueError, match=f"{SMALLEST_BUDGET_SECONDS}s"):
        parse_budget(text)


def test_more_time_and_more_text_want_a_larger_vocabulary() -> None:
    by_time = [vocabulary_rule(10**9, seconds) for seconds in (30, 300, 3000, 30_000, 10**7)]
    by_text = [vocabulary_rule(size, 10**6) for size in (10_000, 3 * 10**6, 10**8)]
    assert by_time == sorted(set(by_time))
    assert by_text == sorted(set(by_text))
    assert vocabulary_rule(12_000_000, 300) == 2048
    assert vocabulary_rule(1, 1) == 512


def test_repeated_tokens_are_worth_less_and_less() -> None:
    assert worth(500, 1000, 15.4) == 500
    worths = [worth(epochs * 1000, 1000, 15.4) for epochs in (1, 2, 4, 16, 1000)]
    assert worths == sorted(worths)
    assert worths[1] > 1900  # a second pass is nearly as good as fresh text
    assert worths[-1] < 1000 * (1 + 15.4 + 0.1)  # a thousandth is worth nothing


def test_the_law_trades_size_against_tokens() -> None:
    small, large = (expected_loss_nats(n, 1e9, 1e12) for n in (1e6, 1e8))
    assert large < small
    assert expected_loss_nats(1e8, 1e6, 1e12) > expected_loss_nats(1e6, 1e8, 1e12)


def test_flops_of_a_known_model() -> None:
    # 124 M parameters, 12 layers of 768, context 1024: about 0.86 GFLOP a token
    assert training_flops_per_token(124_000_000, 12, 768, 1024) == pytest.approx(8.57e8, rel=0.01)


def test_a_wall_clock_spreads_what_is_left_after_a_crash() -> None:
    clock = Wall(deadline=time.time() + 10)
    assert clock.progress(1, 0, used_seconds=30.0) == pytest.approx(0.75, abs=0.01)
    assert clock.progress(1, 0, used_seconds=35.0) == pytest.approx(0.875, abs=0.01)
    assert Wall(deadline=time.time() - 1).progress(1, 0, 0.0) == 1.0


def test_tokens_end_a_wall_clock_early() -> None:
    clock = Wall(deadline=time.time() + 1000, tokens=100)
    assert clock.progress(1, 50, 0.0) == pytest.approx(0.5)
    assert clock.progress(1, 200, 0.0) == 1.0


def test_a_token_count_knows_no_time() -> None:
    assert TokenCount(400).progress(1, 100, 1e9) == 0.25
