"""`transformers.Trainer` at its best for a given time: a rate tuned for it, and a cosine that ends on time.

The Trainer plans its schedule in steps, and how many fit is a guess. Here the cosine follows the clock, so
that no guess costs it anything: it trains all of its time, and its rate reaches zero at the end.
"""

import math
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging as transformers_logging

from tests.benchmarks.trainer_baseline import MANY_STEPS, Deadline, closest_gpt2

WARMUP = 0.02  # of the time; the rate of a new model must rise first
Collator = Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]


class TimedTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose rate rises, and falls as a cosine, over its time."""

    lr_scheduler: torch.optim.lr_scheduler.LRScheduler | None

    def __init__(self, deadline: Deadline, **settings: Any) -> None:
        super().__init__(callbacks=[deadline], **settings)
        self._deadline = deadline

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The schedule that the Trainer steps after every step of its own."""
        if self.lr_scheduler is None:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, lambda step: cosine(self._deadline.progress)
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler


def cosine(progress: float) -> float:
    """The factor of the rate: from 0 up over WARMUP, then down to 0 at the end."""
    if progress < WARMUP:
        return max(progress / WARMUP, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP)))


def train_on_time(
    model: PreTrainedModel,
    rows: Dataset[dict[str, torch.Tensor]],
    seconds: float,
    seed: int,
    rate: float,
    rows_a_step: int,
    collator: Collator | None = None,
    weight_decay: float = 0.0,
) -> Deadline:
    """Trains the model in place for `seconds`, fp32, rows in a new order every epoch; says how it went."""
    transformers_logging.set_verbosity_error()
    deadline = Deadline(seconds)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=MANY_STEPS,
            learning_rate=rate,
            weight_decay=weight_decay,
            per_device_train_batch_size=rows_a_step,
            seed=seed,
            use_cpu=True,
            dataloader_pin_memory=False,
            save_strategy="no",  # these four spare it work that is not training
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = TimedTrainer(
            deadline, model=model, args=arguments, train_dataset=rows, data_collator=collator
        )
        trainer.remove_callback(PrinterCallback)  # it prints where the figures go
        trainer.train()
    return deadline


def gpt2_like(
    vocabulary: int, width: int, context: int, start_token: int, parameters: int, dropout: float
) -> PreTrainedModel:
    """A new GPT-2 of this width, of about `parameters` weights."""
    config: GPT2Config = closest_gpt2(vocabulary, width, context, start_token, parameters)
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = dropout
    model: PreTrainedModel = GPT2LMHeadModel(config)
    return model
