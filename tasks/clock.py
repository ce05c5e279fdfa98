"""The clock of a run: one deadline, from the start of the command to its exit."""

import json
import os
import threading
import time
from pathlib import Path
from typing import ClassVar

import prefect.runtime
import psutil
import yaml
from prefect import task
from pydantic_core import to_jsonable_python

from tasks.artifacts import Record
from tasks.cluster import Compute
from tasks.home import STARTED_VARIABLE, run_folder
from tasks.outbox import Courier
from tasks.system_metrics import keep_sampling
from tasks.telemetry import prepare_until
from tasks.workers import workers_of
from training.budget import Amount, parse_budget

BEAT_SECONDS = 1.0
RECIPE = "recipe.yaml"  # in the run folder: what the flow was given, which `shoestring run` takes


class Clock(Record):
    """When a run must be over."""

    kind: ClassVar[str] = "clock"
    stage: ClassVar[str] = "Start the clock"
    run_id: str
    run_name: str
    budget: str
    started: float  # Unix time; a resumed run's is set back by what it had used

    @property
    def amount(self) -> Amount:
        """What the budget says."""
        return parse_budget(self.budget)

    @property
    def like_seconds(self) -> float:
        """The budget's time, or about what an amount of training takes."""
        return self.amount.like_seconds

    @property
    def deadline(self) -> float:
        """When all must be over, in Unix time; infinite where no clock is kept."""
        return self.started + self.amount.seconds

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.time()


def make_clock(run_id: str, run_name: str, budget: str, started: float) -> Clock:
    """The clock of a run: a new one counts from `started`, one that was interrupted goes on where it stood."""
    path = run_folder(run_id) / "clock.json"
    if path.exists():
        started -= float(json.loads(path.read_text())["used_seconds"])
    return Clock(key=run_id[:8], run_id=run_id, run_name=run_name, budget=budget, started=started)


def keep_beating(clock: Clock) -> None:
    """Writes down every second how much of the budget is used, so that a killed run can go on with the rest.

    Samples of the machine are taken beside. All of it ends with the run, as a process may make several.
    """
    folder = run_folder(clock.run_id)
    folder.mkdir(parents=True, exist_ok=True)
    write_recipe(folder)
    flow = prefect.runtime.flow_run.flow_name  # which a thread does not know

    def beat() -> None:
        while not (folder / "registered.json").exists():
            draft = folder / ".clock.json"
            state = {
                "used_seconds": time.time() - clock.started,
                "budget": clock.budget,
                "pid": os.getpid(),
                "flow": flow,
            }
            draft.write_text(json.dumps(state))
            draft.replace(folder / "clock.json")
            time.sleep(BEAT_SECONDS)

    threading.Thread(target=beat, name="clock", daemon=True).start()
    threading.Thread(target=keep_sampling, args=(folder,), name="system metrics", daemon=True).start()


def write_recipe(folder: Path) -> None:
    """Keeps in a run's folder what its flow was given, as a recipe."""
    given = to_jsonable_python(dict(prefect.runtime.flow_run.parameters))
    (folder / RECIPE).write_text(yaml.safe_dump(given, sort_keys=False, allow_unicode=True))


def process_start() -> float:
    """When this run began: with its process, where it has one of its own; else now."""
    if prefect.runtime.flow_run.parent_flow_run_id:  # one of several in this process
        return time.time()
    if STARTED_VARIABLE in os.environ:
        return float(os.environ[STARTED_VARIABLE])
    under_a_worker = "PREFECT__FLOW_RUN_ID" in os.environ
    return psutil.Process().create_time() if under_a_worker else time.time()


@task(name=Clock.stage, task_run_name="start the clock: {budget}")
def start_clock(budget: str, compute: Compute) -> Clock:
    """The deadline of this run; workers and MLflow warm up behind it while the data is prepared."""
    clock = make_clock(
        str(prefect.runtime.flow_run.id), str(prefect.runtime.flow_run.name), budget, process_start()
    )
    keep_beating(clock)
    prepare_until(clock.deadline)
    workers_of(compute)
    Courier.of(clock.run_id)
    return clock
