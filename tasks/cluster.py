"""The machine: the only ray.init, and the warm workers that trials and folds run in.

Every worker asks for half a core's worth of Ray's CPUs, so that the final run can start up behind
the last fold; it trains only once the others are done.
"""

import contextvars
import logging
import os
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Literal, TypeVar
from uuid import uuid4

import psutil
import ray
import torch
from pydantic import Field
from ray.exceptions import RayActorError

from tasks.artifacts import InputError
from tasks.telemetry import Tail
from training.config import Section
from training.journal import Event
from training.model import Precision
from training.worker import STOP, Assignment, Outcome, Trainee

CPUS_EACH = 0.5
ATTEMPTS = 3  # of one training, when its worker dies under it
POLL_SECONDS = 0.1


class Compute(Section):
    """What the training runs on."""

    workers: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Processes that train side by side. Empty: one for each GPU, else for each core.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto takes GPUs where there are any. CPU training wants a small model."
    )

    def on_gpu(self) -> bool:
        """Whether workers get a GPU each."""
        return self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available())

    def count(self) -> int:
        """Workers, settled. Raises InputError where the machine or cluster has not that many cores or GPUs."""
        where = "this machine has"
        there = torch.cuda.device_count() if self.on_gpu() else cores()
        if os.environ.get("RAY_ADDRESS"):
            start_ray()
            where = "the cluster at RAY_ADDRESS has"
            there = int(ray.cluster_resources().get("GPU" if self.on_gpu() else "CPU", 0))
        unit = "GPUs" if self.on_gpu() else "cores"
        if self.workers and self.workers > there:
            remedy = f"ask for at most {there}" if there else "use compute.device=cpu"
            raise InputError(f"compute.workers is {self.workers}, but {where} {there} {unit}: {remedy}")
        if self.device == "cuda" and not there:
            raise InputError(f"compute.device is cuda, but {where} no GPU: use auto or cpu")
        return self.workers or max(1, there)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return psutil.cpu_count(logical=False) or 1


def start_ray() -> None:
    """Joins the cluster at RAY_ADDRESS, or starts a small local one, which wants Ray's token of whoever connects.

    Linux ends Ray's processes with the thread that started them, so a thread stays for that.
    """
    if ray.is_initialized():
        return
    started: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def stay() -> None:
        try:
            _init_ray()
        except BaseException as problem:  # raised by the caller, below
            started.put(problem)
            return
        started.put(None)
        _over.wait()

    _over.clear()
    threading.Thread(target=stay, name="ray", daemon=True).start()
    if (problem := started.get()) is not None:
        raise problem


def _init_ray() -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
        return
    _sweep()
    ray.init(
        address="local",
        num_cpus=cores(),
        include_dashboard=False,
        object_store_memory=128 * 2**20,  # weights travel by file, not through the object store
        _temp_dir=str(_short_folder()),
        **quiet,
    )


def stop_ray() -> None:
    """Ends the local cluster, or leaves the remote one, and sweeps up."""
    while _warming:
        _warming.pop().join()  # a Ray that is torn down while it starts takes the process with it
    if ray.is_initialized():
        ray.shutdown()
        _over.set()
    shutil.rmtree(_short_folder(), ignore_errors=True)


def _short_folder() -> Path:
    """Ray's sockets want paths under 107 bytes, so they cannot lie in the home."""
    return Path(tempfile.gettempdir()) / f"shoestring-ray-{os.getpid()}"


def _sweep() -> None:
    """Removes what killed runs of this user left behind."""
    for folder in Path(tempfile.gettempdir()).glob("shoestring-ray-*"):
        if not psutil.pid_exists(int(folder.name.rpartition("-")[2])):
            shutil.rmtree(folder, ignore_errors=True)


class TooLate(TimeoutError):
    """A training was not over when it had to be."""


class Pool:
    """Warm workers; each training takes one, and a worker that dies is replaced."""

    def __init__(self, compute: Compute) -> None:
        self.size = compute.count()
        self.device = "cuda" if compute.on_gpu() else "cpu"
        options = {"num_cpus": CPUS_EACH, "num_gpus": 0.5 if compute.on_gpu() else 0}
        self._remote = ray.remote(Trainee).options(**options)
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._all: list[Any] = []
        self._released = False
        for _ in range(self.size):
            self._add()

    def _add(self) -> None:
        actor = self._remote.remote()
        self._all.append(actor)
        self._idle.put(actor)

    def wait_ready(self) -> None:
        """Returns once every worker has imported what it needs."""
        ray.get([actor.ready.remote() for actor in self._all])

    def peak_flops(self, precision: Precision) -> float:
        """What the matrix products of one worker reach, in FLOPs a second, while all of them compute."""
        asked = [actor.peak_flops.remote(self.device, precision) for actor in self._all]
        return float(min(ray.get(asked)))

    def carry_out(
        self,
        assignment: Assignment,
        on_event: Callable[[Event], None] | None = None,
        until: float | None = None,
    ) -> Outcome:
        """Runs a training on the next idle worker and tells `on_event` its journal as it grows.

        A training whose worker dies goes on in a new worker from its newest checkpoint. One that is
        not over by `until` (Unix time) is ended with its worker, for good, by TooLate.
        Raises what the training raises, and RayActorError after ATTEMPTS deaths.
        """
        for attempt in range(1, ATTEMPTS + 1):
            actor = self._next_idle(until)
            try:
                outcome = self._watch(actor.carry_out.remote(assignment), assignment.folder, on_event, until)
                self._idle.put(actor)
                return outcome
            except TooLate:
                if not self._released:
                    self._all.remove(actor)
                    ray.kill(actor)
                raise
            except RayActorError:
                if self._released or attempt == ATTEMPTS:
                    raise
                self._all.remove(actor)
                self._add()
            except BaseException:
                self._idle.put(actor)
                raise
        raise AssertionError("unreachable")

    def _next_idle(self, until: float | None) -> Any:
        try:
            return self._idle.get(timeout=None if until is None else max(0.0, until - time.time()))
        except queue.Empty:
            raise TooLate("no worker was free in time") from None

    def _watch(
        self, pending: Any, folder: Path, on_event: Callable[[Event], None] | None, until: float | None
    ) -> Outcome:
        tail = Tail(folder / "journal.jsonl")
        while True:
            ready, _ = ray.wait([pending], timeout=POLL_SECONDS)
            for event in tail.new_events():
                if on_event is not None:
                    on_event(event)
            if ready:
                outcome: Outcome = ray.get(pending)
                return outcome
            if until is not None and time.time() > until:
                raise TooLate("it was not over in time")

    def carry_out_together(self, assignment: Assignment) -> Outcome:
        """Has all workers, which must be idle, share one training; what the first of them says of it."""
        assignment.folder.mkdir(parents=True, exist_ok=True)
        meeting = assignment.folder / f"meeting-{uuid4().hex[:8]}"
        parts = [
            actor.carry_out_together.remote(assignment, rank, self.size, meeting)
            for rank, actor in enumerate(self._all)
        ]
        outcomes: list[Outcome] = ray.get(parts)
        meeting.unlink(missing_ok=True)
        return outcomes[0]

    def release_idle(self, needed: int = 0) -> None:
        """Ends idle workers, but for as many as are `needed`, with those at work, for trainings yet to end."""
        while len(self._all) > needed and not self._idle.empty():
            actor = self._idle.get()
            self._all.remove(actor)
            ray.kill(actor)

    def release(self) -> None:
        """Ends all workers, so that others may have their cores and memory."""
        self._released = True
        for actor in self._all:
            ray.kill(actor)
        self._all.clear()
        self._idle = queue.SimpleQueue()


def ask_to_stop(folder: Path) -> None:
    """Has the training in `folder` end after its present step."""
    (folder / STOP).touch()


T = TypeVar("T")


def side_by_side(jobs: Sequence[Callable[[], T]], workers: int) -> Iterator[T]:
    """Results of `jobs`, as they finish, each in a thread that knows the present Prefect run.

    If one fails, or the user interrupts, all training of this process ends.
    """
    with ThreadPoolExecutor(workers) as threads:
        pending = [threads.submit(contextvars.copy_context().run, job) for job in jobs]
        try:
            for finished in as_completed(pending):
                yield finished.result()
        except BaseException:
            for one in pending:
                one.cancel()
            release_pools()
            raise


_pools: dict[str, Pool] = {}
_starting = threading.Lock()
_warming: list[threading.Thread] = []
_over = threading.Event()  # Ray is no longer needed


def pool(compute: Compute) -> Pool:
    """This process' warm workers, started at the first call."""
    with _starting:
        start_ray()
        key = compute.model_dump_json()
        if key not in _pools:
            _pools[key] = Pool(compute)
        return _pools[key]


def warm_up(compute: Compute) -> None:
    """Starts the workers in the background."""
    thread = threading.Thread(target=pool, args=(compute,), name="warm-up", daemon=True)
    _warming.append(thread)
    thread.start()


def release_pools() -> None:
    """Ends all warm workers of this process."""
    while _pools:
        _, one = _pools.popitem()
        one.release()
