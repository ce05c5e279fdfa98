"""The final run: data parallel over all workers, by Ray Train; survives the death of any worker."""

import time
from dataclasses import replace
from pathlib import Path

from prefect import task

from tasks.artifacts import Tokens, Trained
from tasks.home import run_folder
from tasks.planned import Plan
from tasks.settle import scored_tokens
from tasks.store import once_a_run
from tasks.telemetry import Stage, Tail, log, stage
from tasks.workers import workers_of
from training.blueprint import Blueprint
from training.budget import AnyClock
from training.journal import Event
from training.watch import OTHER
from training.worker import Assignment

CHECKPOINT_SECONDS = 15.0
LEAST_SECONDS = 3.0  # that it trains, however late it starts
LOOKS = 10  # at the validation split
WATCHED_TOKENS = 16_384  # in each


class Shown:
    """What the terminal and the page are told of a final run, out of its journal."""

    def __init__(self, folder: Path, unit: str, shown: Stage) -> None:
        self._tail, self._unit, self._shown = Tail(folder / "journal.jsonl"), unit, shown
        self._loss, self._score, self._progress = "", "", 0.0

    def look(self) -> None:
        """Tells what is new."""
        for event in self._tail.new_events():
            if event["event"] == "step":
                self._loss, self._progress = f"loss {event['loss']:.3f}", float(event["progress"])
            elif event["event"] == "validation":
                self._score = f", {event['bits']:.3f} {self._unit} on validation"
            else:
                log.warning("%s", describe_event(event))
        self._shown.move(self._progress, self._loss + self._score)


CAUGHT = {
    "skipped": "a step was left out",
    "rolled_back": "the weights went back",
    "accepted": "a new level was taken as good",
    "halved": "half as much is taken at once from here on",
    "stopped": "the training ended early",
}


def final_assignment(
    folder: Path, blueprint: Blueprint, shards: Path, clock: AnyClock, device: str
) -> Assignment:
    """A final run, which is the same again with a clock that replays its journal."""
    return Assignment(
        folder=folder,
        blueprint=blueprint,
        shards=shards,
        clock=clock,
        looks=tuple((look + 1) / LOOKS for look in range(LOOKS)),
        watched_tokens=scored_tokens(WATCHED_TOKENS, blueprint.objective),
        checkpoint_seconds=CHECKPOINT_SECONDS,
        keep_model=True,
        device=device,
    )


def describe_event(event: Event) -> str:
    """What was caught in a training, where, and why."""
    return f"final run, step {event['step']:,}: {CAUGHT.get(event['event'], event['event'])}: {event.get('reason', '')}"


def describe_weights(kept: str, folder: Path) -> str:
    """Which weights became the model: those of the last step, an average or the best; and where the others lie."""
    names = {
        "last": "the last weights",
        "average": "the average of the weights",
        "best": "the best weights seen",
    }
    beside = f"; the others lie beside in {OTHER}" if (folder / OTHER).exists() else ""
    return f"{names[kept]} kept{beside}"


def made(plan: Plan, tokens: int) -> str:
    """Why a training may have ended before its time."""
    ended = plan.most_tokens is not None and tokens >= plan.most_tokens
    return f"; its {plan.blueprint.learning.epochs:g} epochs are made, more text would help" if ended else ""


@task(
    name=Trained.stage,
    task_run_name="train the final model",
    persist_result=True,
    result_serializer="json",
    cache_key_fn=once_a_run,
)
def train_final(blueprint: Blueprint, plan: Plan, tokens: Tokens) -> Trained:
    """The model, trained with all workers on the whole train split until the plan's deadline."""
    with stage(Trained.stage) as shown:
        folder = run_folder(plan.clock.run_id) / "final"
        folder.mkdir(parents=True, exist_ok=True)
        began = time.time()
        assignment = final_assignment(
            folder, blueprint, tokens.folder, plan.final_clock(), plan.compute.device_type
        )
        assignment = replace(assignment, peak_flops=plan.calibration.peak_flops, least_seconds=LEAST_SECONDS)
        told = Shown(folder, blueprint.objective.unit, shown)
        outcome = workers_of(plan.compute).carry_out_together(assignment, told.look)
        summary = outcome.summary
        shown.result = (
            f"{summary.tokens:,} tokens in {summary.steps:,} steps, {summary.parameters:,} parameters, "
            f"{describe_weights(summary.kept, folder)}{made(plan, summary.tokens)}"
        )
        return Trained(
            key=plan.key,
            run_id=plan.clock.run_id,
            model="final/model",
            journal="final/journal.jsonl",
            objective=blueprint.objective.kind,
            parameters=summary.parameters,
            steps=summary.steps,
            tokens_trained=summary.tokens,
            training_seconds=summary.training_seconds,
            final_seconds=time.time() - began,
            ended=time.time(),
            workers=plan.workers,
            device=plan.compute.device_type,
            kept=summary.kept,
            validation_bits=summary.validation_bits,
            tokens=tokens,
        )
