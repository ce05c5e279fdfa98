import json
import math
import time
from itertools import count

import pytest

from tasks import telemetry, timing
from tasks.artifacts import Corpus, InputError, Splits, Tokens
from tasks.calibrate import Calibration, Probe
from tasks.clock import Clock, make_clock
from tasks.cluster import Compute
from tasks.evidence import Earlier, Evidence
from tasks.home import run_folder
from tasks.plan import Deciding
from tasks.planned import Plan, seconds_per_token
from tasks.settle import (
    DEPTHS,
    DROPOUT,
    epochs_rule,
    open_depths,
)
from tasks.study import Search
from tasks.timing import EXIT_SECONDS, slowness
from training.blueprint import Blueprint, Learning
from training.budget import TokenCount, Wall
from training.model import Scratch, hidden_parameters
from training.objectives import CausalLanguageModel, MaskedLanguageModel, SequenceClassification

RATES = {2: 80_000.0, 4: 30_000.0, 6: 10_000.0}
PROBE = Probe(
    depth=2,
    tokens=300_000,
    validation_bits=1.95,
    early_tokens=100_000,
    early_validation_bits=2.29,
    test_bits=2.0,
    test_error=0.01,
)
MEASURED = Calibration(
    rates=RATES, attention="sdpa", attention_reason="twice as fast", peak_flops=5e11, probe=PROBE
)
NEVER_RUN = Evidence(champion=False)
FIRST_RUN = Earlier(
    name="first",
    same_text=True,
    same_machine=True,
    depth=3,
    tokens=4_000_000,
    batch_tokens=4096,
    bytes_per_token=3.0,
    attention="blockwise",
    bits=1.5,
    speed=0.9,
    judging_seconds=9.0,
)


def a_clock(budget: str, used: float = 0.0) -> Clock:
    return Clock(key="c", run_id="r", run_name="n", budget=budget, started=time.time() - used)


def some_tokens(folds: int = 4, test_tokens: int = 100_000, train_tokens: int = 3_000_000) -> Tokens:
    corpus = Corpus(key="c", source="s", documents_read=9, documents=9, bytes=10**7, dropped={}, changed={})
    parts = {"train": train_tokens, "validation": 100_000, "test": test_tokens}
    splits = Splits(key="s", corpus=corpus, documents=parts, bytes=parts, folds=folds, near_duplicates=0)
    return Tokens(key="t", splits=splits, vocabulary=1024, tokens=parts, bytes_per_token=3.0)


def base(depth: int | None = None) -> Blueprint:
    return Blueprint(
        model=Scratch(depth=depth), learning=Learning(context=256, batch_tokens=4096), vocabulary=1024
    )


def planned(
    budget: str = "5m",
    tokens: Tokens | None = None,
    depth: int | None = None,
    evidence: Evidence = NEVER_RUN,
    search: Search | None = None,
    used: float = 15.0,
    blueprint: Blueprint | None = None,
) -> Plan:
    deciding = Deciding(
        a_clock(budget, used),
        tokens or some_tokens(),
        blueprint or base(depth),
        Compute(),
        2,
        MEASURED,
        search or Search(),
        evidence,
    )
    return deciding.plan({"context": "x"})


@pytest.mark.parametrize("budget", ["1m", "2m", "5m", "20m", "10h"])
@pytest.mark.parametrize("folds", [0, 4, 10])
def test_the_parts_add_up_to_what_is_left(budget: str, folds: int) -> None:
    plan = planned(budget, some_tokens(folds))
    used = plan.search_seconds + plan.folds_seconds + plan.final_seconds
    left = plan.clock.left() - plan.reserve_seconds
    assert left - 13 <= used <= left + 1
    assert plan.final_seconds >= 0.5 * used
    assert plan.final_deadline == pytest.approx(plan.clock.deadline - plan.reserve_seconds)


def test_more_time_buys_a_larger_model_and_little_text_a_smaller() -> None:
    depths = [planned(budget).blueprint.model.settled_depth() or 0 for budget in ("1m", "5m", "3h", "10d")]
    assert depths == sorted(depths)
    assert depths[-1] > depths[0]


def test_what_was_measured_is_believed_and_larger_models_cost_more() -> None:
    for depth, rate in RATES.items():
        assert seconds_per_token(RATES, depth) == pytest.approx(1 / rate)
    costs = [seconds_per_token(RATES, depth) for depth in (1, 2, 3, 4, 6, 8, 12)]
    assert costs == sorted(costs)


def test_a_measurement_gone_wrong_makes_no_model_free() -> None:
    busy = {2: 40_000.0, 3: 10_000.0, 4: 12_000.0}  # the last one by chance on a quieter machine
    costs = [seconds_per_token(busy, depth) for depth in (2, 3, 4, 6, 12, 24)]
    assert costs == sorted(costs)
    assert costs[-1] > 50 * costs[2]
    assert max(planned("10d").depths) <= 10  # four times the weights of depth 6


def test_every_choice_has_a_reason_and_what_the_user_set_is_kept() -> None:
    plan = planned(depth=5)
    assert plan.blueprint.model.settled_depth() == 5
    shown = {row["what"]: row for row in plan.rows()}
    assert shown["depth"]["reason"] == "user"
    assert shown["attention"]["value"] == plan.blueprint.learning.attention == "sdpa"
    assert shown["attention"]["reason"] == "twice as fast"
    assert shown["compile"]["value"] == plan.blueprint.learning.compile == "off"
    assert all(row["reason"] for row in plan.rows()[:-1])
    assert plan.rows()[-1]["what"] == "advice"
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_a_resumed_run_keeps_its_blueprint() -> None:
    first = planned()
    again = planned(used=100, blueprint=first.blueprint)
    assert again.blueprint == first.blueprint


def test_the_forecast_is_narrower_and_nearer_where_this_text_was_trained_on_before() -> None:
    blind, told = planned(), planned(evidence=Evidence(runs=(FIRST_RUN,)))

    def width(plan: Plan) -> float:
        found = plan.forecasts["this budget"]
        return (found.high - found.low) / found.bits

    assert width(told) < 0.5 * width(blind)
    assert "1 earlier run" in told.basis and "no earlier run" in blind.basis
    names = ("this budget", "twice", "four times")
    assert [told.forecasts[name].bits for name in names] == sorted(
        (told.forecasts[name].bits for name in names), reverse=True
    )


def test_speeds_and_times_of_earlier_runs_are_believed() -> None:
    told = planned(depth=3, evidence=Evidence(runs=(FIRST_RUN,), champion=False))
    sure = planned(depth=3, evidence=Evidence(runs=(FIRST_RUN,) * 9, champion=False))
    alone = planned(depth=3).tokens_per_second
    assert 0.9 * alone < sure.tokens_per_second < 0.94 * alone < told.tokens_per_second < 0.99 * alone
    assert told.judging.seconds == pytest.approx(9.0 + slowness() * EXIT_SECONDS)
    elsewhere = FIRST_RUN.model_copy(update={"same_machine": False})
    strange = planned(depth=3, evidence=Evidence(runs=(elsewhere,), champion=False))
    assert strange.tokens_per_second == planned(depth=3).tokens_per_second


def test_settings_that_won_before_are_taken_where_nothing_is_searched_and_nothing_was_set() -> None:
    rate = "learning.optimizer.learning_rate"
    won = FIRST_RUN.model_copy(update={"gain": 0.03, "settings": {rate: 0.03}})
    told = planned(depth=3, evidence=Evidence(runs=(won,)), search=Search(share=0))
    assert told.blueprint.learning.optimizer.learning_rate == 0.03
    assert told.reasons["learning_rate"] == "prior run first, whose search won 3.0%"
    mine = base(3).model_copy(
        update={
            "learning": Learning.model_validate(
                {
                    "context": 256,
                    "batch_tokens": 4096,
                    "optimizer": {"kind": "muon", "learning_rate": 0.01},
                }
            )
        }
    )
    kept = planned(evidence=Evidence(runs=(won,)), search=Search(share=0), blueprint=mine)
    assert kept.blueprint.learning.optimizer.learning_rate == 0.01


def test_where_text_is_short_more_time_does_not_help_and_the_plan_says_so() -> None:
    short = planned("2d", some_tokens(train_tokens=30_000))
    assert "more text will" in short.rows()[-1]["value"]
    assert "four times the budget" in planned("5m").rows()[-1]["value"]


def test_where_text_is_seen_often_something_is_dropped_unless_the_user_says_how_much() -> None:
    once, often = planned("2m"), planned("20m", some_tokens(train_tokens=300_000))
    assert once.blueprint.learning.dropout == 0 and "helps from about 4 on" in once.reasons["dropout"]
    assert often.blueprint.learning.dropout == DROPOUT and "learned by heart" in often.reasons["dropout"]
    mine = base().model_copy(update={"learning": base().learning.model_copy(update={"dropout": 0.0})})
    kept = planned("20m", some_tokens(train_tokens=300_000), blueprint=mine)
    assert kept.blueprint.learning.dropout == 0 and "dropout" not in kept.reasons
    strange = base().model_copy(update={"model": Scratch(family="rwkv")})
    whole = planned("20m", some_tokens(train_tokens=300_000), blueprint=strange)
    assert whole.blueprint.learning.dropout == 0 and "where rwkv could drop" in whole.reasons["dropout"]
    counted = planned("60M tokens", some_tokens(train_tokens=3_000_000))
    assert counted.blueprint.learning.dropout == DROPOUT


def test_a_budget_of_tokens_keeps_no_clock() -> None:
    plan = planned("60M tokens", search=Search(share=0.2))
    assert plan.final_deadline is None and plan.evaluation_seconds is None
    spent = (
        (plan.final_tokens or 0) + 4 * (plan.fold_tokens or 0) + plan.search_trials * (plan.trial_tokens or 0)
    )
    assert spent == pytest.approx(60e6, rel=0.02)
    assert isinstance(plan.final_clock(), TokenCount) and isinstance(
        plan.trial_clock(plan.trial_depth), TokenCount
    )
    assert isinstance(planned("5m").final_clock(), Wall)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_a_budget_of_flops_buys_fewer_tokens_of_a_larger_model() -> None:
    small, large = (planned("1e14 flops", depth=depth) for depth in (2, 6))
    assert (small.final_tokens or 0) > 3 * (large.final_tokens or 0)
    used = 6 * hidden_parameters(6) * (large.final_tokens or 0)
    assert 0.3e14 < used < 1e14  # the output layer and attention take the rest


def test_a_causal_model_has_two_layers_unless_the_user_wants_one() -> None:
    assert open_depths(CausalLanguageModel()) == tuple(depth for depth in DEPTHS if depth > 1)
    assert open_depths(MaskedLanguageModel()) == DEPTHS
    assert planned(depth=1).blueprint.model.settled_depth() == 1


def test_judging_fits_into_what_is_reserved_for_it() -> None:
    plan = planned(tokens=some_tokens(test_tokens=50_000_000), evidence=Evidence(champion=True))
    assert 2 * (plan.evaluation_seconds or 0) < plan.reserve_seconds < 0.3 * 300
    forgetting_nothing = Evidence(champion=True, earlier_tests=True)
    more = planned(tokens=some_tokens(test_tokens=50_000_000), evidence=forgetting_nothing)
    assert 3 * (more.evaluation_seconds or 0) < more.reserve_seconds < 0.4 * 300


def test_a_machine_is_never_said_to_be_faster_than_the_one_of_the_constants(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for seconds, factor in ((1e-6, 1.0), (0.021, 2.0), (9.0, timing.SLOWEST)):
        ticks = count(0.0, seconds)
        monkeypatch.setattr(time, "perf_counter", lambda ticks=ticks: next(ticks))
        assert timing.slowness.__wrapped__() == pytest.approx(factor)


def test_a_budget_that_preparing_used_up_is_refused_with_one_that_suffices() -> None:
    with pytest.raises(InputError, match=r"give at least \d+s"):
        planned("60s", used=50.0)


def test_a_resumed_run_has_what_was_left_of_its_budget(fresh_home: object) -> None:
    folder = run_folder("abc")
    folder.mkdir(parents=True)
    (folder / "clock.json").write_text(json.dumps({"used_seconds": 100.0}))
    clock = make_clock("abc", "n", "5m", started=time.time())
    assert clock.left() == pytest.approx(200, abs=1)
    assert make_clock("new", "n", "5m", started=time.time() - 10).left() == pytest.approx(290, abs=1)


def test_preparing_that_takes_more_than_the_budget_is_given_up_with_the_number() -> None:
    telemetry.prepare_until(time.time() + 0.5)
    try:
        with telemetry.stage("Clean the corpus") as shown:
            shown.move(0.01)  # too early to tell
            time.sleep(0.1)
            with pytest.raises(
                InputError, match=r"clean the corpus alone takes about \d+ s, .* give at least"
            ):
                shown.move(0.1)
        with telemetry.stage("Train the final model") as shown:
            shown.move(0.06)  # has a clock of its own
    finally:
        telemetry.prepare_until(math.inf)


def test_a_search_that_would_not_hold_one_trial_is_left_out_with_the_numbers() -> None:
    plan = planned("90s", search=Search(share=0.1))
    assert plan.search_seconds == 0
    assert "would not hold one trial of 12 s" in plan.reasons["search"]


def test_trials_that_cost_alike_count_tokens_and_others_have_equal_times() -> None:
    plan = planned("20m", search=Search(share=0.3))
    own, deeper = (plan.trial_clock(plan.trial_depth + more) for more in (0, 1))
    assert isinstance(own, Wall) and isinstance(deeper, Wall)
    assert own.tokens and deeper.tokens and deeper.tokens < own.tokens
    late = own.deadline - time.time()
    assert plan.trial_seconds < late < 1.5 * plan.trial_seconds
    timed = plan.trial_clock(1, alike=False)
    assert isinstance(timed, Wall) and timed.tokens is None
    assert timed.deadline - time.time() == pytest.approx(plan.trial_seconds, abs=1)


def test_a_classifier_reads_its_texts_three_times_at_most_and_more_time_will_not_help() -> None:
    few, objective = some_tokens(train_tokens=300_000), SequenceClassification()
    blueprint = base().model_copy(
        update={"objective": objective, "model": Scratch(family="modernbert", depth=2), "labels": ("a", "b")}
    )
    epochs, _ = epochs_rule(objective)
    learning = blueprint.learning.model_copy(update={"epochs": epochs})
    capped = planned("20m", few, blueprint=blueprint.model_copy(update={"learning": learning}))
    free = planned("20m", few, blueprint=blueprint)
    assert capped.final_seen == capped.most_tokens == 3 * 300_000 < free.final_seen
    assert capped.final_takes < capped.final_seconds
    for clock in (capped.final_clock(), capped.trial_clock(2, alike=False)):
        assert isinstance(clock, Wall) and clock.tokens == capped.most_tokens
    assert "more text will" in str(capped.rows()[-1])
    counted = planned("10M tokens", few, blueprint=capped.blueprint)
    assert counted.final_tokens == capped.most_tokens
    assert epochs_rule(CausalLanguageModel())[0] is None
