"""A run from the command line: checks at the door, servers and workers up, and the flow."""

import json
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any
from uuid import UUID

from tasks import home
from tasks.alive import REGISTERED_MEANWHILE, hold
from tasks.artifacts import InputError
from tasks.recipe import TOGETHER, check_files, check_parameters, check_together, load_recipe
from tasks.server import forget_unsent, start_prefect_server
from training.budget import parse_budget
from training.imports import uncollected

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun

SMALLEST_DISK_BYTES = 500e6
SAVING_SECONDS = 10.0  # for last checkpoints, when the user ends the run
RESUMABLE = "train-best-model"  # the flow that goes on where it was stopped


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
    check_files(sections)
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
    """Runs the flow here, drawn on the terminal; the flow run's id. For one that surely `trains`, Ray starts beside it.

    Raises InputError for what the user can mend, KeyboardInterrupt when told to stop, and whatever
    the flow fails with.
    """
    home.quiet()
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell's job in the background ignores the latter
        signal.signal(number, _interrupt)
    interrupted = find_run(resume) if resume else None
    if interrupted and not hold(interrupted):
        raise InputError(f"run {interrupted[:8]} is still running: stop it first, or let it come to its end")
    with _ray_beside() if trains else _ray_ended(), start_prefect_server() as server:
        with uncollected():
            if trains:
                _start_workers(request if request is not None else _planned(str(interrupted)))
            flow = load_flow()  # imports all the rest, while servers and workers start
            from tasks.terminal import StageLines
            from tasks.workers import save_all

        if request is not None:
            parameters = check_parameters(flow.fn, request)
            if TOGETHER[0] in parameters:
                check_together(*(parameters[name] for name in TOGETHER))
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


@contextmanager
def _ray_beside() -> Iterator[None]:
    """Ray starts in the background, and is gone at the end."""
    from tasks.ray_session import WHEN_STARTED, import_ahead, stop_ray

    import_ahead(WHEN_STARTED)
    threading.Thread(target=_try_ray, name="ray-start", daemon=True).start()
    try:
        yield
    finally:
        stop_ray()


@contextmanager
def _ray_ended() -> Iterator[None]:
    """Ray, where the flow came to need it, is gone at the end."""
    try:
        yield
    finally:
        if session := sys.modules.get("tasks.ray_session"):
            session.stop_ray()


def _try_ray() -> None:
    """Ray is up; where it cannot start, who needs it meets that again, and says so."""
    from tasks.ray_session import start_ray

    with suppress(Exception):
        start_ray()


def _start_workers(request: dict[str, Any] | None) -> None:
    """Has the workers start up in the background; a request that asks for other machines is refused later on."""
    from tasks.cluster import Compute

    _try_ray()  # which then is through with its imports, before parts of Ray are imported here
    from tasks.workers import workers_of

    if request is not None:
        with suppress(ValueError):
            workers_of(Compute.model_validate(request.get("compute", {})))


def _planned(interrupted: str) -> dict[str, Any] | None:
    """The plan of an interrupted run, if it had come so far."""
    path = home.run_folder(interrupted) / "plan.json"
    plan: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return plan


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
    """Runs the flow. Where Prefect's server is gone at its end and the model registered, that is said, no more."""
    import httpx
    from prefect.flow_engine import run_flow

    try:
        state = run_flow(flow, flow_run=run, parameters=parameters, return_type="state")
        state.result(raise_on_failure=True)  # type: ignore[union-attr]
    except httpx.TransportError as problem:
        if not (home.run_folder(str(run.id)) / "registered.json").exists():
            raise
        _make_known(run.id, problem)


def _make_known(run_id: UUID, problem: Exception) -> None:
    """Tells a Prefect server that comes back soon that the run has ended well; else says that it does not know."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.states import Completed

    try:
        with get_client(sync_client=True) as client:  # which tries for some seconds, as the engine did before
            client.set_flow_run_state(run_id, Completed(message=REGISTERED_MEANWHILE), force=True)
    except httpx.TransportError:
        print(
            f"the Prefect server is gone ({problem}) and does not know that the run has ended",
            file=sys.stderr,
        )
        forget_unsent()


def _mark_cancelled(run_id: UUID) -> None:
    """Says in Prefect and MLflow that a person ended this run."""
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelled

    from tasks.outbox import finish

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run_id, Cancelled(message="stopped by the user"), force=True)
    finish(str(run_id), "KILLED")
