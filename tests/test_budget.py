import json
import math
import pickle
import re
import time
from pathlib import Path
from typing import Literal

import pytest
import torch

from training.budget import (
    SMALLEST_BUDGET_SECONDS,
    Amount,
    AnyClock,
    Budget,
    Effort,
    Replay,
    TokenCount,
    Wall,
    matmul_peak_flops,
    parse_budget,
    training_flops_per_token,
    utilisation,
    vocabulary_rule,
    worth,
)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("1h30m", 5400), ("2d", 172_800), ("1.5h", 5400)]
)
def test_budgets_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_budget(text) == Amount(seconds, "seconds")


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("20M tokens", Amount(20e6, "tokens")),
        ("300ktok", Amount(300e3, "tokens")),
        ("3e15 flops", Amount(3e15, "flops")),
        ("2PFLOP", Amount(2e15, "flops")),
    ],
)
def test_budgets_may_count_training_instead_of_time(text: str, amount: Amount) -> None:
    found = parse_budget(text)
    assert found.value == pytest.approx(amount.value) and found.unit == amount.unit
    assert found.seconds == math.inf and 0 < found.like_seconds < math.inf
    pattern = Budget.__metadata__[1].metadata[0].pattern  # type: ignore[attr-defined]
    assert re.match(pattern, text)  # the run form takes it, too


def test_two_budgets_are_refused() -> None:
    with pytest.raises(ValueError, match="two budgets"):
        parse_budget("5m 10m")
    with pytest.raises(ValueError, match="is no budget"):
        parse_budget("5m 20M tokens")


@pytest.mark.parametrize("text", ["0", "5 parsecs", "", "m5", "5m later", "-3m"])
def test_what_is_no_budget_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="such as 90s"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("text", "smallest"),
    [
        ("1s", f"{SMALLEST_BUDGET_SECONDS}s"),
        ("0s", f"{SMALLEST_BUDGET_SECONDS}s"),
        ("0.5m", f"{SMALLEST_BUDGET_SECONDS}s"),
        ("5 tokens", "5e\\+04 tokens"),
        ("1 flop", "1e\\+11 flops"),
    ],
)
def test_a_budget_too_small_names_the_smallest(text: str, smallest: str) -> None:
    with pytest.raises(ValueError, match=smallest):
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


def test_flops_of_a_known_model() -> None:
    # 124 M parameters, 12 layers of 768, context 1024: about 0.86 GFLOP a token
    assert training_flops_per_token(124_000_000, 12, 768, 1024) == pytest.approx(8.57e8, rel=0.01)


def test_utilisation_is_what_is_used_of_the_peak() -> None:
    assert utilisation(6e6, tokens_per_second=10_000, peak_flops=1.2e11) == pytest.approx(0.5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_matrix_products_have_a_peak(precision: Literal["fp32", "bf16"]) -> None:
    started = time.perf_counter()
    assert 1e8 < matmul_peak_flops("cpu", precision, seconds=0.01) < 1e15
    assert time.perf_counter() - started < 30
    assert matmul_peak_flops(torch.device("cpu"), precision, seconds=0.0) > 0


def test_a_wall_clock_spreads_what_is_left_after_a_crash() -> None:
    clock = Wall(deadline=time.time() + 10)
    assert clock.progress(3, 0, used_seconds=30.0) == pytest.approx(0.75, abs=0.01)
    assert clock.progress(4, 0, used_seconds=35.0) == pytest.approx(0.875, abs=0.01)
    assert Wall(deadline=time.time() - 1).progress(0, 0, 0.0) == 1.0


def test_tokens_end_a_wall_clock_early() -> None:
    clock = Wall(deadline=time.time() + 1000, tokens=100)
    assert clock.progress(1, 50, 0.0) == pytest.approx(0.5)
    assert clock.progress(4, 200, 0.0) == 1.0


def test_a_measurement_takes_its_seconds_and_its_steps_but_not_for_ever() -> None:
    clock = Effort(2.0, steps=10, most_seconds=50.0)
    assert clock.progress(0, 0, 0.0) == 0
    assert clock.progress(5, 0, 3.0) == 0.5  # long enough, but too few steps
    assert clock.progress(20, 0, 1.0) == 0.5  # the other way round
    assert clock.progress(10, 0, 2.0) == 1
    assert clock.progress(1, 0, 60.0) == 1  # one step that took a minute


def test_a_token_count_knows_no_time() -> None:
    assert TokenCount(400).progress(7, 100, 1e9) == 0.25


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Of a training of five steps, none like another, with a look in between."""
    events = [
        {"event": "step", "step": step, "progress": progress}
        for step, progress in enumerate((0.1, 0.1 + 0.2, 0.7, 0.75, 1.0), start=1)
    ]
    events.insert(3, {"event": "validation", "step": 3, "progress": 0.7, "bits": 2.0})
    path = tmp_path / "journal.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def add(journal: Path, **event: object) -> None:
    with journal.open("a") as file:
        file.write(json.dumps(event) + "\n")


def drop(journal: Path, number: int) -> None:
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:number] + lines[number + 1 :]))


def test_a_replay_goes_as_the_journal_says_to_the_last_bit(journal: Path) -> None:
    clock = Replay.of_journal(journal)
    assert [clock.progress(step, 10**9, 1e9) for step in range(6)] == [0, 0.1, 0.1 + 0.2, 0.7, 0.75, 1.0]
    with pytest.raises(ValueError, match="step 6"):
        clock.progress(6, 0, 0.0)


def test_a_replay_follows_a_training_that_was_resumed(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    add(journal, event="resumed", step=0, progress=0.0)
    for event, step, progress in [("step", 1, 0.2), ("resumed", 1, 0.5), ("step", 2, 1.0)]:
        add(journal, event=event, step=step, progress=progress)
    assert Replay.of_journal(journal) == Replay((0.5, 1.0))


def test_an_unfinished_training_is_not_replayed(journal: Path) -> None:
    drop(journal, 5)
    with pytest.raises(ValueError, match=r"75\.0%.*finish it"):
        Replay.of_journal(journal)
    with pytest.raises(ValueError, match="no step"):
        Replay.of_journal(journal.with_name("there is none"))


def test_a_training_whose_patience_ended_is_replayed(journal: Path) -> None:
    drop(journal, 5)
    add(journal, event="stopped", step=4, progress=0.75, reason="patience is at its end")
    assert Replay.of_journal(journal).after[-1] == 0.75
    add(journal, event="step", step=5, progress=0.9)
    with pytest.raises(ValueError, match="finish it"):
        Replay.of_journal(journal)


def test_a_journal_with_a_hole_is_not_replayed(journal: Path) -> None:
    drop(journal, 1)
    with pytest.raises(ValueError, match="lacks step 2 of 5"):
        Replay.of_journal(journal)


@pytest.mark.parametrize(
    "clock", [Wall(deadline=5.0, tokens=7), TokenCount(3), Replay((0.3, 1.0))], ids=lambda c: type(c).__name__
)
def test_clocks_travel(clock: AnyClock) -> None:
    assert pickle.loads(pickle.dumps(clock)) == clock
