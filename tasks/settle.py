"""What a recipe leaves empty, settled by rules with a reason; the plan shows both."""

import math

import numpy as np

from tasks.artifacts import Tokens
from training.blueprint import Blueprint, Learning
from training.data import LENGTH, Shards, Slice
from training.metrics import MASKED_PASSES
from training.model import Head, Model, Pretrained
from training.objectives import Objective
from training.pretrained import folder_of, read_config

# How often a token passes through the model to be scored, see training.metrics; texts come in windows
# that overlap by half.
PASSES: dict[Head, float] = {"causal": 2.0, "masked": 2.0 * MASKED_PASSES, "classification": 1.0}
BATCH_TOKENS, CONTEXT = 2048, 256  # good on a CPU for minutes; see DECISIONS
WHOLE_SHARE = 0.99  # of documents to classify that the context holds whole
COMPILE_SECONDS = (
    300.0  # of a final run on a GPU, from which on compiling pays; on a CPU it does not, see FACTS
)


def settle(
    learning: Learning, objective: Objective, model: Model, tokens: Tokens
) -> tuple[Learning, dict[str, str]]:
    """The learning with its batch and context, and the reason for the context."""
    context, reason = learning.context, "user"
    if context is None:
        context, reason = context_rule(objective, model, tokens)
    settled = {"batch_tokens": learning.batch_tokens or BATCH_TOKENS, "context": context}
    return learning.model_copy(update=settled), {"context": reason}


def context_rule(objective: Objective, model: Model, tokens: Tokens) -> tuple[int, str]:
    """The context that suits, and why: no longer than documents to classify need, or than a checkpoint knows."""
    context, reason = CONTEXT, "good for minutes on a CPU; see DECISIONS"
    if objective.head == "classification":
        lengths = Slice(Shards(tokens.folder), "train").documents()[:, LENGTH]
        context = min(CONTEXT, 32 * math.ceil(float(np.quantile(lengths, WHOLE_SHARE)) / 32))
        reason = f"holds {np.mean(lengths <= context):.1%} of the documents whole, of others the beginning"
    known = positions_known(model)
    return (
        (context, reason) if known is None or context <= known else (known, "all that the checkpoint knows")
    )


def scored_tokens(tokens: int, objective: Objective) -> int:
    """As many tokens as take no longer to score under this objective than `tokens` of a causal one."""
    return int(tokens * min(1.0, PASSES["causal"] / PASSES[objective.head]))


def uncompiled(blueprint: Blueprint) -> Blueprint:
    """The same training without compiling, for trials and folds, which are too short for it."""
    learning = blueprint.learning.model_copy(update={"compile": "off"})
    return blueprint.model_copy(update={"learning": learning})


def compile_or_not(asked: str, on_gpu: bool, seconds: float) -> tuple[str, str]:
    """Whether the final run is compiled, and why."""
    if asked != "auto":
        return asked, "user"
    if not on_gpu:
        return "off", "on a CPU it saves 0 to 13 % and takes up to a minute"
    pays = seconds >= COMPILE_SECONDS
    return ("on" if pays else "off"), f"pays in a final run of {COMPILE_SECONDS:.0f} s or more"


def positions_known(model: Model) -> int | None:
    """The longest context that a checkpoint can have; None where there is no such bound."""
    if not isinstance(model, Pretrained):
        return None
    config = read_config(folder_of(model.name, model.revision)).get_text_config()
    return getattr(config, "max_position_embeddings", None)
