"""What a model learns to do: rows to batches, batches to a loss, documents to scores.

Shapes: B rows of a batch, T positions, V vocabulary, C classes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from training.augmentation import Augmented
from training.batch import IGNORED, Batch, Facts, Feed, model_inputs, ones, padded
from training.config import AnyOf, Choice, Tune
from training.data import Documents, Ids, Sample, Slice, Stream
from training.metrics import (
    ALL,
    Floats,
    Precise,
    class_log_probabilities,
    pseudo_log_likelihood,
    score_documents,
)
from training.model import Head
from training.words import word_starts

MASKED, REPLACED = 0.8, 0.1  # of the positions chosen; the rest stays as it is (Devlin et al. 2019)


class CausalLanguageModel(Choice):
    """Predicts every token from those before it."""

    kind: Literal["causal_language_model"] = "causal_language_model"
    head: ClassVar[Head] = "causal"
    unit: ClassVar[str] = "bits per byte"
    rate: ClassVar[float] = 1.0  # share of tokens that the output layer sees

    def feed(self, slice_: Slice, facts: Facts) -> Feed:
        """Blocks of text from all over the slice."""
        return Feed(Stream(slice_, facts.seed, facts.context, reach=1), partial(self._collate, facts))

    def _collate(self, facts: Facts, sample: Sample, position: int, numbers: range) -> Batch:
        tokens_BT = torch.from_numpy(np.stack(sample.documents))
        inputs_BT, targets_BT = tokens_BT[:, :-1].contiguous(), tokens_BT[:, 1:].contiguous()
        return Batch(model_inputs(inputs_BT, facts), targets_BT, ones(inputs_BT))

    def loss_sum(self, model: nn.Module, batch: Batch, smoothing: float = 0.0) -> torch.Tensor:
        """Negative log-likelihood of the batch's tokens, summed, in nats, over logits taken to float32."""
        logits_BTV = model(**batch.inputs, use_cache=False).logits
        return token_loss_sum(logits_BTV, batch.targets, smoothing)

    def score(
        self,
        model: nn.Module,
        sample: Sample,
        context: int,
        mask_token: int | None,
        precise: Precise,
        progress: Callable[[float], None] = lambda share: None,
        windows_scored: slice = ALL,
    ) -> Floats:
        """float64 [documents]: negative log-likelihood of each document, in nats."""
        return score_documents(model, sample.documents, context, precise, progress, windows_scored)


class MaskedLanguageModel(Choice):
    """Fills in tokens that were hidden, from those on both sides."""

    kind: Literal["masked_language_model"] = "masked_language_model"
    head: ClassVar[Head] = "masked"
    unit: ClassVar[str] = "pseudo-bits per byte"
    rate: Annotated[float, Tune(0.15, 0.4)] = Field(
        default=0.3,
        ge=0.05,
        le=0.5,
        description="Share of tokens hidden. More gives more to learn a step, from less that is seen"
        " (Wettig et al. 2023).",
    )
    whole_words: bool = Field(
        default=False,
        description="Hides words whole: guessing the rest of a half-seen word teaches little.",
    )

    def feed(self, slice_: Slice, facts: Facts) -> Feed:
        """Blocks of text from all over the slice, partly hidden."""
        if facts.mask_token is None:
            raise ValueError("the tokenizer has no mask token, which masked language modelling needs")
        starts_V = word_starts(slice_.shards.folder / "tokenizer") if self.whole_words else None
        collate = partial(self._collate, facts, starts_V)
        return Feed(Stream(slice_, facts.seed, facts.context), collate)

    def _collate(
        self,
        facts: Facts,
        starts_V: npt.NDArray[np.bool_] | None,
        sample: Sample,
        position: int,
        numbers: range,
    ) -> Batch:
        hidden = [
            self._hide(row, facts, starts_V, np.random.default_rng([facts.seed, 1, position, number]))
            for row, number in zip(sample.documents, numbers, strict=True)
        ]
        inputs_BT = torch.from_numpy(np.stack([inputs for inputs, _ in hidden]))
        targets_BT = torch.from_numpy(np.stack([targets for _, targets in hidden]))
        tokens_BT = torch.from_numpy(np.stack(sample.documents))
        return Batch(model_inputs(inputs_BT, facts, tokens_BT), targets_BT, ones(inputs_BT))

    def _hide(
        self,
        row: Ids,
        facts: Facts,
        starts_V: npt.NDArray[np.bool_] | None,
        dice: np.random.Generator,
    ) -> tuple[Ids, Ids]:
        """The row with some tokens hidden, and those tokens; the dice are the row's own."""
        units = np.arange(len(row)) if starts_V is None else np.cumsum(starts_V[row])
        order = dice.permutation(units.max() + 1)[units]  # every unit's place in a random order
        order[row == facts.start_token] = len(row)
        wanted = max(1, round(self.rate * len(row)))
        chosen = order <= np.sort(order)[wanted - 1]
        chosen &= row != facts.start_token
        drawn = dice.random(len(row))
        inputs = np.where(chosen & (drawn < MASKED), facts.mask_token or 0, row)
        replaced = chosen & (drawn >= MASKED) & (drawn < MASKED + REPLACED)
        inputs = np.where(replaced, dice.integers(facts.vocabulary, size=len(row)), inputs)
        return inputs.astype(np.int64), np.where(chosen, row, IGNORED)

    def loss_sum(self, model: nn.Module, batch: Batch, smoothing: float = 0.0) -> torch.Tensor:
        """Negative log-likelihood of the hidden tokens, summed, in nats."""
        if is_compiled(model):  # a hook would have it compiled anew at every step
            return token_loss_sum(model(**batch.inputs).logits, batch.targets, smoothing)
        hidden_BT = batch.targets != IGNORED
        with passed_on(model, hidden_BT):
            logits_1NV = model(**batch.inputs).logits
        return token_loss_sum(logits_1NV, batch.targets[hidden_BT][None], smoothing)

    def score(
        self,
        model: nn.Module,
        sample: Sample,
        context: int,
        mask_token: int | None,
        precise: Precise,
        progress: Callable[[float], None] = lambda share: None,
        windows_scored: slice = ALL,
    ) -> Floats:
        """float64 [documents]: negative pseudo-log-likelihood of each document, in nats."""
        if mask_token is None:
            raise ValueError("the tokenizer has no mask token, which masked scores need")
        return pseudo_log_likelihood(
            model, sample.documents, context, mask_token, precise, progress, windows_scored
        )


class SequenceClassification(Choice):
    """Tells which label a document bears; one longer than the context is judged by its beginning."""

    kind: Literal["sequence_classification"] = "sequence_classification"
    head: ClassVar[Head] = "classification"
    unit: ClassVar[str] = "bits per label"
    rate: ClassVar[float] = 1.0
    balanced: bool = Field(
        default=False,
        description="Rare labels count as much as common ones together: better recall of them, worse accuracy.",
    )
    focus: Annotated[float, Tune(0.0, 3.0)] = Field(
        default=0.0,
        ge=0,
        le=5,
        description="Above 0, documents that are already told well count less (focal loss, Lin et al. 2017).",
    )
    token_dropout: Annotated[float, Tune(0.0, 0.5)] = Field(
        default=0.3,
        ge=0,
        le=0.9,
        description="Share of a document's tokens left out, others each time that it is seen: few documents are not"
        " learned by heart, and shorter ones are faster (Iyyer et al. 2015). Set 0.5 for very few, 0 for millions.",
    )

    def feed(self, slice_: Slice, facts: Facts) -> Feed:
        """Documents, padded to the longest of their batch."""
        source = Documents(slice_, facts.seed, facts.context, facts.batch_tokens, self.balanced)
        if (source.labels < 0).any():
            raise ValueError("some documents have no label: give a label column, or leave them out")
        if facts.augmentation:
            told = Augmented(source, slice_, facts.augmentation, facts.seed)
            return Feed(told, partial(self._collate, facts))
        return Feed(source, partial(self._collate, facts))

    def _collate(self, facts: Facts, sample: Sample, position: int, numbers: range) -> Batch:
        weights_B = torch.from_numpy(sample.weights).float()
        documents = sample.documents
        if self.token_dropout:
            documents = [
                self._thin(ids, np.random.default_rng([facts.seed, 2, position, number]))
                for ids, number in zip(documents, numbers, strict=True)
            ]
        inputs = padded(documents, facts.start_token)
        return Batch(inputs, torch.from_numpy(sample.labels.copy()), weights_B)

    def _thin(self, ids: Ids, dice: np.random.Generator) -> Ids:
        """The document without some of its tokens, which the dice choose; its start stays."""
        kept = dice.random(len(ids)) >= self.token_dropout
        kept[0] = True
        return ids[kept]

    def loss_sum(self, model: nn.Module, batch: Batch, smoothing: float = 0.0) -> torch.Tensor:
        """Cross-entropy of the labels, weighted and summed, in nats."""
        logits_BC = model(**batch.inputs).logits.float()
        losses_B = nn.functional.cross_entropy(
            logits_BC, batch.targets, reduction="none", label_smoothing=smoothing
        )
        if self.focus:
            right_B = logits_BC.log_softmax(-1).gather(1, batch.targets[:, None])[:, 0].exp()
            losses_B = losses_B * (1 - right_B) ** self.focus
        return (losses_B * batch.weights).sum()

    def score(
        self,
        model: nn.Module,
        sample: Sample,
        context: int,
        mask_token: int | None,
        precise: Precise,
        progress: Callable[[float], None] = lambda share: None,
    ) -> Floats:
        """float64 [documents]: negative log-probability of each document's label, in nats."""
        log_probabilities_NC = class_log_probabilities(model, sample.documents, context, precise, progress)
        return -log_probabilities_NC[np.arange(len(sample.labels)), sample.labels]


@contextmanager
def passed_on(model: nn.Module, chosen_BT: torch.Tensor) -> Iterator[None]:
    """Has the model's body pass only these positions on to its head, as one row of N.

    A head costs as much as all layers where the vocabulary is large, and what it says of the others is not asked.
    """

    def choose(body: nn.Module, inputs: object, output: ModelOutput) -> ModelOutput:
        output["last_hidden_state"] = output["last_hidden_state"][chosen_BT][None]
        return output

    whole = next(module for module in model.modules() if isinstance(module, PreTrainedModel))
    hook = whole.base_model.register_forward_hook(choose)
    try:
        yield
    finally:
        hook.remove()


def is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile is somewhere around it."""
    return any(hasattr(module, "_orig_mod") for module in model.modules())


def token_loss_sum(logits_BTV: torch.Tensor, targets_BT: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Cross-entropy over the positions that have a target, summed, in nats."""
    return nn.functional.cross_entropy(
        logits_BTV.flatten(0, 1).float(),
        targets_BT.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=smoothing,
    )


Objective = Annotated[
    CausalLanguageModel | MaskedLanguageModel | SequenceClassification,
    Field(discriminator="kind", description="What the model learns to do."),
    AnyOf(),
]
