"""What a model costs before it is trained: FLOPs a token, and bytes of memory."""

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from training.budget import training_flops_per_token

WEIGHT_BYTES, GRADIENT_BYTES = 4, 4  # float32; with Adam's moments 16 (Rajbhandari et al. 2020, section 3.1)
# Bytes that a layer keeps for the backward pass, for each value of its width and for each attention
# score. Korthikanti et al. 2022 (equation 2) count 34 and 5 for fused code in 16 bits; the layers of
# transformers keep 58 to 75 in bf16, as norms and rotations are in float32, and 75 to 110 in float32.
BYTES_PER_VALUE_HALF, BYTES_PER_VALUE, BYTES_PER_SCORE = 68, 92, 5
SCAN = 1.85  # a recurrence keeps so much more: its scan is in float32, at twice the width
LOGIT_BYTES = 10  # for each logit: in 16 bits, in float32, and the gradient


def flops_per_token(model: PreTrainedModel, context: int, predicted: float = 1.0) -> float:
    """Training FLOPs a token, for the utilisation in the journal; the model may be a sketch.

    Counts what multiplies: all weights but embeddings that are only looked up, and attention over
    the whole context, or the window where layers have one. The output layer sees the share of tokens
    that is `predicted`. Experts that a token is not sent to are
    counted, too, so the utilisation of a mixture of experts comes out too high.
    """
    tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    head = model.get_output_embeddings()
    if head is not None:
        tables -= {id(p) for p in head.parameters()}  # tied: looked up once, multiplied once
    parameters = sum(p.numel() for p in model.parameters() if id(p) not in tables)
    if head is not None:
        parameters -= int((1 - predicted) * sum(p.numel() for p in head.parameters()))
    config = model.config.get_text_config()
    return training_flops_per_token(parameters, 1, config.hidden_size, sum(attention_spans(config, context)))


def attention_spans(config: PreTrainedConfig, context: int) -> list[int]:
    """How many tokens each layer that attends looks at."""
    if not hasattr(config, "num_attention_heads"):
        return []
    layers = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    window = min(context, getattr(config, "sliding_window", None) or context)
    if config.model_type == "modernbert":  # gives half its window, as it looks both ways
        window = min(context, 2 * window)
    spans = {"full_attention": context, "sliding_attention": window}
    return [spans[layer] for layer in layers if layer in spans]


def training_bytes(
    model: PreTrainedModel,
    rows: int,
    context: int,
    state_bytes: int = 8,
    half_precision: bool = True,
    checkpointing: bool = False,
) -> int:
    """Memory that training takes on one device, without sharding; the model may be a sketch.

    Weights, gradients and optimizer state (`state_bytes` a weight: 8 for Adam, 4 for Muon or
    momentum, 0 for SGD), and the activations of a micro-batch of `rows` by `context` tokens, with
    eager attention's scores. `checkpointing` keeps each layer's input, and all of one layer.
    Within 30 % of what the presets keep, but bert, which keeps less. What the framework and the
    allocator take comes on top.
    """
    parameters = sum(p.numel() for p in model.parameters())
    config = model.config.get_text_config()
    tokens, width, layers = rows * context, config.hidden_size, config.num_hidden_layers
    spans = attention_spans(config, context)
    per_value = (BYTES_PER_VALUE_HALF if half_precision else BYTES_PER_VALUE) * (1 if spans else SCAN)
    values = per_value * tokens * width
    scores = [BYTES_PER_SCORE * tokens * span * config.num_attention_heads for span in spans]
    activations = layers * values + sum(scores)
    if checkpointing:
        activations = layers * 4 * tokens * width + values + max(scores, default=0)
    if model.get_output_embeddings() is not None:
        activations += LOGIT_BYTES * tokens * config.vocab_size
    kept = parameters * (WEIGHT_BYTES + GRADIENT_BYTES + state_bytes + (2 if half_precision else 0))
    return int(kept + activations)
