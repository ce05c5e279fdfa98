"""Bits per byte, defined once: the gate, the comparison, the folds and the benchmarks all call this.

Each document alone, from its start token, in windows of the model's context that move on by half
a context, so that beyond the first window every token is predicted from at least half a context.

Shapes: B windows of a batch, T positions, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Floats = npt.NDArray[np.float64]
# Tokens scored at once; they bound memory. On a CPU, 8,192 took nearly twice as long a token as 2,048.
WINDOWS_TOKENS = 2048
GPU_WINDOWS_TOKENS = 32_768


def score_documents(
    model: nn.Module,
    documents: Sequence[npt.NDArray[np.int64]],
    context: int,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    progress: Callable[[float], None] = lambda share: None,
) -> Floats:
    """float64 [documents]: the negative log-likelihood of each document's tokens, in nats.

    Documents start with the start token, which is given and not scored; one of a single token
    scores 0. `progress` is told the share of windows done. Losses are float32, over logits taken to
    float32; sums run in float64.
    """
    device = next(model.parameters()).device
    at_once = WINDOWS_TOKENS if device.type == "cpu" else GPU_WINDOWS_TOKENS
    windows = sorted(_windows(documents, context), key=lambda window: window[2] - window[1])
    nats = np.zeros(len(documents))
    was_training = model.training
    model.eval()
    done = 0
    with torch.inference_mode(), autocast():
        while done < len(windows):
            longest = windows[min(done + at_once // context, len(windows) - 1)]
            rows = max(1, at_once // max(1, longest[2] - longest[1]))
            batch = windows[done : done + rows]
            width = max(end - start for _, start, end, _ in batch)
            inputs_BT = torch.zeros(len(batch), width, dtype=torch.long)
            targets_BT = torch.full((len(batch), width), -100)
            for row, (document, start, end, first) in enumerate(batch):
                piece = torch.from_numpy(documents[document][start : end + 1])
                inputs_BT[row, : end - start] = piece[:-1]
                targets_BT[row, first - start : end - start] = piece[1 + first - start :]
            logits_BTV = model(input_ids=inputs_BT.to(device)).logits
            scored_BT = targets_BT != -100
            losses = nn.functional.cross_entropy(
                logits_BTV[scored_BT.to(device)].float(), targets_BT[scored_BT].to(device), reduction="none"
            )
            owners = np.array([window[0] for window in batch])[scored_BT.nonzero()[:, 0].numpy()]
            np.add.at(nats, owners, losses.double().cpu().numpy())
            done += len(batch)
            progress(done / len(windows))
    model.train(was_training)
    return nats


def _windows(documents: Sequence[npt.NDArray[np.int64]], context: int) -> list[tuple[int, int, int, int]]:
    """(document, start, end, first scored) for windows over input positions [start, end)."""
    found = []
    stride = max(1, context // 2)
    for document, ids in enumerate(documents):
        inputs = len(ids) - 1
        start, scored = 0, 0
        while scored < inputs:
            end = min(start + context, inputs)
            found.append((document, start, end, scored))
            scored = end
            start += stride
    return found


def bits_per_byte(nats: float, size_bytes: float) -> float:
    """Nats over UTF-8 bytes as bits per byte; infinite where there are no bytes."""
    return nats / (size_bytes * math.log(2)) if size_bytes else math.inf
