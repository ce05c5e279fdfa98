"""What a recipe leaves empty, settled by rules with a reason; the plan shows both."""

import math

import numpy as np
from transformers import PreTrainedModel

from tasks.artifacts import Tokens
from training.blueprint import Blueprint, Learning
from training.data import LENGTH, Shards, Slice
from training.fittings import output_projections
from training.metrics import MASKED_PASSES
from training.model import Head, Model, Pretrained
from training.objectives import Objective
from training.pretrained import folder_of, read_config

DEPTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24)  # that are open where none is asked for
# One layer of lfm2 ends a fifth above two; measured.
LEAST_DEPTH: dict[Head, int] = {"causal": 2, "masked": 1, "classification": 1}
# How often a token passes through the model to be scored, see training.metrics; texts come in windows
# that overlap by half.
STEP_PASSES = 3  # forward passes that take as long as a step of training (Kaplan et al. 2020, section 2.1)
PASSES: dict[Head, float] = {"causal": 2.0, "masked": 2.0 * MASKED_PASSES, "classification": 1.0}
BATCH_TOKENS = 2048  # a worker; a step of less does not fill a core, see DECISIONS
GPU_BATCH_TOKENS = 32_768  # by eye: no GPU was at hand
CONTEXTS = (
    (0.0, 256),
    (7200.0, 512),
    (36_000.0, 1024),
)  # from so many seconds on; 256 measured, the rest by eye
GPU_CONTEXT = 1024  # by eye
DROPOUT, DROPOUT_PASSES = 0.1, 4.0  # from so many passes over the text on; measured, see DECISIONS
EPOCHS = 3.0  # of a classifier at most, as it then learns its few texts by heart; measured, see DECISIONS
WHOLE_SHARE = 0.99  # of documents to classify that the context holds whole
COMPILE_SECONDS = (
    300.0  # of a final run on a GPU, from which on compiling pays; on a CPU it does not, see FACTS
)


def settle(
    learning: Learning,
    objective: Objective,
    model: Model,
    tokens: Tokens,
    workers: int,
    on_gpu: bool,
    like_seconds: float,
) -> tuple[Learning, dict[str, str]]:
    """The learning with its batch, context and epochs, and the reasons."""
    context, why_context = learning.context, "user"
    if context is None:
        context, why_context = context_rule(objective, model, tokens, on_gpu, like_seconds)
    batch, why_batch = learning.batch_tokens, "user"
    if batch is None:
        each = GPU_BATCH_TOKENS if on_gpu else BATCH_TOKENS
        batch, why_batch = each * workers, f"planner: {each:,} for each worker, which fills it"
    settled: dict[str, float] = {"batch_tokens": batch, "context": context}
    reasons = {"context": why_context, "batch_tokens": why_batch}
    epochs, why_epochs = learning.epochs, "user"
    if epochs is None:
        epochs, why_epochs = epochs_rule(objective)
    if epochs is not None:
        settled["epochs"], reasons["epochs"] = epochs, why_epochs
    return learning.model_copy(update=settled), reasons


def open_depths(objective: Objective) -> tuple[int, ...]:
    """What a plan may choose from, where the depth is open."""
    return tuple(depth for depth in DEPTHS if depth >= LEAST_DEPTH[objective.head])


def epochs_rule(objective: Objective) -> tuple[float | None, str]:
    """How often a text may be read at most, None for without end, and why."""
    if objective.head == "classification":
        return EPOCHS, "planner: at most, as few labelled texts are soon learned by heart"
    return None, "planner: as many as there is time for"


def dropout_rule(objective: Objective, model: PreTrainedModel, passes: float) -> tuple[float, str]:
    """How much to drop in a training that passes over its text so often, and why; a sketch of the model will do."""
    seen = f"planner: the text is seen {passes:.1f} times"
    if objective.head == "masked":
        return 0.0, f"{seen}, with other tokens hidden each time"
    if objective.head == "classification":
        return 0.0, "planner: it did not help classifiers in our trials"
    if passes < DROPOUT_PASSES:
        return 0.0, f"{seen}; dropout helps from about {DROPOUT_PASSES:.0f} on"
    if not output_projections(model):
        return 0.0, f"{seen}, but we cannot tell where {model.config.model_type} could drop"
    return DROPOUT, f"{seen}, and dropout keeps it from being learned by heart"


def context_rule(
    objective: Objective, model: Model, tokens: Tokens, on_gpu: bool, like_seconds: float
) -> tuple[int, str]:
    """The context that suits, and why: no longer than documents to classify need, or than a checkpoint knows."""
    usual = GPU_CONTEXT if on_gpu else max(context for since, context in CONTEXTS if like_seconds >= since)
    context, reason = usual, "planner: good for this much time here; see DECISIONS"
    if objective.head == "classification":
        lengths = Slice(Shards(tokens.folder), "train").documents()[:, LENGTH]
        context = min(usual, 32 * math.ceil(float(np.quantile(lengths, WHOLE_SHARE)) / 32))
        reason = f"planner: holds {np.mean(lengths <= context):.1%} of the documents whole, of others the beginning"
    known = positions_known(model)
    return (
        (context, reason)
        if known is None or context <= known
        else (known, "planner: all that the checkpoint knows")
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
