"""The training engine against others, side by side: quality for the time, speed, scaling, stalls, labels.

Options: `--part` one of the parts or several with commas between; `--text FILE` and `--labelled FILE or
FOLDER` put data that it has never seen in the place of the standard library; `--seeds N`; `--threads N` for
each training; `--seconds N` of each training of `quality`, and in proportion of the others.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.__main__ import Arguments
from tests.benchmarks.figures import Figure
from tests.benchmarks.quality import measure_quality

QUALITY_SECONDS, QUICK_SECONDS = 180.0, 4.0


def main(arguments: Arguments) -> list[Figure]:
    """The figures of the parts asked for."""
    options = read_options(arguments)
    figures = []
    for part in options.part:
        say(f"-- {part}")
        figures += PARTS[part](options)
    return figures


def quality(options: argparse.Namespace) -> list[Figure]:
    """Bits per byte after equal time, and the time until the others' last loss."""
    seconds = options.seconds or (QUICK_SECONDS if options.quick else QUALITY_SECONDS)
    seeds = options.seeds or (1 if options.quick else 5)
    return measure_quality(options.text, seconds, seeds, options.threads, say)


PARTS: dict[str, Callable[[argparse.Namespace], list[Figure]]] = {
    "quality": quality,
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
