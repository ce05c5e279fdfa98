"""Running models day by day: what the checks around them find, and how often they cry wolf.

Options: `--part` one of the parts or several with commas between; `--text FILE`, your own text instead of that of the
packages installed here; `--draws N` and `--documents N` of `drift`; `--seeds N` and `--tokens N` of a training for
`gate`, whose scores `--kept FILE` keeps, to be judged again without training.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.benchmarks.__main__ import Arguments
from tests.benchmarks.figures import Figure
from tests.benchmarks.operate_drift import measure_drift
from tests.benchmarks.operate_gate import measure_gate

Options = argparse.Namespace


def main(arguments: Arguments) -> list[Figure]:
    """The figures of the parts asked for."""
    options = read_options(arguments)
    figures = []
    for part in options.part:
        say(f"-- {part}")
        figures += [replace(figure, bench=f"operate/{part}") for figure in PARTS[part](options)]
    return figures


def drift(options: Options) -> list[Figure]:
    """False alarms where nothing drifts, and planted shifts found."""
    return measure_drift(options.text, options.documents, options.draws, say)


def gate(options: Options) -> list[Figure]:
    """How often another seed is promoted, and how often what saw twice the text."""
    return measure_gate(options.text, options.seeds, options.tokens, options.kept, say)


PARTS: dict[str, Callable[[Options], list[Figure]]] = {"drift": drift, "gate": gate}


def read_options(arguments: Arguments) -> Options:
    """The benchmark's own options, or what is usual; SystemExit where they are none."""
    parser = argparse.ArgumentParser(prog="make bench BENCH=operate", description=__doc__)
    parser.add_argument("--part", default=",".join(PARTS))
    parser.add_argument("--text", type=Path)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--documents", type=int, default=1000 if arguments.quick else 4000)
    parser.add_argument("--seeds", type=int, default=4 if arguments.quick else 40)
    parser.add_argument("--tokens", type=int, default=20_000 if arguments.quick else 200_000)
    parser.add_argument("--kept", type=Path)
    options = parser.parse_args(arguments.rest)
    options.part = options.part.split(",")
    unknown = [part for part in options.part if part not in PARTS]
    if unknown:
        parser.error(f"--part: there is no {', '.join(unknown)}, only {', '.join(PARTS)}")
    if options.seeds < 4:
        parser.error("--seeds: at least 4")
    return options


def say(text: str) -> None:
    """Progress, apart from the figures."""
    print(text, file=sys.stderr, flush=True)
