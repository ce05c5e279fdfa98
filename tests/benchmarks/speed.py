"""How well our training uses the machine: utilisation, two workers against one, stalls by checkpoints.

Every repeat measures what it compares one right after the other, in an order that alternates. Figures are
medians over repeats, intervals from the least to the greatest.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
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
ALONE, TOGETHER, SHARING = "alone", "together", "sharing"
WAYS = {ALONE: (1, 1), TOGETHER: (WORKERS, WORKERS), SHARING: (WORKERS, 1)}  # workers, batches of a step
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
        runs = compared(place, seconds, repeats, (ALONE, TOGETHER))
        for way, who, limit in zip(
            (ALONE, TOGETHER), ("1 thread", f"{WORKERS} workers"), limits, strict=True
        ):
            shares = [utilisation(run[way]) for run in runs]
            peaks = [sum(rank["peak_flops"] for rank in run[way]) / 1e9 for run in runs]
            found.append(over_seeds(f"model FLOP utilisation, {who}", shares, "% of peak", *limit))
            found.append(over_seeds(f"matmul peak, {who}", peaks, "GFLOP/s"))
    say(f"{repeats} repeats of {seconds:.0f} s each")
    return found


def utilisation(ranks: list[Result]) -> float:
    """The percentage of all ranks' peak that a training's model FLOPs are."""
    flops = ranks[0]["tokens_per_second"] * ranks[0]["flops_per_token"]
    return float(100 * flops / sum(rank["peak_flops"] for rank in ranks))


def measure_scaling(text: Path | None, seconds: float, repeats: int, say: Say) -> list[Figure]:
    """Tokens a second of two workers of one thread over those of one.

    Once each has a batch as large as the one's, and once they share one of that size.
    """
    with prepared(text) as place:
        runs = compared(place, seconds, repeats, (ALONE, TOGETHER, SHARING))
    speeds = {way: [run[way][0]["tokens_per_second"] for run in runs] for way in runs[0]}
    say(f"tokens a second: {speeds}")
    ratios = {way: [two / one for one, two in zip(speeds[ALONE], speeds[way], strict=True)] for way in speeds}
    return [
        over_seeds("tokens a second, 1 worker", speeds[ALONE], "tokens/s"),
        over_seeds(
            f"{WORKERS} workers against 1, a batch each", ratios[TOGETHER], "times", ">= 1.7", ">= 1.9"
        ),
        over_seeds(f"{WORKERS} workers against 1, one batch shared", ratios[SHARING], "times"),
    ]


def compared(place: Path, seconds: float, repeats: int, ways: Sequence[str]) -> list[dict[str, list[Result]]]:
    """For each repeat and way of working what every worker did, one way after the other."""
    if len(cores()) < WORKERS:
        raise SystemExit(f"{WORKERS} workers need {WORKERS} cores; here is one")
    runs = []
    for repeat in range(repeats):
        run = {}
        for way in ways if repeat % 2 == 0 else ways[::-1]:
            world_size, batches = WAYS[way]
            folder = str(place / f"{way}-{repeat}")
            same = {"shards": str(place / "shards"), "folder": folder, "seconds": seconds, "seed": repeat}
            same |= {"world_size": world_size, "batches": batches}
            run[way] = run_together(
                [Job(FUNCTION, {**same, "rank": n}) for n in range(world_size)], threads=1
            )
        runs.append(run)
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
