"""The search: short trials turn the settings, and what won twice is carried to the final run's size."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact

from tasks.artifacts import Tokens
from tasks.calibrate import at_depth
from tasks.home import run_folder
from tasks.planned import Plan
from tasks.run_page import in_a_run, show
from tasks.space import transferred
from tasks.store import once_a_run
from tasks.study import Search, front, importances, rows_of
from tasks.telemetry import stage
from tasks.trials import Searching
from tasks.workers import side_by_side, workers_of
from training.blueprint import Blueprint
from training.config import with_fields

LEAST_GAIN = 0.003  # of the score, relative; less is noise between seeds, and the defaults stay


def best_of(rows: list[dict[str, Any]]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The best whole trial, and the one with the defaults; None where there is none."""
    whole = [row for row in rows if row["state"] == "complete" and row["value"] is not None]
    best = min(whole, key=lambda row: float(row["value"]), default=None)
    return best, next((row for row in whole if row["number"] == 0), None)


def verdict(
    rows: list[dict[str, Any]], unit: str, confirm: Callable[[dict[str, Any]], float | None]
) -> tuple[dict[str, Any], float, str]:
    """The settings to take, their relative gain over the defaults, and a sentence; none where these are as good.

    What beats the defaults by more than noise must do so again, with another seed.
    """
    best, first = best_of(rows)
    if best is None:
        return {}, 0.0, f"{len(rows)} trials, none finished; the defaults stay"
    if first is None:
        return best["parameters"], 0.0, f"{len(rows)} trials, best {best['value']:.3f} {unit}"
    gain = 1 - best["value"] / first["value"]
    told = f"{len(rows)} trials, best {best['value']:.3f} {unit} against {first['value']:.3f} by the defaults"
    if best is first or gain < LEAST_GAIN:
        return {}, 0.0, f"{told}: the defaults were as good, and stay"
    again = confirm(best["parameters"])
    if again is not None and again >= 0:
        return {}, 0.0, f"{told}, but with another seed {again:+.1%}: the defaults stay"
    if again is not None:
        gain = (gain - again) / 2
    return best["parameters"], gain, f"{told}, a gain of {gain:.1%} over two seeds"


@task(
    name="Search settings",
    task_run_name="search settings",
    persist_result=True,
    result_serializer="json",
    cache_key_fn=once_a_run,
)
def search_blueprint(plan: Plan, tokens: Tokens, search: Search) -> Blueprint:
    """The plan's blueprint with the settings that did best in short trials, at the size that they point to."""
    folder = run_folder(plan.clock.run_id)
    with stage("Search settings") as shown:
        blueprint, shown.result = plan.blueprint, plan.reasons["search"]
        if plan.search_seconds > 0:
            searching = Searching(plan, tokens, search)
            lanes = workers_of(plan.compute).size
            for _ in side_by_side([partial(searching.work, shown.move)] * lanes, lanes):
                pass
            rows = searching.close()
            settings, gain, shown.result = verdict(rows, blueprint.objective.unit, searching.confirm)
            depth = int(settings.get("model.depth", 0)) or plan.depth_after(searching.points(rows))
            carried = transferred(settings, searching.base, depth)
            blueprint = at_depth(with_fields(plan.blueprint, carried), depth)
            if depth != plan.blueprint.model.settled_depth():
                shown.result += f"; depth {depth} by the trials' scaling curve"
            found = {
                "trials": rows,
                "gain": gain,
                "settings": {name: value for name, value in carried.items() if name != "model.depth"},
                "importances": rows_of(
                    importances(searching.study.get_trials(deepcopy=False), plan.blueprint.seed)
                ),
                "front": front_of(rows),
                "verdict": shown.result,
            }
            (folder / "search.json").write_text(json.dumps(found, indent=1))
            show_trials(found)
    (folder / "blueprint.json").write_text(blueprint.model_dump_json(indent=1))
    return blueprint


def front_of(rows: list[dict[str, Any]]) -> list[int]:
    """The numbers of the trials that no other beats in score and size or latency."""
    both = [row for row in rows if row["second"] is not None]
    return [both[number]["number"] for number in front([(row["value"], row["second"]) for row in both])]


def show_trials(found: dict[str, Any]) -> None:
    """Trials and importances as tables on the run's page."""
    if not in_a_run():
        return
    trials = [
        {name: row[name] for name in ("number", "state", "value", "second", "seconds")} | row["parameters"]
        for row in found["trials"]
    ]
    show(create_table_artifact, table=trials, key="trials", description=found["verdict"])
    if found["importances"]:
        show(
            create_table_artifact,
            table=found["importances"],
            key="importances",
            description="How much of the difference between trials hangs on each setting, with 90 % intervals",
        )
