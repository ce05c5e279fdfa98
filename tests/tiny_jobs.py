"""Jobs for the lanes of the benchmarks that need nothing to start."""

import os
import time
from collections.abc import Callable
from typing import Any


def meet(go: Callable[[], None], preparation: float, number: int) -> dict[str, Any]:
    """Prepares for so many seconds, and says when it began and what it ran on."""
    print("noise on stdout must not be taken for the answer")
    time.sleep(preparation)
    go()
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return {"number": number, "began": time.time(), "cores": cores, "threads": os.environ["OMP_NUM_THREADS"]}


def fail(go: Callable[[], None], early: bool) -> dict[str, Any]:
    """Fails before the start or after it."""
    if not early:
        go()
    raise ValueError("on purpose")
