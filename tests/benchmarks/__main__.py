"""`make bench [BENCH=name] [ARGS="--quick ..."]`: runs `bench_<name>.py`, or all of them.

A benchmark is a module with `main(arguments: Arguments) -> list[Figure]`.
"""

import argparse
import importlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.figures import report

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Arguments:
    """What was said on the command line."""

    quick: bool  # a rough answer, soon
    rest: tuple[str, ...] = ()  # the benchmark's own options


def benchmarks() -> list[str]:
    """The names of all benchmarks."""
    return sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))


def run(name: str, arguments: Arguments) -> bool:
    """Runs one benchmark here; whether all holds that must."""
    module = importlib.import_module(f"tests.benchmarks.bench_{name}")
    return report(module.main(arguments), arguments.quick, arguments.rest)


def run_all(words: list[str]) -> bool:
    """Runs each benchmark in a process of its own, so that none inherits memory or servers."""
    codes = []
    for name in benchmarks():
        print(f"\n== {name}", flush=True)
        codes.append(subprocess.run([sys.executable, "-m", "tests.benchmarks", name, *words]).returncode)
    return not any(codes)


def main(words: list[str]) -> int:
    """The exit code: 0 where all holds that must, 1 where not, 2 for an unknown benchmark."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("name", nargs="?", help=f"one of {', '.join(benchmarks())}; all without it")
    parser.add_argument("--quick", action="store_true", help="a rough answer, soon")
    known, rest = parser.parse_known_args(words)
    if known.name is None:
        return 0 if run_all(words) else 1
    if known.name not in benchmarks():
        print(f"there is no benchmark {known.name!r}, only {', '.join(benchmarks())}", file=sys.stderr)
        return 2
    return 0 if run(known.name, Arguments(known.quick, tuple(rest))) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
