"""What a training looks at on its way: held-out text, and which of its weights did best on it."""

from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from training.blueprint import Blueprint
from training.context import Context
from training.data import Sample, Slice
from training.metrics import Precise
from training.parts import gathered, is_cut
from training.state import State, Weights
from training.units import bits

OTHER = "other.safetensors"  # in a training's folder: the weights that were not chosen, average or last


@dataclass(frozen=True)
class Watch:
    """What a training looks at on its way: a fixed sample of held-out text."""

    slice: Slice
    tokens: int = 16_384
    at: tuple[float, ...] = (1.0,)  # in progress, rising

    def sample(self, context: int, labelled: bool) -> Sample:
        """Documents, or of unlabelled text pieces of `context` tokens each, about `tokens` in all."""
        whole = self.slice.texts()
        if not labelled:
            whole = in_pieces(whole, context)
        order = np.random.default_rng(0).permutation(len(whole.documents))
        ends = np.cumsum([min(len(whole.documents[number]), context) for number in order])
        chosen = sorted(order[: max(1, int(np.searchsorted(ends, self.tokens, side="right")))].tolist())
        weights = np.ones(len(chosen)) if labelled else whole.weights[chosen]
        return Sample([whole.documents[number] for number in chosen], whole.labels[chosen], weights)


def in_pieces(whole: Sample, length: int) -> Sample:
    """Every document cut to pieces of `length` inputs, each to be scored alone; bytes go with the tokens."""
    pieces, owners = list[np.ndarray](), list[int]()
    for number, ids in enumerate(whole.documents):
        cut = [ids[at : at + length + 1] for at in range(0, max(1, len(ids) - 1), length)]
        pieces += cut
        owners += [number] * len(cut)
    sizes = np.array([max(0, len(piece) - 1) for piece in pieces], dtype=np.float64)
    bytes_per_token = whole.weights.sum() / max(1.0, sizes.sum())
    kept = np.flatnonzero(sizes > 0)
    return Sample([pieces[n] for n in kept], whole.labels[owners][kept], bytes_per_token * sizes[kept])


def look_at(
    blueprint: Blueprint, model: nn.Module, watched: Sample, context: Context, precise: Precise
) -> float:
    """Bits per unit of weight over the watched sample, shared among the ranks.

    Where every call of the model takes all ranks, as its weights are cut, each scores all of it.
    """
    together = is_cut(model)
    mine = watched if together else watched.share(context.rank, context.world_size)
    nats = 0.0
    if mine.documents:
        length, mask_token = blueprint.settled()[0], blueprint.mask_token
        nats = float(blueprint.objective.score(model, mine, length, mask_token, precise).sum())
    weight = float(mine.weights.sum())
    return bits(*((nats, weight) if together else context.sums(nats, weight)))


def choose(
    blueprint: Blueprint,
    state: State,
    watched: Sample | None,
    score: float | None,
    context: Context,
    precise: Precise,
) -> tuple[str, float | None]:
    """Puts the best of last, best and average weights into the model, and says which and its score.

    With an average, the weights that lose are left beside the model, in OTHER.
    """
    kept = "last"
    if state.best and state.best.score is not None and score is not None and state.best.score < score:
        put_into(state.model, state.best.weights)
        kept, score = "best", state.best.score
    if state.average and watched and score is not None:
        other: Weights = {name: p.detach().clone() for name, p in state.model.named_parameters()}
        put_into(state.model, state.average.weights)
        averaged = look_at(blueprint, state.model, watched, context, precise)
        if averaged < score:
            kept, score = "average", averaged
        else:
            put_into(state.model, other)
            other = state.average.weights
        other = gathered(other, keep=context.rank == 0)
        if other:
            save_file({name: tensor.contiguous() for name, tensor in other.items()}, context.folder / OTHER)
    return kept, score


@torch.no_grad()
def put_into(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Overwrites the model's parameters."""
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])
