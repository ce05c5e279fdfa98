"""What a training step takes: rows as rectangles of tokens, with what the model should say of them.

Shapes: B rows of a batch, T positions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from training.augmentation import Augmentation
from training.data import Ids, Sample, Source

IGNORED = -100  # target of a position where nothing is predicted


class Facts(NamedTuple):
    """What an objective must know of a training beside its own settings."""

    seed: int
    context: int
    batch_tokens: int
    vocabulary: int
    start_token: int
    mask_token: int | None
    confined: bool  # attention stays within a document
    augmentation: tuple[Augmentation, ...] = ()


class Batch(NamedTuple):
    """What the model is called with, and what it should have said."""

    inputs: dict[str, torch.Tensor]
    targets: torch.Tensor  # int64 [B, T] or [B]; IGNORED where nothing is predicted
    weights: torch.Tensor  # float32 [B]: what each row counts in the loss; 1 on average

    def predicted(self) -> int:
        """How many predictions the loss is the mean of."""
        return int((self.targets != IGNORED).sum())

    def part(self, rows: slice) -> "Batch":
        """Some of the rows."""
        inputs = {name: tensor[rows] for name, tensor in self.inputs.items()}
        return Batch(inputs, self.targets[rows], self.weights[rows])

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()}
        return Batch(inputs, self.targets.to(device), self.weights.to(device))


@dataclass(frozen=True)
class Feed:
    """The endless batches of a training, in an order that depends on its seed and batch shapes alone."""

    source: Source
    collate: Callable[[Sample, int, range], Batch]

    def batch(self, position: int, rows: int, length: int, share: int = 0, shares: int = 1) -> Batch:
        """One share of the global batch that starts at `position`: rows share, share + shares, ..."""
        numbers = range(share, rows, shares)
        return self.collate(self.source.rows(numbers, position, length), position, numbers)


def model_inputs(
    inputs_BT: torch.Tensor, facts: Facts, tokens_BT: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """Token ids, and where attention is confined positions that start again with each document."""
    inputs = {"input_ids": inputs_BT}
    if facts.confined:
        starts_BT = (inputs_BT if tokens_BT is None else tokens_BT) == facts.start_token
        places_T = torch.arange(inputs_BT.shape[1])
        last_BT = torch.where(starts_BT, places_T, 0).cummax(dim=1).values
        inputs["position_ids"] = places_T - last_BT
    return inputs


def padded(documents: list[Ids], padding: int) -> dict[str, torch.Tensor]:
    """Documents as one rectangle as wide as the longest, and the mask that says what is padding."""
    width = max(len(ids) for ids in documents)
    inputs_BT = torch.full((len(documents), width), padding)
    mask_BT = torch.zeros(len(documents), width, dtype=torch.long)
    for row, ids in enumerate(documents):
        inputs_BT[row, : len(ids)] = torch.from_numpy(ids)
        mask_BT[row, : len(ids)] = 1
    return {"input_ids": inputs_BT, "attention_mask": mask_BT}


def ones(inputs_BT: torch.Tensor) -> torch.Tensor:
    """float32 [B]: every row counts alike."""
    return torch.ones(len(inputs_BT))
