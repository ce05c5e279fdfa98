"""The training engine against others, side by side: quality for the time, speed, scaling, stalls, labels.

Options: `--part` one of the parts or several with commas between; `--text FILE` and `--labelled FILE or
FOLDER` put data that it has never seen in the place of the standard library; `--seeds N`; `--threads N` for
each training of `quality`; `--seconds N` for each training.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.benchmarks.__main__ import Arguments
from tests.benchmarks.classification import measure_classification, measure_fine_tuning
from tests.benchmarks.figures import Figure
from tests.benchmarks.quality import measure_quality
from tests.benchmarks.speed import CHECKPOINT_SECONDS, measure_scaling, measure_stalls, measure_utilisation

QUALITY_SECONDS, SPEED_SECONDS, STALL_SECONDS, LABELS_SECONDS, QUICK_SECONDS = 180.0, 20.0, 62.0, 120.0, 4.0
PRETRAINING = 2.5  # times as long as what follows: five minutes before two


def main(arguments: Arguments) -> list[Figure]:
    """The figures of the parts asked for."""
    options = read_options(arguments)
    figures = []
    for part in options.part:
        say(f"-- {part}")
        figures += [replace(figure, bench=f"training/{part}") for figure in PARTS[part](options)]
    return figures


def quality(options: argparse.Namespace) -> list[Figure]:
    """Bits per byte after equal time, and the time until the others' last loss."""
    return measure_quality(options.text, *length(options, QUALITY_SECONDS, 5), options.threads, say)


def utilisation(options: argparse.Namespace) -> list[Figure]:
    """Model FLOPs of the matmul peak."""
    return measure_utilisation(options.text, *length(options, SPEED_SECONDS, 3), say)


def scaling(options: argparse.Namespace) -> list[Figure]:
    """Two workers against one."""
    return measure_scaling(options.text, *length(options, SPEED_SECONDS, 3), say)


def checkpoint(options: argparse.Namespace) -> list[Figure]:
    """Time lost to checkpoints."""
    every = QUICK_SECONDS / 3 if options.quick else CHECKPOINT_SECONDS
    return measure_stalls(options.text, *length(options, STALL_SECONDS, 3), say, every)


def classify(options: argparse.Namespace) -> list[Figure]:
    """Labels from scratch."""
    return measure_classification(options.labelled, *length(options, LABELS_SECONDS, 3), options.threads, say)


def finetune(options: argparse.Namespace) -> list[Figure]:
    """Labels from a masked model of our own."""
    seconds, seeds = length(options, LABELS_SECONDS, 3)
    before = PRETRAINING * seconds
    return measure_fine_tuning(options.labelled, options.text, before, seconds, seeds, options.threads, say)


def length(options: argparse.Namespace, seconds: float, seeds: int) -> tuple[float, int]:
    """Seconds of a training and number of seeds: as asked for, or else what is usual."""
    usual = (QUICK_SECONDS, 1) if options.quick else (seconds, seeds)
    return options.seconds or usual[0], options.seeds or usual[1]


PARTS: dict[str, Callable[[argparse.Namespace], list[Figure]]] = {
    "quality": quality,
    "utilisation": utilisation,
    "scaling": scaling,
    "checkpoint": checkpoint,
    "classify": classify,
    "finetune": finetune,
}


def read_options(arguments: Arguments) -> argparse.Namespace:
    """The benchmark's own options, or what is usual; SystemExit where they are none."""
    parser = argparse.ArgumentParser(prog="make bench BENCH=training", description=__doc__)
    parser.add_argument("--part", default=",".join(PARTS))
    parser.add_argument("--text", type=Path)
    parser.add_argument("--labelled", type=Path)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float)
    options = parser.parse_args(arguments.rest)
    options.part = options.part.split(",")
    unknown = [part for part in options.part if part not in PARTS]
    if unknown:
        parser.error(f"--part: there is no {', '.join(unknown)}, only {', '.join(PARTS)}")
    if (options.seeds is not None and options.seeds < 1) or options.threads < 1:
        parser.error("--seeds and --threads: at least 1")
    options.quick = arguments.quick
    return options


def say(text: str) -> None:
    """Progress, apart from the figures."""
    print(text, file=sys.stderr, flush=True)
