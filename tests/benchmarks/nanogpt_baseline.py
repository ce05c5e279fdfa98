"""What nanoGPT would make of the same tokens in the same time: its model and its settings for a CPU.

Written anew after github.com/karpathy/nanoGPT: `model.py` (blocks without biases, learned positions, the output
tied to the embedding, projections into the residual stream drawn narrower), `train.py` (random positions,
AdamW whose decay spares vectors, clipping, warm-up and cosine), `config/train_shakespeare_char.py` (rates, beta2)
and the README's line for a machine without a GPU: context 64, 12 rows, 4 layers of 128 with 4 heads, no dropout,
no compilation, fp32. One thing differs, in its favour: its cosine runs over the time instead of over iterations,
as with a perfect guess of how many fit.

Shapes: B rows, T positions, C channels, V vocabulary.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

CONTEXT, ROWS, LAYERS, HEADS, WIDTH = 64, 12, 4, 4, 128
RATE, LEAST_RATE, WARMUP_ITERATIONS = 1e-3, 1e-4, 100
BETAS, WEIGHT_DECAY, LONGEST_GRADIENT = (0.9, 0.99), 0.1, 1.0
SPREAD = 0.02  # standard deviation of new weights


class Output(NamedTuple):
    """What a transformers model returns, as far as scoring needs it."""

    logits: torch.Tensor  # BTV


class Block(nn.Module):
    """Attention and a fourfold MLP, each behind a norm, both added to what passes by."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.attention_in = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.LayerNorm(width, bias=False)
        self.mlp_in = nn.Linear(width, 4 * width, bias=False)
        self.mlp_out = nn.Linear(4 * width, width, bias=False)

    def forward(self, x_BTC: torch.Tensor) -> torch.Tensor:
        split = self.attention_in(self.attention_norm(x_BTC)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in split)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x_BTC = x_BTC + self.attention_out(mixed.transpose(1, 2).flatten(2))
        added: torch.Tensor = x_BTC + self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x_BTC))))
        return added


class NanoGPT(nn.Module):
    """GPT-2 without biases, at nanoGPT's size for a CPU: 0.8 M parameters."""

    def __init__(self, vocabulary: int, context: int = CONTEXT) -> None:
        super().__init__()
        self.context = context
        self.tokens = nn.Embedding(vocabulary, WIDTH)
        self.positions = nn.Embedding(context, WIDTH)
        self.blocks = nn.ModuleList(Block(WIDTH, HEADS) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                narrower = math.sqrt(2 * LAYERS) if name.endswith("_out.weight") else 1.0
                nn.init.normal_(weight, std=SPREAD / narrower)

    def forward(self, input_ids: torch.Tensor) -> Output:
        """Logits of the next token, float [B, T, V]; T is at most the context."""
        x_BTC = self.tokens(input_ids) + self.positions.weight[: input_ids.shape[1]]
        for block in self.blocks:
            x_BTC = block(x_BTC)
        return Output(F.linear(self.norm(x_BTC), self.tokens.weight))


@dataclass(frozen=True)
class Trained:
    """A finished training, and what it scored on its way."""

    model: NanoGPT
    iterations: int
    seconds: float  # of training: looks are left out
    curve: list[tuple[float, float]]  # seconds of training, score


def rate(iteration: int, progress: float) -> float:
    """The learning rate: linear warm-up over iterations, then half a cosine down to LEAST_RATE."""
    if iteration < WARMUP_ITERATIONS:
        return RATE * (iteration + 1) / (WARMUP_ITERATIONS + 1)
    return LEAST_RATE + 0.5 * (1 + math.cos(math.pi * min(1.0, progress))) * (RATE - LEAST_RATE)


def train_nanogpt(
    ids: torch.Tensor,
    vocabulary: int,
    seconds: float,
    seed: int,
    look: Callable[[nn.Module], float] | None = None,
    look_seconds: float = 5.0,
) -> Trained:
    """Trains for `seconds` on the tokens `ids`, int64 [tokens].

    `look` is asked for a score every `look_seconds` of training and at its end; its own time does not count.
    """
    torch.manual_seed(seed)
    model = NanoGPT(vocabulary)
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    spared = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": WEIGHT_DECAY},
        {"params": spared, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=BETAS)
    offsets = torch.arange(CONTEXT + 1)
    curve: list[tuple[float, float]] = []
    iteration, spent, began = 0, 0.0, time.perf_counter()
    while spent < seconds:
        for group in optimizer.param_groups:
            group["lr"] = rate(iteration, spent / seconds)
        starts = torch.randint(len(ids) - CONTEXT, (ROWS, 1))
        rows = ids[starts + offsets]
        logits_BTV = model(rows[:, :-1]).logits
        loss = F.cross_entropy(logits_BTV.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), LONGEST_GRADIENT)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        iteration += 1
        spent = time.perf_counter() - began
        if look and (spent >= seconds or spent >= (len(curve) + 1) * look_seconds):
            curve.append((spent, look(model)))
            began = time.perf_counter() - spent
    return Trained(model, iteration, spent, curve)
