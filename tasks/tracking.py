"""What MLflow is told and where it lies: `mlflow.yaml`, the database, one parent run per flow run.

MLflow is imported inside functions: it takes a second, which `prepare` spends on a thread of its own.
"""

import logging
import os
import sqlite3
import threading
from collections.abc import Mapping
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import Field, ValidationError, field_validator

from tasks.artifacts import InputError
from tasks.home import LOGINS, home
from tasks.secrets import moved_out_of
from training.config import Section

if TYPE_CHECKING:
    from mlflow import MlflowClient

SETTINGS_FILE = "mlflow.yaml"
FLOW_RUN_TAG = "prefect.flow_run_id"
KIND_TAG = "kind"  # the flow's name, or trial, fold or ablation
UNIT_TAG = "shoestring.unit"  # of all bits of the run
OBJECTIVE_TAG = "shoestring.objective"
PARENT_TAG = "mlflow.parentRunId"
RUN_NAME_TAG = "mlflow.runName"
_one_at_a_time = threading.Lock()  # or two threads would each make the run that they look for
PAGE_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # opens on the runs, not on traces


class MetricName(StrEnum):
    """The metric names of every run, trial and fold: one name, one meaning, so that runs compare.

    MLflow's charts make a section of what stands before the slash. Curves have training steps as
    their step, and tokens and seconds wherever they have a score, so that these can be the axis; the rest
    are single values. What bits are of and per, the run's tag
    `shoestring.unit` says. Every figure of a test has its 95 % interval beside it, under the same
    name with `_low` and `_high`.
    """

    TRAIN_LOSS = "train/loss_nats"  # per prediction
    TRAIN_RATE = "train/rate"  # the schedule's factor on every learning rate, 0 to 1
    TRAIN_GRADIENT_NORM = "train/gradient_norm"
    TRAIN_TOKENS = "train/tokens"
    TRAIN_SPEED = "train/tokens_per_second"
    TRAIN_SECONDS = "train/seconds"  # core-seconds inside optimizer steps, divided by cores
    TRAIN_UTILISATION = "train/utilisation"  # model FLOPs, of the matmul peak measured here
    TRAIN_MEMORY = "train/memory_gb"
    VALIDATION_BITS = "validation/bits"
    SCORE_BITS = "score/bits"  # of a trial or fold
    SCORE_PROGRESS = "score/progress"  # of its way, that it had come when it was scored; 1: whole
    BUDGET_SECONDS = "budget/seconds"  # that were given; or one of the next two
    BUDGET_TOKENS = "budget/tokens"
    BUDGET_FLOPS = "budget/flops"
    USED_SECONDS = "budget/used_seconds"  # from the start of the command to the registered model
    FOLDS_BITS = "folds/bits"  # mean; at a fraction of the budget
    FOLDS_LOW = "folds/bits_low"
    FOLDS_HIGH = "folds/bits_high"
    FOLDS_ERROR = "folds/bits_standard_error"  # as if folds shared no text; the interval does better
    FOLDS_NAIVE = "folds/naive_bits"  # of a fold that ignores near-duplicates
    FOLDS_LEAK = "folds/naive_difference"  # from the folds' bits of the same documents; negative flatters
    TEST_BITS = "test/bits"
    TEST_PERPLEXITY = "test/perplexity"  # per token
    TEST_PSEUDO_PERPLEXITY = "test/pseudo_perplexity"  # per token, each from all the others
    TEST_ACCURACY = "test/accuracy"
    TEST_MACRO_PRECISION = "test/macro_precision"
    TEST_MACRO_RECALL = "test/macro_recall"
    TEST_MACRO_F1 = "test/macro_f1"
    TEST_CALIBRATION_ERROR = "test/calibration_error"
    TEST_DOCUMENTS = "test/documents"
    BASELINE_BITS = "baseline/bits"  # on the same documents, without reading them
    BASELINE_ACCURACY = "baseline/accuracy"
    BASELINE_MACRO_F1 = "baseline/macro_f1"
    MODEL_PARAMETERS = "model/parameters"
    PLAN_BITS = "plan/bits"  # of the test, as the plan foresaw it; with its 90 % interval
    PLAN_SPEED = "plan/tokens_per_second"  # of the final run
    FINAL_SPEED = "final/tokens_per_second"  # measured, inside optimizer steps
    FINAL_TOKENS = "final/tokens"
    JUDGING_SECONDS = "final/judging_seconds"  # from the end of the training to the registered model
    SEARCH_GAIN = "search/gain"  # over the defaults, relative
    GATE_DIFFERENCE = "gate/bits_difference"  # challenger - champion; negative is better


class Aliases(Section):
    """What the registry calls the newest and the best version."""

    challenger: str = Field(default="challenger", pattern=r"^[A-Za-z][\w-]*$")
    champion: str = Field(default="champion", pattern=r"^[A-Za-z][\w-]*$")


class TrackingSettings(Section):
    """The content of `mlflow.yaml`, after flags and environment had their say."""

    experiment: str = Field("shoestring", min_length=1)
    registry_prefix: str = Field("shoestring-", description="Before the recipe's name in the model registry.")
    tracking_uri: str = Field("", description="Empty: SQLite in the home folder.")
    artifact_location: str = Field("", description="Empty: `mlartifacts/` in the home folder.")
    aliases: Aliases = Aliases()
    alpha: float = Field(0.05, gt=0, lt=0.5, description="How often the gate may promote a model no better.")
    slice_margin: float = Field(
        0.05, ge=0, le=1, description="How much worse on a slice, of the champion's bits."
    )
    slower_limit: float | None = Field(None, gt=0, description="Times the champion's time. Empty: no limit.")
    larger_limit: float | None = Field(None, gt=0, description="Times the champion's bytes. Empty: no limit.")

    @field_validator("tracking_uri")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if value and "://" not in value:
            raise ValueError(f"{value!r} is a folder; write sqlite:////absolute/path.db or http://...")
        return value


def settings(flags: Mapping[str, str | None] | None = None) -> TrackingSettings:
    """Settings by precedence: `flags` (those that are not None), environment, `mlflow.yaml`, defaults.

    The file is the working directory's or, without one there, the project's. Raises InputError where
    it cannot be read, naming the nearest field for a misspelt one.
    """
    path = next((p for p in _settings_files() if p.is_file()), None)
    values = _read(path) if path else {}
    environment = {
        "tracking_uri": os.environ.get("MLFLOW_TRACKING_URI"),
        "experiment": os.environ.get("MLFLOW_EXPERIMENT_NAME"),
    }
    for layer in (environment, flags or {}):
        values |= {name: value for name, value in layer.items() if value}
    try:
        return TrackingSettings.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{path or 'MLflow settings'}: {_explain(error)}") from None


def _settings_files() -> list[Path]:
    return [Path.cwd() / SETTINGS_FILE, Path(__file__).parents[1] / SETTINGS_FILE]


def _read(path: Path) -> dict[str, object]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict | None):
        raise InputError(f"{path} holds {type(values).__name__}; write lines of `name: value`")
    return dict(values or {})


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"]))
    if first["type"] != "extra_forbidden":
        return f"{name}: {first['msg']}"
    known = [*TrackingSettings.model_fields, *(f"aliases.{field}" for field in Aliases.model_fields)]
    near = get_close_matches(name, known, n=1, cutoff=0.0)[0]
    return f"there is no {name!r}; did you mean {near!r}?"


def tracking_uri() -> str:
    """Where runs are recorded; SQLite in the home folder unless something else was said.

    The login of a server goes to the environment, where MLflow looks for it: its errors tell addresses.
    """
    given = moved_out_of(settings().tracking_uri, *LOGINS["MLFLOW_TRACKING_URI"])
    return given or f"sqlite:///{home() / 'mlflow.db'}"


def artifact_location() -> str | None:
    """Where the experiment's files go; None leaves it to a tracking server."""
    given = settings().artifact_location
    if given:
        return given if "://" in given else Path(given).absolute().as_uri()
    server = tracking_uri().startswith(("http://", "https://"))
    return None if server else (home() / "mlartifacts").as_uri()


def prepare() -> None:
    """Makes database and experiment and imports what registering needs, on a thread that nobody waits for."""
    experiment_id(client())
    import mlflow.transformers  # noqa: F401


def client() -> "MlflowClient":
    """A client of the tracking store and the model registry in the settings.

    MLflow's global address is left alone: setting it would write the environment, which outranks
    `mlflow.yaml`.
    """
    import mlflow

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    uri = tracking_uri()
    if uri.startswith("sqlite:////"):
        database = Path(uri.removeprefix("sqlite:///"))
        if not database.exists():
            database.parent.mkdir(parents=True, exist_ok=True)
            with sqlite3.connect(database) as connection:
                connection.execute("pragma journal_mode=wal")  # readers of the page do not stop the writer
            connection.close()
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=os.environ.get("MLFLOW_REGISTRY_URI") or uri)


def experiment_id(client: "MlflowClient") -> str:
    """The experiment's id; made on first use, by whichever process comes first."""
    from mlflow.exceptions import MlflowException

    name = settings().experiment
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifact_location(), tags=PAGE_TAGS))
        except MlflowException as error:
            found = client.get_experiment_by_name(name)
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise InputError(
            f"MLflow experiment {name!r} was deleted; restore it with `mlflow experiments restore -x "
            f"{found.experiment_id}` or name another in {SETTINGS_FILE}"
        )
    return str(found.experiment_id)


def start_parent(
    run_id: str,
    name: str,
    tags: Mapping[str, str] | None = None,
    started: float | None = None,
    wake: bool = True,
) -> str:
    """The MLflow run of a flow run, made if new (as of `started`, Unix time); RUNNING again if it had ended.

    It is called by `name` and the start of the flow run's id, by which `--resume` knows it. With `wake`
    off, one that had ended stays so.
    """
    return _start({FLOW_RUN_TAG: run_id}, f"{name}-{run_id[:8]}", tags, started, wake)


def start_child(
    parent: str, name: str, tags: Mapping[str, str] | None = None, started: float | None = None
) -> str:
    """The run of this name nested under `parent` (a trial, a fold), made if new."""
    return _start({PARENT_TAG: parent, RUN_NAME_TAG: name}, name, tags, started, wake=True)


def _start(
    identity: Mapping[str, str],
    name: str,
    tags: Mapping[str, str] | None,
    started: float | None,
    wake: bool,
) -> str:
    """The run with all tags of `identity`, made if there is none; `tags` are set either way."""
    with _one_at_a_time:
        tracker = client()
        experiment = experiment_id(tracker)
        query = " and ".join(f'tags.`{key}` = "{value}"' for key, value in identity.items())
        found = tracker.search_runs([experiment], query, max_results=1)
        if not found:
            start = None if started is None else int(1000 * started)
            run = tracker.create_run(experiment, start, {**(tags or {}), **identity}, run_name=name)
            return str(run.info.run_id)
        run_id = str(found[0].info.run_id)
        for key, value in (tags or {}).items():
            tracker.set_tag(run_id, key, value)
        if wake and found[0].info.status != "RUNNING":
            tracker.update_run(run_id, status="RUNNING")
        return run_id


def end_run(run_id: str, status: str = "FINISHED", ended: float | None = None) -> None:
    """Ends an MLflow run as FINISHED, FAILED or KILLED, now or as of `ended` (Unix time)."""
    client().set_terminated(run_id, status, None if ended is None else int(1000 * ended))


def client_that_answers() -> "MlflowClient":
    """A client, once MLflow has answered. Raises InputError where it does not, saying why."""
    from mlflow.exceptions import MlflowException

    tracker = client()
    try:
        experiment_id(tracker)
    except MlflowException as error:
        reason = str(error).splitlines()[0].rpartition("Caused by ")[2].strip("()")
        raise InputError(f"MLflow at {tracking_uri()} does not answer ({reason})") from None
    return tracker
