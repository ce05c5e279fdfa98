"""Using a model: find it by name, load it without running its code, have it complete text, take it along."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers.decoders import DecodeStream
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from tasks import home, tracking
from tasks.artifacts import InputError
from tasks.heads import USES, head_of
from tasks.store import content_key, stored, storing
from training.pretrained import load_saved

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

# What may be downloaded and opened: none of it can hold code that runs on loading.
SAFE_FILES = {".safetensors", ".json", ".txt", ".md", ".jinja"}
SMALL_PARAMETERS = 30_000_000  # by eye
MOST_CONTEXT = 65_536  # tokens, where neither model nor tokenizer states any


def load(
    model_folder: Path, device: torch.device | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a Hugging Face folder: safetensors only, and none of the folder's own code.

    The model has the head that it was saved with. Raises OSError or ValueError where the folder
    holds no such model.
    """
    logging.disable_progress_bar()
    local = {"trust_remote_code": False, "local_files_only": True}
    model = load_saved(model_folder, head_of(AutoConfig.from_pretrained(model_folder, **local)))
    tokenizer = AutoTokenizer.from_pretrained(model_folder, **local)
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


def complete(
    model_folder: Path,
    prompt: str,
    tokens: int = 200,
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int | None = None,
) -> Iterator[str]:
    """The completion of `prompt`, piece by piece, as it is sampled.

    Ends after `tokens` tokens, or where the model ends the document. Temperature 0 always takes the
    likeliest token. The prompt opens a document; of a long text only the last context counts.
    Raises InputError for a model that does not write.
    """
    model, tokenizer = load(model_folder)
    head = head_of(model.config)
    if head != "causal":
        raise InputError(
            f"the model is {USES[head].article_noun} and does not write: use `shoestring {USES[head].command}`"
        )
    return sample(model, tokenizer, prompt, tokens, temperature, top_k, seed)


@torch.inference_mode()
def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    tokens: int = 200,
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int | None = None,
) -> Iterator[str]:
    """As `complete`, with a loaded model; in fp32, as bf16 took twice as long a token on a CPU."""
    context = context_of(model, tokenizer)
    ends = {start_token(tokenizer), tokenizer.eos_token_id}
    memory = "cache_params" if "cache_params" in signature(model.forward).parameters else "past_key_values"
    dice = torch.Generator()
    dice.manual_seed(seed) if seed is not None else dice.seed()
    spelt = tokenizer(prompt, add_special_tokens=False, split_special_tokens=True).input_ids
    ids = [start_token(tokenizer), *spelt]
    text = DecodeStream(ids=ids, skip_special_tokens=True)
    unread, cache, read = ids[-context:], None, 0
    with one_thread_if_small(model):
        for _ in range(tokens):
            if read + len(unread) > context:  # positions end here: go on from the last half
                unread, cache, read = ids[-(context // 2) :], None, 0
            inputs = torch.tensor([unread], device=model.device)
            seen = model(input_ids=inputs, use_cache=True, **{memory: cache})
            cache, read = seen[memory], read + len(unread)
            token = choose(seen.logits[0, -1].float().cpu(), temperature, top_k, dice)
            if token in ends:
                return
            ids.append(token)
            unread = [token]
            if piece := text.step(tokenizer.backend_tokenizer, token):
                yield piece


@contextmanager
def one_thread_if_small(model: PreTrainedModel) -> Iterator[None]:
    """Keeps single-token steps of a small model on one core: 2 ms a token, and 50 with two on a busy machine."""
    threads = torch.get_num_threads()
    if model.num_parameters() < SMALL_PARAMETERS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def choose(logits_V: torch.Tensor, temperature: float, top_k: int | None, dice: torch.Generator) -> int:
    """One token, drawn from the `top_k` likeliest at this temperature."""
    if temperature <= 0:
        return int(logits_V.argmax())
    if top_k:
        logits_V = logits_V.masked_fill(
            logits_V < logits_V.topk(min(top_k, len(logits_V))).values[-1], -torch.inf
        )
    return int(torch.multinomial(torch.softmax(logits_V / temperature, dim=-1), 1, generator=dice))


def resolve_model(reference: str | None = None) -> Path:
    """The Hugging Face folder that `reference` names: a folder, `name@alias` or `name/version`.

    None means the champion registered last. Names may leave out the registry's prefix. Registered
    models are copied into the store once. Raises InputError where there is no such model, or where
    it holds files that could run code.
    """
    if reference and (Path(reference) / "config.json").is_file():
        return Path(reference)
    client = tracking.client()
    version = _find(client, reference) if reference else newest_champion(client)
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


def _find(client: "MlflowClient", reference: str) -> "ModelVersion":
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
    """The Hugging Face folder behind a registered version, copied into the store on first use."""
    from mlflow.artifacts import download_artifacts

    named, uri = f"{version.name}/{version.version}", tracking.tracking_uri()
    root = client.get_model_version_download_uri(version.name, version.version)
    key = content_key(root, version.creation_timestamp)
    if not stored("models", key):
        _refuse_unsafe(named, list(_files(root, "model", uri)))
        with storing("models", key) as draft:
            download_artifacts(artifact_uri=f"{root}/model", dst_path=str(draft), tracking_uri=uri)
    folder = home.store("models") / key / "model"
    _refuse_unsafe(named, [path.name for path in folder.rglob("*") if path.is_file()])
    return folder


def _files(root: str, folder: str, tracking_uri: str) -> Iterator[str]:
    """Paths of all files below a folder of artifacts, asked for without fetching them."""
    from mlflow.artifacts import list_artifacts

    for entry in list_artifacts(artifact_uri=f"{root}/{folder}", tracking_uri=tracking_uri):
        path = f"{folder}/{Path(entry.path).name}"
        if entry.is_dir:
            yield from _files(root, path, tracking_uri)
        else:
            yield path


def _refuse_unsafe(named: str, files: list[str]) -> None:
    if not files:
        raise InputError(f"{named} holds no folder `model`; it was not registered by Shoestring")
    unsafe = [file for file in files if Path(file).suffix not in SAFE_FILES]
    if unsafe:
        raise InputError(
            f"{named} holds {unsafe[0]}, which could run code when loaded; only safetensors are opened"
        )


def export_model(folder: Path, reference: str | None = None) -> Path:
    """Copies the model to `folder`, where transformers finds all that it needs.

    Raises InputError where `folder` exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty; name a new folder")
    source = resolve_model(reference)
    shutil.copytree(source, folder, dirs_exist_ok=True)
    return folder


def describe_export(folder: Path) -> str:
    """The folder, and the line that loads it."""
    use = USES[head_of(AutoConfig.from_pretrained(folder, trust_remote_code=False))]
    return f"{folder}\nLoads with transformers.{use.auto_class}.from_pretrained({str(folder)!r})"
