"""Using a model: find it by name, load it without running its code, take it along."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

import torch
import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from tasks import home, tracking
from tasks.artifacts import InputError
from tasks.heads import USES, head_of
from tasks.store import content_key, stored, storing
from training.foreign import check_folder, harmful, refuse_unsafe
from training.pretrained import load_saved, read_config, tokenizer_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import FileInfo
    from mlflow.entities.model_registry import ModelVersion

MOST_CONTEXT = 65_536  # tokens, where neither model nor tokenizer states any


def load(
    model_folder: Path, device: torch.device | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a Hugging Face folder: safetensors only, and none of the folder's own code.

    The model has the head that it was saved with. Raises InputError where the folder holds no such
    model, or anything that could run or fill the memory.
    """
    logging.disable_progress_bar()
    try:
        tokenizer = tokenizer_of(str(model_folder.absolute()))
        if not tokenizer.is_fast or len(tokenizer) <= len(tokenizer.all_special_ids):
            raise ValueError(f"{model_folder} has no tokenizer of the fast kind")
        model = load_saved(model_folder, head_of(read_config(model_folder)))
    except ValueError as problem:
        raise InputError(f"the model is not loaded: {problem}") from None
    return model.to(device or best_device()), tokenizer


def start_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that opens every document. Raises ValueError where the tokenizer has none."""
    for found in (tokenizer.bos_token_id, tokenizer.cls_token_id):
        if found is not None:
            return int(found)
    raise ValueError("the tokenizer has no start token")


def context_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """The most tokens that the model was made for at once; recurrent ones say it by their tokenizer alone."""
    stated = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
    return int(min(stated, MOST_CONTEXT))


def best_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_model(reference: str | None = None) -> Path:
    """The Hugging Face folder that `reference` names: a folder, `name@alias` or `name/version`.

    None means the champion registered last. Names may leave out the registry's prefix. Registered
    models are copied into the store once. Raises InputError where there is no such model, or where
    it holds files that could run code.
    """
    if reference and Path(reference).is_dir():
        return Path(reference)
    client = tracking.client()
    version = find_version(client, reference) if reference else newest_champion(client)
    return fetch(client, version)


def newest_champion(client: "MlflowClient") -> "ModelVersion":
    """The champion of any name that was registered last."""
    settings = tracking.settings()
    models = client.search_registered_models(f"name LIKE '{settings.registry_prefix}%'", max_results=1000)
    champions = [
        client.get_model_version(model.name, model.aliases[settings.aliases.champion])
        for model in models
        if settings.aliases.champion in model.aliases
    ]
    if not champions:
        raise InputError(
            f"no model is registered at {tracking.tracking_uri()} yet; run `shoestring run` first"
        )
    return max(champions, key=lambda version: int(version.creation_timestamp))


def find_version(client: "MlflowClient", reference: str) -> "ModelVersion":
    """The registered version that `name@alias` or `name/version` names; InputError where there is none."""
    from mlflow.exceptions import MlflowException

    name, alias, by = reference.partition("@")
    if not alias:
        name, _, by = reference.rpartition("/")
    if not name or not by:
        raise InputError(f"{reference!r} is no model folder, and not of the form name@alias or name/version")
    for full in (name, tracking.settings().registry_prefix + name):
        try:
            if alias:
                return client.get_model_version_by_alias(full, by)
            return client.get_model_version(full, by)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
    raise no_such_model(client, reference)


def no_such_model(client: "MlflowClient", reference: str) -> InputError:
    """The error that says which models there are instead."""
    known = sorted(model.name for model in client.search_registered_models(max_results=100))
    listed = f"; registered are {', '.join(known)}" if known else "; run `shoestring run` first"
    return InputError(f"there is no model {reference!r} at {tracking.tracking_uri()}{listed}")


def fetch(client: "MlflowClient", version: "ModelVersion") -> Path:
    """The Hugging Face folder behind a registered version, copied into the store on first use.

    Raises InputError where it, or what MLflow would load around it, could run code; nothing is fetched then.
    """
    from mlflow.artifacts import download_artifacts

    named, uri = f"{version.name}/{version.version}", tracking.tracking_uri()
    root = client.get_model_version_download_uri(version.name, version.version)
    key = content_key(root, version.creation_timestamp)
    if not stored("models", key):
        files = list(_files(root, "model", uri))
        if not files:
            raise InputError(f"{named} holds no folder `model`; it was not registered by Shoestring")
        _refuse(lambda: refuse_unsafe(named, files))
        if root.startswith("file:"):  # a copy would no longer tell a link
            _refuse(lambda: check_folder(Path(url2pathname(urlsplit(root).path)) / "model"))
        with storing("models", key) as draft:
            if "MLmodel" in {Path(entry.path).name for entry in _listed(root, uri)}:
                download_artifacts(artifact_uri=f"{root}/MLmodel", dst_path=str(draft), tracking_uri=uri)
                _refuse(lambda: check_flavors(named, draft / "MLmodel"))
            download_artifacts(artifact_uri=f"{root}/model", dst_path=str(draft), tracking_uri=uri)
    folder = home.store("models") / key / "model"
    _refuse(lambda: check_folder(folder))
    return folder


def _listed(uri: str, tracking_uri: str) -> list["FileInfo"]:
    from mlflow.artifacts import list_artifacts

    found: list[FileInfo] = list_artifacts(artifact_uri=uri, tracking_uri=tracking_uri)
    return found


def _files(root: str, folder: str, tracking_uri: str) -> Iterator[str]:
    """Paths of all files below a folder of artifacts, asked for without fetching them."""
    for entry in _listed(f"{root}/{folder}", tracking_uri):
        path = f"{folder}/{Path(entry.path).name}"
        if entry.is_dir:
            yield from _files(root, path, tracking_uri)
        else:
            yield path


def check_flavors(named: str, path: Path) -> None:
    """Raises ValueError where an MLmodel asks for anything but MLflow's own way of loading transformers."""
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
        flavors = {name: dict(flavor) for name, flavor in dict(told["flavors"]).items()}
    except (OSError, yaml.YAMLError, ValueError, TypeError, KeyError, RecursionError) as problem:
        why = " ".join(str(problem).split())[:200]
        raise ValueError(f"{named} has an MLmodel that cannot be read ({why}): register it again") from None
    for name, flavor in flavors.items():
        loader = flavor.get("loader_module", "mlflow.transformers")
        if name not in ("python_function", "transformers") or loader != "mlflow.transformers":
            raise ValueError(
                f"{named} has an MLmodel that loads with {str(flavor.get('loader_module', name))[:80]!r}, which may "
                "run code: register a model of transformers"
            )
        if flavor.get("code"):
            raise ValueError(
                f"{named} has an MLmodel that brings code along ({str(flavor['code'])[:80]!r}), which is never run: "
                "register the model without it"
            )


def _refuse(check: Callable[[], None]) -> None:
    """Says what a check finds as something that the user can mend."""
    try:
        check()
    except ValueError as problem:
        raise InputError(f"the model is not loaded: {problem}") from None


def export_model(folder: Path, reference: str | None = None) -> Path:
    """Copies the model to `folder`, where transformers finds all that it needs.

    Raises InputError where `folder` exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty; name a new folder")
    source = resolve_model(reference)
    load(source, torch.device("cpu"))  # what cannot be used is not handed on
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=_left_out)
    return folder


def _left_out(folder: str, names: list[str]) -> list[str]:
    """What is not copied: hidden files, and what the Hub's cache may hold beside a model."""
    return [name for name in names if name.startswith(".") or harmful(name)]


def describe_export(folder: Path) -> str:
    """The folder, and the line that loads it."""
    use = USES[head_of(read_config(folder))]
    return f"{folder}\nLoads with transformers.{use.auto_class}.from_pretrained({str(folder)!r})"
