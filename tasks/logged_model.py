"""A model as MLflow keeps it: one whole folder, logged, then registered as a version."""

import json
import tempfile
from collections.abc import Mapping
from importlib.metadata import version as installed
from pathlib import Path
from shutil import copytree
from typing import TYPE_CHECKING

from tasks import tracking
from tasks.artifacts import Trained
from tasks.generate import load
from tasks.heads import USES
from training.model import Head

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature

LOGGED_MODEL_TAG = "shoestring.logged_model"
VERSIONS_TAG = "mlflow.modelVersions"  # what links MLflow's page of the model to its version
REQUIREMENTS = ("torch", "transformers", "tokenizers", "safetensors")


def add_version(
    client: "MlflowClient", run: str, name: str, trained: Trained, tags: Mapping[str, str], head: Head
) -> "ModelVersion":
    """Logs the model as one whole folder, then registers it.

    `mlflow.transformers.save_model` writes what MLflow needs to serve it; the Hugging Face folder
    itself, with tokenizer and card, is laid over its `model/`, so that this alone is the model.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model
    from mlflow.transformers import save_model

    _know_no_modules()
    use = USES[head]
    weights, tokenizer = load(trained.model_folder)
    logged = client.create_logged_model(
        tracking.experiment_id(client), name=name, source_run_id=run, model_type=trained.objective
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "logged"
        save_model(
            {"model": weights, "tokenizer": tokenizer},
            str(folder),
            task=use.pipeline,
            mlflow_model=Model(artifact_path=logged.artifact_location, run_id=run, model_id=logged.model_id),
            signature=_signature(head),
            pip_requirements=[f"{package}=={installed(package).split('+')[0]}" for package in REQUIREMENTS],
        )
        copytree(trained.model_folder, folder / "model", dirs_exist_ok=True)
        client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    client.log_outputs(run, [LoggedModelOutput(logged.model_id, step=trained.steps)])
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = client.create_model_version(
        name,
        logged.artifact_location,
        run_id=run,
        tags={**tags, LOGGED_MODEL_TAG: logged.model_id},
        model_id=logged.model_id,
    )
    client.set_logged_model_tags(
        logged.model_id, {VERSIONS_TAG: json.dumps([{"name": name, "version": made.version}])}
    )
    return made


def _know_no_modules() -> None:
    """Has MLflow compare the versions of our requirements without asking all packages for their modules.

    That takes a look at each file of each package: 1.2 s, and 5 where the disk has to be read.
    """
    from mlflow.utils import requirements_utils

    if requirements_utils._MODULES_TO_PACKAGES is None:
        requirements_utils._MODULES_TO_PACKAGES = {}


def _signature(head: Head) -> "ModelSignature":
    """Text to text, or, of a classifier, to a label and its probability; as MLflow's pipelines answer."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    text = [ColSpec("string")]
    labels = [ColSpec("string", name="label"), ColSpec("double", name="score")]
    return ModelSignature(inputs=Schema(text), outputs=Schema(labels if head == "classification" else text))
