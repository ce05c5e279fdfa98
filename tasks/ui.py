"""The pages: Prefect's and MLflow's, with a worker that carries out what is started there."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from tasks import home, tracking
from tasks.alive import LOOK_SECONDS, Watch
from tasks.artifacts import InputError
from tasks.exposure import LOGIN_VARIABLE, Exposure
from tasks.processes import LOOPBACK, ROOT, STOP_SECONDS, Process, bound_socket, last_words, log_file, spawn
from tasks.secrets import without_secrets
from tasks.server import EVERYBODY, START_SECONDS, PrefectServer, answers, start_prefect_server

PREFECT_PORT, MLFLOW_PORT = 4200, 5000  # their own defaults; another is taken where they are in use
POOL, CLUSTER_POOL = "shoestring", "shoestring-cluster"  # of this machine, and of a Ray cluster
DEPLOYMENTS = Path("deployments") / "prefect.yaml"
DEPLOY_SECONDS = 120.0
WORKER_QUERY_SECONDS = "2"  # a run starts after 8 s, not 16
WATCH_SECONDS = 0.5
END_SECONDS = 20.0  # for a training that is interrupted to write down where it stands

console = Console()


@dataclass(frozen=True)
class Child:
    """A process that `ui` started and will stop."""

    name: str
    process: Process


def run_ui(
    prefect_port: int | None = None, mlflow_port: int | None = None, exposure: Exposure | None = None
) -> None:
    """Opens the pages and stays until ctrl-c, `stop_ui`, or the end of the Prefect server.

    Stops what it started and nothing else: a `shoestring run` that uses the server meanwhile keeps
    it. Raises InputError where a wanted port is taken, or where a part does not come up.
    """
    home.use_home()
    if exposure is not None:
        exposure.check_pages()
    if _running() is not None:
        raise InputError(
            f"`shoestring ui` is open in this home already ({home.home()}): `shoestring ui --stop` closes it"
        )
    _stop_leftovers()
    page = _mlflow_page(mlflow_port, exposure)
    children: list[Child] = []
    with ExitStack() as stack:
        interrupted = stack.enter_context(_interruption())
        server = stack.enter_context(start_prefect_server(prefect_port, PREFECT_PORT, exposure))
        stack.callback(_state().unlink, missing_ok=True)
        stack.callback(_stop, children)
        console.print("[dim]Opening the pages; the first time takes half a minute.[/]")
        if page is not None:
            tracking.prepare()
            # Not in the command, which every user of the machine may read.
            settings = {"MLFLOW_BACKEND_STORE_URI": tracking.tracking_uri()}
            settings |= exposure.for_mlflow() if exposure else {}
            _add(children, "mlflow", _mlflow_command(page, exposure), settings)
        server.wait()
        deploy()
        worker = [*_prefect(), "worker", "start", "--pool", POOL, "--type", "process"]
        _add(children, "worker", worker, {"PREFECT_WORKER_QUERY_SECONDS": WORKER_QUERY_SECONDS})
        _wait_until_up(page, children, interrupted)
        if not interrupted.is_set():
            console.print(_panel(server, page or without_secrets(tracking.tracking_uri()), exposure))
            _watch(server, children, interrupted)
        console.print("[dim]Stopping.[/]")


def stop_ui() -> bool:
    """Stops this home's `shoestring ui`, from another terminal; False where none runs."""
    ui = _running()
    if ui is not None:
        ui.stop(END_SECONDS + 3 * STOP_SECONDS)
    return _stop_leftovers() or ui is not None


def deploy() -> None:
    """Makes the work pools and applies all deployments of `deployments/prefect.yaml`.

    A pool, not the file, holds the folder of the code, which differs between machines; it takes
    one run at a time, so that two trainings never fight for the cores.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    template["variables"]["properties"]["working_dir"]["default"] = str(ROOT)
    with get_client(sync_client=True) as client:
        for name in (POOL, CLUSTER_POOL):
            try:
                client.read_work_pool(name)
                client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))
            except ObjectNotFound:
                pool = WorkPoolCreate(
                    name=name, type="process", base_job_template=template, concurrency_limit=1
                )
                client.create_work_pool(pool)
    command = [*_prefect(), "--no-prompt", "deploy", "--all", "--prefect-file", str(DEPLOYMENTS)]
    with log_file("deploy").open("wb") as log:
        code = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, timeout=DEPLOY_SECONDS).returncode
    if code != 0:
        raise InputError(f"{DEPLOYMENTS} could not be applied; the reason is in {log_file('deploy')}")


def _prefect() -> list[str]:
    return [sys.executable, "-m", "prefect"]


def _mlflow_page(port: int | None, exposure: Exposure | None) -> str | None:
    """The address that the MLflow page will have here; None where a tracking server serves one already."""
    if tracking.tracking_uri().startswith(("http://", "https://")):
        return None
    host = exposure.host if exposure else LOOPBACK
    with bound_socket(port, "--mlflow-port", MLFLOW_PORT, host) as listening:
        return f"http://{LOOPBACK if host == EVERYBODY else host}:{listening.getsockname()[1]}"


def _mlflow_command(page: str, exposure: Exposure | None) -> list[str]:
    files = str(tracking.artifact_location())
    # Names that the page is called by are whatever the network calls this machine; the login stands before all.
    guarded = ["--app-name", "basic-auth", "--allowed-hosts", "*"] if exposure else []
    host = exposure.host if exposure else LOOPBACK
    return [
        *(sys.executable, "-m", "mlflow", "server", *guarded),
        *("--default-artifact-root", files, "--artifacts-destination", files),
        *("--host", host, "--port", page.rsplit(":", 1)[1], "--workers", "1"),
    ]


def _add(
    children: list[Child], name: str, command: list[str], settings: dict[str, str] | None = None
) -> None:
    """Starts a child, and writes down that it is ours before anything else can fail."""
    children.append(Child(name, spawn(command, name, settings or {})))
    state = {"ui": vars(Process.of(os.getpid())), "children": {c.name: vars(c.process) for c in children}}
    _state().write_text(json.dumps(state))


def _wait_until_up(page: str | None, children: list[Child], interrupted: threading.Event) -> None:
    """Until the MLflow page and the worker answer."""
    deadline = time.monotonic() + START_SECONDS
    while not interrupted.is_set():
        dead = next((child for child in children if not child.process.alive()), None)
        if dead or time.monotonic() > deadline:
            name = dead.name if dead else "ui"
            raise InputError(
                f"{name} did not start: {last_words(log_file(name))}\nIts log is {log_file(name)}"
            )
        if (page is None or answers(page, 1)) and _worker_is_online():
            return
        interrupted.wait(WATCH_SECONDS)


def _worker_is_online() -> bool:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return client.read_work_pool(POOL).status == "READY"


def _watch(server: PrefectServer, children: list[Child], interrupted: threading.Event) -> None:
    """Waits for the end, and says who has gone before it."""
    watched, runs, looked = list(children), Watch(server.url), 0.0
    while not interrupted.wait(WATCH_SECONDS):
        if (
            server.process is None and time.monotonic() > looked + LOOK_SECONDS
        ):  # the home's server looks itself
            runs.look_safely()
            looked = time.monotonic()
        for child in [c for c in watched if not c.process.alive()]:
            watched.remove(child)
            log = log_file(child.name)
            console.print(
                f"[red]✗ {child.name} has ended[/] ({last_words(log)}); its log is {log}", soft_wrap=True
            )
        if server.problem is not None:
            log = log_file("prefect-server")
            console.print(f"[red]✗ the Prefect server has ended[/] ({server.problem}); its log is {log}")
            raise SystemExit(1)


def _panel(server: PrefectServer, mlflow: str, exposure: Exposure | None) -> Panel:
    table = Table.grid(padding=(0, 2))
    table.add_row("Prefect", f"[link={server.page}]{server.page}[/]", "start and follow runs")
    table.add_row("MLflow", f"[link={mlflow}]{mlflow}[/]", "compare runs, trials and models")
    table.add_row("Worker", f"pool {POOL}", "carries out what the Prefect page starts")
    table.add_row("Logs", str(home.home() / "logs"))
    if exposure:
        table.add_row("Open to", exposure.host, f"with the login in {LOGIN_VARIABLE}, over http as it is")
    return Panel(table, title="shoestring", subtitle="ctrl-c closes", expand=False)


def _stop(children: list[Child]) -> None:
    """Stops children in turn; a worker's trainings first, while the worker can still report them."""
    for child in reversed(children):
        with suppress(psutil.NoSuchProcess):
            if child.process.alive():
                trainings = psutil.Process(child.process.pid).children() if child.name == "worker" else []
                for training in trainings:
                    training.terminate()
                psutil.wait_procs(trainings, END_SECONDS)
        child.process.stop()


def _state() -> Path:
    return home.home() / "ui.json"


def _running() -> Process | None:
    """The home's living `shoestring ui`."""
    with suppress(FileNotFoundError, ValueError):
        ui = Process(**json.loads(_state().read_text())["ui"])
        return ui if ui.alive() else None
    return None


def _stop_leftovers() -> bool:
    """Stops what a `ui` that was killed has left behind; whether there was any."""
    with suppress(FileNotFoundError, ValueError):
        left = json.loads(_state().read_text())["children"]
        children = [Child(name, Process(**process)) for name, process in left.items()]
        _stop(children)
        _state().unlink(missing_ok=True)
        return bool(children)
    return False


@contextmanager
def _interruption() -> Iterator[threading.Event]:
    """An event that is set by ctrl-c or SIGTERM, which end nothing by themselves meanwhile."""
    event = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        event.set()

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
