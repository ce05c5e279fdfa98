"""What people see of a run: stages, progress and journals, on the terminal, in Prefect and in MLflow.

Journals are files; everyone here only reads them. MLflow hears of them by way of `outbox.py`.
"""

import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar
from uuid import UUID

import prefect.runtime
from prefect.artifacts import (
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from tasks import tracking
from tasks.artifacts import InputError, Record
from tasks.home import run_folder
from tasks.run_page import in_a_run, show
from tasks.secrets import guard_logs, without_secrets
from tasks.tracking import MetricName
from training.journal import Event

log = logging.getLogger("shoestring")
log.setLevel(logging.INFO)
ARTIFACT_SECONDS = 3.0  # between two updates of a progress artifact
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
        "utilisation": MetricName.TRAIN_UTILISATION,
        "memory_gb": MetricName.TRAIN_MEMORY,
    },
    "validation": {
        "bits": MetricName.VALIDATION_BITS,
        "tokens": MetricName.TRAIN_TOKENS,
        "training_seconds": MetricName.TRAIN_SECONDS,
    },
}


class Terminal(Protocol):
    """Draws stages for a person at a terminal; the command line installs one."""

    def begin(self, stage: str) -> None: ...
    def move(self, stage: str, share: float, detail: str) -> None: ...
    def end(self, stage: str, result: str, seconds: float) -> None: ...


guard_logs()  # every process that runs a stage imports this
_terminal: Terminal | None = None
_ran: set[str] = set()  # stages that ran in this process
_deadline: float | None = None  # Unix time
PREPARING = (
    "Clean the corpus",
    "Split the corpus",
    "Tokenize the corpus",
    "Augment the corpus",
)  # no time of theirs can be cut
KNOWN_SHARE = 0.05  # of a stage, after which its time can be foreseen


def prepare_until(deadline: float) -> None:
    """Has a stage that prepares the data give up once it is clear that it would not be done by then."""
    global _deadline
    _deadline = deadline


def forget_stages() -> None:
    """Begins anew: of what earlier flows of this process did, the next one may find stages kept."""
    _ran.clear()


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
        self._began = time.time()

    def move(self, share: float, detail: str = "") -> None:
        """Shows progress in [0, 1], at once on the terminal, every few seconds in Prefect.

        Raises InputError where preparing the data takes more than the budget.
        """
        if _deadline is not None and self.name in PREPARING and share >= KNOWN_SHARE:
            self._refuse_late(share, _deadline)
        if _terminal:
            _terminal.move(self.name, min(1.0, share), detail)
        if time.monotonic() - self._drawn > ARTIFACT_SECONDS and in_a_run():
            self._drawn = time.monotonic()
            percent = round(100 * min(1.0, share), 1)
            if self._artifact is None:
                made = show(create_progress_artifact, progress=percent, description=self.name)
                self._artifact = made if isinstance(made, UUID) else None
            else:
                described = f"{self.name} {detail}"
                show(update_progress_artifact, self._artifact, progress=percent, description=described)

    def __call__(self, share: float) -> None:
        self.move(share)

    def _refuse_late(self, share: float, deadline: float) -> None:
        needed = (time.time() - self._began) / min(1.0, share)
        if self._began + needed > deadline:
            left = deadline - self._began
            raise InputError(
                f"{self.name.lower()} alone takes about {needed:.0f} s, and {left:.0f} s of the budget were left for"
                f" it: give at least {3 * needed - left:.0f} s more, or less text"
            )


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
    keep_seconds(name, seconds)


def keep_seconds(name: str, seconds: float) -> None:
    """Writes down how long a stage took, in `stages.json` of the run's folder."""
    if not in_a_run() or prefect.runtime.flow_run.id is None:
        return
    path = run_folder(str(prefect.runtime.flow_run.id)) / "stages.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**known, name: known.get(name, 0.0) + seconds}, indent=1))


R = TypeVar("R", bound=Record)


def publish(record: R, run_id: str | None = None) -> R:
    """Shows a record as a table on the run's page, also where its stage was cached, and passes it on.

    It is kept in the folder of this run, or of the run named.
    """
    kept = record.stage not in _ran
    if kept:
        with stage(record.stage) as shown:
            shown.result = "kept from earlier, as data and settings are the same"
    if in_a_run():
        folder = run_folder(run_id or str(prefect.runtime.flow_run.id))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{record.kind}.json").write_text(record.model_dump_json(indent=1))
        title = f"## {record.stage}" + (" (kept from earlier)" if kept else "")
        show(create_table_artifact, key=record.kind, table=record.rows(), description=title)
        if examples := record.examples():
            named = f"{record.kind}-examples"
            show(create_table_artifact, key=named, table=examples, description=f"{title}: examples")
        for file in record.files():
            (folder / "report").mkdir(exist_ok=True)
            shutil.copy(file, folder / "report" / file.name)
    return record


def link_runs(experiment: str, mlflow_run: str) -> None:
    """Links from the run's page in Prefect to its run in MLflow."""
    uri = without_secrets(tracking.tracking_uri())
    page = (
        uri if uri.startswith("http") else f"http://127.0.0.1:{MLFLOW_PORT}"
    )  # where `shoestring ui` puts it
    show(
        create_link_artifact,
        link=f"{page}/#/experiments/{experiment}/runs/{mlflow_run}",
        link_text=f"MLflow run {mlflow_run}",
        key="mlflow-run",
        description="Parameters, curves, files and the model of this run",
    )


class Tail:
    """Reads what a journal has gained since the last look.

    A resumed training rewinds its journal, perhaps twice between two looks: that shows as the last line
    that was read not being where it was. An inode would not tell, as its number is used again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._line = b""  # the last that was read
        self._last: dict[str, int] = {}  # kind of event -> its last step

    def new_events(self) -> list[Event]:
        """Whole lines only, each step once: what a rewound journal holds again is left out."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read - len(self._line))
                data = file.read()
                if not data.startswith(self._line):
                    file.seek(0)
                    data, self._read, self._line = file.read(), 0, b""
        except FileNotFoundError:
            return []
        data = data[len(self._line) :]
        whole = data[: data.rfind(b"\n") + 1]
        if whole:
            self._read += len(whole)
            self._line = whole.splitlines(keepends=True)[-1]
        fresh = []
        for event in map(json.loads, whole.splitlines()):
            if event["step"] > self._last.get(event["event"], -1):
                self._last[event["event"]] = event["step"]
                fresh.append(event)
        return fresh
