"""Text to tokens: the packed shards that trainings read, in the spelling that suits objective and model."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Protocol

from prefect import task

from tasks import packing, spelling
from tasks.artifacts import InputError, Splits, Tokens
from tasks.drafts import drafting, hand_over
from tasks.packing import Packer, Progress, Texts, pack
from tasks.spelling import Spelling, Tokenizer, checkpoint_key
from tasks.store import cache_key, code_key, content_key, storing
from tasks.telemetry import stage
from training.model import Model, Pretrained
from training.objectives import Objective

SAMPLE_BYTES = 10_000_000  # of the train split, that byte pairs are learnt from
MINIMUM_TRAIN_TOKENS = 20_000  # about ten steps of the smallest plan; by eye
LEARNING_SHARE = 0.4  # of this stage's time


class Clock(Protocol):
    """What is needed of `tasks.clock.Clock`."""

    @property
    def like_seconds(self) -> float: ...


def tokens_key(splits: Splits, tokenizer: Tokenizer, objective: Objective, model: Model, clock: Clock) -> str:
    """Names the tokens by the splits, the tokenizer's kind and size, what it is for, and the code."""
    code = code_key(sys.modules[__name__], packing, spelling)
    if isinstance(model, Pretrained):
        return content_key(splits.key, checkpoint_key(model), objective.head, code)
    return content_key(splits.key, tokenizer.kind, _size(splits, tokenizer, clock), objective.head, code)


@task(
    name="Tokenize the corpus",
    task_run_name="tokenize-{tokenizer.kind}",
    persist_result=True,
    result_serializer="json",
    cache_key_fn=cache_key(Tokens, tokens_key),
)
def tokenize_corpus(
    splits: Splits, tokenizer: Tokenizer, objective: Objective, model: Model, clock: Clock
) -> Tokens:
    """Tokenizer and shards, in the store; a checkpoint is fed by its own tokenizer.

    Raises InputError where the train split is too small for a batch, or a checkpoint has no tokenizer
    that serves the objective.
    """
    key = tokens_key(splits, tokenizer, objective, model, clock)
    texts = Texts.of(splits)
    labels = texts.labels() if objective.head == "classification" else ()
    with stage("Tokenize the corpus") as shown:
        with drafting(Tokens.kind, key) as place, storing(Tokens.kind, key) as folder:
            spelt = _spelling(texts, splits, tokenizer, objective, model, clock)
            spelt.save(place / "tokenizer")
            shown(LEARNING_SHARE)
            special = spelt.start_token, spelt.mask_token
            with Packer(place, spelt.vocabulary, *special, labels) as packer:
                packed = pack(
                    texts, spelt.encoding(packer.dtype.name), packer, partial(_after_learning, shown)
                )
            if packed.changed and spelt.exact:
                raise ValueError(
                    f"The tokenizer loses text of {packed.changed} documents: this is a defect of ours."
                )
            if packed.tokens["train"] < MINIMUM_TRAIN_TOKENS:
                raise InputError(_too_little(splits, packed.tokens["train"]))
            hand_over(place, folder)
        bytes_per_token = sum(splits.bytes.values()) / sum(packed.tokens.values())
        shown.result = f"{sum(packed.tokens.values()):,} tokens, {bytes_per_token:.2f} bytes each" + _changes(
            packed
        )
    return Tokens(
        key=key,
        splits=splits,
        vocabulary=spelt.vocabulary,
        tokens=packed.tokens,
        bytes_per_token=bytes_per_token,
        start_token=spelt.start_token,
        mask_token=spelt.mask_token,
        labels=labels,
        changed_share=packed.changed / max(1, sum(packed.documents.values())),
    )


def _spelling(
    texts: Texts, splits: Splits, tokenizer: Tokenizer, objective: Objective, model: Model, clock: Clock
) -> Spelling:
    """A checkpoint's own tokenizer, or one learnt on a sample; the same texts teach the same."""
    if isinstance(model, Pretrained):
        return Spelling.of_checkpoint(model, objective.head)
    sample = texts.sample(SAMPLE_BYTES / max(1, splits.bytes["train"]))
    return Spelling.learnt(tokenizer, sample, _size(splits, tokenizer, clock), objective.head)


def _size(splits: Splits, tokenizer: Tokenizer, clock: Clock) -> int:
    return tokenizer.size(splits.bytes["train"], clock.like_seconds)


def _after_learning(shown: Callable[[float], None], share: float) -> None:
    shown(LEARNING_SHARE + (1 - LEARNING_SHARE) * share)


def _changes(packed: Progress) -> str:
    """What a person must know of a tokenizer that changes texts; nothing of one that does not."""
    if not packed.changed:
        return ""
    return (
        f"; {packed.changed:,} of {sum(packed.documents.values()):,} documents are not given back as they were"
        " by the checkpoint's tokenizer, which makes bits per byte look better"
    )


def _too_little(splits: Splits, train_tokens: int) -> str:
    present = splits.corpus.bytes
    wanted = present * MINIMUM_TRAIN_TOKENS / max(1, train_tokens)
    return (
        f"The train split holds {train_tokens:,} tokens; a training needs at least {MINIMUM_TRAIN_TOKENS:,}."
        f" Give about {wanted / 1000:,.0f} kB of text (there are {present / 1000:,.1f} kB)."
    )
