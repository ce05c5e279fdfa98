"""Functions run side by side, each in a process of its own on cores of its own, all started at one moment.

A job is a function `f(go, **arguments) -> dict` of JSON values. It prepares, calls `go()`, which returns
when every job beside it is ready too, and does what is timed: so all of them meet the same machine.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tasks.home import FOR_SPEED

ROOT = Path(__file__).parents[2]
# How the names of variables begin that are the machine's own set-up, which no job inherits.
NOT_PASSED = ("SHOESTRING_", "PREFECT_", "MLFLOW_", "RAY_", "OMP_", "MKL_", "MALLOC_")
Go = Callable[[], None]
Result = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A function, `module:name`, and its arguments, which must be JSON values; `settings` are its process' own."""

    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=lambda: FOR_SPEED)


def cores() -> list[int]:
    """The cores that this process may run on; a guess where the system does not tell."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def run_in_lanes(jobs: Sequence[Job], threads: int) -> list[Result]:
    """What the jobs return, in their order; as many run at a time as there are cores for `threads` each."""
    lanes = max(1, len(cores()) // threads)
    results: list[Result] = []
    for at in range(0, len(jobs), lanes):
        results += run_together(jobs[at : at + lanes], threads)
        print(f"{len(results)} of {len(jobs)} trainings done", file=sys.stderr, flush=True)
    return results


def run_together(jobs: Sequence[Job], threads: int) -> list[Result]:
    """What the jobs return; each runs on `threads` cores of its own as long as there are enough.

    Raises RuntimeError where one fails, and ends the others.
    """
    own, processes = cores(), []
    try:
        for number, job in enumerate(jobs):
            lane = [own[(number * threads + core) % len(own)] for core in range(threads)]
            processes.append(_start(job, lane))
        for job, process in zip(jobs, processes, strict=True):
            if _line(process.stdout) != "ready":
                raise RuntimeError(f"{job.function} {dict(job.arguments)} failed before it began; see above")
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        results = []
        for job, process in zip(jobs, processes, strict=True):
            said = _line(process.stdout)
            if process.wait() or not said:
                raise RuntimeError(f"{job.function} {dict(job.arguments)} failed; see above")
            results.append(json.loads(said))
        return results
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                process.kill()
            process.communicate()


def _start(job: Job, lane: Sequence[int]) -> subprocess.Popen[str]:
    threads = str(len(set(lane)))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(NOT_PASSED)}
    environment |= {
        "OMP_NUM_THREADS": threads,
        **job.settings,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    cores_of_it = ",".join(str(core) for core in lane)
    command = [sys.executable, "-m", "tests.benchmarks.lanes", job.function, cores_of_it]
    return subprocess.Popen(
        [*command, json.dumps(dict(job.arguments))],
        env=environment,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().strip()


def main(function: str, lane: str, arguments: str) -> None:
    """One job, in its process: what anybody prints goes to stderr, only the answers to stdout."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        if hasattr(os, "sched_setaffinity"):  # before torch counts the cores
            os.sched_setaffinity(0, {int(core) for core in lane.split(",")})
        module, name = function.split(":")

        def go() -> None:
            print("ready", file=answers, flush=True)
            if sys.stdin.readline() != "go\n":
                sys.exit("nobody is waiting for the answer any more")

        result = getattr(importlib.import_module(module), name)(go, **json.loads(arguments))
        print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
