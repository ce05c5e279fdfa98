"""The curve of test score against budget, with what the plans had foreseen of it."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import prefect.runtime
from prefect import task
from prefect.artifacts import create_markdown_artifact

from tasks import outbox
from tasks.artifacts import Record
from tasks.budgets import Measured
from tasks.comparison_plots import draw_frontier, picture
from tasks.home import run_folder
from tasks.outbox import Courier
from tasks.planned import Plan
from tasks.run_page import in_a_run, show
from tasks.store import content_key
from tasks.telemetry import stage
from training.budget import Unit, parse_budget
from training.law import Forecast

TIMES = {"this budget": 1.0, "twice": 2.0, "four times": 4.0}  # what a plan's forecasts are of
FILES = ("frontier.json", "frontier.png")  # in the run folder


class Frontier(Record):
    """Test scores against budgets, and what was foreseen of them."""

    kind: ClassVar[str] = "frontier"
    stage: ClassVar[str] = "Compare budgets"
    run_id: str
    mlflow_run_id: str | None
    unit: str  # of scores
    amounts: Unit  # of budgets
    started: float  # Unix time
    runs: tuple[Measured, ...]  # in the order in which they ran
    forecast: dict[float, Forecast]  # amount -> score, all foreseen by the first run's plan

    @property
    def folder(self) -> Path:
        """The run folder, with `frontier.json` and `frontier.png`."""
        return run_folder(self.run_id)

    def rows(self) -> list[dict[str, Any]]:
        """A line for each run."""
        return [
            {
                "budget": one.budget,
                "seed": one.seed,
                "foreseen": one.foreseen.bits if one.foreseen else None,
                "foreseen low": one.foreseen.low if one.foreseen else None,
                "foreseen high": one.foreseen.high if one.foreseen else None,
                "measured": one.bits,
                "low": one.low,
                "high": one.high,
                "inside": one.inside,
                "depth": one.depth,
                "tokens": one.tokens,
                "seconds": round(one.seconds, 1),
                "failure": one.failure,
            }
            for one in self.runs
        ]

    def sentence(self) -> str:
        """From which score to which, how many were foreseen, and how many failed."""
        scored = [one for one in self.runs if one.bits is not None]
        failed = len(self.runs) - len(scored)
        if not scored:
            return f"all {failed} runs failed"
        first, last = scored[0], scored[-1]
        told = f"{first.bits:.3f} {self.unit} with {first.budget}"
        if len(scored) > 1:
            told += f", {last.bits:.3f} with {last.budget}"
        inside = sum(bool(one.inside) for one in scored)
        told += f"; {inside} of {len(scored)} inside what was foreseen"
        return told + f"; {failed} failed" * bool(failed)


def forecast_of(runs: Sequence[Measured]) -> dict[float, Forecast]:
    """What the first run's plan foresaw of its own budget, of twice and of four times as much."""
    for one in runs:
        path = run_folder(one.run_id) / "plan.json"
        if path.exists():
            foreseen = Plan.model_validate_json(path.read_text()).forecasts
            return {one.amount * times: foreseen[name] for name, times in TIMES.items()}
    return {}


@task(name=Frontier.stage, task_run_name="compare budgets")
def compare(runs: Sequence[Measured], unit: str, started: float) -> Frontier:
    """The curve, as a record, a plot and a table: in the run folder, in MLflow and on the run's page."""
    run_id = str(prefect.runtime.flow_run.id)
    place = Courier.of(run_id).place()
    with stage(Frontier.stage) as shown:
        found = Frontier(
            key=content_key(run_id),
            run_id=run_id,
            mlflow_run_id=place[1] if place else None,
            unit=unit,
            amounts=parse_budget(runs[0].budget).unit,
            started=started,
            runs=tuple(runs),
            forecast=forecast_of(runs),
        )
        found.folder.mkdir(parents=True, exist_ok=True)
        plot = draw_frontier(found.runs, found.forecast, unit, found.folder / FILES[1])
        outbox.add(run_id, {}, FILES)
        shown.result = found.sentence()
        if in_a_run():
            text = f"**{found.sentence()}**\n\n{picture(plot)}"
            show(create_markdown_artifact, text, key=f"frontier-{found.key}", description=found.sentence())
    return found


def tell(run_id: str, as_json: bool) -> bool:
    """Prints the curve, for a person or as the last line for a program; whether any budget came to its end."""
    found = Frontier.model_validate_json((run_folder(run_id) / FILES[0]).read_text())
    came = any(one.bits is not None for one in found.runs)
    if as_json:
        told = found.model_dump(mode="json", exclude={"key", "run_id", "started"})
        told["runs"] = [one.model_dump(mode="json") | {"inside": one.inside} for one in found.runs]
        elapsed = time.time() - found.started
        print(
            json.dumps(
                {"flow_run_id": run_id, **told, "elapsed_seconds": elapsed, "run_folder": str(found.folder)}
            )
        )
        return came
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(title=f"Test score against budget, {found.unit}", box=None)
    for name in ("budget", "seed", "foreseen", "90% interval", "measured", "95% over documents", ""):
        table.add_column(name, no_wrap=bool(name))
    for one in found.runs:
        table.add_row(*_cells(one))
    console.print(table)
    console.print(f"\n{found.sentence()}", soft_wrap=True)
    console.print(f"  plot    {found.folder / FILES[1]}", soft_wrap=True)
    console.print(f"  MLflow  {found.mlflow_run_id or 'was away; it hears of it later'}", soft_wrap=True)
    return came


def _cells(one: Measured) -> list[str]:
    foreseen = one.foreseen
    return [
        one.budget,
        str(one.seed),
        f"{foreseen.bits:.3f}" if foreseen else "",
        f"{foreseen.low:.3f} to {foreseen.high:.3f}" if foreseen else "",
        "" if one.bits is None else f"{one.bits:.3f}",
        "" if one.bits is None else f"{one.low:.3f} to {one.high:.3f}",
        {True: "inside", False: "outside", None: f"failed: {one.failure}"}[one.inside],
    ]
