"""What the search decides, without training: verdicts, rungs, what a kill leaves, and what it teaches."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import Trial, TrialState

from tasks.home import run_folder
from tasks.search import front_of, verdict
from tasks.study import (
    ETA,
    GOES_ON_FROM,
    RUNGS,
    Rungs,
    front,
    importances,
    last_gain,
    open_study,
    sampler_of,
)

UNIT = "bits per byte"


@pytest.fixture
def run(fresh_home: Path) -> str:
    run_folder("r").mkdir(parents=True)
    return "r"


def row(number: int, value: float | None, rate: float = 0.02, state: str = "complete") -> dict[str, Any]:
    settings = {"learning.optimizer.learning_rate": rate}
    return {"number": number, "state": state, "value": value, "parameters": settings, "second": None}


def test_the_defaults_stay_unless_beaten_by_more_than_noise() -> None:
    settings, gain, why = verdict([row(0, 2.0), row(1, 1.999)], UNIT, lambda _: pytest.fail("not asked"))
    assert (settings, gain) == ({}, 0.0)
    assert "the defaults were as good" in why


def test_what_won_must_win_again_with_another_seed() -> None:
    rows = [row(0, 2.0), row(1, 1.9, rate=0.07)]
    settings, gain, why = verdict(rows, UNIT, lambda _: -0.03)
    assert settings == {"learning.optimizer.learning_rate": 0.07}
    assert gain == pytest.approx(0.04)  # the mean of both
    assert "1.900" in why
    settings, gain, why = verdict(rows, UNIT, lambda _: +0.01)
    assert settings == {} and "another seed" in why


def test_trials_that_did_not_run_to_their_end_decide_nothing() -> None:
    rows = [row(0, 2.0), row(1, 1.0, state="pruned")]
    assert verdict(rows, UNIT, lambda _: pytest.fail("not asked"))[0] == {}
    assert verdict([row(0, None, state="fail")], UNIT, lambda _: None)[2].startswith(
        "1 trials, none finished"
    )


def ask(study: optuna.Study, rate: float) -> Trial:
    trial = study.ask()
    trial.suggest_float("rate", 0.0, 1.0)
    return trial


def test_only_the_best_third_of_a_rung_goes_on_and_each_once(run: str) -> None:
    study, rungs = open_study(run, "random", 0), Rungs()
    paused = [study.ask() for _ in range(6)]
    for trial, score in zip(paused, (3.0, 1.0, 4.0, 2.0, 5.0, 6.0), strict=True):
        rungs.pause(trial, 0, score)
    going_on = [rungs.next(), rungs.next()]
    assert [found[0].number for found in going_on if found] == [1, 3]  # the best two of six
    assert rungs.next() is None
    rungs.pause(paused[1], 1, 0.9)
    assert rungs.next() is None  # one of one is no third
    assert len(RUNGS) == 3 and ETA == 3


def test_a_higher_rung_goes_first(run: str) -> None:
    study, rungs = open_study(run, "random", 0), Rungs()
    trials = [study.ask() for _ in range(6)]
    for trial in trials[:3]:
        rungs.pause(trial, 1, float(trial.number))
    for trial in trials[3:]:
        rungs.pause(trial, 0, float(trial.number))
    found = rungs.next()
    assert found is not None and (found[0].number, found[1]) == (0, 1)


def test_a_trial_that_a_kill_left_running_comes_back_with_its_settings_and_its_checkpoint(run: str) -> None:
    study = open_study(run, "tpe", seed=0)
    lost = ask(study, 0.5)
    again = open_study(run, "tpe", seed=0)
    assert not again.get_trials(states=(TrialState.RUNNING,))
    back = ask(again, 0.5)
    assert back.params == pytest.approx(lost.params)
    assert back.user_attrs[GOES_ON_FROM] == lost.number
    third = open_study(run, "tpe", seed=0)
    assert ask(third, 0.5).user_attrs[GOES_ON_FROM] == lost.number  # also after a second kill


@pytest.mark.parametrize("name", ["tpe", "gp", "random"])
@pytest.mark.parametrize("objectives", [1, 2])
def test_every_sampler_serves_one_objective_or_two(name: str, objectives: int) -> None:
    study = optuna.create_study(sampler=sampler_of(name, 0), directions=["minimize"] * objectives)
    for _ in range(9):
        trial = study.ask()
        rate = trial.suggest_float("rate", 1e-3, 1.0, log=True)
        study.tell(trial, [abs(rate - 0.1), rate][:objectives])
    assert len(study.best_trials) >= 1


def test_samplers_that_learn_find_more_than_chance_does() -> None:
    def best(name: str, seed: int) -> float:
        study = optuna.create_study(sampler=sampler_of(name, seed))
        for _ in range(30):
            trial = study.ask()
            values = [trial.suggest_float(f"x{number}", 0.0, 1.0) for number in range(3)]
            study.tell(trial, sum((value - 0.3) ** 2 for value in values))
        return float(study.best_value)

    chance = sorted(best("random", seed) for seed in range(5))[2]
    assert sorted(best("tpe", seed) for seed in range(5))[2] < chance
    assert sorted(best("gp", seed) for seed in range(3))[1] < chance


def test_the_gain_of_the_last_trial_is_the_mean_gain_of_one_among_them() -> None:
    scores = [2.0, 1.8, 1.9, 2.2]
    left_out = [min(s for n, s in enumerate(scores) if n != out) - min(scores) for out in range(4)]
    assert last_gain(scores) == pytest.approx(sum(left_out) / 4)
    assert last_gain([2.0]) == float("inf")


def test_the_setting_that_matters_is_named_with_an_interval() -> None:
    study = optuna.create_study(sampler=sampler_of("random", 1))
    for _ in range(120):
        trial = study.ask()
        rate, idle = trial.suggest_float("rate", 0.0, 1.0), trial.suggest_float("idle", 0.0, 1.0)
        study.tell(trial, (rate - 0.3) ** 2 + 1e-4 * idle)
    found = importances(study.get_trials())
    assert found[0].setting == "rate" and found[0].share > 0.8
    assert all(one.low <= one.share <= one.high for one in found)
    assert found[0].low > found[1].high
    assert importances(study.get_trials()[:3]) == []


def test_the_front_is_what_no_other_beats_in_both() -> None:
    points = [(1.0, 5.0), (2.0, 2.0), (3.0, 3.0), (4.0, 1.0), (1.0, 6.0)]
    assert front(points) == [0, 1, 3]
    rows = [{**row(n, score), "second": size} for n, (score, size) in enumerate(points)]
    assert front_of(rows) == [0, 1, 3]
