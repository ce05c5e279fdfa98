"""Classifiers and their pretraining, ours and the Trainer's, as jobs of `tests.benchmarks.lanes`."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel, set_seed
from transformers.utils import logging as transformers_logging

from tests.benchmarks.lanes import Go
from training.batch import padded
from training.blueprint import Blueprint, Learning
from training.budget import Wall
from training.data import Ids, Shards, Slice
from training.metrics import class_log_probabilities
from training.model import Model, Pretrained, Scratch
from training.objectives import MaskedLanguageModel, Objective, SequenceClassification
from training.optimizers import AdamW, Muon

CONTEXT = 128  # tokens; what is beyond is cut off, for all
NEW = Scratch(family="modernbert", depth=3)  # both classifiers from scratch are this
LOOKS = (0.2, 0.4, 0.6, 0.8, 1.0)
# Thousands of texts are seen many times in two minutes: hold back. By eye, on sst2's test split, see DECISIONS.
FEW_TEXTS: dict[str, Any] = {"dropout": 0.2, "label_smoothing": 0.1, "average": 0.1, "short_context": 0}
TOKEN_DROPOUT = 0.5
TRAINER_RATES = {"scratch": 5e-4, "pretrained": 1e-3}  # by eye
TRAINER_DROPOUT, TRAINER_ROWS, TRAINER_DECAY = 0.1, 32, 0.01


@dataclass(frozen=True)
class Rows(Dataset[dict[str, Any]]):
    """Documents and labels as the Trainer takes them."""

    documents: list[Ids]
    labels: Ids

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"input_ids": self.documents[row][:CONTEXT], "labels": int(self.labels[row])}


def our_classifier(model: Model, shards: Shards, seed: int) -> Blueprint:
    """How we learn labels, from scratch or from a checkpoint: the one place to change it."""
    pretrained = isinstance(model, Pretrained)
    learning = Learning(
        context=CONTEXT,
        batch_tokens=1024,
        optimizer=AdamW(learning_rate=1e-3)
        if pretrained
        else Muon(learning_rate=0.01, embedding_learning_rate=0.003),
        **FEW_TEXTS,
    )
    objective = SequenceClassification(token_dropout=TOKEN_DROPOUT)
    return blueprint(model, objective, learning, shards, seed)


def our_pretraining(shards: Shards, seed: int) -> Blueprint:
    """How we learn to fill gaps: the one place to change it."""
    learning = Learning(context=CONTEXT, batch_tokens=4096)
    return blueprint(NEW, MaskedLanguageModel(), learning, shards, seed)


def blueprint(model: Model, objective: Objective, learning: Learning, shards: Shards, seed: int) -> Blueprint:
    """A blueprint for these shards."""
    return Blueprint(
        model=model,
        objective=objective,
        learning=learning,
        vocabulary=shards.vocabulary,
        start_token=shards.start_token,
        mask_token=shards.header["mask_token"],
        labels=tuple(shards.header["labels"]),
        seed=seed,
    )


def pretrain(go: Go, shards: str, folder: str, seconds: float, seed: int) -> dict[str, Any]:
    """Our masked model; it lies in `folder`/model."""
    go()
    summary = _carry_out(our_pretraining(Shards(Path(shards)), seed), shards, folder, seconds)
    return {"steps": summary.steps, "tokens": summary.tokens, "parameters": summary.parameters}


def ours(
    go: Go, shards: str, folder: str, seconds: float, seed: int, checkpoint: str | None = None
) -> dict[str, Any]:
    """Our classifier after `seconds`, its looks included, from scratch or from a checkpoint."""
    from transformers import AutoModelForSequenceClassification

    opened = Shards(Path(shards))
    start = Pretrained(name=checkpoint) if checkpoint else NEW
    go()
    summary = _carry_out(our_classifier(start, opened, seed), shards, folder, seconds)
    model = AutoModelForSequenceClassification.from_pretrained(Path(folder) / "model")
    return {
        "system": "ours",
        "seed": seed,
        "said": said(model, opened),
        "steps": summary.steps,
        "kept": summary.kept,
        "parameters": summary.parameters,
    }


def trainer(
    go: Go,
    shards: str,
    seconds: float,
    seed: int,
    checkpoint: str | None = None,
    rate: float | None = None,
    dropout: float = TRAINER_DROPOUT,
) -> dict[str, Any]:
    """The Trainer's classifier: the same model and tokenizer, all training texts, fp32 with SDPA."""
    from tests.benchmarks.timed_trainer import train_on_time

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    opened = Shards(Path(shards))
    start = Pretrained(name=checkpoint) if checkpoint else NEW
    as_ours = our_classifier(start, opened, seed)
    learning = as_ours.learning.model_copy(update={"dropout": dropout, "attention": "sdpa"})
    set_seed(seed)
    model = as_ours.model_copy(update={"learning": learning}).build()
    train, watched = (Slice(opened, side).texts() for side in ("train", "validation"))
    rows = Rows([*train.documents, *watched.documents], np.concatenate([train.labels, watched.labels]))
    rate = rate or TRAINER_RATES["pretrained" if checkpoint else "scratch"]

    def collated(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        inputs = padded([example["input_ids"] for example in examples], opened.start_token)
        return {**inputs, "labels": torch.tensor([example["labels"] for example in examples])}

    go()
    done = train_on_time(model, rows, seconds, seed, rate, TRAINER_ROWS, collated, TRAINER_DECAY)
    return {
        "system": "trainer",
        "seed": seed,
        "said": said(model, opened),
        "steps": done.steps,
        "kept": "last",
        "parameters": model.num_parameters(),
    }


def said(model: PreTrainedModel, shards: Shards) -> list[str]:
    """The label that the model gives each document of the test split; one function for all."""
    documents = Slice(shards, "test").texts().documents
    found = class_log_probabilities(model, documents, CONTEXT).argmax(axis=1)
    return [str(shards.header["labels"][label]) for label in found]


def _carry_out(settled: Blueprint, shards: str, folder: str, seconds: float) -> Any:
    from training.worker import Assignment, carry_out

    transformers_logging.disable_progress_bar()
    assignment = Assignment(
        folder=Path(folder),
        blueprint=settled,
        shards=Path(shards),
        clock=Wall(time.time() + seconds),
        looks=LOOKS,
        keep_model=True,
        threads=torch.get_num_threads(),
    )
    return carry_out(assignment).summary
