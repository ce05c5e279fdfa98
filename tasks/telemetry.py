"""What people see of a run: stages, progress and journals, on the terminal, in Prefect and in MLflow.

Journals are files; everyone here only reads them. MLflow is written from a thread of its own, in
batches, never again for a step that it has, so that an outage neither slows a training nor loses a point.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar
from uuid import UUID

import prefect.runtime
from mlflow.entities import Metric
from prefect.artifacts import (
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import FlowRunContext, TaskRunContext

from tasks import tracking
from tasks.artifacts import Record
from tasks.home import run_folder
from tasks.tracking import MetricName
from training.journal import Event

log = logging.getLogger("shoestring")
log.setLevel(logging.INFO)
ARTIFACT_SECONDS = 3.0  # between two updates of a progress artifact
FLUSH_SECONDS = 2.0  # between two batches of metrics
BATCH = 1000  # MLflow's limit
MLFLOW_PORT = 5000

# A journal's fields, by event, under the names that they bear in MLflow.
METRICS: dict[str, dict[str, str]] = {
    "step": {
        "loss": MetricName.TRAIN_LOSS,
        "rate": MetricName.TRAIN_RATE,
        "gradient_norm": MetricName.TRAIN_GRADIENT_NORM,
        "tokens": MetricName.TRAIN_TOKENS,
        "training_seconds": MetricName.TRAIN_SECONDS,
        "tokens_per_second": MetricName.TRAIN_SPEED,
    },
    "validation": {"bits": MetricName.VALIDATION_BITS_PER_BYTE},
}


class Terminal(Protocol):
    """Draws stages for a person at a terminal; the command line installs one."""

    def begin(self, stage: str) -> None: ...
    def move(self, stage: str, share: float, detail: str) -> None: ...
    def end(self, stage: str, result: str, seconds: float) -> None: ...


_terminal: Terminal | None = None
_ran: set[str] = set()  # stages that ran in this process


def draw_on(terminal: Terminal | None) -> None:
    """Has stages drawn on `terminal` too; None ends that."""
    global _terminal
    _terminal = terminal


class Stage:
    """A stage under way: `move` its bar, and say what came of it in `result`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.result = ""
        self._artifact: UUID | None = None
        self._drawn = time.monotonic()

    def move(self, share: float, detail: str = "") -> None:
        """Shows progress in [0, 1], at once on the terminal, every few seconds in Prefect."""
        if _terminal:
            _terminal.move(self.name, min(1.0, share), detail)
        if time.monotonic() - self._drawn > ARTIFACT_SECONDS and in_a_run():
            self._drawn = time.monotonic()
            percent = round(100 * min(1.0, share), 1)
            if self._artifact is None:
                made = create_progress_artifact(progress=percent, description=self.name)
                self._artifact = made if isinstance(made, UUID) else None
            else:
                update_progress_artifact(
                    self._artifact, progress=percent, description=f"{self.name} {detail}"
                )

    def __call__(self, share: float) -> None:
        self.move(share)


@contextmanager
def stage(name: str) -> Iterator[Stage]:
    """Announces a stage, its progress and its result, wherever people look."""
    started = time.monotonic()
    _ran.add(name)
    shown = Stage(name)
    if _terminal:
        _terminal.begin(name)
    yield shown
    seconds = time.monotonic() - started
    if _terminal:
        _terminal.end(name, shown.result, seconds)
    log.info("%s: %s (%.1f s)", name, shown.result, seconds)


def in_a_run() -> bool:
    """Whether there is a Prefect run that an artifact could belong to."""
    return FlowRunContext.get() is not None or TaskRunContext.get() is not None


R = TypeVar("R", bound=Record)


def publish(record: R) -> R:
    """Shows a record as a table on the run's page, also where its stage was cached, and passes it on."""
    kept = record.stage not in _ran
    if kept:
        with stage(record.stage) as shown:
            shown.result = "kept from earlier, as data and settings are the same"
    if in_a_run():
        folder = run_folder(str(prefect.runtime.flow_run.id))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{record.kind}.json").write_text(record.model_dump_json(indent=1))
        title = f"## {record.stage}" + (" (kept from earlier)" if kept else "")
        create_table_artifact(key=record.kind, table=record.rows(), description=title)
    return record


def link_runs(mlflow_run: str) -> None:
    """Links from the run's page in Prefect to its run in MLflow."""
    uri = tracking.tracking_uri()
    page = (
        uri if uri.startswith("http") else f"http://127.0.0.1:{MLFLOW_PORT}"
    )  # where `shoestring ui` puts it
    experiment = tracking.experiment_id(tracking.client())
    if in_a_run():
        create_link_artifact(
            link=f"{page}/#/experiments/{experiment}/runs/{mlflow_run}",
            link_text=f"MLflow run {mlflow_run}",
            key="mlflow-run",
            description="Parameters, curves, files and the model of this run",
        )


class Tail:
    """Reads what a journal has gained since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._inode = 0

    def new_events(self) -> list[Event]:
        """Whole lines only; a journal that was rewound is read on from its new end."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return []
        if found.st_ino != self._inode:
            self._inode, self._read = found.st_ino, min(self._read, found.st_size)
        with self._path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


class MetricsWriter:
    """Takes events to MLflow in the background; `close` waits for the last of them, but not for ever."""

    def __init__(self, client: Callable[[], Any]) -> None:
        self._client = client
        self._waiting: list[tuple[str, Metric]] = []
        self._written: dict[str, int] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow-metrics", daemon=True)
        self._thread.start()

    def write(self, run: str, event: Event) -> None:
        """Queues an event's figures; a step that was queued before, as a resumed run does it again, is left out."""
        seen = f"{run}/{event['event']}"
        if event["step"] <= self._written.get(seen, -1):
            return
        self._written[seen] = event["step"]
        names = METRICS.get(event["event"], {})
        points = [
            (run, Metric(name, float(event[field]), int(1000 * event["time"]), event["step"]))
            for field, name in names.items()
            if field in event
        ]
        with self._lock:
            self._waiting += points

    def close(self, seconds: float = 30.0) -> int:
        """Points that could not be written within `seconds`."""
        self._closing.set()
        self._thread.join(seconds)
        return len(self._waiting)

    def _work(self) -> None:
        while not (self._closing.is_set() and not self._waiting):
            self._closing.wait(FLUSH_SECONDS)
            try:
                self._flush()
            except Exception as problem:  # MLflow raises many kinds when away; every one means later
                log.debug("MLflow is away, points wait: %s", problem)
                time.sleep(FLUSH_SECONDS)

    def _flush(self) -> None:
        with self._lock:
            taken = list(self._waiting)
        by_run: dict[str, list[Metric]] = {}
        for run, metric in taken:
            by_run.setdefault(run, []).append(metric)
        for run, metrics in by_run.items():
            for at in range(0, len(metrics), BATCH):
                self._client().log_batch(run, metrics=metrics[at : at + BATCH], synchronous=True)
        with self._lock:
            self._waiting = self._waiting[len(taken) :]
