"""What a search turns: ranges, open choices, grids, and what is carried to another width."""

from typing import Annotated, Any

import optuna
import pytest

from tasks.artifacts import InputError
from tasks.space import as_asked, check_search, dials, draw, grid, transferred, value_of
from tasks.study import Search
from tests.tiny_shards import tiny_blueprint
from training.config import Section, Tune, tunable_fields, with_fields
from training.model import width_of

RATE = "learning.optimizer.learning_rate"
OPTIMIZERS = {"learning.optimizer.kind": ("muon", "adamw")}


def test_the_space_follows_the_choices_made() -> None:
    muon, adamw = tiny_blueprint(), tiny_blueprint(optimizer={"kind": "adamw"})
    assert "learning.optimizer.embedding_learning_rate" in tunable_fields(muon)
    assert "learning.optimizer.embedding_learning_rate" not in tunable_fields(adamw)
    assert RATE in tunable_fields(adamw)


def test_defaults_lie_within_their_ranges() -> None:
    blueprint = tiny_blueprint()
    for dial in dials(blueprint):
        assert dial.tune.low <= value_of(blueprint, dial.field) <= dial.tune.high


def test_what_is_off_is_not_searched_and_what_is_set_is_within_its_range() -> None:
    assert "learning.dropout" not in {dial.field for dial in dials(tiny_blueprint())}
    found = {dial.field: dial.tune for dial in dials(tiny_blueprint(dropout=0.4))}
    assert found["learning.dropout"].low == 0 and found["learning.dropout"].high == 0.4


class Counted(Section):
    times: Annotated[int, Tune(1, 9)] = 3


class Outer(Section):
    inner: Counted = Counted()


def test_a_whole_number_stays_whole() -> None:
    (dial,) = dials(Outer())
    value = dial.suggest(optuna.create_study().ask())
    assert isinstance(value, int) and 1 <= value <= 9
    assert dial.points(3) == [1, 5, 9]


def test_settings_reach_the_blueprint_and_a_new_kind_leaves_nothing_of_the_old() -> None:
    turned = with_fields(tiny_blueprint(), {RATE: 0.05})
    assert value_of(turned, RATE) == 0.05
    other = with_fields(turned, {RATE: 0.002, "learning.optimizer.kind": "adamw"})
    assert other.learning.optimizer.kind == "adamw" and value_of(other, RATE) == 0.002
    assert with_fields(turned, {"learning.optimizer.kind": "muon"}) == turned


def test_an_open_choice_brings_its_own_settings_and_ranges() -> None:
    study, seen = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)), set()
    for _ in range(20):
        trial = study.ask()
        settings = draw(trial, tiny_blueprint(), OPTIMIZERS)
        kind = settings["learning.optimizer.kind"]
        seen.add(kind)
        assert with_fields(tiny_blueprint(), settings).learning.optimizer.kind == kind
        assert f"learning.optimizer.{kind}.learning_rate" in trial.params
        assert ("learning.optimizer.embedding_learning_rate" in settings) == (kind == "muon")
    assert seen == {"muon", "adamw"}


def test_the_defaults_can_be_put_in_line_also_where_they_are_no_option() -> None:
    for choices in ({}, OPTIMIZERS, {"learning.optimizer.kind": ("adamw", "lamb")}):
        study = optuna.create_study()
        study.enqueue_trial(as_asked(tiny_blueprint(), choices))
        settings = draw(study.ask(), tiny_blueprint(), choices)
        expected = with_fields(tiny_blueprint(), {field: options[0] for field, options in choices.items()})
        assert with_fields(tiny_blueprint(), settings) == expected


def test_a_grid_has_every_combination_once() -> None:
    choices: dict[str, tuple[Any, ...]] = {"model.depth": (1, 2)}
    points = list(grid(tiny_blueprint(), choices, 3))
    assert len(points) == 2 * 3 ** len(dials(tiny_blueprint(), choices))
    assert len({tuple(sorted(point.items())) for point in points}) == len(points)
    conditional = list(grid(tiny_blueprint(), OPTIMIZERS, 2))
    assert {len(point) for point in conditional} == {4, 3}  # AdamW has one rate, Muon two


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ({"choices": {"model.depth": []}}, "no options"),
        ({"choices": {"model.deepth": [1]}}, "there is no setting model.deepth"),
        ({"choices": {"learning.dropout": [2.0]}}, "cannot be 2.0: Input should be less than 1"),
        ({"choices": {"learning.optimizer.kind": ["muno"]}}, "cannot be 'muno'"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(search: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_search(Search.model_validate(search), tiny_blueprint())


def test_a_search_of_nothing_is_refused() -> None:
    still = tiny_blueprint(schedule={"kind": "constant"}, optimizer={"kind": "muon"})
    assert dials(still)
    check_search(Search(share=0.2), still)

    class Nothing(Section):
        depth: int = 1

    with pytest.raises(InputError, match="nothing to search"):
        check_search(Search(share=0.2), Nothing())  # type: ignore[arg-type]


def test_rates_are_carried_across_widths_as_their_optimizer_wants() -> None:
    adamw = tiny_blueprint(optimizer={"kind": "adamw"})
    narrow = with_fields(adamw, {"model.depth": 2})
    wider = width_of(8) / width_of(2)
    assert transferred({RATE: 0.004}, narrow, 8)[RATE] == pytest.approx(0.004 / wider)
    muon = with_fields(tiny_blueprint(), {"model.depth": 2})
    assert transferred({RATE: 0.02}, muon, 8) == {RATE: 0.02}
    assert transferred({RATE: 0.004}, narrow, 2) == {RATE: 0.004}
