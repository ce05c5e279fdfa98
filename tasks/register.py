"""The model's way into the registry: logged, gated against the champion, named by alias.

The champion's alias is moved last, in one call, to a version that is complete: whatever is killed
before leaves the old champion, whatever is killed after leaves the new one.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from tasks import tracking
from tasks.artifacts import InputError, Registered, Report, Trained
from tasks.card import write_card
from tasks.champions import champion_of, name_champion
from tasks.clock import RECIPE
from tasks.earlier_tests import TESTS_TAG, remembered
from tasks.evidence import MACHINE, SETTINGS, TEXT, machine
from tasks.gate import judge
from tasks.logged_model import LOGGED_MODEL_TAG, add_version
from tasks.provenance import PROVENANCE, as_parameters, commit, write_provenance
from tasks.run_page import in_a_run, show
from tasks.siblings import both_noises, noise_tags
from tasks.store import content_key
from tasks.telemetry import stage
from tasks.tracking import OBJECTIVE_TAG, UNIT_TAG, MetricName, TrackingSettings
from tasks.verdict import TAG, Rules, Verdict
from training.budget import parse_budget
from training.config import Section

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

PARAMETER_LIMIT = 6000  # characters of a value, MLflow's
TAG_LIMIT = 5000  # characters of a run's tag, MLflow's least


class Promotion(Section):
    """How the result is named, and when it becomes the champion of that name."""

    name: str = Field(
        default="python-code",
        pattern=r"^[a-z0-9][a-z0-9-]{0,60}$",
        description="Registered as shoestring-<name>; models of one name compete for champion, so one name, one task.",
    )
    alpha: float | None = Field(
        default=None,
        gt=0,
        lt=0.5,
        description="How often a model that is no better may become champion. Empty: as mlflow.yaml says.",
    )
    slice_margin: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="How much worse than the champion, of its bits, a better model may be on one source, language,"
        " length or label, or on what champions before were tested on. Empty: as mlflow.yaml says.",
    )
    slower_limit: float | None = Field(
        default=None,
        gt=0,
        le=1000,
        description="A better model that takes more than so many times the champion's time stays challenger."
        " Empty: as mlflow.yaml says.",
    )
    larger_limit: float | None = Field(
        default=None,
        gt=0,
        le=1000,
        description="So does one whose weights take more than so many times the champion's bytes."
        " Empty: as mlflow.yaml says.",
    )

    def rules(self, settings: TrackingSettings) -> Rules:
        """What the gate decides by: each as this section says, or else as `mlflow.yaml` does."""
        said = {name: getattr(self, name) for name in Rules._fields}
        return Rules(
            **{name: getattr(settings, name) if value is None else value for name, value in said.items()}
        )


def register(trained: Trained, report: Report, promotion: Promotion) -> Registered:
    """Logs, registers and gates; see `register_model`."""
    settings = tracking.settings()
    client = _client(trained)
    name = settings.registry_prefix + promotion.name
    run = tracking.start_parent(trained.run_id, promotion.name)
    log_evidence(client, run, trained, report)
    champion = champion_of(client, name, settings.aliases.champion)
    mine = version_of(client, name, run)
    if champion and mine and champion.version == mine.version:  # a retry, after the alias had moved
        verdict = Verdict.from_tags(mine.tags)
    else:
        others = [other for other in client.search_model_versions(f"name = '{name}'") if other.run_id != run]
        noises = both_noises(trained, report, champion, others)
        verdict = judge(client, champion, trained, report, promotion.rules(settings), noises)
    write_card(trained, report, verdict, name)
    if mine is None:
        tags = noise_tags(trained, report.head) | {TESTS_TAG: json.dumps(remembered(trained, champion))}
        mine = add_version(client, run, name, trained, verdict.tags() | tags, report.head)
    now = champion_of(client, name, settings.aliases.champion)
    if verdict.promoted and now and int(now.version) not in (verdict.champion_version, int(mine.version)):
        verdict = verdict.overtaken(int(now.version))
        client.log_model_artifact(
            mine.tags[LOGGED_MODEL_TAG], str(write_card(trained, report, verdict, name)), "model"
        )
    record_verdict(client, run, mine, verdict)
    client.set_registered_model_alias(name, settings.aliases.challenger, mine.version)
    if verdict.promoted:
        name_champion(client, name, int(mine.version))
    if trained.ended and MetricName.JUDGING_SECONDS not in client.get_run(run).data.metrics:
        client.log_metric(run, MetricName.JUDGING_SECONDS, time.time() - trained.ended)
    tracking.end_run(run)
    return Registered(
        key=content_key("registered", trained.key, report.key, promotion),
        model_name=name,
        version=int(mine.version),
        aliases=tuple(sorted(client.get_model_version(name, mine.version).aliases)),
        mlflow_run_id=run,
        verdict=verdict.sentence,
        champion_version_before=verdict.champion_version,
    )


def _client(trained: Trained) -> "MlflowClient":
    try:
        return tracking.client_that_answers()
    except InputError as problem:
        raise InputError(
            f"{problem}. The model is trained and judged, and loads as it is: {trained.model_folder}. "
            f"Once MLflow is back, `shoestring run --resume {trained.run_id[:8]}` registers it"
        ) from None


def version_of(client: "MlflowClient", name: str, run: str) -> "ModelVersion | None":
    """The version that an earlier try of this run registered, if any."""
    found = client.search_model_versions(f"name = '{name}' and run_id = '{run}'")
    return found[0] if found else None


def log_evidence(client: "MlflowClient", run: str, trained: Trained, report: Report) -> None:
    """Parameters, metrics, data and files of the run; logging them again changes nothing."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param
    from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_GIT_COMMIT

    parameters = [Param(key[:250], value[:PARAMETER_LIMIT]) for key, value in settled(trained).items()]
    for at in range(0, len(parameters), 100):  # MLflow's limit of a batch
        client.log_batch(run, params=parameters[at : at + 100])
    there = client.get_run(run).data.metrics
    for key, value in figures(trained, report).items():
        if key not in there:  # a second point would be drawn as a line
            client.log_metric(run, key, value)
    tokens = trained.tokens
    corpus = tokens.splits.corpus
    data = Dataset(
        name=corpus.source[:500],
        digest=tokens.key,
        source_type="shoestring",
        source=json.dumps({"corpus": corpus.key, "splits": tokens.splits.key, "tokens": tokens.key}),
        profile=json.dumps({"documents": tokens.splits.documents, "tokens": tokens.tokens}),
    )
    client.log_inputs(run, [DatasetInput(data, [InputTag(MLFLOW_DATASET_CONTEXT, "training")])])
    for file in (RECIPE, "plan.json", "blueprint.json", PROVENANCE, "search.json", trained.journal):
        if (trained.folder / file).exists():
            client.log_artifact(
                run, str(trained.folder / file), str(Path(file).parent) if "/" in file else None
            )
    client.log_artifacts(run, str(trained.folder / "report"), "report")
    client.set_tag(run, UNIT_TAG, report.unit)
    client.set_tag(run, OBJECTIVE_TAG, trained.objective)
    if of_code := commit():
        client.set_tag(run, MLFLOW_GIT_COMMIT, of_code)


def settled(trained: Trained) -> dict[str, str]:
    """The blueprint's fields by dotted name, the plan's single values under `plan.`, and where it all ran, as text."""
    blueprint, plan, search, clock = (
        json.loads(path.read_text()) if (path := trained.folder / f"{name}.json").exists() else {}
        for name in ("blueprint", "plan", "search", "clock")
    )
    planned = {name: value for name, value in plan.items() if isinstance(value, str | int | float | None)}
    found = flatten(blueprint) | flatten(planned, "plan.") | flatten(search.get("settings", {}), SETTINGS)
    if clock:
        found["budget"] = clock["budget"]
    if blueprint:
        found |= as_parameters(write_provenance(trained))
    tokens = trained.tokens
    return found | {
        "data.digest": tokens.key,
        "data.source": tokens.splits.corpus.source,
        TEXT: tokens.splits.key,
        "data.bytes_per_token": str(tokens.bytes_per_token),
        MACHINE: f"{machine()}, {trained.workers} workers",
    }


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested fields under dotted names: `learning.optimizer.rate`."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value if isinstance(value, str) else json.dumps(value)
    return found


def figures(trained: Trained, report: Report) -> dict[str, float]:
    """The run's single values under the names that every run uses; intervals as `_low` and `_high`."""
    folds = report.folds
    known: dict[str, float | None] = {
        MetricName.TEST_DOCUMENTS: report.test_documents,
        MetricName.MODEL_PARAMETERS: trained.parameters,
        MetricName.FOLDS_BITS: folds.mean,
        MetricName.FOLDS_LOW: folds.low,
        MetricName.FOLDS_HIGH: folds.high,
        MetricName.FOLDS_ERROR: folds.standard_error,
        MetricName.FOLDS_NAIVE: folds.naive,
    }
    known |= of_the_plan(trained)
    if folds.naive is not None and folds.instead_of is not None:
        known[MetricName.FOLDS_LEAK] = folds.naive - folds.instead_of
    for name, interval in {"bits": (report.bits, report.low, report.high), **report.metrics}.items():
        metric = MetricName(f"test/{name}")
        known |= zip((metric, f"{metric}_low", f"{metric}_high"), interval, strict=True)
    if report.baseline:
        known |= {
            MetricName.BASELINE_BITS: report.baseline.bits,
            MetricName.BASELINE_ACCURACY: report.baseline.accuracy,
            MetricName.BASELINE_MACRO_F1: report.baseline.macro_f1,
        }
    return {name: float(value) for name, value in known.items() if value is not None}


def of_the_plan(trained: Trained) -> dict[str, float | None]:
    """What was foreseen and what came, for the plans of later runs."""
    found: dict[str, float | None] = {
        MetricName.FINAL_TOKENS: trained.tokens_trained,
        MetricName.FINAL_SPEED: trained.tokens_trained / trained.training_seconds,
    }
    clock = trained.folder / "clock.json"
    if clock.exists():
        state = json.loads(clock.read_text())
        amount = parse_budget(state["budget"])
        found |= {
            MetricName(f"budget/{amount.unit}"): amount.value,
            MetricName.USED_SECONDS: state["used_seconds"],
        }
    plan, search = (trained.folder / f"{name}.json" for name in ("plan", "search"))
    if plan.exists():
        planned = json.loads(plan.read_text())
        bits, low, high = planned["forecasts"]["this budget"]
        found |= {
            MetricName.PLAN_SPEED: planned["tokens_per_second"],
            MetricName.PLAN_BITS: bits,
            f"{MetricName.PLAN_BITS}_low": low,
            f"{MetricName.PLAN_BITS}_high": high,
        }
    if search.exists():
        found[MetricName.SEARCH_GAIN] = json.loads(search.read_text())["gain"]
    return found


def record_verdict(client: "MlflowClient", run: str, version: "ModelVersion", verdict: Verdict) -> None:
    """Writes the decision as tags of the version, as the run's tag to read, and whole as the run's `gate.json`."""
    for key, value in verdict.tags().items():
        client.set_model_version_tag(version.name, version.version, key, value)
    client.set_tag(run, TAG, verdict.sentence[:TAG_LIMIT])
    client.log_dict(run, verdict.model_dump(mode="json"), "gate.json")
    if verdict.difference is not None:
        client.log_metric(run, MetricName.GATE_DIFFERENCE, verdict.difference)


@task(name=Registered.stage, task_run_name="register and gate", retries=2, retry_delay_seconds=2)
def register_model(trained: Trained, report: Report, promotion: Promotion) -> Registered:
    """The model in the registry as challenger, and as champion if it is significantly better.

    The present champion is scored again on the challenger's test documents. Trying again after a
    failure adds no second version. The decision stands in the card, in tags and in `gate.json`.
    """
    with stage(Registered.stage) as shown:
        registered = register(trained, report, promotion)
        shown.result = f"{registered.model_name} version {registered.version}: {registered.verdict}"
    if in_a_run():
        card = (trained.model_folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)[-1]
        key = f"card-{registered.model_name}"
        show(create_markdown_artifact, card, key=key, description=shown.result)
    return registered
