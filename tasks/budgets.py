"""One run for each of several budgets: in which order, what came of it, and what its plan had foreseen."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import prefect.runtime
from prefect.client.schemas.objects import State
from pydantic import BaseModel, ConfigDict

from tasks import outbox, tracking
from tasks.artifacts import Report
from tasks.home import run_folder
from tasks.outbox import Courier, Letter
from tasks.planned import Plan
from tasks.ray_session import stop_ray
from tasks.telemetry import forget_stages, link_runs, stage
from tasks.tracking import KIND_TAG
from tasks.workers import release_workers
from training.budget import parse_budget
from training.law import Forecast

BEGINNING = "Flow run encountered an exception: "  # how Prefect begins to say why a flow failed


class Measured(BaseModel):
    """One run: what its plan foresaw before it trained, and what its test showed; None where it failed before."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    budget: str
    amount: float  # of it, in its unit
    seed: int
    run_id: str
    mlflow_run_id: str | None = None
    foreseen: Forecast | None = None  # with its 90 % interval
    basis: str = ""  # of that
    bits: float | None = None  # of the test
    low: float | None = None
    high: float | None = None  # 95 % over documents
    depth: int | None = None
    tokens: int | None = None  # trained on
    seconds: float  # from start to end
    failure: str = ""

    @property
    def inside(self) -> bool | None:
        """Whether the test score lies in the foreseen interval."""
        if self.foreseen is None or self.bits is None:
            return None
        return self.foreseen.low <= self.bits <= self.foreseen.high


def in_order(budgets: Sequence[str], seed: int, seeds: int) -> Iterator[tuple[str, int]]:
    """Every budget with every seed: the smallest first, so that later plans know what earlier runs showed."""
    for budget in sorted(budgets, key=lambda budget: parse_budget(budget).value):
        for number in range(seed, seed + seeds):
            yield budget, number


def open_parent() -> None:
    """Has MLflow hear of this flow run, which the runs that it measures will lie below."""
    run_id, name = str(prefect.runtime.flow_run.id), str(prefect.runtime.flow_run.name)
    tags = {KIND_TAG: str(prefect.runtime.flow_run.flow_name)}
    outbox.post(Letter(run_id=run_id, run_name=name, tags=tags, started=time.time()))
    if place := Courier.of(run_id).place():
        link_runs(*place)


def measure(budget: str, seed: int, train: Callable[..., Any]) -> Measured:
    """Runs `train`, a flow, and reads what it foresaw and what it measured; a failure is told, not raised."""
    forget_stages()
    began = time.time()
    with stage(f"A budget of {budget}, seed {seed}") as shown:
        state = train(return_state=True)
        found = read_run(budget, seed, state, time.time() - began)
        shown.result = describe(found)
        if found.failure:  # whatever it left running would take the next one's cores
            release_workers()
            stop_ray()
        elif (place := Courier.of(str(prefect.runtime.flow_run.id)).place()) and found.mlflow_run_id:
            tracking.client().set_tag(found.mlflow_run_id, tracking.PARENT_TAG, place[1])
    return found


def read_run(budget: str, seed: int, state: State[Any], seconds: float) -> Measured:
    """What a run's folder holds, as far as it came."""
    run_id = str(state.state_details.flow_run_id)
    folder = run_folder(run_id)
    found = Measured(
        budget=budget, amount=parse_budget(budget).value, seed=seed, run_id=run_id, seconds=seconds
    )
    known: dict[str, Any] = {}
    if (folder / "plan.json").exists():
        plan = Plan.model_validate_json((folder / "plan.json").read_text())
        known |= {"foreseen": plan.forecasts["this budget"], "basis": plan.basis}
    if not state.is_completed():
        known["failure"] = (state.message or state.name or "failed").removeprefix(BEGINNING)
        return found.model_copy(update=known)
    report = Report.model_validate_json((folder / "report.json").read_text())
    blueprint = json.loads((folder / "blueprint.json").read_text())
    return found.model_copy(
        update={
            **known,
            "bits": report.bits,
            "low": report.low,
            "high": report.high,
            "mlflow_run_id": json.loads((folder / "registered.json").read_text())["mlflow_run_id"],
            "depth": blueprint["model"].get("depth"),
            "tokens": json.loads((folder / "trained.json").read_text())["tokens_trained"],
        }
    )


def describe(found: Measured) -> str:
    """One line of a run."""
    if found.bits is None:
        return f"failed: {found.failure.splitlines()[0]}"
    told = f"{found.bits:.3f} ({found.low:.3f} to {found.high:.3f})"
    if found.foreseen is None:
        return told
    where = "inside" if found.inside else "outside"
    return f"{told}, {where} the {found.foreseen.low:.3f} to {found.foreseen.high:.3f} foreseen"
