"""Quality for the time at byte level: ours, `transformers.Trainer` and nanoGPT, trained side by side.

Every training is one process on cores of its own; different systems of one seed run at the same time, in
an order that changes from seed to seed, so that all of them meet the same machine. A figure is the median
over seeds of paired differences; its interval runs from the least to the greatest seed.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.byte_level import digest, documents, read_text, write_shards
from tests.benchmarks.figures import Figure
from tests.benchmarks.lanes import Job, run_in_lanes
from training.data import Split

BENCH = "training"
MODULE = "tests.benchmarks.byte_level_runs"
NAMES = {"ours": "Shoestring", "trainer": "transformers.Trainer", "nanogpt": "nanoGPT"}
SIDES: tuple[Split, ...] = ("train", "test")
SHORTER = (5, 10)  # our trainings of their own that take so many times less
LEAST_SECONDS = 5.0  # a shorter training says nothing
Result = dict[str, Any]
Say = Callable[[str], None]


def measure_quality(text: Path | None, seconds: float, seeds: int, threads: int, say: Say) -> list[Figure]:
    """Bits per byte of held-out text after `seconds`, and how soon ours is as good as the others then."""
    data = read_text(text)
    with tempfile.TemporaryDirectory(prefix="shoestring-bench-") as folder:
        shards = write_shards(Path(folder) / "shards", data)
        sizes = {side: round(documents(shards, side)[1]) for side in SIDES}
        say(
            f"{text or 'standard library'}, {len(data):,} bytes, digest {digest(data)}: "
            f"{sizes['train']:,} to train, {sizes['test']:,} scored"
        )
        place = Path(folder)
        results = run_in_lanes(
            [job for seed in range(seeds) for job in rivals(place, seconds, seed)], threads
        )
        parts = [n for n in SHORTER if seconds / n >= LEAST_SECONDS]
        short = run_in_lanes(
            [ours(place, seconds / n, seed, curve=False) for n in parts for seed in range(seeds)], threads
        )
    for result in (*results, *short):
        say(described(result))
    return figures(by_system(results), seconds) + sooner(by_system(results), short, seconds)


def ours(place: Path, seconds: float, seed: int, curve: bool) -> Job:
    """Our training, in a folder of its own."""
    folder = str(place / f"ours-{seconds:.2f}-{seed}")
    shards = str(place / "shards")
    arguments = {"shards": shards, "folder": folder, "seconds": seconds, "seed": seed, "curve": curve}
    return Job(f"{MODULE}:train_ours", arguments)


def rivals(place: Path, seconds: float, seed: int) -> list[Job]:
    """One training of each system; which one goes first changes with the seed."""
    same = {"shards": str(place / "shards"), "seconds": seconds, "seed": seed}
    jobs = [
        ours(place, seconds, seed, curve=True),
        Job(f"{MODULE}:train_nanogpt", same),
        Job(f"{MODULE}:train_trainer", same),
    ]
    first = -seed % len(jobs)  # of five seeds, the last training, which runs alone, is not ours
    return jobs[first:] + jobs[:first]


def by_system(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Each system's results, in the order of the seeds."""
    ordered = sorted(results, key=lambda result: result["seed"])
    return {name: [result for result in ordered if result["system"] == name] for name in NAMES}


def figures(results: Mapping[str, Sequence[Result]], seconds: float) -> list[Figure]:
    """Scores, and by how much ours is below the others."""
    bits = {name: [result["bits"] for result in results[name]] for name in NAMES}
    scores = [over_seeds(f"{NAMES[name]}, {seconds:.0f} s", bits[name], "bits/byte") for name in NAMES]
    limits = {"trainer": (">= 0.30", ">= 0.45"), "nanogpt": (">= 0.15", ">= 0.25")}
    below = [
        over_seeds(
            f"below {NAMES[name]}, {seconds:.0f} s",
            [theirs - mine for theirs, mine in zip(bits[name], bits["ours"], strict=True)],
            "bits/byte",
            *limits[name],
        )
        for name in ("trainer", "nanogpt")
    ]
    return scores + below


def sooner(results: Mapping[str, Sequence[Result]], short: Sequence[Result], seconds: float) -> list[Figure]:
    """How soon ours is where the others end: on the way of one training, and by trainings planned shorter.

    On the way, both are read off the same sample of held-out text; the rate has not come down by then,
    which a training that was planned shorter does.
    """
    found = []
    for name in ("nanogpt", "trainer"):
        shares = [
            reached(mine["curve"], theirs["curve"][-1][1], seconds) / seconds
            for mine, theirs in zip(results["ours"], results[name], strict=True)
        ]
        limits = ("<= 0.2", "<= 0.1") if name == "nanogpt" else ()
        found.append(
            over_seeds(f"time until {NAMES[name]}'s {seconds:.0f}-s loss", shares, "of its time", *limits)
        )
    for n in sorted({round(seconds / result["seconds"]) for result in short}):
        mine = [r["bits"] for r in sorted(short, key=lambda r: r["seed"]) if r["seconds"] == seconds / n]
        gaps = [theirs["bits"] - bits for theirs, bits in zip(results["nanogpt"], mine, strict=True)]
        found.append(over_seeds(f"below nanoGPT's {seconds:.0f} s, ours in 1/{n}", gaps, "bits/byte"))
    return found


def reached(curve: Sequence[Sequence[float]], score: float, seconds: float) -> float:
    """When the curve first gets down to `score`, between two looks on a line; `seconds` where it never does."""
    before = None
    for at, value in curve:
        if value <= score:
            if before is None:
                return at
            share = (before[1] - score) / (before[1] - value)
            return before[0] + share * (at - before[0])
        before = (at, value)
    return seconds


def over_seeds(
    name: str, values: Sequence[float], unit: str, must: str | None = None, aim: str | None = None
) -> Figure:
    """The median seed, from the least to the greatest."""
    return Figure(BENCH, name, median(values), min(values), max(values), unit, must, aim)


def described(result: Result) -> str:
    """One line for a person."""
    return (
        f"{NAMES[result['system']]}, seed {result['seed']}, {result['seconds']:.1f} s: {result['bits']:.4f} bits "
        f"per byte, {result['parameters']:,} parameters, {result['steps']:,} steps, {result['tokens']:,} tokens"
    )
