"""The final run: data parallel over all workers, by Ray Train; survives the death of any worker."""

import json
import threading
import time
from pathlib import Path
from typing import ClassVar

from prefect import task

from tasks.artifacts import Tokens, Trained, content_key, once_a_run
from tasks.cluster import CPUS_EACH, POLL_SECONDS, ask_to_stop, release_pools, start_ray
from tasks.home import run_folder
from tasks.planned import Plan
from tasks.settle import scored_tokens
from tasks.telemetry import Stage, Tail, log, stage
from training.blueprint import Blueprint
from training.journal import Event
from training.watch import OTHER
from training.worker import GO, STOP, Assignment, Outcome, final_run

FAILURES = 5  # deaths of workers that a final run survives
CHECKPOINT_SECONDS = 15.0
SAVING_SECONDS = 10.0  # for a last checkpoint, when the user ends the run
LOOKS = 10  # at the validation split
WATCHED_TOKENS = 16_384  # in each


class FinalRun:
    """A Ray Train run that starts up early, and waits for its go and for what it is to train."""

    _launched: ClassVar[dict[str, "FinalRun"]] = {}

    def __init__(self, plan: Plan, tokens: Tokens) -> None:
        self.folder = run_folder(plan.clock.run_id) / "final"
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in (GO, STOP):
            (self.folder / old).unlink(missing_ok=True)
        self.outcome: Outcome | None = None
        self.problem: BaseException | None = None
        self._assignment = Assignment(
            folder=self.folder,
            blueprint=plan.blueprint,
            shards=tokens.folder,
            clock=plan.final_clock(),
            looks=tuple((look + 1) / LOOKS for look in range(LOOKS)),
            watched_tokens=scored_tokens(WATCHED_TOKENS, plan.blueprint.objective),
            checkpoint_seconds=CHECKPOINT_SECONDS,
            peak_flops=plan.calibration.peak_flops,
            keep_model=True,
            device="cuda" if plan.compute.on_gpu() else "cpu",
        )
        self._plan = plan
        # An old name would resume the old run, see Ray Train's RunConfig; so name by content and attempt.
        self._name = f"{plan.clock.run_id[:8]}-{content_key(tokens.key)}-{time.time_ns()}"
        self._thread = threading.Thread(target=self._fit, name="final-run", daemon=True)
        self._thread.start()

    @classmethod
    def launch(cls, plan: Plan, tokens: Tokens) -> "FinalRun":
        """Starts the run's workers up, once; later calls return the same."""
        if plan.clock.run_id not in cls._launched:
            cls._launched[plan.clock.run_id] = cls(plan, tokens)
        return cls._launched[plan.clock.run_id]

    @classmethod
    def save_all(cls, seconds: float = SAVING_SECONDS) -> None:
        """Has every final run of this process that is under way write a checkpoint and end."""
        running = [run for run in cls._launched.values() if (run.folder / GO).exists()]
        for run in running:
            ask_to_stop(run.folder)
        until = time.monotonic() + seconds
        for run in running:
            run._thread.join(max(0.0, until - time.monotonic()))

    def _fit(self) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        gpu = self._assignment.device == "cuda"
        try:
            start_ray()
            trainer = TorchTrainer(
                final_run,
                train_loop_config={"assignment": self._assignment},
                scaling_config=ScalingConfig(
                    num_workers=self._plan.workers,
                    use_gpu=gpu,
                    resources_per_worker={"CPU": CPUS_EACH} | ({"GPU": 0.5} if gpu else {}),
                ),
                torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
                run_config=RunConfig(
                    name=self._name,
                    storage_path=str(self.folder / "ray"),
                    failure_config=FailureConfig(max_failures=FAILURES),
                ),
            )
            self.outcome = trainer.fit().return_value
        except BaseException as problem:  # handed to the waiting task, which raises it
            self.problem = problem

    def go(self, blueprint: Blueprint, deadline: float | None) -> None:
        """Lets the waiting workers train this until `deadline` (Unix time), or as long as their clock says."""
        draft = self.folder / f".{GO}"
        draft.write_text(json.dumps({"deadline": deadline, "blueprint": blueprint.model_dump(mode="json")}))
        draft.replace(self.folder / GO)

    def watch(self, shown: Stage) -> Outcome:
        """Waits for the end, and meanwhile shows the journal."""
        tail = Tail(self.folder / "journal.jsonl")
        loss, score, progress = "", "", 0.0
        while True:
            alive = self._thread.is_alive()
            for event in tail.new_events():
                if event["event"] == "step":
                    loss, progress = f"loss {event['loss']:.3f}", float(event["progress"])
                elif event["event"] == "validation":
                    score = f", {event['bits']:.3f} {self._assignment.blueprint.objective.unit} on validation"
                else:
                    log.warning("%s", describe_event(event))
            shown.move(progress, loss + score)
            if not alive:
                break
            time.sleep(POLL_SECONDS)
        if self.problem is not None:
            raise self.problem
        if self.outcome is None:
            raise RuntimeError(f"the final run ended without a result; see {self.folder / 'ray'}")
        return self.outcome


CAUGHT = {
    "skipped": "a step was left out",
    "rolled_back": "the weights went back",
    "accepted": "a new level was taken as good",
    "halved": "half as much is taken at once from here on",
    "stopped": "the training ended early",
}


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
        release_pools()
        running = FinalRun.launch(plan, tokens)
        began = time.time()
        running.go(blueprint, plan.final_deadline)
        outcome = running.watch(shown)
        summary = outcome.summary
        shown.result = (
            f"{summary.tokens:,} tokens in {summary.steps:,} steps, {summary.parameters:,} parameters, "
            f"{describe_weights(summary.kept, running.folder)}"
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
            kept=summary.kept,
            validation_bits=summary.validation_bits,
            tokens=tokens,
        )
