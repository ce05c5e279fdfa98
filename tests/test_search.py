from pathlib import Path
from typing import Annotated

import optuna
import pytest
from optuna.trial import TrialState

from tasks.home import run_folder
from tasks.search import RUNGS, Search, choose, default_settings, open_study, search_space, suggest
from tests.tiny_shards import tiny_blueprint
from training.config import Section, Tune, tunable_fields, with_fields


@pytest.fixture
def run(fresh_home: Path) -> str:
    run_folder("r").mkdir(parents=True)
    return "r"


def test_the_space_follows_the_choices_made() -> None:
    muon, adamw = tiny_blueprint(), tiny_blueprint(optimizer={"kind": "adamw"})
    assert "learning.optimizer.embedding_learning_rate" in tunable_fields(muon)
    assert "learning.optimizer.embedding_learning_rate" not in tunable_fields(adamw)
    assert "learning.optimizer.learning_rate" in tunable_fields(adamw)


def test_defaults_lie_within_their_ranges() -> None:
    blueprint = tiny_blueprint()
    for name, tune in search_space(blueprint).items():
        assert tune.low <= default_settings(blueprint)[name] <= tune.high


def test_what_is_off_is_not_searched_and_what_is_set_is_within_its_range() -> None:
    assert "learning.dropout" not in search_space(tiny_blueprint())
    space = search_space(tiny_blueprint(dropout=0.4))
    assert space["learning.dropout"].low == 0 and space["learning.dropout"].high == 0.4


class Counted(Section):
    times: Annotated[int, Tune(1, 9)] = 3


class Outer(Section):
    inner: Counted = Counted()


def test_a_whole_number_stays_whole(run: str) -> None:
    found = suggest(open_study(run, Search(), seed=0).ask(), Outer())
    assert isinstance(found["inner.times"], int) and 1 <= found["inner.times"] <= 9
    assert default_settings(Outer()) == {"inner.times": 3}


def test_settings_reach_the_blueprint() -> None:
    turned = with_fields(tiny_blueprint(), {"learning.optimizer.learning_rate": 0.05})
    assert default_settings(turned)["learning.optimizer.learning_rate"] == 0.05


def test_a_trial_that_a_kill_left_running_comes_back_with_its_settings(run: str) -> None:
    study = open_study(run, Search(), seed=0)
    lost = study.ask()
    settings = suggest(lost, tiny_blueprint())
    again = open_study(run, Search(), seed=0)
    assert not again.get_trials(states=(TrialState.RUNNING,))
    assert suggest(again.ask(), tiny_blueprint()) == pytest.approx(settings)


def test_a_trial_that_lags_behind_is_pruned_and_a_leader_is_not(run: str) -> None:
    study = open_study(run, Search(), seed=0)
    for score in (2.0, 2.1, 2.2):
        good = study.ask()
        for rung in range(len(RUNGS)):
            good.report(score, rung)
        study.tell(good, score)
    lagging, leading = study.ask(), study.ask()
    lagging.report(3.0, 0)
    leading.report(1.5, 0)
    assert lagging.should_prune()
    assert not leading.should_prune()


def test_pruning_can_be_turned_off(run: str) -> None:
    assert isinstance(open_study(run, Search(pruning=False), 0).pruner, optuna.pruners.NopPruner)


def row(number: int, value: float | None, rate: float = 0.02) -> dict[str, object]:
    settings = {"learning.optimizer.learning_rate": rate}
    return {"number": number, "value": value, "parameters": settings}


def test_only_a_gain_beyond_noise_replaces_the_defaults() -> None:
    blueprint = tiny_blueprint()
    kept, why = choose(blueprint, [row(0, 2.0), row(1, 1.999)])
    assert kept == blueprint
    assert "none better" in why
    taken, why = choose(blueprint, [row(0, 2.0), row(1, 1.9, rate=0.07)])
    assert default_settings(taken)["learning.optimizer.learning_rate"] == 0.07
    assert "1.900" in why


def test_without_a_finished_trial_the_defaults_stay() -> None:
    assert choose(tiny_blueprint(), [row(0, None)])[0] == tiny_blueprint()
