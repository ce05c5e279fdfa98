"""Architectures of `transformers`: which there are, what each can learn, and how its config follows from one size."""

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

Head = Literal["causal", "masked", "classification"]
# Those whose sizes were looked at; every other architecture keeps its own proportions.
PRESETS = ("lfm2", "nanochat", "llama", "qwen3", "gpt2", "mamba2", "modernbert", "bert")
CLASSES: dict[Head, Any] = {
    "causal": AutoModelForCausalLM,
    "masked": AutoModelForMaskedLM,
    "classification": AutoModelForSequenceClassification,
}
HEAD_WIDTH = 64
# mamba2: memory a channel, and tokens it takes at once. Of 32, 64, 128 and of 16 to 128 the fastest on a CPU.
STATE_SIZE, CHUNK = 32, 32
WINDOW = 128  # modernbert's local attention (Warner et al. 2024)
SHORT_THETA, LONG_THETA = 1e4, 1.6e5  # modernbert's rotations up to 1,024 tokens and beyond (ibid.)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the data, the objective and the learning ask of a model."""

    head: Head = "causal"
    vocabulary: int
    context: int  # most tokens at once
    start_token: int = 0  # opens every document
    mask_token: int | None = None  # stands for a hidden token, where the head is masked
    pad_token: int = 0
    labels: tuple[str, ...] = ()  # of a classification, in order of their ids
    dropout: float = 0.0  # on what each layer writes into the residual stream
    attention: str = "eager"  # as transformers calls it
    activation_checkpointing: bool = False


def width_of(depth: int) -> int:
    """Three quarters of a head of 64 for each layer, at least one head: 4 layers of 192, 12 of 576."""
    return HEAD_WIDTH * max(1, math.ceil(0.75 * depth))


def hidden_parameters(depth: int) -> int:
    """Weights between the embeddings: 12 * depth * width^2; every preset comes within 10 % from depth 3 on."""
    return 12 * depth * width_of(depth) ** 2


def known_families() -> list[str]:
    """Every architecture that can learn one of our objectives, as transformers names it."""
    return sorted(
        {
            *MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            *MODEL_FOR_MASKED_LM_MAPPING_NAMES,
            *MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        }
        & set(CONFIG_MAPPING.keys())
    )


def checked_family(name: str) -> str:
    """The name itself. Raises ValueError, naming the nearest ones, where transformers has none of that name."""
    known = known_families()
    if name in known:
        return name
    near = difflib.get_close_matches(name.lower(), known, n=3) or PRESETS
    raise ValueError(f"{name!r} is no architecture of transformers: did you mean {' or '.join(near)}?")


def heads_of(family: str) -> tuple[Head, ...]:
    """What an architecture can learn.

    One that fills gaps sees both sides of a token, so it is not offered as causal, although
    transformers has such a class for some (bert): it would read what it is asked to predict.
    """
    masked = family in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    offered: dict[Head, bool] = {
        "causal": family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not masked,
        "masked": masked,
        "classification": family in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    }
    return tuple(head for head, there in offered.items() if there)


def check_head(family: str, head: Head) -> None:
    """Raises ValueError, saying which families can, where this one cannot learn what the head is for."""
    if head not in heads_of(family):
        able = ", ".join(preset for preset in PRESETS if head in heads_of(preset))
        mine = " or ".join(heads_of(family)) or "neither"
        raise ValueError(
            f"{family} has no {head} head, only {mine}: take another model.family, such as {able}"
        )


def packs(family: str) -> bool:
    """Whether documents in one row stay apart when `position_ids` start again at each.

    Holds with no attention mask and `use_cache=False`, under eager and sdpa. False for
    convolutions and recurrences, which run on over the border, and for masked models.
    """
    return family in ("nanochat", "llama", "qwen3", "gpt2")


def check_packing(family: str, packing: str) -> None:
    """Raises ValueError where rows are packed by documents and this family cannot keep those apart."""
    if packing == "documents" and not packs(family):
        raise ValueError(
            f"learning.packing is documents, but {family} looks beyond a document: use blocks, or a model.family"
            " such as nanochat"
        )


def config_of(family: str, depth: int, shape: Shape) -> PreTrainedConfig:
    """The architecture's config at a depth. Raises ValueError where it cannot have the shape's head."""
    check_head(family, shape.head)
    own = CONFIG_MAPPING[family]()
    settings = token_settings(own, shape) | head_settings(shape) | no_dropout(own)
    if family in PRESETS:  # untied layers learn faster; bert's output bias only learns where they are tied
        settings["tie_word_embeddings"] = family == "bert"
        return AutoConfig.for_model(family, **settings, **sizes_of(family, depth, shape.context))
    try:
        config = AutoConfig.for_model(family, **settings, **scaled(own, depth, shape.context))
        with torch.device("meta"):
            most = usable_positions(CLASSES[shape.head].from_config(config))
    except Exception as error:  # whatever a config or a model that we know nothing of may raise
        able = ", ".join(preset for preset in PRESETS if shape.head in heads_of(preset))
        raise ValueError(
            f"{family} does not follow from a depth of {depth} ({error}): take {able}"
        ) from error
    if most is not None and most < shape.context:
        config.max_position_embeddings += shape.context - most
    return config


def token_settings(own: PreTrainedConfig, shape: Shape) -> dict[str, Any]:
    """Vocabulary and special tokens: all that a config names stand at the start token, but padding and mask."""
    named = [
        name for name, value in own.to_dict().items() if name.endswith("_token_id") and value is not None
    ]
    settings: dict[str, Any] = dict.fromkeys([*named, "bos_token_id", "eos_token_id"], shape.start_token)
    settings |= {"vocab_size": shape.vocabulary, "pad_token_id": shape.pad_token}
    if shape.mask_token is not None:
        settings["mask_token_id"] = shape.mask_token
    return settings


def head_settings(shape: Shape) -> dict[str, Any]:
    """The labels of a classification. Raises ValueError where there are fewer than two."""
    if shape.head != "classification":
        return {}
    if len(shape.labels) < 2:
        raise ValueError(f"classification needs two labels at least, and the data have {len(shape.labels)}")
    return {
        "id2label": dict(enumerate(shape.labels)),
        "label2id": {label: number for number, label in enumerate(shape.labels)},
        "problem_type": "single_label_classification",
    }


def no_dropout(config: PreTrainedConfig) -> dict[str, float]:
    """All dropout that a config can ask for, at zero: ours is added from outside and is not saved."""
    numbers = {name: value for name, value in config.to_dict().items() if "drop" in name}
    return {name: 0.0 for name, value in numbers.items() if type(value) in (int, float)}


def sizes_of(family: str, depth: int, context: int) -> dict[str, Any]:
    """Sizes of a preset: every layer weighs 12 * width^2, whatever it is made of.

    A gated feed-forward is 8/3 of the width instead of 4, as it has three matrices; two blocks of
    mamba2, of 6 * width^2 each, count as one layer (Dao and Gu 2024).
    """
    width = width_of(depth)
    heads = width // HEAD_WIDTH
    if family == "gpt2":
        return {"n_embd": width, "n_layer": depth, "n_head": heads, "n_positions": context}
    if family == "mamba2":
        scan = {"head_dim": HEAD_WIDTH, "num_heads": 2 * heads, "n_groups": 1, "expand": 2}
        memory = {"state_size": STATE_SIZE, "chunk_size": CHUNK}
        return {"hidden_size": width, "num_hidden_layers": 2 * depth, **scan, **memory}
    gated = family in ("llama", "qwen3", "lfm2", "modernbert")
    sizes: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": rounded(8 * width / 3) if gated else 4 * width,
        "max_position_embeddings": context,
    }
    if family in ("nanochat", "llama", "qwen3", "lfm2"):
        sizes["num_key_value_heads"] = heads
    if family in ("llama", "qwen3"):
        sizes["head_dim"] = HEAD_WIDTH
    if family == "lfm2":  # every third layer attends, counted from the last, but not the first one
        attends = [(depth - 1 - layer) % 3 == 0 and (layer > 0 or depth == 1) for layer in range(depth)]
        sizes["layer_types"] = ["full_attention" if attend else "conv" for attend in attends]
        sizes["block_auto_adjust_ff_dim"] = False
        sizes["rope_parameters"] = {"rope_type": "default", "rope_theta": SHORT_THETA}
    if family == "modernbert":
        theta = SHORT_THETA if context <= 1024 else LONG_THETA
        turns = {"full_attention": theta, "sliding_attention": SHORT_THETA}
        sizes["rope_parameters"] = {k: {"rope_type": "default", "rope_theta": v} for k, v in turns.items()}
        sizes |= {"local_attention": WINDOW, "classifier_pooling": "mean"}
    return sizes


def scaled(own: PreTrainedConfig, depth: int, context: int) -> dict[str, Any]:
    """Sizes of any other architecture, by the common names that its config has, in its own proportions.

    Raises ValueError for one that is made of several models and has no size of its own.
    """
    if own.is_encoder_decoder or not hasattr(own, "hidden_size") or not hasattr(own, "num_hidden_layers"):
        raise ValueError("it is made of several models")
    width = width_of(depth)
    heads = width // HEAD_WIDTH
    wanted: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": HEAD_WIDTH,
        "max_position_embeddings": context,
    }
    for name in ("intermediate_size", "embedding_size"):
        if isinstance(getattr(own, name, None), int):
            wanted[name] = rounded(getattr(own, name) * width / own.hidden_size)
    computed = [name for name in wanted if isinstance(getattr(type(own), name, None), property)]
    return {k: value for k, value in wanted.items() if hasattr(own, k) and k not in computed}


def usable_positions(model: nn.Module) -> int | None:
    """Positions, where they are fewer than the config says: roberta's kind loses the first ones to padding."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
            return None if module.padding_idx is None else module.num_embeddings - module.padding_idx - 1
    return None


def rounded(size: float) -> int:
    """The next multiple of 64, which hardware multiplies best."""
    return math.ceil(size / 64) * 64


def listed(names: Iterable[str], most: int = 8) -> str:
    """Names for a message: the first few, and how many more."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
