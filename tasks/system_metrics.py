"""What a machine does while a run lasts: processor, memory, disk, network and GPUs, as MLflow names them.

MLflow's own thread ends at its first failed call; here samples go into a journal of the run, which the
outbox delivers like any other, so an outage loses none and a resumed run goes on counting.
"""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from training.journal import Journal, read_journal

SYSTEM, SYSTEM_PREFIX = "system", "system/"  # an event's kind, and how its figures' names begin
SYSTEM_JOURNAL = "system.jsonl"  # in the run folder
SAMPLE_SECONDS, BEAT_SECONDS = 10.0, 1.0


def collectors() -> list[Any]:
    """MLflow's own, without its `SystemMetricsMonitor`, which would open a store; GPUs where they can be asked."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    found = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with suppress(ImportError, RuntimeError):  # no pynvml, or no driver
        found.append(GPUMonitor())
    return found


class SystemMetrics:
    """Samples of this machine, one every SAMPLE_SECONDS at most, written to a run's folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / SYSTEM_JOURNAL
        self._due = time.monotonic() + SAMPLE_SECONDS
        self._step = max((event["step"] for event in read_journal(self._path)), default=0)
        self._collectors: list[Any] = []
        self._journal: Journal | None = None

    def look(self) -> None:
        """Takes a sample if one is due: 2 ms, and the import of MLflow's collectors at the first."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + SAMPLE_SECONDS
        if self._journal is None:
            self._collectors, self._journal = collectors(), Journal(self._path)
        figures: dict[str, float] = {}
        for one in self._collectors:
            one.collect_metrics()
            figures |= one.aggregate_metrics()
            one.clear_metrics()
        self._step += 1
        named = {f"{SYSTEM_PREFIX}{name}": value for name, value in figures.items()}
        self._journal.append({"event": SYSTEM, "step": self._step, "time": time.time(), **named})


def keep_sampling(folder: Path) -> None:
    """Takes samples for as long as the run lasts; in a thread of its own, which nobody waits for."""
    metrics = SystemMetrics(folder)
    while not (folder / "registered.json").exists():
        metrics.look()
        time.sleep(BEAT_SECONDS)
