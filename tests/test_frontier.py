"""Budgets beside each other: the door, the order, failures that are told, and one whole curve."""

import json
from pathlib import Path

import pytest
from matplotlib.image import imread
from prefect import flow

from flows.compare_budgets import compare_budgets
from tasks import home, tracking
from tasks.artifacts import InputError
from tasks.budgets import Measured, describe, in_order, measure
from tasks.comparison_plots import draw_effects, draw_frontier
from tasks.frontier import FILES, Frontier, tell
from tasks.planned import Plan
from tasks.ray_session import stop_ray
from tasks.recipe import check_budgets
from tasks.sides import Validation
from tasks.source import Files
from tasks.study import Search
from tests.test_effects import described
from training.law import Forecast
from training.model import Scratch

UNIT = "bits per byte"


def run_of(budget: str, amount: float, bits: float | None, foreseen: float | None = 2.0) -> Measured:
    return Measured(
        budget=budget,
        amount=amount,
        seed=0,
        run_id=f"run-{budget}",
        foreseen=Forecast(foreseen, foreseen - 0.1, foreseen + 0.1) if foreseen else None,
        bits=bits,
        low=None if bits is None else bits - 0.05,
        high=None if bits is None else bits + 0.05,
        seconds=amount,
        failure="" if bits is not None else "no text",
    )


def frontier_of(*runs: Measured) -> Frontier:
    return Frontier(
        key="k",
        run_id="r",
        mlflow_run_id=None,
        unit=UNIT,
        amounts="seconds",
        started=0.0,
        runs=runs,
        forecast={60.0: Forecast(2.0, 1.9, 2.1), 120.0: Forecast(1.9, 1.7, 2.1)},
    )


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        (["1m2m", "4m"], "'1m2m' is two budgets.*commas between several"),
        (["1m"], "two or more"),
        (["1m", "60s"], "two or more that differ"),
        (["1m", "20M tokens"], "one unit only"),
        (["1s", "2m"], "the smallest that can work"),
    ],
)
def test_budgets_that_make_no_curve_are_refused(budgets: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_budgets(budgets)


def test_the_smallest_budget_goes_first_with_all_its_seeds() -> None:
    found = list(in_order(["4m", "90s", "1h"], 5, 2))
    assert found == [("90s", 5), ("90s", 6), ("4m", 5), ("4m", 6), ("1h", 5), ("1h", 6)]


def test_a_score_is_inside_or_outside_of_what_was_foreseen_or_neither() -> None:
    assert run_of("1m", 60, 2.05).inside is True
    assert run_of("1m", 60, 2.2).inside is False
    assert run_of("1m", 60, None).inside is None
    assert "outside the 1.900 to 2.100 foreseen" in describe(run_of("1m", 60, 2.2))


@flow(name="fails")
def failing() -> None:
    raise InputError("preparing took 50 s of the budget: give at least 80s")


def test_a_budget_that_fails_is_told_with_its_reason(prefect_server: str, fresh_home: Path) -> None:
    found = measure("1m", 0, failing)
    assert found.bits is None and found.inside is None
    assert found.failure == "InputError: preparing took 50 s of the budget: give at least 80s"
    assert describe(found).startswith("failed: InputError: preparing")


def test_a_person_and_a_program_read_the_same_curve(
    fresh_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = frontier_of(run_of("1m", 60, 2.05), run_of("2m", 120, None), run_of("4m", 240, 1.5))
    found.folder.mkdir(parents=True)
    (found.folder / FILES[0]).write_text(found.model_dump_json())
    assert tell("r", as_json=False)
    told = " ".join(capsys.readouterr().out.split())
    assert "1m 0 2.000 1.900 to 2.100 2.050 2.000 to 2.100 inside" in told
    assert "failed: no text" in told
    assert "1 of 2 inside what was foreseen; 1 failed" in told
    assert tell("r", as_json=True)
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [run["inside"] for run in answer["runs"]] == [True, None, False]
    (found.folder / FILES[0]).write_text(frontier_of(run_of("1m", 60, None)).model_dump_json())
    assert not tell("r", as_json=True)


def test_pictures_of_much_and_of_nothing(tmp_path: Path) -> None:
    ahead = frontier_of().forecast
    runs = [run_of("1m", 60, 2.05), run_of("2m", 120, None), run_of("4m", 240, 1.5, foreseen=None)]
    failed = [run_of("1m", 60, None, foreseen=None)]
    seeds = [*runs, runs[0].model_copy(update={"seed": 1, "bits": 2.1})]
    drawn = {
        draw_frontier(those, band, UNIT, tmp_path / "frontier.png").read_bytes()
        for those, band in ((runs, ahead), (runs, {}), (seeds, ahead), (failed, {}))
    }
    assert len(drawn) == 4
    worth = described("optimizer", 2.0).model_copy(update={"worth": 0.1, "low": 0.0, "high": 0.2})
    many = [worth, described("failed", None), worth.model_copy(update={"low": None, "high": None})]
    heights = [
        imread(draw_effects(effects, UNIT, tmp_path / "effects.png")).shape[0]
        for effects in (many, [worth], [])
    ]
    assert heights[0] > heights[1] == heights[2]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_budget_is_a_run_of_its_own_whose_plan_spoke_first(
    corpus_files: Path, fresh_home: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(home.STARTED_VARIABLE, raising=False)
    try:
        state = compare_budgets(
            budgets=("90s", "60s"),
            source=Files(paths=(str(corpus_files),)),
            model=Scratch(depth=1),
            search=Search(share=0),
            validation=Validation(test_share=0.1, validation_share=0.1, folds=0),
            return_state=True,
        )
    finally:
        stop_ray()
    found = state.result()
    assert isinstance(found, Frontier)
    assert [one.budget for one in found.runs] == ["60s", "90s"]
    client = tracking.client()
    for one in found.runs:
        assert not one.failure
        assert one.low is not None and one.bits is not None and one.high is not None
        assert one.low < one.bits < one.high
        assert one.seconds < 1.1 * one.amount
        folder = home.run_folder(one.run_id)
        plan = Plan.model_validate_json((folder / "plan.json").read_text())
        assert one.foreseen == plan.forecasts["this budget"]
        assert (folder / "plan.json").stat().st_mtime < (folder / "trained.json").stat().st_mtime
        run = client.get_run(str(one.mlflow_run_id))
        assert run.data.tags[tracking.PARENT_TAG] == found.mlflow_run_id
    assert "no earlier run" in found.runs[0].basis and "1 earlier run" in found.runs[1].basis
    assert sorted(found.forecast) == [60.0, 120.0, 240.0]
    parent = client.get_run(str(found.mlflow_run_id))
    assert parent.info.status == "FINISHED"
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} == set(FILES)
