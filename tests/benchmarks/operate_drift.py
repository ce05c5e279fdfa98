"""Drift: how often it is seen where there is none, and how often where some inputs are of another kind.

A small model is trained for a moment on texts of the packages installed here, and reads them all once; draws are then
of its figures, so that hundreds take seconds.
"""

import random
import tempfile
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from scipy.stats import binomtest
from torch import nn

from tasks.drift import LENGTH, SURPRISE, drifted, shifts_between
from tasks.scores import score_texts
from tests.benchmarks.catalogues import catalogue_documents
from tests.benchmarks.data_texts import pieces
from tests.benchmarks.figures import Figure
from tests.tiny_run import new_model, tokenizer
from training.units import bits

LONGEST = 1500  # characters of a text, so that reading thousands takes a minute
JUDGED, SEEN = 400, 100  # documents of a draw
ALPHA, USUAL_ALPHA = 0.05, 0.01
STEPS, ROWS, CONTEXT = 150, 16, 64
SHARES = (0.1, 0.3)  # of inputs that are of another kind


def measure_drift(text: Path | None, documents: int, draws: int, say: Callable[[str], None]) -> list[Figure]:
    """The share of draws with an alarm: from one kind of text, with some inputs in other languages, cut in half."""
    texts = [piece[:LONGEST] for piece in islice(pieces(text), documents)]
    foreign = [piece for language, piece in catalogue_documents() if language != "en"]
    random.Random(0).shuffle(foreign)
    halves = [text[: len(text) // 2] for text in texts]
    with tempfile.TemporaryDirectory(prefix="shoestring-bench-") as scratch:
        folder = train(Path(scratch), texts)
        usual, other, shorter = (read(folder, some) for some in (texts, foreign[: len(texts) // 2], halves))
    say(f"{len(texts):,} texts read, {np.median(usual[SURPRISE].to_numpy()):.2f} bits per byte")
    found = [share("drift, alarms without any", usual, usual, 0.0, ALPHA, draws, "<= 0.09")]
    found += [
        share(
            f"drift, found with {part:.0%} in other languages", usual, other, part, USUAL_ALPHA, draws, must
        )
        for part, must in zip(SHARES, (None, ">= 0.95"), strict=True)
    ]
    return [
        *found,
        share("drift, found with all cut in half", usual, shorter, 1.0, USUAL_ALPHA, draws, ">= 0.95"),
    ]


def share(
    name: str, usual: pa.Table, other: pa.Table, part: float, alpha: float, draws: int, must: str | None
) -> Figure:
    """How often drift is seen where `part` of the inputs are `other`, with Wilson's interval of 95 %."""
    dice = np.random.default_rng(0)
    alarms = 0
    for _ in range(draws):
        order = dice.permutation(len(usual))
        strange = round(part * SEEN)
        seen = usual.take(order[JUDGED : JUDGED + SEEN - strange])
        if strange:
            seen = pa.concat_tables([seen, other.take(dice.permutation(len(other))[:strange])])
        alarms += drifted(shifts_between(usual.take(order[:JUDGED]), seen), alpha)
    low, high = binomtest(alarms, draws).proportion_ci(method="wilson")
    return Figure("operate", f"{name}, alpha {alpha:g}", alarms / draws, low, high, "of draws", must)


def train(folder: Path, texts: Sequence[str]) -> Path:
    """A model of 30,000 weights after a moment on the texts: it knows their kind, and not more."""
    spelling = tokenizer()
    torch.manual_seed(0)
    model = new_model("causal", len(spelling), CONTEXT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    dice = random.Random(0)
    for _ in range(STEPS):
        ids = spelling(dice.sample(texts, ROWS), add_special_tokens=False)["input_ids"]
        rows = [torch.tensor([0, *row][:CONTEXT]) for row in ids]
        batch = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    spelling.save_pretrained(folder)
    return folder


def read(folder: Path, texts: Sequence[str]) -> pa.Table:
    """What `tasks.drift.surprise` makes of texts, without its limits."""
    nats: npt.NDArray[np.float64] = score_texts(folder, texts)
    sizes = [len(text.encode()) for text in texts]
    return pa.table(
        {LENGTH: sizes, SURPRISE: [bits(cost, size) for cost, size in zip(nats, sizes, strict=True)]}
    )
