"""How well the scaling law describes a text that it has not seen: trainings of several sizes and lengths."""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.byte_level import read_text, write_shards
from tests.benchmarks.lanes import Job, run_in_lanes
from training.data import Shards, Slice
from training.law import CAUSAL, Point
from training.model import hidden_parameters

DEPTHS = (2, 3, 4)
SHORT = (100_000, 300_000)  # bytes; the smallest model's first trainings inform the law, as a probe does
LONG = (1_000_000, 3_000_000)
BATCH_BYTES = 2048.0


def measure_law(text: Path | None, quick: bool, say: Callable[[str], None]) -> list[Point]:
    """Trainings at every depth and length, one core each, as points; the short ones of the smallest model first."""
    lengths = SHORT if quick else SHORT + LONG
    with tempfile.TemporaryDirectory(prefix="shoestring-bench-") as folder:
        shards = write_shards(Path(folder) / "shards", read_text(text))
        unique = Slice(shards, "train").tokens()
        sizes = [(depth, tokens) for tokens in lengths for depth in DEPTHS[: 2 if quick else None]]
        sizes.sort(key=lambda size: size[0] != DEPTHS[0] or size[1] not in SHORT)
        jobs = [
            Job("tests.benchmarks.planning_search:train_at", _job(shards, folder, *size)) for size in sizes
        ]
        found = run_in_lanes(jobs, 1)
    points = []
    for (depth, tokens), result in zip(sizes, found, strict=True):
        say(json.dumps(result | {"tokens": tokens}))
        points.append(Point(hidden_parameters(depth), tokens, unique, result["bits"], 0.0, BATCH_BYTES))
    return points


def _job(shards: Shards, folder: str, depth: int, tokens: int) -> dict[str, Any]:
    return {
        "shards": str(shards.folder),
        "folder": str(Path(folder) / f"{depth}-{tokens}"),
        "depth": depth,
        "optimizer": "muon",
        "times": 1.0,
        "tokens": tokens,
    }


def residuals(points: Sequence[Point]) -> list[float]:
    """What the law, told of all trainings, still misses in each; relative."""
    law = CAUSAL.informed(points)
    return [float(point.bits / law.bits(point) - 1) for point in points]


def foreseen(points: Sequence[Point], told: int = 2) -> list[tuple[float, float, bool]]:
    """(off by, width, inside) of the forecasts for all but the first `told` trainings, which inform the law."""
    law, rows = CAUSAL.informed(points[:told]), []
    for point in points[told:]:
        middle, low, high = law.forecast(point)
        rows.append((point.bits / middle - 1, (high - low) / middle, low <= point.bits <= high))
    return rows


def root_mean_square(values: Sequence[float]) -> float:
    """The root of the mean of the squares."""
    return float(np.sqrt(np.mean(np.square(values))))
