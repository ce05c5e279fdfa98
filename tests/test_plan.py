import json
import time
from pathlib import Path

import pytest

from tasks.artifacts import Corpus, InputError, Splits, Tokens
from tasks.calibrate import Calibration
from tasks.clock import Clock, make_clock
from tasks.cluster import Compute
from tasks.home import run_folder
from tasks.memory import depths_that_fit, least_bytes
from tasks.plan import DEPTHS, Plan, best_depth, decide, divide, seconds_per_token
from tasks.settle import compile_or_not, context_rule, scored_tokens
from tests.tiny_shards import write_shards
from training.blueprint import Blueprint, Learning
from training.model import Scratch
from training.objectives import CausalLanguageModel, MaskedLanguageModel, SequenceClassification

RATES = {2: 40_000.0, 4: 15_000.0, 6: 5_000.0}
MEASURED = Calibration(rates=RATES, attention="sdpa", attention_reason="twice as fast", peak_flops=5e11)


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
    measured = MEASURED.model_copy(update={"rates": {5: 9000.0}})
    plan = decide(a_clock(300), some_tokens(), base(depth=5), Compute(), 2, measured, 0.2)
    assert all(row["reason"] for row in plan.rows())
    assert plan.blueprint.model.settled_depth() == 5
    shown = {row["what"]: row for row in plan.rows()}
    assert shown["depth"]["reason"] == "user"
    assert shown["attention"]["value"] == plan.blueprint.learning.attention == "sdpa"
    assert shown["attention"]["reason"] == "twice as fast"
    assert shown["compile"]["value"] == plan.blueprint.learning.compile == "off"
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_a_resumed_run_keeps_its_blueprint_and_the_reasons() -> None:
    first = decide(a_clock(300), some_tokens(), base(), Compute(), 2, MEASURED, 0.2, reasons={"context": "x"})
    again = decide(
        a_clock(200), some_tokens(), first.blueprint, Compute(), 2, MEASURED, 0.2, reasons=first.reasons
    )
    assert (again.blueprint, again.reasons) == (first.blueprint, first.reasons)


def test_compiling_pays_on_a_gpu_in_a_long_run_only() -> None:
    assert compile_or_not("on", on_gpu=False, seconds=1) == ("on", "user")
    found = [compile_or_not("auto", gpu, seconds)[0] for gpu in (False, True) for seconds in (60, 3600)]
    assert found == ["off", "off", "off", "on"]


def test_documents_to_classify_get_no_longer_context_than_they_need(
    fresh_home: Path, corpus_texts: list[str]
) -> None:
    tokens = some_tokens()
    write_shards(tokens.folder, [text[: 40 + number % 50] for number, text in enumerate(corpus_texts)])
    context, reason = context_rule(SequenceClassification(), Scratch(), tokens)
    assert context == 96  # of at most 90 bytes
    assert "100.0% of the documents" in reason
    assert context_rule(CausalLanguageModel(), Scratch(), tokens)[0] == 256


def test_scoring_a_masked_model_is_given_fewer_tokens_for_the_same_time() -> None:
    assert scored_tokens(7000, MaskedLanguageModel()) == 1000
    assert scored_tokens(7000, CausalLanguageModel()) == scored_tokens(7000, SequenceClassification()) == 7000


def test_a_model_that_cannot_fit_is_refused_with_the_numbers() -> None:
    needed = least_bytes(base(depth=12), "cpu")
    with pytest.raises(InputError, match=r"at least [\d.]+ GB a worker .* each has 0\.1 GB"):
        depths_that_fit(base(depth=12), DEPTHS, "cpu", 1e8)
    fitting = depths_that_fit(base(), DEPTHS, "cpu", needed)
    assert fitting == tuple(depth for depth in DEPTHS if depth <= 12)
    assert best_depth(RATES, 2, 1e9, 10**12, fitting) == 12
    with pytest.raises(InputError, match="cannot fit"):
        depths_that_fit(base(), DEPTHS, "cpu", 1e6)


def test_judging_fits_into_what_is_reserved_for_it() -> None:
    plan = decide(a_clock(300), some_tokens(test_tokens=50_000_000), base(), Compute(), 2, MEASURED, 0.2)
    assert 2 * plan.evaluation_seconds < plan.reserve_seconds < 0.3 * 300
    assert plan.final_deadline == pytest.approx(plan.clock.deadline - plan.reserve_seconds)


def test_a_budget_that_preparing_used_up_is_refused_with_one_that_suffices() -> None:
    with pytest.raises(InputError, match=r"give at least \d+s"):
        decide(a_clock(15), some_tokens(), base(), Compute(), 2, MEASURED, 0.2)


def test_a_resumed_run_has_what_was_left_of_its_budget(fresh_home: object) -> None:
    folder = run_folder("abc")
    folder.mkdir(parents=True)
    (folder / "clock.json").write_text(json.dumps({"used_seconds": 100.0}))
    clock = make_clock("abc", "n", "5m", started=time.time())
    assert clock.left() == pytest.approx(200, abs=1)
    assert make_clock("new", "n", "5m", started=time.time() - 10).left() == pytest.approx(290, abs=1)
