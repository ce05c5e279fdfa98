"""How well our training uses the machine: utilisation, two workers against one, stalls by checkpoints.

Every repeat measures what it compares one right after the other, in an order that alternates. Figures are
medians over repeats, intervals from the least to the greatest.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.byte_level import read_text, write_shards
from tests.benchmarks.figures import Figure
from tests.benchmarks.lanes import Job, cores, run_in_lanes, run_together
from tests.benchmarks.quality import over_seeds

FUNCTION = "tests.benchmarks.speed_runs:train_watched"
WORKERS = 2
CHECKPOINT_SECONDS = 15.0  # as tasks/train.py has it
Result = dict[str, Any]
Say = Callable[[str], None]


@contextmanager
def prepared(text: Path | None) -> Iterator[Path]:
    """A folder with the text's shards, for a while."""
    with tempfile.TemporaryDirectory(prefix="shoestring-bench-") as folder:
        write_shards(Path(folder) / "shards", read_text(text))
        yield Path(folder)


def measure_utilisation(text: Path | None, seconds: float, repeats: int, say: Say) -> list[Figure]:
    """Model FLOPs over the peak of the same cores, in percent, for one worker and for two.

    The peak is that of products of large matrices, in each worker's own process right before and after its
    training, all workers at once; the higher one counts.
    """
    limits = ((">= 35", ">= 50"), (">= 30", ">= 50"))
    found = []
    with prepared(text) as place:
        runs = both(place, seconds, repeats)
        for number, (who, limit) in enumerate(zip(("1 thread", f"{WORKERS} workers"), limits, strict=True)):
            shares = [utilisation(run[number]) for run in runs]
            peaks = [sum(rank["peak_flops"] for rank in run[number]) / 1e9 for run in runs]
            found.append(over_seeds(f"model FLOP utilisation, {who}", shares, "% of peak", *limit))
            found.append(over_seeds(f"matmul peak, {who}", peaks, "GFLOP/s"))
    say(f"{repeats} repeats of {seconds:.0f} s each")
    return found


def utilisation(ranks: list[Result]) -> float:
    """The percentage of all ranks' peak that a training's model FLOPs are."""
    flops = ranks[0]["tokens_per_second"] * ranks[0]["flops_per_token"]
    return float(100 * flops / sum(rank["peak_flops"] for rank in ranks))


def measure_scaling(text: Path | None, seconds: float, repeats: int, say: Say) -> list[Figure]:
    """Tokens a second of two workers of one thread over those of one; the batch is the same, shared by two."""
    with prepared(text) as place:
        runs = both(place, seconds, repeats)
    speeds = [[run[number][0]["tokens_per_second"] for run in runs] for number in range(2)]
    say(f"tokens a second: 1 worker {speeds[0]}, {WORKERS} workers {speeds[1]}")
    ratios = [two / one for one, two in zip(*speeds, strict=True)]
    return [
        over_seeds("tokens a second, 1 worker", speeds[0], "tokens/s"),
        over_seeds(f"{WORKERS} workers against 1", ratios, "times", ">= 1.7", ">= 1.9"),
    ]


def both(place: Path, seconds: float, repeats: int) -> list[tuple[list[Result], list[Result]]]:
    """For each repeat what one worker did alone, and what each of two did together."""
    if len(cores()) < WORKERS:
        raise SystemExit(f"{WORKERS} workers need {WORKERS} cores; here is one")
    runs = []
    for repeat in range(repeats):

        def together(world_size: int, repeat: int = repeat) -> list[Result]:
            folder = str(place / f"{world_size}-{repeat}")
            same = {"shards": str(place / "shards"), "folder": folder, "seconds": seconds, "seed": repeat}
            ranks = [
                Job(FUNCTION, {**same, "rank": rank, "world_size": world_size}) for rank in range(world_size)
            ]
            return run_together(ranks, threads=1)

        if repeat % 2 == 0:
            alone, shared = together(1), together(WORKERS)
        else:
            shared, alone = together(WORKERS), together(1)
        runs.append((alone, shared))
    return runs


def measure_stalls(
    text: Path | None, seconds: float, repeats: int, say: Say, every: float = CHECKPOINT_SECONDS
) -> list[Figure]:
    """The share of a training's time in which it waits for checkpoints, and its speed against one without.

    Waiting is measured inside; the speeds are of trainings side by side, so they differ by chance, too.
    """
    shares, speeds, saves = [], [], []
    with prepared(text) as place:
        for repeat in range(repeats):
            same = {"shards": str(place / "shards"), "seconds": seconds, "seed": repeat}
            jobs = [
                Job(FUNCTION, {**same, "folder": str(place / f"{name}-{repeat}"), "checkpoint_seconds": each})
                for name, each in (("with", every), ("without", None))
            ]
            order = jobs if repeat % 2 == 0 else jobs[::-1]
            results = run_in_lanes(order, threads=1)
            saving, plain = results if repeat % 2 == 0 else results[::-1]
            shares.append(100 * saving["stalled_seconds"] / saving["seconds"])
            speeds.append(100 * saving["tokens_per_second"] / plain["tokens_per_second"])
            saves.append(saving["saves"])
    say(f"{median(saves):.0f} checkpoints in {seconds:.0f} s")
    return [
        over_seeds(f"stall, a checkpoint every {every:.0f} s", shares, "% of time", "<= 0.5", "<= 0.1"),
        over_seeds("speed with checkpoints", speeds, "% of that without"),
    ]
