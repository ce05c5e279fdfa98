"""What MLflow has still to hear of a run: letters in the run's folder, kept until they are delivered.

A stage posts a letter and goes on: whether MLflow is there is the business of a thread. What a run
could not deliver, the next command that runs a flow delivers; each point arrives once.
"""

import contextvars
import fcntl
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from tasks import home, tracking
from tasks.secrets import without_secrets
from tasks.system_metrics import SYSTEM, SYSTEM_PREFIX
from tasks.telemetry import METRICS, Tail
from training.journal import Event

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from prefect.client.schemas.objects import FlowRun, State

log = logging.getLogger("shoestring")
FOLDER = "outbox"  # in the run's folder: `<name>.json` waits, `<name>.sent` was delivered
ROUND_SECONDS = 2.0  # between two looks at journals
CLOSING_SECONDS = 20.0  # a run waits at most so long at its end; a server that is away refuses sooner
PLACE_SECONDS = 2.0  # a stage waits so long for the page to link to
POINT_SECONDS = 0.25  # of training between two points of a curve; every step is in the journal
BATCH = 1000  # metrics at once, MLflow's limit
CURVES = {name for names in METRICS.values() for name in names.values()}
REFUSALS = {
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "RESOURCE_ALREADY_EXISTS",
}  # no outage; trying again is no use
Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


class Letter(BaseModel):
    """One MLflow run, as it shall be: the flow run's own or, with `child`, one nested below it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    run_id: str  # the flow run's
    run_name: str
    child: str = ""
    tags: dict[str, str] = {}
    settings: dict[str, str] = {}
    scores: dict[str, float] = {}
    files: tuple[str, ...] = ()  # relative to the run folder; sent as artifacts at the end, as scores are
    journal: str = ""  # relative to the run folder; its points are sent, also as it grows
    system: str = ""  # the same, of samples of the machine
    status: Status = "RUNNING"
    started: float  # Unix time
    ended: float | None = None

    @property
    def path(self) -> Path:
        """Where it waits."""
        return home.run_folder(self.run_id) / FOLDER / f"{self.child or 'run'}.json"


def post(letter: Letter) -> None:
    """Keeps a letter for MLflow, in place of an earlier one about the same run."""
    letter.path.parent.mkdir(parents=True, exist_ok=True)
    draft = letter.path.with_suffix(".draft")
    draft.write_text(letter.model_dump_json(indent=1))
    draft.replace(letter.path)


def add(run_id: str, scores: dict[str, float], files: tuple[str, ...]) -> None:
    """Has the flow run's own MLflow run, of which a letter waits, hold these values and files, too, at its end."""
    path = home.run_folder(run_id) / FOLDER / "run.json"
    letter = Letter.model_validate_json(path.read_text())
    post(letter.model_copy(update={"scores": letter.scores | scores, "files": (*letter.files, *files)}))


class Thinning:
    """Picks the steps that become points of a curve; the same ones on every reading of a journal."""

    def __init__(self) -> None:
        self._last = -POINT_SECONDS

    def picks(self, event: Event) -> bool:
        """Whether this event, the next of its journal, is one: all but steps that follow too soon."""
        if event["event"] != "step":
            return True
        if event["seconds"] - self._last < POINT_SECONDS and event["progress"] < 1:
            return False
        self._last = event["seconds"]
        return True


def points(event: Event) -> Iterator["Metric"]:
    """An event's figures, under the names that they bear in MLflow."""
    from mlflow.entities import Metric

    names = METRICS.get(event["event"], {})
    if event["event"] == SYSTEM:
        names = {name: name for name in event if name.startswith(SYSTEM_PREFIX)}
    for field, name in names.items():
        if event.get(field) is not None:
            yield Metric(name, float(event[field]), int(1000 * event["time"]), event["step"])


class Delivery:
    """One letter on its way. After a failure it asks MLflow what it has, and sends only the rest."""

    def __init__(self, letter: Letter) -> None:
        self.letter = letter
        self.mlflow_run: str | None = None
        self.experiment = ""
        folder = home.run_folder(letter.run_id)
        journals = filter(None, (letter.journal, letter.system))
        self._tails = [(Tail(folder / journal), Thinning()) for journal in journals]
        self._waiting: list[Metric] = []
        self._there: dict[str, int] = {}  # metric -> its last step in MLflow
        self._taken: dict[str, int] = {}  # metric -> its last step that was sent or waits

    def proceed(self) -> None:
        """Sends what is new. Raises whatever MLflow raises when it is away; nothing is lost then."""
        # MLflow's page compares by the metric that came first: the training's, before samples of the machine.
        early = not self._taken and self.letter.status == "RUNNING"
        for tail, thinning in self._tails[: 1 if early else None]:
            for event in tail.new_events():
                for point in points(event) if thinning.picks(event) else ():
                    if point.step > self._taken.get(
                        point.key, -1
                    ):  # a step and its look at validation have some alike
                        self._taken[point.key] = point.step
                        self._waiting.append(point)
        try:
            self._send()
        except Exception:
            self.mlflow_run = None
            raise

    def _send(self) -> None:
        tracker, letter = tracking.client(), self.letter
        if self.mlflow_run is None:
            run = self._introduce()
            found = tracker.get_run(run)
            self._there = {
                name: max(point.step for point in tracker.get_metric_history(run, name))
                for name in found.data.metrics
                if name in CURVES or name in letter.scores or name.startswith(SYSTEM_PREFIX)
            }
            self.mlflow_run, self.experiment = run, found.info.experiment_id
        self._waiting = [point for point in self._waiting if point.step > self._there.get(point.key, -1)]
        while self._waiting:
            tracker.log_batch(self.mlflow_run, metrics=self._waiting[:BATCH], synchronous=True)
            self._waiting = self._waiting[BATCH:]
        if letter.status != "RUNNING":
            for name in set(letter.scores) - set(self._there):
                tracker.log_metric(self.mlflow_run, name, letter.scores[name])
            for file in letter.files:
                tracker.log_artifact(self.mlflow_run, str(home.run_folder(letter.run_id) / file))
            tracking.end_run(self.mlflow_run, letter.status, letter.ended)
            letter.path.replace(letter.path.with_suffix(".sent"))

    def _introduce(self) -> str:
        """The letter's run in MLflow, with what is known of it from the start."""
        letter = self.letter
        going_on = letter.status == "RUNNING" and not letter.child
        began = letter.started if not letter.child else None
        tags = letter.tags if not letter.child else None
        run = tracking.start_parent(letter.run_id, letter.run_name, tags, began, wake=going_on)
        if letter.child:
            run = tracking.start_child(run, letter.child, letter.tags, letter.started)
        if letter.settings:
            from mlflow.entities import Param

            settings = [Param(name, value) for name, value in letter.settings.items()]
            tracking.client().log_batch(run, params=settings, synchronous=True)
        return run


class Courier:
    """The thread that delivers: this run's letters as long as it lives, and once what others left behind."""

    _at_work: ClassVar[dict[str, "Courier"]] = {}

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._deliveries: dict[Path, Delivery] = {}
        self._closing = threading.Event()
        self._away = False
        self._looked = False  # for what other runs left behind
        work = contextvars.copy_context().run
        self._thread = threading.Thread(target=work, args=(self._work,), name="mlflow", daemon=True)
        self._thread.start()

    @classmethod
    def of(cls, run_id: str) -> "Courier":
        """This process' courier of a flow run, put to work at the first call."""
        if run_id not in cls._at_work:
            cls._at_work[run_id] = cls(run_id)
        return cls._at_work[run_id]

    def place(self, seconds: float = PLACE_SECONDS) -> tuple[str, str] | None:
        """Experiment and run in MLflow of the flow run; None where MLflow is away, or slower than `seconds`."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._away:
            for delivery in list(self._deliveries.values()):
                if (
                    delivery.letter.run_id == self._run_id
                    and not delivery.letter.child
                    and delivery.mlflow_run
                ):
                    return delivery.experiment, delivery.mlflow_run
            time.sleep(0.02)
        return None

    def close(self, seconds: float = CLOSING_SECONDS) -> int:
        """Letters that could not be delivered within `seconds`; they wait for the next command."""
        self._at_work.pop(self._run_id, None)
        self._closing.set()
        self._thread.join(seconds)
        return len(_waiting(self._run_id))

    def _work(self) -> None:
        with _owned(self._run_id):
            prepared, last = False, False
            while not last:
                last = self._closing.is_set()
                try:
                    self._round()
                    self._away = False
                    if not prepared and not last:
                        tracking.prepare()
                        prepared = True
                except Exception as problem:  # MLflow raises many kinds when away; every one means later
                    self._away = True
                    log.debug("MLflow is away, points wait: %s", problem)
                self._closing.wait(ROUND_SECONDS if self._away or self._deliveries else 0.1)

    def _round(self) -> None:
        self._deliver(self._run_id, abandoned=False)
        if not self._looked:
            for folder in sorted(home.run_folder(self._run_id).parent.glob(f"*/{FOLDER}")):
                other = folder.parent.name
                if other != self._run_id and _waiting(other):
                    with _owned(other, wait=False) as mine:
                        if mine:
                            self._deliver(other, abandoned=True)
            self._looked = True

    def _deliver(self, run_id: str, abandoned: bool) -> None:
        from mlflow.exceptions import MlflowException

        for path in _waiting(run_id):
            letter = Letter.model_validate_json(path.read_text())
            if abandoned and letter.status == "RUNNING":
                letter = letter.model_copy(update={"status": "KILLED", "ended": path.stat().st_mtime})
            delivery = self._deliveries.setdefault(path, Delivery(letter))
            delivery.letter = letter
            try:
                delivery.proceed()
            except MlflowException as problem:
                if problem.error_code not in REFUSALS:
                    raise
                log.warning("MLflow refuses %s: %s", path, problem)
                path.replace(path.with_suffix(".refused"))
            if not path.exists():
                self._deliveries.pop(path)


def finish(run_id: str, status: Status) -> None:
    """Says how a flow run ended, and gives MLflow a moment to take its last points."""
    folder = home.run_folder(run_id) / FOLDER
    path = next((p for p in (folder / "run.json", folder / "run.sent") if p.exists()), None)
    if path is None:  # it ended before anything was to be said
        Courier.of(run_id).close()
        return
    letter = Letter.model_validate_json(path.read_text())
    post(letter.model_copy(update={"status": status, "ended": time.time()}))
    if left := Courier.of(run_id).close():
        log.warning(
            "MLflow at %s does not answer: what it should hear of %d trainings of this run waits in %s, "
            "and the next `shoestring run` or `plan` that reaches it sends it",
            without_secrets(tracking.tracking_uri()),
            left,
            folder,
        )


def settle(flow: object, flow_run: "FlowRun", state: "State[Any]") -> None:
    """Ends what MLflow holds of a flow run; a hook of the flow."""
    stopped = state.is_cancelled() or state.is_cancelling()
    finish(str(flow_run.id), "FINISHED" if state.is_completed() else "KILLED" if stopped else "FAILED")


def _waiting(run_id: str) -> list[Path]:
    """A run's letters, its own last, as ending it means that all is there."""
    found = (home.run_folder(run_id) / FOLDER).glob("*.json")
    return sorted(found, key=lambda path: (path.stem == "run", path.name))


@contextmanager
def _owned(run_id: str, wait: bool = True) -> Iterator[bool]:
    """Whether this process alone delivers a run's letters while the block lasts."""
    folder = home.run_folder(run_id) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
