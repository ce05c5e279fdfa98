"""What is fitted to a built model: dropout and activation checkpointing, and proofs that it can be trained."""

import warnings

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from training.architectures import PRESETS, Shape
from training.attention import NAME as BLOCKWISE

# What architectures call the projections that write into their residual stream.
OUTPUT_PROJECTIONS = (
    *("o_proj", "down_proj", "fc2", "c_proj", "out_proj", "w2", "Wo", "output.dense"),  # of the presets
    *("attention.dense", "self_attention.dense", "dense_4h_to_h", "out_lin", "lin2"),
)


def output_projections(model: nn.Module) -> list[nn.Module]:
    """The modules that write into the residual stream; empty where they bear no name that we know."""
    endings = tuple(f".{name}" for name in OUTPUT_PROJECTIONS)
    return [
        module
        for name, module in model.named_modules()
        if name.endswith(endings) and not name.startswith("classifier.")
    ]


def add_dropout(model: nn.Module, share: float) -> None:
    """Drops this share of what each layer writes into the residual stream, while training only.

    It hangs on the modules as a hook, so a saved model and its config know nothing of it. Masks come
    from torch's global generator of the device: to replay a step, seed it as before that step.
    Activation checkpointing puts the generator's state back before it computes a layer again, so
    both passes drop the same. Raises ValueError for a model whose layers we cannot tell.
    """
    if not share:
        return
    writers = output_projections(model)
    if not writers:
        raise ValueError(
            f"{type(model).__name__} has no layers that we can drop from: set learning.dropout to 0"
        )

    def drop(module: nn.Module, _: object, written: torch.Tensor) -> torch.Tensor:
        return F.dropout(written, share, module.training)

    for module in writers:
        module.register_forward_hook(drop)


def let_start_learn(model: PreTrainedModel, start_token: int) -> None:
    """Gives the start token an embedding that learns, where it serves as padding, too.

    transformers keeps the padding's embedding at zero; from nothing but zero a model without
    biases predicts the first token of every document uniformly, for ever.
    """
    table = model.get_input_embeddings()
    if getattr(table, "padding_idx", None) != start_token:
        return
    table.padding_idx = None
    with torch.no_grad():
        if not table.weight[start_token].any():
            nn.init.normal_(table.weight[start_token], std=float(table.weight.std()))


def narrow_residuals(model: PreTrainedModel) -> None:
    """Under autocast, what layers add to is as narrow as what they say: embeddings come out in its type.

    Otherwise the sum stays in fp32 and every layer widens and narrows again: a tenth of a step on a CPU.
    """

    def narrow(module: nn.Module, inputs: object, embedded: torch.Tensor) -> torch.Tensor:
        kind = embedded.device.type
        return embedded.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else embedded

    model.get_input_embeddings().register_forward_hook(narrow)


def attention_for(config: PreTrainedConfig, asked: str) -> str:
    """The implementation asked for, or `eager` where it cannot be had.

    That is in a recurrence, which has no attention, and blocks in architectures that nobody has
    looked at, whose windows, caps or sinks they would leave out.
    """
    unseen = asked == BLOCKWISE and config.model_type not in PRESETS
    return "eager" if unseen or not hasattr(config, "num_attention_heads") else asked


def finish(model: PreTrainedModel, shape: Shape) -> PreTrainedModel:
    """The model, with a start token that learns, and the dropout and activation checkpointing asked for."""
    let_start_learn(model, shape.start_token)
    add_dropout(model, shape.dropout)
    if shape.activation_checkpointing:
        with warnings.catch_warnings():  # the name that replaces it is unknown to transformers 5.17
            warnings.simplefilter("ignore", FutureWarning)
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def try_out(model: PreTrainedModel, shape: Shape) -> None:
    """Passes one full row through a model that nobody has looked at.

    Raises ValueError where it fails, or where a prediction of a model called causal depends on
    the token after it.
    """
    ids_BT = 1 + torch.arange(shape.context)[None] % (shape.vocabulary - 1)
    other_BT = ids_BT.clone()
    other_BT[0, -1] = 1 + other_BT[0, -1] % (shape.vocabulary - 1)
    kind, was = type(model).__name__, model.training
    given = {"use_cache": False} if shape.head == "causal" else {}
    model.eval()
    try:
        with torch.no_grad():
            one, two = (model(input_ids=ids, **given).logits for ids in (ids_BT, other_BT))
    except Exception as error:  # whatever a model that we know nothing of may raise
        raise ValueError(f"{kind} fails on one row of {shape.context} tokens: {error}") from error
    model.train(was)
    if shape.head == "causal" and not torch.allclose(one[:, :-1], two[:, :-1], rtol=1e-4, atol=1e-5):
        raise ValueError(f"{kind} sees the tokens that it is to predict: take another model.family")
