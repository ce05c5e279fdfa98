"""Trials and folds as MLflow shall see them: runs nested below the flow run's."""

import time
from pathlib import Path
from typing import Any

from tasks import outbox
from tasks.clock import Clock
from tasks.home import run_folder
from tasks.outbox import Letter, Status
from tasks.tracking import MetricName
from training.journal import read_journal


def log_child(
    clock: Clock,
    name: str,
    tags: dict[str, str],
    settings: dict[str, Any],
    journal: Path,
    score: float | None,
    status: Status,
) -> None:
    """Has MLflow hear of one finished trial or fold, as a run nested below the flow run's."""
    folder = run_folder(clock.run_id)
    events = list(read_journal(journal)) if journal.exists() else []
    outbox.post(
        Letter(
            run_id=clock.run_id,
            run_name=clock.run_name,
            child=name,
            tags=tags,
            settings={key: str(value) for key, value in settings.items()},
            scores={} if score is None else {MetricName.SCORE_BITS: score},
            journal=str(journal.relative_to(folder)),
            status=status,
            started=events[0]["time"] if events else time.time(),
            ended=time.time(),
        )
    )
