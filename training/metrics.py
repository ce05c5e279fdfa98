"""Scores, defined once: the gate, the comparison, the folds and the benchmarks all call these.

Each document alone, from its start token, in windows of the model's context that move on by half
a context, so that beyond the first window every token is predicted from at least half a context.

Shapes: B windows of a batch, T positions, V vocabulary.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
Precise = Callable[[], AbstractContextManager[object]]
ALL = slice(None)
MASKED_PASSES = 7  # of a masked score; about 15 % of the tokens are hidden in each
# Tokens scored at once; they bound memory. On a CPU, 8,192 took nearly twice as long a token as 2,048.
WINDOWS_TOKENS = 2048
GPU_WINDOWS_TOKENS = 32_768
SAFETY = 0.8  # of the time left is planned for, as speed varies


def score_documents(
    model: nn.Module,
    documents: Sequence[Ids],
    context: int,
    autocast: Precise = nullcontext,
    progress: Callable[[float], None] = lambda share: None,
    windows_scored: slice = ALL,
) -> Floats:
    """float64 [documents]: the negative log-likelihood of each document's tokens, in nats.

    Documents start with the start token, which is given and not scored; one of a single token
    scores 0. `progress` is told the share of windows done. Losses are float32, over logits taken to
    float32; sums run in float64. Where only some of the windows are scored, sums of all such parts are the score.
    """
    windows = [
        (document, documents[document][start:end], _shifted(documents[document], start, end, first))
        for document, start, end, first in _windows(documents, context)
    ]
    return _summed(model, windows, windows_scored, len(documents), autocast, progress, sees_ahead=False)


def pseudo_log_likelihood(
    model: nn.Module,
    documents: Sequence[Ids],
    context: int,
    mask_token: int,
    autocast: Precise = nullcontext,
    progress: Callable[[float], None] = lambda share: None,
    windows_scored: slice = ALL,
) -> Floats:
    """float64 [documents]: the negative pseudo-log-likelihood of each document's tokens, in nats.

    Every token but the start token is hidden once, every MASKED_PASSES-th at a time, and predicted
    from the rest of its window. (Salazar et al. 2020 hide one at a time, which takes as many passes
    as there are tokens.) Windows and sums are those of `score_documents`.
    """
    windows = []
    for document, start, end, first in _windows(documents, context, given=0):
        ids, places = documents[document][start:end], np.arange(start, end)
        for turn in range(MASKED_PASSES):
            hidden = (places % MASKED_PASSES == turn) & (places >= max(first, 1))
            if hidden.any():
                windows.append((document, np.where(hidden, mask_token, ids), np.where(hidden, ids, -100)))
    return _summed(model, windows, windows_scored, len(documents), autocast, progress, sees_ahead=True)


def class_log_probabilities(
    model: nn.Module,
    documents: Sequence[Ids],
    context: int,
    autocast: Precise = nullcontext,
    progress: Callable[[float], None] = lambda share: None,
) -> Floats:
    """float64 [documents, classes]: the log-probability of each class, from a document's beginning."""
    device = next(model.parameters()).device
    order = sorted(range(len(documents)), key=lambda number: len(documents[number]))
    found: dict[int, Floats] = {}
    with _evaluating(model), autocast():
        for chosen in at_once([(number, documents[number][:context]) for number in order], device):
            inputs_BT = rectangle([ids for _, ids in chosen], 0)
            mask_BT = rectangle([np.ones_like(ids) for _, ids in chosen], 0)
            logits_BC = model(input_ids=inputs_BT.to(device), attention_mask=mask_BT.to(device)).logits
            rows = logits_BC.float().log_softmax(-1).double().cpu().numpy()
            found |= {number: row for (number, _), row in zip(chosen, rows, strict=True)}
            progress(len(found) / len(documents))
    return np.stack([found[number] for number in range(len(documents))])


def _summed(
    model: nn.Module,
    windows: list[tuple[int, Ids, Ids]],
    windows_scored: slice,
    documents: int,
    autocast: Precise,
    progress: Callable[[float], None],
    sees_ahead: bool,
) -> Floats:
    """Nats of each document over its windows, each (document, inputs, targets with -100 for none).

    A model that sees ahead is told what is padding; to others it makes no difference.
    """
    device = next(model.parameters()).device
    nats, done = np.zeros(documents), 0
    windows = sorted(windows, key=lambda window: len(window[1]))[windows_scored]
    with _evaluating(model), autocast():
        for batch in at_once(windows, device):
            inputs_BT = rectangle([inputs for _, inputs, _ in batch], 0)
            targets_BT = rectangle([targets for _, _, targets in batch], -100)
            padding = {}
            if sees_ahead:
                mask_BT = rectangle([np.ones_like(inputs) for _, inputs, _ in batch], 0)
                padding = {"attention_mask": mask_BT.to(device)}
            logits_BTV = model(input_ids=inputs_BT.to(device), **padding).logits
            scored_BT = targets_BT != -100
            losses = nn.functional.cross_entropy(
                logits_BTV[scored_BT.to(device)].float(), targets_BT[scored_BT].to(device), reduction="none"
            )
            owners = np.array([window[0] for window in batch])[scored_BT.nonzero()[:, 0].numpy()]
            np.add.at(nats, owners, losses.double().cpu().numpy())
            done += len(batch)
            progress(done / len(windows))
    return nats


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


W = TypeVar("W", bound=tuple[Any, ...])


def at_once(windows: list[W], device: torch.device) -> Iterator[list[W]]:
    """Windows in batches that fill memory alike; each window's second entry is its ids, shortest first."""
    most, batch = WINDOWS_TOKENS if device.type == "cpu" else GPU_WINDOWS_TOKENS, list[W]()
    for window in windows:
        if batch and (len(batch) + 1) * len(window[1]) > most:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def rectangle(rows: Sequence[Ids], padding: int) -> torch.Tensor:
    """int64 [B, T]: the rows, as wide as the longest."""
    filled_BT = torch.full((len(rows), max(map(len, rows))), padding)
    for number, row in enumerate(rows):
        filled_BT[number, : len(row)] = torch.from_numpy(row)
    return filled_BT


def _shifted(ids: Ids, start: int, end: int, first: int) -> Ids:
    """What follows each of the tokens [start, end); -100 before `first`."""
    targets = ids[start + 1 : end + 1].copy()
    targets[: first - start] = -100
    return targets


def _windows(documents: Sequence[Ids], context: int, given: int = 1) -> list[tuple[int, int, int, int]]:
    """(document, start, end, first scored) for windows over input positions [start, end).

    `given` tokens at the end of a document are targets alone, not inputs.
    """
    found = []
    stride = max(1, context // 2)
    for document, ids in enumerate(documents):
        inputs = len(ids) - given
        start, scored = 0, 0
        while scored < inputs:
            end = min(start + context, inputs)
            found.append((document, start, end, scored))
            scored = end
            start += stride
    return found


def parts_in_time(ends: Ids, first: int, most: int, limit_seconds: float | None = None) -> Iterator[slice]:
    """Parts of a sequence, one after the other, as long as the speed so far says that the next fits the limit.

    `ends` is where each member ends, in what `first` and `most` count: the size of the first part, which
    always comes, and the largest size of the others. Without a limit all parts come.
    """
    started, done = time.monotonic(), 0
    while done < len(ends):
        scored = int(ends[done - 1]) if done else 0
        seconds = max(1e-9, time.monotonic() - started)
        room = math.inf if limit_seconds is None else SAFETY * (limit_seconds - seconds) * scored / seconds
        last = int(np.searchsorted(ends, scored + min(room, most) if done else first, "right"))
        if last <= done and done and ends[done] - scored > room:
            return
        last = max(last, done + 1)
        yield slice(done, last)
        done = last
