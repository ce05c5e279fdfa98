"""Trials under way: which is trained next, from where to where, on warm workers, and what the study is told."""

import math
import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, Trial, TrialState
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.artifacts import Tokens
from tasks.calibrate import at_depth
from tasks.children import log_child
from tasks.home import run_folder
from tasks.outbox import Status
from tasks.planned import Plan
from tasks.settle import scored_tokens, uncompiled
from tasks.space import as_asked, draw, grid
from tasks.study import GOES_ON_FROM, RUNGS, Rungs, Search, last_gain, open_study
from tasks.telemetry import log
from tasks.tracking import KIND_TAG
from tasks.workers import side_by_side, workers_of
from training.blueprint import Blueprint
from training.config import with_fields
from training.law import Point
from training.worker import Assignment, Outcome

WATCHED_TOKENS = 16_384  # as the probes' and the final run's, so that scores compare
FEWEST_TO_STOP = 6  # whole trials, before the search may end for want of gains
FEWEST_FOR_SIZES = 8  # trials that there is time for, before some go to other sizes
CONFIRMED_WITH = 1  # added to the seed; the winner must win again


@task(name="Trial", task_run_name="trial-{name}-to-{until:.0%}", cache_policy=NO_CACHE)
def train_trial(
    plan: Plan,
    tokens: Tokens,
    name: str,
    blueprint: Blueprint,
    done: float,
    until: float,
    alike: bool,
    latency: bool,
) -> Outcome:
    """Trains a trial on a warm worker from where it stood to its next rung; `alike`: as dear as the others."""
    depth = blueprint.model.settled_depth() or plan.trial_depth
    assignment = Assignment(
        folder=run_folder(plan.clock.run_id) / "trials" / name,
        blueprint=blueprint,
        shards=tokens.folder,
        clock=plan.trial_clock(depth, done, alike),
        looks=RUNGS,
        watched_tokens=scored_tokens(WATCHED_TOKENS, blueprint.objective),
        checkpoint_seconds=math.inf,  # where it pauses, and nowhere else
        pause_at=until,
        peak_flops=plan.calibration.peak_flops,
        measure_latency=latency,
        keep_model=until == 1.0,  # for whoever finishes the run early
        device=plan.compute.device_type,
    )
    return workers_of(plan.compute).carry_out(assignment)


class Job(NamedTuple):
    """A stretch of a trial: what is trained, from which share of it to which rung."""

    name: str
    blueprint: Blueprint
    done: float = 0.0
    rung: int = len(RUNGS) - 1  # to which it goes
    trial: Trial | None = None  # None: one beside the study


class Searching:
    """One search under way: its study, what is left of its time, and the thread-safe steps between."""

    def __init__(self, plan: Plan, tokens: Tokens, search: Search) -> None:
        self.plan, self.tokens, self.search = plan, tokens, search
        self.base = uncompiled(at_depth(plan.blueprint, plan.trial_depth))
        self.choices = dict(search.choices)
        if search.second == "size" and "model.depth" not in self.choices and plan.depth_is_open:
            self.choices["model.depth"] = plan.depths_nearby()
        self.study = open_study(
            plan.clock.run_id, search.sampler, plan.blueprint.seed, 1 if search.second == "none" else 2
        )
        self.rungs = Rungs()
        self.deadline = time.time() + plan.search_seconds
        self.lock = threading.Lock()
        self.spent = 0.0  # trials' worth, where tokens are counted
        self.beside: dict[str, Outcome] = {}  # trials of other sizes or seeds
        self.aside = self._other_sizes()
        if not self.study.get_trials(deepcopy=False):
            self.study.enqueue_trial(as_asked(self.base, self.choices))
            for known in plan.known_settings:
                self.study.enqueue_trial(as_asked(self.base, self.choices, known), skip_if_exists=True)
            if search.sampler == "grid":
                for point in grid(self.base, self.choices, search.grid_points):
                    self.study.enqueue_trial(point, skip_if_exists=True)

    def _other_sizes(self) -> list[Job]:
        """The defaults at other depths, which say where the scaling curve of this text runs."""
        enough = self.left() * self.plan.workers >= FEWEST_FOR_SIZES
        if not enough or not self.plan.depth_is_open or self.search.second != "none":
            return []
        near = [depth for depth in self.plan.depths_nearby() if depth != self.plan.trial_depth]
        return [Job(f"depth-{depth}", at_depth(self.base, depth)) for depth in near[-2:]]

    def left(self) -> float:
        """How many whole trials, one after the other, there is still time or tokens for."""
        if self.plan.trial_tokens:
            return self.plan.search_trials - self.spent
        return (self.deadline - time.time()) / self.plan.trial_seconds

    def next(self) -> Job | None:
        """The next stretch to train; None when no time is left for a useful one, or there were enough."""
        with self.lock:
            if (going_on := self.rungs.next()) is not None:
                trial, rung = going_on
                if self.left() >= 0.9 * (1 - RUNGS[rung]):
                    return self._job(trial, RUNGS[rung], rung + 1)
                self.rungs.pause(trial, rung, math.inf)
            if self.left() < 1 or self._enough():
                return None
            first = 0 if self._prunes() else len(RUNGS) - 1
            if len(self.study.get_trials(deepcopy=False)) > 1 and self.aside:
                return self.aside.pop(0)
            trial = self.study.ask()
            # The defaults are what all others are compared with: they run to their end.
            return self._job(trial, 0.0, first if trial.number else len(RUNGS) - 1)

    def _prunes(self) -> bool:
        return self.search.pruning and self.search.second == "none"

    def _enough(self) -> bool:
        """Whether there were as many as asked for, or another is worth less than its time."""
        waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if waiting:
            return False
        asked = len(self.study.get_trials(deepcopy=False))
        if self.search.trials is not None and asked >= self.search.trials:
            return True
        if self.search.sampler == "grid":
            return True
        scores = [trial.values[0] for trial in self.complete()]
        if len(scores) < FEWEST_TO_STOP or self.search.share is not None or self.search.second != "none":
            return False
        return bool(last_gain(scores) / min(scores) < self.plan.worth_of_a_trial())

    def complete(self) -> list[FrozenTrial]:
        """The trials that ran to their end."""
        found: list[FrozenTrial] = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return found

    def _job(self, trial: Trial, done: float, rung: int) -> Job:
        if "settings" not in trial.user_attrs:
            trial.set_user_attr("settings", draw(trial, self.base, self.choices))
        folder = str(trial.user_attrs.get(GOES_ON_FROM, trial.number))
        return Job(folder, with_fields(self.base, trial.user_attrs["settings"]), done, rung, trial)

    def run(self, job: Job) -> None:
        """Trains a stretch, and tells the study."""
        started, state, outcome = time.time(), TrialState.FAIL, None
        latency = self.search.second == "latency"
        alike = not self.choices  # an optimizer or a context may cost what it wins
        place = (job.done, RUNGS[job.rung])
        try:
            outcome = train_trial(
                self.plan, self.tokens, job.name, job.blueprint, *place, alike=alike, latency=latency
            )
            whole = job.rung == len(RUNGS) - 1
            state = TrialState.COMPLETE if whole else TrialState.RUNNING
        except FloatingPointError as problem:
            log.warning("trial %s diverged: %s", job.name, problem)
        with self.lock:
            self.spent += RUNGS[job.rung] - job.done
            if job.trial is None:
                if outcome is not None:
                    self.beside[job.name] = outcome
                return
            seconds = float(job.trial.user_attrs.get("seconds", 0.0)) + time.time() - started
            job.trial.set_user_attr("seconds", round(seconds, 1))
            if outcome is not None and (score := outcome.summary.validation_bits) is not None:
                self._keep(job.trial, outcome)
                if self.search.second == "none":
                    job.trial.report(score, job.rung)
                if state == TrialState.RUNNING:
                    self.rungs.pause(job.trial, job.rung, score)
                    return
                second = {"size": outcome.summary.parameters, "latency": outcome.latency_ms}
                values = [score, *(value for name, value in second.items() if name == self.search.second)]
                self.study.tell(job.trial, values)
            else:
                self.study.tell(job.trial, state=TrialState.FAIL)

    @staticmethod
    def _keep(trial: Trial, outcome: Outcome) -> None:
        for name in ("validation_bits", "tokens", "parameters"):
            trial.set_user_attr(name, getattr(outcome.summary, name))

    def work(self, move: Callable[[float, str], None]) -> None:
        """Trains stretch after stretch until there is no time for another."""
        while (job := self.next()) is not None:
            self.run(job)
            scores = [trial.values[0] for trial in self.complete()]
            total = self.plan.search_trials
            asked = len(self.study.get_trials(deepcopy=False))
            best = f", best {min(scores):.3f} {self.plan.blueprint.objective.unit}" if scores else ""
            move(1 - max(0.0, self.left()) / max(1.0, total), f"{asked} trials{best}")

    def close(self) -> list[dict[str, Any]]:
        """Ends what waits on a rung, and says how every trial went."""
        for trial in self.rungs.waiting.values():
            self.study.tell(trial, state=TrialState.PRUNED)
        rows = [row_of(trial) for trial in self.study.get_trials(deepcopy=False)]
        folder = run_folder(self.plan.clock.run_id) / "trials"
        statuses: dict[str, Status] = {"complete": "FINISHED", "pruned": "KILLED"}
        for row in rows:
            log_child(
                self.plan.clock,
                f"trial-{row['number']}",
                {KIND_TAG: "trial"},
                {"model.depth": self.plan.trial_depth, **row["parameters"]},
                folder / str(row["folder"]) / "journal.jsonl",
                row["value"],
                statuses.get(row["state"], "FAILED"),
                self.plan.blueprint.objective.unit,
            )
        for checkpoints in folder.glob("*/checkpoints"):
            shutil.rmtree(checkpoints, ignore_errors=True)
        return rows

    def points(self, rows: list[dict[str, Any]]) -> list[Point]:
        """What the scaling curve learns: the defaults at every size that was tried."""
        first = next((row for row in rows if row["number"] == 0 and row["state"] == "complete"), None)
        seen = [(self.plan.trial_depth, first["tokens"], first["value"])] if first else []
        for name, outcome in self.beside.items():
            if name.startswith("depth-") and outcome.summary.validation_bits is not None:
                seen.append((int(name[6:]), outcome.summary.tokens, outcome.summary.validation_bits))
        return [self.plan.point(depth, tokens, score) for depth, tokens, score in seen]

    def confirm(self, settings: dict[str, Any]) -> float | None:
        """How the settings do against the defaults with another seed, relative; negative is better."""
        again = self.base.model_copy(update={"seed": self.base.seed + CONFIRMED_WITH})
        jobs = [Job("confirm-defaults", again), Job("confirm-best", with_fields(again, settings))]
        for _ in side_by_side([partial(self.run, job) for job in jobs], workers_of(self.plan.compute).size):
            pass
        scores = [self.beside[job.name].summary.validation_bits for job in jobs if job.name in self.beside]
        return scores[1] / scores[0] - 1 if len(scores) == 2 and scores[0] and scores[1] else None


def row_of(trial: FrozenTrial) -> dict[str, Any]:
    """One trial for tables and plots; `value` of one that did not run to its end is its last."""
    known = trial.user_attrs
    return {
        "number": trial.number,
        "folder": known.get(GOES_ON_FROM, trial.number),
        "state": trial.state.name.lower(),
        "value": known.get("validation_bits"),
        "second": trial.values[1] if trial.values and len(trial.values) > 1 else None,
        "seconds": known.get("seconds", 0.0),
        "tokens": known.get("tokens"),
        "model_parameters": known.get("parameters"),
        "parameters": known.get("settings", {}),
    }
