"""A finished run's final training done again from what MLflow holds, and whether it ends with the same weights."""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import prefect.runtime
import yaml
from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import Field, ValidationError

from tasks import home, tracking
from tasks.artifacts import InputError, Record, Tokens
from tasks.augment import with_copies
from tasks.clean import Cleaning, clean_corpus
from tasks.clock import RECIPE
from tasks.cluster import Compute
from tasks.library import PythonStdlib
from tasks.provenance import PROVENANCE, Provenance, differences, here, weights_sha256
from tasks.recorded import file_of, find_run
from tasks.register import flatten
from tasks.sides import Validation
from tasks.source import Source
from tasks.spelling import BytePairs, Tokenizer
from tasks.split import split_corpus
from tasks.spread import cores
from tasks.store import content_key, stored
from tasks.telemetry import publish, stage
from tasks.tokens import tokenize_corpus
from tasks.train import Shown, final_assignment
from tasks.workers import workers_of
from training.blueprint import Blueprint, Learning
from training.budget import Budget, Replay, parse_budget
from training.config import Section
from training.journal import read_journal
from training.model import Model, Scratch
from training.objectives import CausalLanguageModel, Objective
from training.worker import Assignment, Outcome

BLUEPRINT = "blueprint.json"
TAG = "shoestring.reproduced"  # of the original run: what came of the last reproduction
FINAL = "final/journal.jsonl"
ORIGINAL, AGAIN = "original", "again"  # folders in the reproduction's own
Together = Callable[[Assignment, Callable[[], object]], Outcome]


class DataRecipe(Section):
    """What data is made of, should it not be in the store any more."""

    budget: Budget = "5m"
    source: Source = Field(default_factory=PythonStdlib)
    cleaning: Cleaning = Cleaning()
    tokenizer: Tokenizer = BytePairs()
    objective: Objective = CausalLanguageModel()
    model: Model = Scratch()
    learning: Learning = Learning()
    validation: Validation = Validation()


class Original(NamedTuple):
    """What MLflow holds of a run: where its training came from and how it went."""

    mlflow_run_id: str
    name: str
    provenance: Provenance
    blueprint: Blueprint
    clock: Replay
    folder: Path  # with its files
    changed: tuple[str, ...]  # settings that are not what the run's parameters say


class Reproduction(Record):
    """Whether a training that was done again ended with the same weights; if not, what differed."""

    kind: ClassVar[str] = "reproduction"
    stage: ClassVar[str] = "Hold the two against each other"
    run_id: str  # the reproduction's own flow run
    original: str  # its name
    original_mlflow_run_id: str
    weights: str  # SHA-256
    weights_again: str | None  # None: the training failed
    differences: tuple[str, ...]  # known before it began
    parted: str  # where the two first differ; empty: nowhere
    steps: int

    @property
    def same(self) -> bool:
        """Whether the weights are the same, bit by bit."""
        return self.weights == self.weights_again

    @property
    def folder(self) -> Path:
        """The run folder, with both journals and the new model."""
        return home.run_folder(self.run_id)

    def sentence(self) -> str:
        """The verdict."""
        if self.same:
            but = f", although {'; '.join(self.differences)}" if self.differences else ""
            return f"the same weights after {self.steps:,} steps, sha256 {self.weights[:16]}{but}"
        why = "; ".join(self.differences) or "nothing known differs: look at the first step that does"
        ended = f"sha256 {self.weights_again[:16]}" if self.weights_again else "no weights"
        return f"NOT the same: {ended} instead of {self.weights[:16]}; {self.parted}. What differs: {why}"


def request_of(reference: str) -> dict[str, Any]:
    """What the flow is to be given, for a run by name, id or `last`; on as many workers as the run had, if there are.

    Raises InputError where MLflow does not answer, or does not hold what a reproduction takes.
    """
    client = tracking.client_that_answers()
    run = find_run(client, reference)
    provenance = Provenance.model_validate_json(_content(client, run, PROVENANCE))
    if provenance.journal != FINAL:
        raise InputError(
            f"run {run.info.run_name} was finished early, with a model that had no end: it cannot be replayed"
        )
    given = yaml.safe_load(_content(client, run, RECIPE))
    recipe = {name: given[name] for name in DataRecipe.model_fields if name in given}
    workers = min(provenance.workers, cores()) if provenance.device == "cpu" else provenance.workers
    return {
        "run": run.info.run_id,
        "recipe": recipe,
        "compute": {"workers": workers, "device": provenance.device},
    }


def _content(client: Any, run: Any, path: str) -> str:
    with file_of(client, run, path) as file:
        if file is None:
            raise InputError(
                f"run {run.info.run_name} has no {path} in MLflow: it has not come to its end, or an older version "
                "made it; only what a run has written down can be done again"
            )
        return file.read_text(encoding="utf-8")


def recall(mlflow_run_id: str, folder: Path) -> Original:
    """All that is needed of the original, kept in `folder`. Raises InputError where it is not there, or damaged."""
    client = tracking.client_that_answers()
    run = client.get_run(mlflow_run_id)
    for path in (PROVENANCE, BLUEPRINT, FINAL):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(_content(client, run, path), encoding="utf-8")
    try:
        blueprint = Blueprint.model_validate_json((folder / BLUEPRINT).read_text())
    except ValidationError as problem:
        said = str(problem).replace("\n", " ")[:300]
        raise InputError(f"run {run.info.run_name}: its {BLUEPRINT} in MLflow is damaged: {said}") from None
    try:
        clock = Replay.of_journal(folder / FINAL)
    except ValueError as problem:
        raise InputError(f"run {run.info.run_name} cannot be replayed: {problem}") from None
    settings = flatten(blueprint.model_dump(mode="json"))
    changed = [
        f"{name}: {run.data.params[name]} then, {value} now"
        for name, value in settings.items()
        if run.data.params.get(name, value[:6000]) != value[:6000]
    ]
    return Original(
        mlflow_run_id=mlflow_run_id,
        name=run.info.run_name,
        provenance=Provenance.model_validate_json((folder / PROVENANCE).read_text()),
        blueprint=blueprint,
        clock=clock,
        folder=folder,
        changed=tuple(changed),
    )


def data_again(original: Original, recipe: DataRecipe, device: str) -> str:
    """The key of the tokens that the original was trained on, or of those that its recipe makes now."""
    if stored(Tokens.kind, original.provenance.data):
        return original.provenance.data
    corpus = publish(clean_corpus(recipe.source, recipe.cleaning))
    splits = publish(split_corpus(corpus, recipe.validation, recipe.objective))
    amount = parse_budget(recipe.budget)
    tokens = tokenize_corpus(splits, recipe.tokenizer, recipe.objective, recipe.model, amount)
    return publish(with_copies(tokens, recipe.learning.augmentation, device)).key


def differing(original: Original, data: str, compute: Compute) -> tuple[str, ...]:
    """What is not as it was; said before anything is trained."""
    now = here(original.blueprint, data, compute.count(), compute.device_type)
    found = [*original.changed, *differences(original.provenance, now)]
    notes = {
        "halved": "memory ran out on the way, and halves of a batch were added up from there on",
        "rolled_back": "the weights went back to a checkpoint on the way, which a replay does not have",
    }
    events = {event["event"] for event in read_journal(original.folder / FINAL)}
    return (*found, *(told for event, told in notes.items() if event in events))


def train_again(
    original: Original, data: str, device: str, folder: Path, together: Together
) -> tuple[str | None, str]:
    """The SHA-256 of the weights that the training ends with this time, and where it parted from the original."""
    shards = home.store(Tokens.kind) / data
    assignment = final_assignment(folder, original.blueprint, shards, original.clock, device)
    with stage("Train again, step by step as it went") as shown:
        told = Shown(folder, original.blueprint.objective.unit, shown)
        try:
            outcome = together(assignment, told.look)
        except (ValueError, RuntimeError, FloatingPointError) as problem:
            shown.result = f"failed: {problem}"
            return None, f"the training failed: {problem}"
        shown.result = f"{outcome.summary.steps:,} steps"
    return weights_sha256(folder / "model"), parting(original.folder / FINAL, folder / "journal.jsonl")


def parting(then: Path, now: Path) -> str:
    """The first step whose loss is not the same, as a sentence; empty where all are."""
    losses: Sequence[dict[int, float]] = [
        {event["step"]: event["loss"] for event in read_journal(path) if event["event"] == "step"}
        for path in (then, now)
    ]
    for step in sorted({*losses[0], *losses[1]}):
        was, is_ = (one.get(step) for one in losses)
        if was != is_:
            return f"from step {step:,} on, where the loss was {was} and is {is_}"
    return ""


@task(name="Reproduce", task_run_name="reproduce {run}", cache_policy=NO_CACHE)
def reproduce(run: str, recipe: DataRecipe, compute: Compute) -> Reproduction:
    """Trains again what the MLflow run `run` trained last, from the journal of its progress, and compares weights."""
    run_id = str(prefect.runtime.flow_run.id)
    folder = home.run_folder(run_id)
    shutil.rmtree(folder / AGAIN, ignore_errors=True)
    with stage("Recall what the run was") as shown:
        original = recall(run, folder / ORIGINAL)
        shown.result = f"{original.name}, {len(original.clock.after):,} steps"
    data = data_again(original, recipe, compute.device_type)
    with stage("Compare what it has now") as shown:
        apart = differing(original, data, compute)
        shown.result = (
            f"differs: {'; '.join(apart)}"
            if apart
            else "data, settings, code, packages and machine are the same"
        )
    together = workers_of(compute).carry_out_together
    weights, parted = train_again(original, data, compute.device_type, folder / AGAIN, together)
    with stage(Reproduction.stage) as shown:
        found = Reproduction(
            key=content_key(run_id),
            run_id=run_id,
            original=original.name,
            original_mlflow_run_id=original.mlflow_run_id,
            weights=original.provenance.weights,
            weights_again=weights,
            differences=apart,
            parted=parted,
            steps=len(original.clock.after),
        )
        tracking.client().set_tag(original.mlflow_run_id, TAG, found.sentence()[:5000])
        shown.result = "the same weights" if found.same else "other weights"
    return found


def tell(run_id: str, as_json: bool) -> bool:
    """Prints what came of it, for a person or as the last line for a program; whether the weights are the same."""
    found = Reproduction.model_validate_json((home.run_folder(run_id) / "reproduction.json").read_text())
    if as_json:
        print(
            json.dumps({**found.model_dump(mode="json"), "same": found.same, "run_folder": str(found.folder)})
        )
    else:
        print(f"\n{found.original}: {found.sentence()}\n  journals  {found.folder}", file=sys.stdout)
    return found.same
