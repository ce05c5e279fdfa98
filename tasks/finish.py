"""An early end: of all that a killed run has left, the best model, to be judged and registered."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from prefect import task
from safetensors.torch import load_file
from transformers import AutoConfig

from tasks import outbox
from tasks.alive import at_work
from tasks.artifacts import Folds, InputError, Tokens, Trained
from tasks.fold_scores import summarise
from tasks.generate import load
from tasks.heads import head_of
from tasks.home import run_folder
from tasks.register import Promotion
from tasks.telemetry import stage
from training.blueprint import Blueprint
from training.checkpoint import newest_checkpoint
from training.journal import read_journal
from training.worker import keep_model

KIND_OF = {
    "causal": "causal_language_model",
    "masked": "masked_language_model",
    "classification": "sequence_classification",
}
SALVAGED = "salvaged"  # the folder of a model made from a checkpoint, in the run's


class Found(NamedTuple):
    """A training of the run that left weights: its folder, its last look at validation, and its last step."""

    folder: Path
    bits: float
    step: dict[str, Any]
    whole: bool  # a model folder is there; else a checkpoint is


def trainings(folder: Path) -> Iterator[Found]:
    """Every training of a run that left a model or a checkpoint, with what its journal says of it."""
    for journal in sorted(folder.rglob("journal.jsonl")):
        there = journal.parent
        whole = (there / "model" / "config.json").exists()
        if not whole and not any((there / "checkpoints").glob("step-*")):
            continue
        last: dict[str, dict[str, Any]] = {}
        for event in read_journal(journal):
            last[event["event"]] = event
        if "step" in last:
            bits = float(last["validation"]["bits"]) if "validation" in last else float("inf")
            yield Found(there, bits, last["step"], whole)


def refuse_running(run_id: str) -> None:
    """Raises InputError where the run's process is still alive."""
    if at_work(run_id):
        raise InputError(f"run {run_id[:8]} is still running: stop it first, or let it come to its end")


def salvage(run_id: str) -> Trained:
    """The best model so far, by its last look at validation, as a model folder.

    Raises InputError where the run had not yet trained any.
    """
    folder = run_folder(run_id)
    found = list(trainings(folder))
    if not found or not (folder / "tokens.json").exists():
        raise InputError(f"run {run_id[:8]} was stopped before it had a model: nothing can be finished")
    best = min(found, key=lambda one: (one.bits, -one.step["tokens"]))
    tokens = Tokens.model_validate_json((folder / "tokens.json").read_text())
    model = best.folder / "model"
    if not best.whole:
        model = folder / SALVAGED / "model"
        of_checkpoint(folder, best.folder, tokens, model)
    config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    return Trained(
        key=f"{run_id[:8]}-salvaged",
        run_id=run_id,
        model=str(model.relative_to(folder)),
        journal=str((best.folder / "journal.jsonl").relative_to(folder)),
        objective=KIND_OF[head_of(config)],
        parameters=load(model)[0].num_parameters(),
        steps=best.step["step"],
        tokens_trained=best.step["tokens"],
        training_seconds=best.step["training_seconds"],
        final_seconds=best.step["seconds"],
        workers=1,
        kept="last",
        validation_bits=best.bits,
        tokens=tokens,
    )


def of_checkpoint(run: Path, training: Path, tokens: Tokens, model_folder: Path) -> None:
    """Writes the weights of a training's newest good checkpoint as a model folder."""
    blueprint = Blueprint.model_validate_json((run / "blueprint.json").read_text())
    checkpoint = newest_checkpoint(training / "checkpoints", blueprint.fingerprint())
    if checkpoint is None:
        raise InputError(f"no checkpoint in {training / 'checkpoints'} is whole")
    model = blueprint.build()
    model.load_state_dict(load_file(checkpoint / "model.safetensors"))
    model_folder.parent.mkdir(parents=True, exist_ok=True)
    keep_model(model, tokens.folder, model_folder, blueprint.settled()[0])


def folds_of(run_id: str) -> Folds:
    """What cross-validation had found; nothing where the run did not come so far."""
    path = run_folder(run_id) / "folds.json"
    if path.exists():
        return Folds.model_validate_json(path.read_text())
    return summarise(
        [], 0.0, "", key=run_id[:8], seconds_each=0.0, reason="plain hold-out: the run was stopped before"
    )


@task(name="Take the best so far", task_run_name="take the best so far")
def take_best(run_id: str) -> Trained:
    """The best model that a killed run has left."""
    with stage("Take the best so far") as shown:
        trained = salvage(run_id)
        size = f"{trained.tokens_trained:,} tokens, {trained.parameters:,} parameters"
        shown.result = f"{Path(trained.model).parent}: {size}"
        return trained


def promotion_of(run_id: str) -> Promotion:
    """How the run's model was to be named. Raises InputError where Prefect does not know the run."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            given = client.read_flow_run(UUID(run_id)).parameters.get("promotion")
        except ObjectNotFound:
            raise InputError(f"run {run_id} is not known to the Prefect server of this home") from None
    return Promotion.model_validate(given or {})


def close_interrupted(run_id: str) -> None:
    """Says in Prefect that the run ended early, and in MLflow that it ended."""
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelled

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(run_id), Cancelled(message="finished early"), force=True)
    outbox.finish(run_id, "FINISHED")
