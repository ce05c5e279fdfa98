"""A run from the command line: checks at the door, servers up, the flow, and what came of it."""

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any
from uuid import UUID

from tasks import home
from tasks.artifacts import InputError
from tasks.heads import USES
from tasks.recipe import TOGETHER, check_parameters, check_together, load_recipe
from tasks.server import start_prefect_server
from training.budget import parse_budget
from training.journal import read_journal

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun

SMALLEST_DISK_BYTES = 500e6
SAVING_SECONDS = 10.0  # for last checkpoints, when the user ends the run
RESUMABLE = "train-best-model"  # the flow that goes on where it was stopped
QUIET = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}  # the terminal has lines of its own


def read_request(
    recipe: str, budget: str | None, seed: int | None, settings: Sequence[str]
) -> dict[str, Any]:
    """The recipe with what the command line changes; cheap checks only, before anything is imported."""
    sections = load_recipe(recipe, settings)
    if budget is not None:
        sections["budget"] = budget
    if seed is not None:
        sections["seed"] = seed
    try:
        parse_budget(str(sections.get("budget", "5m")))
    except ValueError as problem:
        raise InputError(str(problem)) from None
    free = shutil.disk_usage(home.home()).free
    if free < SMALLEST_DISK_BYTES:
        raise InputError(
            f"{home.home()} has {free / 1e6:.0f} MB left, a run wants {SMALLEST_DISK_BYTES / 1e6:.0f} MB: "
            "free space, run `shoestring prune`, or name another folder with --home"
        )
    return sections


def execute(
    load_flow: "Callable[[], Flow[..., Any]]",
    request: dict[str, Any] | None,
    resume: str | None,
    trains: bool = True,
) -> str:
    """Runs the flow here, drawn on the terminal; the flow run's id. For one that `trains`, Ray starts beside it.

    Raises InputError for what the user can mend, KeyboardInterrupt when told to stop, and whatever
    the flow fails with.
    """
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    signal.signal(signal.SIGTERM, _interrupt)
    interrupted = find_run(resume) if resume else None
    if not trains:
        return _execute(load_flow, request, interrupted)
    from tasks.ray_session import start_ray, stop_ray

    def start() -> None:
        with suppress(Exception):  # who needs Ray meets it again, and says so
            start_ray()

    threading.Thread(target=start, name="ray-start", daemon=True).start()
    try:
        return _execute(load_flow, request, interrupted)
    finally:
        stop_ray()


def _execute(
    load_flow: "Callable[[], Flow[..., Any]]", request: dict[str, Any] | None, interrupted: str | None
) -> str:
    with start_prefect_server() as server:
        flow = load_flow()  # imports torch and all that, while the servers start
        from tasks.terminal import StageLines
        from tasks.workers import save_all, workers_of

        if request is not None:
            parameters = check_parameters(flow.fn, request)
            if TOGETHER[0] in parameters:
                check_together(*(parameters[name] for name in TOGETHER))
                workers_of(parameters["compute"])  # they start up while the server does
            server.wait()
            run = _new_run(flow, parameters)
        else:
            server.wait()
            run = _back_in_line(str(interrupted))
            parameters = check_parameters(flow.fn, run.parameters)
        try:
            with StageLines() as lines:
                lines.say(
                    f"Run {run.name} ({run.id}), in Prefect at {server.page}/runs/flow-run/{run.id} while it lasts"
                )
                _carry_out(flow, run, parameters)
            return str(run.id)
        except KeyboardInterrupt:
            save_all(SAVING_SECONDS)
            _mark_cancelled(run.id)
            how = f"; `shoestring run --resume {str(run.id)[:8]}` goes on with this run"
            print("\nstopped" + how * (flow.name == RESUMABLE), file=sys.stderr)
            sys.exit(130)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _new_run(flow: "Flow[..., Any]", parameters: dict[str, Any]) -> "FlowRun":
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return client.create_flow_run(
            flow,
            name=str(flow.flow_run_name).format(**parameters),
            parameters=flow.serialize_parameters(parameters),
        )


def find_run(reference: str) -> str:
    """The id of the run to go on with. Raises InputError where there is none, or it had finished."""
    runs = home.home() / "runs"
    known = sorted(runs.glob("*/clock.json"), key=lambda path: path.stat().st_mtime)
    names = [path.parent.name for path in known if _resumable(path)]
    matching = names[-1:] if reference == "last" else [name for name in names if name.startswith(reference)]
    if len(matching) != 1:
        there = ", ".join(name[:8] for name in names[-5:]) or "none"
        raise InputError(f"there is no one run {reference!r} in {runs}; the latest are {there}")
    if (runs / matching[0] / "registered.json").exists():
        raise InputError(f"run {matching[0]} is finished: there is nothing to go on with")
    return matching[0]


def _resumable(clock: Path) -> bool:
    return bool(json.loads(clock.read_text()).get("flow", RESUMABLE) == RESUMABLE)


def _back_in_line(run_id: str) -> "FlowRun":
    """The interrupted run, which Prefect may start again. Raises InputError where Prefect does not know it."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.states import AwaitingRetry

    with get_client(sync_client=True) as client:
        try:
            client.set_flow_run_state(UUID(run_id), AwaitingRetry(), force=True)
            return client.read_flow_run(UUID(run_id))
        except ObjectNotFound:
            raise InputError(f"run {run_id} is not known to the Prefect server of this home") from None


def _carry_out(flow: "Flow[..., Any]", run: "FlowRun", parameters: dict[str, Any]) -> None:
    from prefect.flow_engine import run_flow

    state = run_flow(flow, flow_run=run, parameters=parameters, return_type="state")
    state.result(raise_on_failure=True)  # type: ignore[union-attr]


def _mark_cancelled(run_id: UUID) -> None:
    """Says in Prefect and MLflow that a person ended this run."""
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelled

    from tasks.outbox import finish

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run_id, Cancelled(message="stopped from the keyboard"), force=True)
    finish(str(run_id), "KILLED")


def summary(run_id: str) -> dict[str, Any]:
    """What came of a finished run, as one JSON object; intervals are the 95 % ones over documents.

    `metric` with `value` and `interval` is the number that decides, in bits per `unit`; `metrics`
    holds the others as value, low, high, and `baseline` what a classifier must beat.
    """
    folder = home.run_folder(run_id)
    plan, trained, report, registered = (
        json.loads(path.read_text()) if (path := folder / f"{kind}.json").exists() else {}
        for kind in ("plan", "trained", "report", "registered")
    )
    state = json.loads((folder / "clock.json").read_text())
    return {
        "flow_run_id": run_id,
        "mlflow_run_id": registered["mlflow_run_id"],
        "model_name": registered["model_name"],
        "model_version": registered["version"],
        "aliases": registered["aliases"],
        "objective": trained["objective"],
        "head": report["head"],
        "metric": "test/bits",
        "unit": report["unit"],
        "value": report["bits"],
        "interval": [report["low"], report["high"]],
        "metrics": report["metrics"],
        "baseline": report["baseline"],
        "verdict": registered["verdict"],
        "folds": {"mean": report["folds"]["mean"], "scores": report["folds"]["scores"]},
        "budget": state["budget"],
        "foreseen": plan["forecasts"]["this budget"] if plan else None,
        "elapsed_seconds": state["used_seconds"] + time.time() - (folder / "clock.json").stat().st_mtime
        if state["pid"] == os.getpid()
        else state["used_seconds"],
        "training_seconds": training_seconds(folder, int(plan.get("workers", 1))),
        "stage_seconds": json.loads(stages.read_text())
        if (stages := folder / "stages.json").exists()
        else {},
        "tokens_per_second": {
            "foreseen": plan.get("tokens_per_second"),
            "measured": trained["tokens_trained"] / max(1e-9, trained["training_seconds"]),
        },
        "tokens_trained": trained["tokens_trained"],
        "parameters": trained["parameters"],
        "run_folder": str(folder),
    }


def training_seconds(folder: Path, workers: int) -> float:
    """Core-seconds inside optimizer steps of trials, folds and final run, divided by the workers' cores."""

    def spent(journal: Path) -> float:
        steps = [event["training_seconds"] for event in read_journal(journal) if event["event"] == "step"]
        return float(max(steps, default=0.0))

    alone = [*folder.glob("trials/*/journal.jsonl"), *folder.glob("folds/*/journal.jsonl")]
    return sum(map(spent, alone)) / workers + spent(folder / "final" / "journal.jsonl")


def _myself() -> str:
    """How this user calls the command."""
    if shutil.which("shoestring"):
        return "shoestring"
    beside = Path(sys.executable).with_name("shoestring")
    return os.path.relpath(beside) if beside.exists() else "python -m flows"


def print_plan(run_id: str, as_json: bool) -> None:
    """Prints what a run would do, with the reasons."""
    from rich.console import Console
    from rich.table import Table

    from tasks.planned import Plan

    plan = Plan.model_validate_json((home.run_folder(run_id) / "plan.json").read_text())
    if as_json:
        print(plan.model_dump_json())
        return
    table = Table(
        "what",
        "value",
        "90 % interval",
        "reason",
        title=f"What a budget of {plan.clock.budget} would buy here",
    )
    for row in plan.rows():
        table.add_row(*row.values())
    Console().print(table)


def tell(found: dict[str, Any], as_json: bool) -> None:
    """Prints what came of a run: for a person, or as the last line for a program."""
    if as_json:
        print(json.dumps(found))
        return
    budget, used = parse_budget(found["budget"]), found["elapsed_seconds"]
    of = f"of {budget.value:.0f} " if budget.unit == "seconds" else ""
    share = found["training_seconds"] / (budget.value if of else used)
    foreseen, low, high = found["foreseen"] or (None, None, None)
    lines = [
        "",
        f"{found['model_name']} version {found['model_version']}: {found['verdict']}",
        *scores(found),
        f"  model     {found['parameters']:,} parameters, {found['tokens_trained']:,} tokens trained",
        *([f"  foreseen  {foreseen:.3f} (90 %: {low:.3f} to {high:.3f})"] if foreseen else []),
        f"  time      {used:.0f} {of}s; {share:.0%} in training steps",
        f"  evidence  {found['run_folder']}/report",
        "",
        *next_commands(found),
    ]
    print("\n".join(lines), file=sys.stdout)


def scores(found: dict[str, Any]) -> list[str]:
    """The test's figures as lines: a classifier's accuracy and F1 before its bits."""
    low, high = found["interval"]
    bits = f"{found['value']:.4f} {USES[found['head']].unit}"
    if found["head"] != "classification":
        return [f"  test      {bits} (95 % over documents: {low:.4f} to {high:.4f})"]
    lines = []
    for name, words in (("accuracy", "accuracy"), ("macro_f1", "macro F1")):
        value, least, most = found["metrics"][name]
        lines.append(
            f"{words:<9} {value:.1%} (95 % over documents: {least:.1%} to {most:.1%}; "
            f"always saying {found['baseline']['label']!r}: {found['baseline'][name]:.1%})"
        )
    lines.append(f"{bits} ({low:.4f} to {high:.4f}; by the labels' shares: {found['baseline']['bits']:.4f})")
    return [f"  {'test' if number == 0 else '':<9} {line}" for number, line in enumerate(lines)]


def next_commands(found: dict[str, Any]) -> list[str]:
    """What a person would do next with such a model."""
    uses = {
        "causal": ("To see it write:", "generate 'def fibonacci('"),
        "masked": ("To see it fill a gap:", "predict 'for i in [MASK](10):'"),
        "classification": ("To have it label a text:", "predict 'def parse(text): ...'"),
    }
    why, command = uses[found["head"]]
    which = (
        "" if "champion" in found["aliases"] else f" --model {found['model_name']}/{found['model_version']}"
    )
    return [
        f"{why:<34} {_myself()} {command}{which}",
        f"{'To look at runs and compare them:':<34} {_myself()} ui",
    ]
