"""Training again: on from the champion and anew, inside one budget; the gate decides between them."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import prefect.runtime
from prefect import task

from tasks.artifacts import InputError, Record, Registered
from tasks.budgets import Measured, describe, open_parent
from tasks.home import run_folder
from tasks.news import News, Retraining
from tasks.store import content_key
from tasks.telemetry import stage
from training.budget import SMALLEST_BUDGET_SECONDS, parse_budget
from training.model import Model, Pretrained

CONTINUED, ANEW = "from the champion", "anew"


class Retrained(Record):
    """What came of looking for news, and of the trainings where there were any."""

    kind: ClassVar[str] = "retrained"
    stage: ClassVar[str] = "Retrain"
    run_id: str
    news: News
    runs: dict[str, Measured]  # CONTINUED, ANEW, in the order in which they ran
    verdicts: dict[str, str]  # the gate's, of those that came to their end
    started: float  # Unix time

    @property
    def folder(self) -> Path:
        """The run folder."""
        return run_folder(self.run_id)

    def rows(self) -> list[dict[str, Any]]:
        """A line for each training; one that says so where there was none."""
        return [
            {
                "trained": way,
                "budget": one.budget,
                "test": one.bits,
                "low": one.low,
                "high": one.high,
                "verdict": self.verdicts.get(way, one.failure),
            }
            for way, one in self.runs.items()
        ] or [{"trained": "nothing", "verdict": self.news.sentence}]

    def sentence(self) -> str:
        """What was decided, in one line."""
        if not self.runs:
            return f"nothing was trained: {self.news.sentence}"
        return "; ".join(
            f"{way}: {self.verdicts.get(way, 'failed: ' + one.failure)}" for way, one in self.runs.items()
        )


@dataclass(frozen=True)
class Way:
    """One of the trainings, and the budget that is left for it."""

    name: str
    budget: str
    model: Model


def shares(
    news: News, model: Model, retraining: Retraining, left_seconds: float
) -> dict[str, tuple[float, Model]]:
    """The trainings that there is reason for: what each starts from, and its part of what is left.

    Where too little is left for two, all goes to the one with the larger part.
    """
    if not news.due:
        return {}
    if news.champion_version is None:
        return {ANEW: (1.0, model)}
    part = retraining.continued_share
    both: dict[str, tuple[float, Model]] = {
        CONTINUED: (part, Pretrained(name=news.champion_folder)),
        ANEW: (1 - part, model),
    }
    if min(part, 1 - part) * left_seconds >= SMALLEST_BUDGET_SECONDS:
        return both
    return {CONTINUED: (1.0, both[CONTINUED][1])} if part >= 0.5 else {ANEW: (1.0, model)}


def ways(news: News, budget: str, model: Model, retraining: Retraining, started: float) -> Iterator[Way]:
    """The trainings that there is reason for, each with what is then left of the budget for it.

    Raises InputError where that is too little for one.
    """
    amount = parse_budget(budget)
    deadline = started + amount.seconds
    wanted = shares(news, model, retraining, deadline - time.time())
    if wanted:
        open_parent()
    for number, (name, (part, start)) in enumerate(wanted.items(), 1):
        if amount.unit != "seconds":
            yield Way(name, f"{part * amount.value:.0f} {amount.unit}", start)
            continue
        left = deadline - time.time()
        seconds = int(left if number == len(wanted) else part * left)
        if seconds < SMALLEST_BUDGET_SECONDS:
            raise InputError(
                f"{left:.0f} s of the budget of {budget} are left to train in: "
                f"give at least {amount.seconds - left + SMALLEST_BUDGET_SECONDS:.0f}s"
            )
        yield Way(name, f"{seconds}s", start)


@task(name=Retrained.stage, task_run_name="retrain")
def conclude(news: News, runs: dict[str, Measured], started: float) -> Retrained:
    """What the gate said of each training. Raises InputError where there were some and none came to its end."""
    with stage(Retrained.stage) as shown:
        registered = {way: run_folder(one.run_id) / "registered.json" for way, one in runs.items()}
        found = Retrained(
            key=content_key("retrained", news.key, *(one.run_id for one in runs.values())),
            run_id=str(prefect.runtime.flow_run.id),
            news=news,
            runs=runs,
            verdicts={
                way: _verdict(Registered.model_validate_json(path.read_text()))
                for way, path in registered.items()
                if path.exists()
            },
            started=started,
        )
        if runs and not found.verdicts:
            raise InputError(f"no training came to its end: {found.sentence()}")
        shown.result = found.sentence()
    return found


def _verdict(registered: Registered) -> str:
    return f"{registered.model_name} version {registered.version}, {registered.verdict}"


def tell(run_id: str, as_json: bool) -> None:
    """Prints what was found and done, for a person or as the last line for a program."""
    found = Retrained.model_validate_json((run_folder(run_id) / f"{Retrained.kind}.json").read_text())
    if as_json:
        told = found.model_dump(mode="json", exclude={"key", "run_id", "started"})
        told["news"] |= {
            "due": found.news.due,
            "drifted": found.news.drifted,
            "sentence": found.news.sentence,
        }
        elapsed = time.time() - found.started
        print(
            json.dumps(
                {"flow_run_id": run_id, **told, "elapsed_seconds": elapsed, "run_folder": str(found.folder)}
            )
        )
        return
    print(f"\n{found.news.sentence}")
    for way, one in found.runs.items():
        print(f"  {way:<18} {one.budget:>6}  {describe(one)}\n  {'':<18} {found.verdicts.get(way, '')}")
    if not found.runs:
        print("nothing was trained")
