"""Models that start from a checkpoint: from the Hub or a folder, never with code or pickles of others."""

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import torch
from pydantic import Field
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from training.architectures import (
    CLASSES,
    Head,
    Shape,
    check_head,
    checked_family,
    head_settings,
    listed,
    no_dropout,
    usable_positions,
)
from training.config import Choice
from training.fittings import attention_for, finish
from training.foreign import check_folder, check_size, has_weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

# All that is fetched from the Hub: no code, no pickles.
WANTED_FILES = ("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.joblib", "*.h5", "*.msgpack")
ASK_SECONDS = 5.0  # for the Hub to answer, before only what lies here counts
# Vocabularies are padded up to a round number: phi-1.5 leaves 905 of 51,200 entries unused.
SPARE_SHARE = 0.02


class Loaded(NamedTuple):
    """A model from a checkpoint, and what did not come from there."""

    model: PreTrainedModel
    newly_made: tuple[str, ...]  # tensors that the checkpoint lacks, or has in another shape
    left_out: tuple[str, ...]  # tensors of the checkpoint that the model has no place for


def load_saved(folder: Path, head: Head) -> PreTrainedModel:
    """A Hugging Face folder's model, to be used and not trained: safetensors only, and none of its own code.

    Raises ValueError where the folder holds none with such a head, or is refused; see `training/foreign.py`.
    """
    config = read_config(folder)
    check_size(folder, config, head)
    try:
        model, info = CLASSES[head].from_pretrained(
            folder,
            config=config,
            attn_implementation="eager",
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"the weights of {folder} cannot be read: {_in_a_line(error)}") from None
    if info["missing_keys"]:
        raise ValueError(
            f"the weights of {folder} lack {listed(sorted(info['missing_keys']))}: save it again"
        )
    loaded: PreTrainedModel = model.eval()
    return loaded


class Pretrained(Choice):
    """A checkpoint to go on from; what it lacks for the objective, such as a classifier, is newly made."""

    kind: Literal["pretrained"] = "pretrained"
    name: str = Field(
        min_length=1,
        description="A model's name on the Hugging Face Hub, or a folder. Its tokenizer must be used, too. "
        "Checkpoints that bring code of their own, or hold pickles only, are refused.",
        examples=["answerdotai/ModernBERT-base", "my-models/first"],
    )
    revision: str | None = Field(
        default=None,
        description="Commit, tag or branch on the Hub. Empty: the newest, which may be another one tomorrow.",
    )

    def settled_depth(self) -> int | None:
        """The checkpoint's layers, as it cannot have others. Raises ValueError as `config` does."""
        return int(read_config(folder_of(self.name, self.revision)).get_text_config().num_hidden_layers)

    def with_depth(self, depth: int) -> Self:
        """The same: a checkpoint's depth is what it is."""
        return self

    def config(self, shape: Shape) -> PreTrainedConfig:
        """The checkpoint's config, with the shape's labels.

        Raises ValueError, saying what to do, where the checkpoint is not there, is refused, or does
        not fit the shape.
        """
        config = read_config(folder_of(self.name, self.revision))
        check_head(config.model_type, shape.head)
        check_fit(config, shape, self.name)
        for name, value in (no_dropout(config) | head_settings(shape)).items():
            setattr(config, name, value)
        if shape.head == "classification" or config.pad_token_id is None:
            config.pad_token_id = shape.pad_token  # where a causal model's row ends
        return config

    def sketch(self, shape: Shape) -> PreTrainedModel:
        """The model without its weights: what it would weigh, at no cost."""
        config = self.config(shape)
        with torch.device("meta"):
            model: PreTrainedModel = CLASSES[shape.head].from_config(config)
        return model

    def build(self, shape: Shape, seed: int) -> PreTrainedModel:
        """The checkpoint with the shape's head; what is newly made is logged. Raises ValueError as `load` does."""
        return self.load(shape, seed).model

    def load(self, shape: Shape, seed: int) -> Loaded:
        """The model in float32, and what of it is new, which depends on the seed alone.

        Raises ValueError where the checkpoint is refused, or nothing of it fits.
        """
        config, folder = self.config(shape), folder_of(self.name, self.revision)
        check_size(folder, config, shape.head)
        torch.manual_seed(seed)
        try:
            model, info = CLASSES[shape.head].from_pretrained(
                folder,
                config=config,
                attn_implementation=attention_for(config, shape.attention),
                dtype=torch.float32,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except (OSError, SafetensorError) as error:
            raise ValueError(f"the weights of {self.name} cannot be read: {_in_a_line(error)}") from error
        newly_made = tuple(sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}))
        left_out = tuple(sorted(info["unexpected_keys"]))
        if len(newly_made) >= len(list(model.parameters())):
            raise ValueError(f"no tensor of {self.name} fits a {config.model_type} of its own config")
        if newly_made:
            logger.warning("newly made, as %s has none of it: %s", self.name, listed(newly_made))
        most = usable_positions(model)
        if most is not None and shape.context > most:
            raise ValueError(too_long(self.name, most, shape.context))
        return Loaded(finish(model, shape), newly_made, left_out)


def folder_of(name: str, revision: str | None) -> Path:
    """Where a checkpoint lies here, fetched from the Hub if it must be; no file of code or pickles is fetched.

    Raises ValueError where there is no such folder, or the Hub has it not or is out of reach.
    """
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    if name.startswith((".", "/", "~", "\\")) or name.count("/") > 1:
        raise ValueError(f"no folder {name}: give a folder that holds config.json, or a name on the Hub")
    from huggingface_hub import HfApi, snapshot_download

    offline = os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE")
    reason: Exception | str = "HF_HUB_OFFLINE is set"
    if not offline:
        try:  # one question, not asked again: downloads would try for 23 s
            revision = HfApi().model_info(name, revision=revision, timeout=ASK_SECONDS).sha
        except Exception as error:  # whatever the network's libraries raise
            offline, reason = True, error
    try:
        found = snapshot_download(
            name, revision=revision, allow_patterns=list(WANTED_FILES), local_files_only=offline
        )
    except Exception as error:
        why = reason if offline else error
        raise ValueError(
            f"{name} is neither a folder nor found on the Hub or in its cache here ({why}): check the name, "
            "the revision and the network"
        ) from error
    return Path(found)


def read_config(folder: Path) -> PreTrainedConfig:
    """A checkpoint's config. Raises ValueError as `family_of` does, and where none of our objectives is for it."""
    checked_family(family_of(folder))
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # every architecture checks its settings in its own way
        raise ValueError(f"{folder / 'config.json'} describes no model: {_in_a_line(error)}") from None
    return config


def family_of(folder: Path) -> str:
    """A checkpoint's architecture.

    Raises ValueError where it has no config, wants code, holds pickles only, or is refused by
    `check_folder`.
    """
    path = folder / "config.json"
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        family = str(raw["model_type"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"{folder} holds no config.json that names a model_type: {_in_a_line(error)}"
        ) from None
    for name, what in (("quantization_config", "quantized"), ("transformers_weights", "an adapter")):
        if name in raw:
            raise ValueError(f"{folder} is {what} ({name} in config.json): take the full float checkpoint")
    if (folder / "adapter_config.json").exists():
        raise ValueError(f"{folder} holds an adapter: merge it into its model first, and take that")
    if not has_weights(folder):
        pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        found = f"only {listed(pickles)}, which may run code when read" if pickles else "no weights"
        raise ValueError(
            f"{folder} has no model.safetensors, {found}: save the model with save_pretrained first"
        )
    check_folder(folder)
    return family


def tokenizer_of(name: str, revision: str | None = None) -> "PreTrainedTokenizerBase":
    """A checkpoint's tokenizer, of a folder or of the Hub. Raises ValueError where it cannot be read."""
    from transformers import AutoTokenizer  # takes a second

    place = Path(name).expanduser()
    if place.is_dir():
        check_folder(place)
    try:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(place) if place.is_dir() else name, revision=revision, trust_remote_code=False
        )
    except BaseException as error:  # a broken tokenizer.json panics in Rust, which is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise ValueError(f"the tokenizer of {name} cannot be read: {_in_a_line(error)}") from None
    return found


def _in_a_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:400]


def check_fit(config: PreTrainedConfig, shape: Shape, name: str) -> None:
    """Raises ValueError where vocabulary or context are not those of the checkpoint."""
    entries = config.get_text_config().vocab_size
    if not (1 - SPARE_SHARE) * entries <= shape.vocabulary <= entries:
        raise ValueError(
            f"{name} has a vocabulary of {entries:,}, the data of {shape.vocabulary:,}: tokenize the data with "
            f"the checkpoint's own tokenizer"
        )
    most = getattr(config.get_text_config(), "max_position_embeddings", None)
    if most is not None and shape.context > most:
        raise ValueError(too_long(name, most, shape.context))


def too_long(name: str, most: int, context: int) -> str:
    return f"{name} knows {most:,} positions, and learning.context is {context:,}: set it to {most} or less"
