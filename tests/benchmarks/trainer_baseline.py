"""What `transformers.Trainer` makes of the same tokens in the same time: GPT-2's shape and its own defaults."""

import tempfile
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from tasks.spread import cores
from training.data import Shards
from training.model import HEAD_WIDTH

PROBE_SHARE = 0.05  # of the time, trained beforehand to learn the speed; given on top
PROBE_SECONDS = 5.0  # at least
MANY_STEPS = 1_000_000  # more than any probe takes
HEADROOM = 1.02  # the schedule is planned a little long, so that a slow probe leaves no time unused
USED = 0.95  # of its time and of its schedule, at least
ATTEMPTS = 2
GRACE = 1.05  # and may end as late as our own command may exit


@dataclass(frozen=True)
class Baseline:
    """A finished training of the Trainer."""

    model: GPT2LMHeadModel
    steps: int
    planned_steps: int  # where its linear schedule reaches zero
    seconds: float  # inside `Trainer.train`, from its first step's beginning to its last step's end
    steps_per_second: float  # the first step, which is slow, left out


class Rows(Dataset[dict[str, torch.Tensor]]):
    """The train split as one sequence of tokens, cut into rows of one context each, as run_clm.py does."""

    def __init__(self, shards: Shards, context: int) -> None:
        ids = shards.ids("train")
        self._rows_BT = ids[: len(ids) // context * context].reshape(-1, context)

    def __len__(self) -> int:
        return len(self._rows_BT)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        tokens_T = torch.from_numpy(self._rows_BT[row].astype(np.int64))
        return {"input_ids": tokens_T, "labels": tokens_T}  # GPT-2 shifts the labels itself


class Deadline(TrainerCallback):  # type: ignore[misc]
    """Ends a training after so many seconds, and measures its speed."""

    def __init__(self, seconds: float) -> None:
        self._limit = seconds
        self._began = 0.0
        self._times: list[float] = []

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The clock starts: the model, the optimizer and the data are in place."""
        self._began = time.monotonic()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Asks to stop once the time is up."""
        self._times.append(time.monotonic())
        if self.seconds >= self._limit:
            control.should_training_stop = True

    @property
    def progress(self) -> float:
        """The share of the time that has passed; 0 before the start, 1 at the end."""
        passed = time.monotonic() - self._began if self._began else 0.0
        return min(1.0, passed / self._limit)

    @property
    def steps(self) -> int:
        """Steps done."""
        return len(self._times)

    @property
    def seconds(self) -> float:
        """From the start to the end of the last step."""
        return self._times[-1] - self._began

    @property
    def steps_per_second(self) -> float:
        """Without the first step; nothing is known of a training of one step."""
        if len(self._times) < 2:
            raise ValueError(f"{self._limit:.0f} s are too short for two steps: give the Trainer more")
        return (len(self._times) - 1) / (self._times[-1] - self._times[0])


def closest_gpt2(vocabulary: int, width: int, context: int, start_token: int, parameters: int) -> GPT2Config:
    """GPT-2 of this width with as many layers as bring its parameters closest to `parameters`.

    All else is its own default: dropout of 0.1, output embedding tied to the input's. A layer holds
    12 width^2 weights and 13 width biases and gains; around the layers are two embeddings and a norm.
    """
    around = (vocabulary + context + 2) * width
    layers = max(1, round((parameters - around) / (12 * width**2 + 13 * width)))
    return GPT2Config(
        vocab_size=vocabulary,
        n_positions=context,
        n_embd=width,
        n_layer=layers,
        n_head=width // HEAD_WIDTH,
        bos_token_id=start_token,
        eos_token_id=start_token,
    )


def train_gpt2(
    shards: Shards, config: GPT2Config, seconds: float, seed: int, probe_seconds: float | None = None
) -> Baseline:
    """Trains for `seconds` on all cores with the Trainer's defaults: AdamW at 5e-5, linear, fp32, 8 rows.

    The linear schedule wants a number of steps: a training of its own, not counted, measures the
    speed first. The training ends with its schedule or, at the latest, after GRACE times `seconds`.
    Where that left time or schedule unused, as on a busy machine, it trains anew at the speed it had.
    """
    transformers_logging.set_verbosity_error()
    before = torch.get_num_threads()
    torch.set_num_threads(cores())
    try:
        probe_seconds = probe_seconds or max(PROBE_SECONDS, PROBE_SHARE * seconds)
        done = _train(shards, config, MANY_STEPS, probe_seconds, seed)
        for _ in range(ATTEMPTS):
            steps = max(1, round(HEADROOM * seconds * done.steps_per_second))
            done = _train(shards, config, steps, GRACE * seconds, seed)
            if done.steps > USED * steps and done.seconds > USED * seconds:
                break
        return done
    finally:
        torch.set_num_threads(before)


def _train(shards: Shards, config: GPT2Config, steps: int, seconds: float, seed: int) -> Baseline:
    set_seed(seed)
    model = GPT2LMHeadModel(config)
    deadline = Deadline(seconds)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            seed=seed,
            save_strategy="no",  # these four spare it work that is not training
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        rows = Rows(shards, config.n_positions)
        trainer = Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[deadline])
        trainer.remove_callback(PrinterCallback)  # it prints where the figures go
        done = trainer.train().global_step
    return Baseline(model, done, steps, deadline.seconds, deadline.steps_per_second)
