"""How long the home's Prefect server takes to answer, and what it weighs."""

import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import mean

from tests.benchmarks.__main__ import Arguments
from tests.benchmarks.figures import Figure
from tests.benchmarks.watched import watch

ROOT = Path(__file__).parents[2]
A_START = """
import json, sys, time
from pathlib import Path
from tasks.home import use_home
use_home(Path(sys.argv[1]))
import psutil
from tasks.server import start_prefect_server
started = time.monotonic()
with start_prefect_server() as server:
    server.wait()
    seconds = time.monotonic() - started
    print(json.dumps([seconds, psutil.Process(server.process.pid).memory_info().rss / 2**20]))
"""


def main(arguments: Arguments) -> list[Figure]:
    """Starts on new and on used homes, one after the other; intervals run from least to most."""
    homes, again = (1, 1) if arguments.quick else (3, 3)
    cold, warm = [], []
    for _ in range(homes):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            cold.append(_start(folder))
            warm += [_start(folder) for _ in range(again)]
    seconds = [start[0] for start in cold], [start[0] for start in warm]
    memory = [start[1] for start in warm]
    return [
        Figure("server", "start, new home", mean(seconds[0]), min(seconds[0]), max(seconds[0]), "s", "<= 15"),
        Figure("server", "start, used home", mean(seconds[1]), min(seconds[1]), max(seconds[1]), "s", "<= 6"),
        Figure("server", "resident memory", mean(memory), min(memory), max(memory), "MiB", "<= 300"),
    ]


def _start(home: str) -> tuple[float, float]:
    """Seconds to the first answer, and MiB of memory then."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = watch([sys.executable, "-c", A_START, home], ours, ROOT, sample_seconds=None)
    if done.code:
        raise RuntimeError(done.errors)
    seconds, memory = json.loads(done.output)
    return float(seconds), float(memory)
