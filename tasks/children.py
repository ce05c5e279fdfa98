"""A flow run as MLflow shall see it, and its trials and folds: runs nested below."""

import time
from pathlib import Path
from typing import Any

import prefect.runtime

from tasks import outbox, telemetry
from tasks.clock import Clock
from tasks.home import run_folder
from tasks.outbox import Courier, Letter, Status
from tasks.system_metrics import SYSTEM_JOURNAL
from tasks.tracking import KIND_TAG, OBJECTIVE_TAG, UNIT_TAG, MetricName
from training.journal import read_journal
from training.objectives import Objective


def announce(clock: Clock, objective: Objective, seed: int) -> None:
    """Has MLflow hear of the run, and links to its page there unless MLflow is away."""
    outbox.post(
        Letter(
            run_id=clock.run_id,
            run_name=clock.run_name,
            tags={
                KIND_TAG: str(prefect.runtime.flow_run.flow_name),
                UNIT_TAG: objective.unit,
                OBJECTIVE_TAG: objective.kind,
            },
            settings={"budget": clock.budget, "seed": f"{seed}"},
            journal="final/journal.jsonl",
            system=SYSTEM_JOURNAL,
            started=clock.started,
        )
    )
    place = Courier.of(clock.run_id).place()
    if place is None:
        telemetry.log.warning("MLflow is away; what it should hear waits in the run's folder")
    else:
        telemetry.link_runs(*place)


def log_child(
    clock: Clock,
    name: str,
    tags: dict[str, str],
    settings: dict[str, Any],
    journal: Path,
    score: float | None,
    status: Status,
    unit: str,
) -> None:
    """Has MLflow hear of one finished trial or fold, as a run nested below the flow run's."""
    folder = run_folder(clock.run_id)
    events = list(read_journal(journal)) if journal.exists() else []
    come = [float(event["progress"]) for event in events if event["event"] == "step"]
    outbox.post(
        Letter(
            run_id=clock.run_id,
            run_name=clock.run_name,
            child=name,
            tags={UNIT_TAG: unit, **tags},
            settings={key: str(value) for key, value in settings.items()},
            scores={}
            if score is None
            else {MetricName.SCORE_BITS: score, MetricName.SCORE_PROGRESS: come[-1] if come else 0.0},
            journal=str(journal.relative_to(folder)),
            status=status,
            started=events[0]["time"] if events else time.time(),
            ended=time.time(),
        )
    )
