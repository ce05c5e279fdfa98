"""A command, run and watched: how long it took and, unless nobody asks, the most memory its process tree held."""

import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLE_SECONDS = 2.0  # a look at a run's dozen processes takes 80 ms of a core


@dataclass(frozen=True)
class Watched:
    """What came of a command."""

    code: int
    output: str  # stdout
    errors: str  # stderr
    seconds: float  # from start to exit
    peak_bytes: int  # see `tree_bytes`; 0 where nobody looked


def tree_bytes(pid: int) -> int:
    """Memory of a process and all its descendants, pages that several share counted once.

    That is the proportional set size; where the system does not tell it (macOS), the resident set
    size, which counts shared pages again for each process.
    """
    total = 0
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                memory = process.memory_full_info()
                total += getattr(memory, "pss", memory.rss)
    return total


def watch(
    command: list[str],
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    sample_seconds: float | None = SAMPLE_SECONDS,
) -> Watched:
    """Runs a command to its end, in the given environment or this one's.

    Its tree's memory is sampled every `sample_seconds`, which takes time from it; with None, never.
    """
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    peak, done = 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(sample_seconds):
            peak = max(peak, tree_bytes(process.pid))

    sampler = threading.Thread(target=sample, daemon=True)
    if sample_seconds is not None:
        sampler.start()
    output, errors = process.communicate()
    seconds = time.monotonic() - started
    done.set()
    return Watched(process.returncode, output, errors, seconds, peak)
