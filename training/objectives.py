"""What a model learns to do: the loss of a batch. Shapes: B rows, T positions, V vocabulary."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from training.config import Choice


class CausalLanguageModel(Choice):
    """Predicts every token from those before it."""

    kind: Literal["causal_language_model"] = "causal_language_model"

    def loss_nats(self, model: nn.Module, inputs_BT: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
        """Mean negative log-likelihood of a token, in nats, over logits taken to float32."""
        logits_BTV = model(input_ids=inputs_BT, use_cache=False).logits
        return nn.functional.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten())


Objective = Annotated[CausalLanguageModel, Field(description="What the model learns to do.")]
