import json
import time

import pytest

from tasks.artifacts import Corpus, InputError, Splits, Tokens
from tasks.clock import Clock, make_clock
from tasks.cluster import Compute
from tasks.home import run_folder
from tasks.plan import best_depth, decide, divide, seconds_per_token
from training.blueprint import Blueprint, Learning
from training.model import Scratch

RATES = {2: 40_000.0, 4: 15_000.0, 6: 5_000.0}


def a_clock(seconds: float) -> Clock:
    return Clock(
        key="c",
        run_id="r",
        run_name="n",
        budget_seconds=seconds,
        started=time.time(),
        deadline=time.time() + seconds,
    )


def some_tokens(folds: int = 3, test_tokens: int = 100_000) -> Tokens:
    corpus = Corpus(key="c", source="s", documents_read=9, documents=9, bytes=10**7, dropped={}, changed={})
    parts = {"train": 3_000_000, "validation": 100_000, "test": test_tokens}
    splits = Splits(key="s", corpus=corpus, documents=parts, bytes=parts, folds=folds, near_duplicates=0)
    return Tokens(key="t", splits=splits, vocabulary=1024, tokens=parts, bytes_per_token=3.0)


def base(depth: int | None = None) -> Blueprint:
    return Blueprint(
        model=Scratch(depth=depth), learning=Learning(context=256, batch_tokens=2048), vocabulary=1024
    )


@pytest.mark.parametrize("left", [40.0, 90.0, 170.0, 280.0, 7000.0])
@pytest.mark.parametrize("folds", [0, 3, 10])
def test_the_parts_add_up_to_what_is_left(left: float, folds: int) -> None:
    parts = divide(left, reserve=20, workers=2, folds=folds, search_share=0.2)
    used = parts["search"] + parts["folds"] + parts["final"]
    assert used <= left - 20 + 1e-9
    assert parts["final"] >= 0.5 * used


def test_little_time_goes_to_the_final_run_whole() -> None:
    parts = divide(60, reserve=15, workers=2, folds=3, search_share=0.2)
    assert parts["search"] == parts["folds"] == 0


def test_more_time_buys_a_larger_model_and_little_text_a_smaller() -> None:
    plenty = 10**12
    depths = [best_depth(RATES, 2, seconds, plenty) for seconds in (10, 300, 10_000, 1_000_000)]
    assert depths == sorted(depths)
    assert depths[-1] > depths[0]
    assert best_depth(RATES, 2, 10_000, 10**5) < depths[-2]


def test_what_was_measured_is_believed_and_larger_models_cost_more() -> None:
    for depth, rate in RATES.items():
        assert seconds_per_token(RATES, depth) == pytest.approx(1 / rate)
    costs = [seconds_per_token(RATES, depth) for depth in (1, 2, 3, 4, 6, 8, 12)]
    assert costs == sorted(costs)


def test_every_choice_has_a_reason_and_what_the_user_set_is_kept() -> None:
    plan = decide(a_clock(300), some_tokens(), base(depth=5), Compute(), 2, {5: 9000.0}, 0.2)
    assert all(row["reason"] for row in plan.rows())
    assert plan.blueprint.model.depth == 5
    assert next(row for row in plan.rows() if row["what"] == "depth")["reason"] == "user"


def test_judging_fits_into_what_is_reserved_for_it() -> None:
    plan = decide(a_clock(300), some_tokens(test_tokens=50_000_000), base(), Compute(), 2, RATES, 0.2)
    assert 2 * plan.evaluation_seconds < plan.reserve_seconds < 0.3 * 300
    assert plan.final_deadline == pytest.approx(plan.clock.deadline - plan.reserve_seconds)


def test_a_budget_that_preparing_used_up_is_refused_with_one_that_suffices() -> None:
    with pytest.raises(InputError, match=r"give at least \d+s"):
        decide(a_clock(15), some_tokens(), base(), Compute(), 2, RATES, 0.2)


def test_a_resumed_run_has_what_was_left_of_its_budget(fresh_home: object) -> None:
    folder = run_folder("abc")
    folder.mkdir(parents=True)
    (folder / "clock.json").write_text(json.dumps({"used_seconds": 100.0}))
    clock = make_clock("abc", "n", "5m", started=time.time())
    assert clock.left() == pytest.approx(200, abs=1)
    assert make_clock("new", "n", "5m", started=time.time() - 10).left() == pytest.approx(290, abs=1)
