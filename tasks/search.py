"""The search: Optuna asks and is told, warm workers train, weak trials end early."""

import functools
import json
import math
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial, TrialState
from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from tasks import outbox
from tasks.artifacts import Tokens, once_a_run
from tasks.clock import Clock
from tasks.cluster import ask_to_stop, pool, side_by_side
from tasks.home import run_folder
from tasks.outbox import Letter, Status
from tasks.plan import Plan
from tasks.settle import scored_tokens, uncompiled
from tasks.telemetry import log, stage
from tasks.tracking import MetricName
from training.blueprint import Blueprint
from training.budget import Wall
from training.config import Section, Tune, tunable_fields, with_fields
from training.journal import Event, read_journal
from training.worker import Assignment

RUNGS = (0.3, 0.6, 1.0)  # shares of a trial after which it is compared with the others
WATCHED_TOKENS = 24_576
LEAST_GAIN = 0.003  # of the score, relative; less is noise between seeds, and the defaults stay


class Search(Section):
    """How settings are searched for."""

    share: float = Field(
        default=0.22,
        ge=0,
        le=0.8,
        description="Part of the training time spent on trials; 0 trains with the settings as they are. What is"
        " off (empty or 0), such as dropout, is not searched: set it, and it is.",
    )
    sampler: Literal["tpe", "random"] = Field(
        default="tpe", description="tpe learns from earlier trials; random is unbiased."
    )
    pruning: bool = Field(default=True, description="End trials that lag behind the others at the same rung.")
    trials: int | None = Field(
        default=None, ge=1, le=10_000, description="At most this many. Empty: as many as the time allows."
    )


def open_study(run_id: str, search: Search, seed: int) -> optuna.Study:
    """The run's study; trials that a kill left running are put back with their settings."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(run_folder(run_id) / "study.journal")))
    sampler: optuna.samplers.BaseSampler = (
        optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=6)
        if search.sampler == "tpe"
        else optuna.samplers.RandomSampler(seed=seed)
    )
    pruner: optuna.pruners.BasePruner = (
        optuna.pruners.PercentilePruner(50.0, n_startup_trials=1)
        if search.pruning
        else optuna.pruners.NopPruner()
    )
    study = optuna.create_study(
        study_name="search",
        storage=storage,
        sampler=sampler,
        pruner=pruner,
        direction="minimize",
        load_if_exists=True,
    )
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    return study


def default_settings(blueprint: Section) -> dict[str, Any]:
    """The blueprint's own values of the fields that a search may turn."""
    return {dotted: value_of(blueprint, dotted) for dotted in search_space(blueprint)}


def search_space(blueprint: Section) -> dict[str, Tune]:
    """The ranges that a search turns, each with the blueprint's own value in it; what is off stays off."""
    space = {}
    for dotted, tune in tunable_fields(blueprint).items():
        value = value_of(blueprint, dotted)
        space[dotted] = tune._replace(low=min(tune.low, value), high=max(tune.high, value))
    return space


def value_of(blueprint: Section, dotted: str) -> Any:
    """The value of a field by its dotted name."""
    return functools.reduce(getattr, dotted.split("."), blueprint)


def suggest(trial: Trial, blueprint: Section) -> dict[str, float]:
    """The settings of a trial, by dotted field name; whole numbers where the field is one."""
    return {
        name: trial.suggest_int(name, math.ceil(tune.low), math.floor(tune.high), log=tune.log)
        if isinstance(value_of(blueprint, name), int)
        else trial.suggest_float(name, tune.low, tune.high, log=tune.log)
        for name, tune in search_space(blueprint).items()
    }


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
    events = list(read_journal(journal))
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


@task(name="Trial", task_run_name="trial-{number}", cache_policy=NO_CACHE)
def train_trial(plan: Plan, tokens: Tokens, number: int, blueprint: Blueprint, reports: Any) -> float | None:
    """Trains one trial on a warm worker; its score, or None where it was ended early."""
    folder = run_folder(plan.clock.run_id) / "trials" / f"{number}"
    assignment = Assignment(
        folder=folder,
        blueprint=blueprint,
        shards=tokens.folder,
        clock=Wall(time.time() + plan.trial_seconds),
        looks=RUNGS,
        watched_tokens=scored_tokens(WATCHED_TOKENS, blueprint.objective),
        peak_flops=plan.calibration.peak_flops,
        device="cuda" if plan.compute.on_gpu() else "cpu",
    )
    outcome = pool(plan.compute).carry_out(assignment, reports(folder))
    return None if outcome.summary.stopped else outcome.summary.validation_bits


class Searching:
    """One search under way: its study, its clock, and the thread-safe steps between."""

    def __init__(self, plan: Plan, tokens: Tokens, search: Search) -> None:
        self.plan, self.tokens, self.search = plan, tokens, search
        self.unit = plan.blueprint.objective.unit
        self.study = open_study(plan.clock.run_id, search, plan.blueprint.seed)
        if not self.study.get_trials(deepcopy=False):
            self.study.enqueue_trial(default_settings(plan.blueprint))
        self.deadline = time.time() + plan.search_seconds
        self.lock = threading.Lock()
        self.rows: list[dict[str, Any]] = []

    def ask(self) -> Trial | None:
        """The next trial; None when no time is left for a useful one, or there were enough."""
        with self.lock:
            asked = len(self.study.get_trials(deepcopy=False))
            if self.search.trials is not None and asked >= self.search.trials and not self._waiting():
                return None
            if time.time() + 0.7 * self.plan.trial_seconds > self.deadline:
                return None
            return self.study.ask()

    def _waiting(self) -> bool:
        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def run_one(self, trial: Trial) -> None:
        """Trains a trial, prunes it on its way, and tells the study."""
        with self.lock:
            settings = suggest(trial, self.plan.blueprint)
        blueprint = with_fields(uncompiled(self.plan.blueprint), settings)

        def reports(folder: Path) -> Any:
            def on_event(event: Event) -> None:
                if event["event"] != "validation" or event["progress"] >= 1:
                    return
                rung = RUNGS.index(max(r for r in RUNGS if r <= event["progress"]))
                with self.lock:
                    trial.report(event["bits"], rung)
                    if trial.should_prune():
                        ask_to_stop(folder)

            return on_event

        started, score, state = time.time(), None, TrialState.FAIL
        try:
            score = train_trial(self.plan, self.tokens, trial.number, blueprint, reports)
            state = TrialState.COMPLETE if score is not None else TrialState.PRUNED
        except FloatingPointError as problem:
            log.warning("trial %d diverged: %s", trial.number, problem)
        finally:
            with self.lock:
                self.study.tell(trial, score if state == TrialState.COMPLETE else None, state)
                self.rows.append(
                    {
                        "number": trial.number,
                        "state": state.name.lower(),
                        "value": score,
                        "seconds": round(time.time() - started, 1),
                        "parameters": settings,
                    }
                )
        journal = run_folder(self.plan.clock.run_id) / "trials" / f"{trial.number}" / "journal.jsonl"
        ends: dict[TrialState, Status] = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED"}
        log_child(
            self.plan.clock,
            f"trial-{trial.number}",
            {"kind": "trial"},
            settings,
            journal,
            score,
            ends.get(state, "FAILED"),
        )

    def work(self, move: Any) -> None:
        """Runs trials one after the other until there is no time for another."""
        while (trial := self.ask()) is not None:
            self.run_one(trial)
            best = min((row["value"] for row in self.rows if row["value"] is not None), default=None)
            done = 1 - max(0.0, self.deadline - time.time()) / max(1.0, self.plan.search_seconds)
            move(
                done,
                f"{len(self.rows)} trials" + (f", best {best:.3f} {self.unit}" if best is not None else ""),
            )


def choose(blueprint: Blueprint, rows: list[dict[str, Any]]) -> tuple[Blueprint, str]:
    """The best trial's settings where they beat the defaults by more than noise, else the defaults."""
    unit = blueprint.objective.unit
    scored = [row for row in rows if row["value"] is not None]
    if not scored:
        return blueprint, "no trial finished; the defaults stay"
    best = min(scored, key=lambda row: float(row["value"]))
    first = next((row for row in scored if row["number"] == 0), None)
    if first is not None and best["value"] > first["value"] * (1 - LEAST_GAIN):
        return (
            blueprint,
            f"{len(rows)} trials, none better than the defaults ({first['value']:.3f} {unit})",
        )
    against = f" against {first['value']:.3f} by the defaults" if first else ""
    return with_fields(
        blueprint, best["parameters"]
    ), f"{len(rows)} trials, best {best['value']:.3f} {unit}{against}"


@task(
    name="Search settings",
    task_run_name="search settings",
    persist_result=True,
    result_serializer="json",
    cache_key_fn=once_a_run,
)
def search_blueprint(plan: Plan, tokens: Tokens, search: Search) -> Blueprint:
    """The plan's blueprint with the settings that did best in short trials."""
    folder = run_folder(plan.clock.run_id)
    with stage("Search settings") as shown:
        blueprint, shown.result = plan.blueprint, "no time for trials; the defaults stay"
        if plan.search_seconds > 0:
            searching = Searching(plan, tokens, search)
            lanes = pool(plan.compute).size
            for _ in side_by_side([partial(searching.work, shown.move)] * lanes, lanes):
                pass
            rows = sorted(searching.rows, key=lambda row: int(row["number"]))
            (folder / "trials.json").write_text(json.dumps(rows, indent=1))
            blueprint, shown.result = choose(plan.blueprint, rows)
    (folder / "blueprint.json").write_text(blueprint.model_dump_json(indent=1))
    return blueprint
