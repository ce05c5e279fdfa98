"""The workers: one group under Ray Train for everything that is trained, started with the clock.

Ray Train takes 10 to 20 s to start, so it does so once, while the data is prepared. Measurements,
trials, folds, the final run and the scoring of its model are then jobs on the workers' desk: a training
alone on one of them, or one that all share. If a worker dies, Ray Train starts the group anew, and it
goes on where the desk says; where a machine of a cluster died, with those that are left.
"""

import atexit
import contextvars
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from tasks.cluster import Compute
from tasks.home import store
from tasks.ray_session import WHEN_TRAINING, before_stop, import_ahead, on_cluster, start_ray
from training.desk import Desk, Job, TooLate, serve
from training.metrics import Floats, Ids
from training.model import Precision
from training.objectives import CausalLanguageModel, MaskedLanguageModel
from training.worker import (
    STOP,
    Assignment,
    Outcome,
    carry_out,
    report_peak_flops,
    report_ready,
    score_windows,
)

RESTARTS = 12  # of the group
ATTEMPTS_TOGETHER = 6  # of a training that all share, as the final run
POLL_SECONDS = 0.05
CLOSING_SECONDS = 5.0  # at most, until a closed group has gone
T = TypeVar("T")


class Trainer(TorchTrainer):  # type: ignore[misc]  # Ray tells no types of it
    """Ray Train's, without the processes that it starts for what is not used here.

    One hands out Ray's own data sets; on a local cluster, which ends with this process, another waits for the
    controller's death to free its cores.
    """

    def _create_default_callbacks(self) -> list[Any]:
        """The controller's callbacks, sorted out by name, as they are Ray's own: where those change, all stay."""
        unused = {"DatasetsCallback"} | (set() if on_cluster() else {"PlacementGroupCleanerCallback"})
        return [one for one in super()._create_default_callbacks() if type(one).__name__ not in unused]


class Workers:
    """A group of workers; an idle one takes a training alone, and all together share one."""

    def __init__(self, compute: Compute) -> None:
        self.size = compute.count()
        self.device = compute.device_type
        self.folder = store("workers") / f"{time.time_ns()}"
        self._desk = Desk(self.folder)
        self._last: list[int | None] = [None] * self.size  # the job that each was given last
        self._trainings: dict[int, Path] = {}  # folders, by job
        self._lock = threading.Lock()
        self._problem: BaseException | None = None
        import_ahead(WHEN_TRAINING)
        self._thread = threading.Thread(target=self._serve, name="workers", daemon=True)
        self._thread.start()
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)

    def _serve(self) -> None:
        gpu = self.device == "cuda"
        try:
            start_ray()
            Trainer(
                serve,
                train_loop_config={"desk": self.folder},
                scaling_config=ScalingConfig(
                    num_workers=(1, self.size)
                    if on_cluster()
                    else self.size,  # machines may go, and come back
                    use_gpu=gpu,
                    resources_per_worker={"CPU": 1.0} | ({"GPU": 1.0} if gpu else {}),
                ),
                torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
                run_config=RunConfig(
                    name=self.folder.name,  # an old name would resume an old group
                    storage_path=str(self.folder / "ray"),
                    failure_config=FailureConfig(max_failures=RESTARTS),
                ),
            ).fit()
        except BaseException as problem:  # raised by whoever waits for an answer
            self._problem = problem

    def wait_ready(self) -> list[int]:
        """Returns once every worker has imported what it needs, with their process ids."""
        return self._all(report_ready)

    def peak_flops(self, precision: Precision) -> float:
        """What the matrix products of one worker reach, in FLOPs a second, while all of them compute."""
        return float(min(self._all(partial(report_peak_flops, self.device, precision))))

    def carry_out(self, assignment: Assignment, until: float | None = None) -> Outcome:
        """Runs a training on the next idle worker.

        One whose worker dies goes on from its newest checkpoint. One that is not over by `until` (Unix
        time) is told to end, and given up. Raises TooLate then, WorkerDied after some deaths, and what the
        training raises.
        """
        while True:
            with self._lock:
                for rank, last in enumerate(self._last):
                    if last is None or self._desk.answered(last):
                        number = self._lay(Job(partial(carry_out, assignment), rank, until), assignment)
                        break
                else:
                    number = None
            if number is not None:
                return self._outcome(number, until)
            if until is not None and time.time() > until:
                raise TooLate("no worker was free in time")
            self._check()
            time.sleep(POLL_SECONDS)

    def carry_out_together(
        self, assignment: Assignment, meanwhile: Callable[[], object] = lambda: None
    ) -> Outcome:
        """Has all workers share a training, once they are idle, and calls `meanwhile` again and again."""
        with self._lock:
            job = Job(partial(carry_out, assignment), attempts=ATTEMPTS_TOGETHER)
            number = self._lay(job, assignment)
        return self._outcome(number, meanwhile=meanwhile)

    def score(
        self,
        folder: Path,
        objective: CausalLanguageModel | MaskedLanguageModel,
        documents: list[Ids],
        context: int,
        mask_token: int | None,
    ) -> Floats:
        """float64 [documents]: what documents cost a language model, in nats; every worker scores its part."""
        given = (folder, objective, documents, context, mask_token, self.device)
        with self._lock:
            numbers = [
                self._lay(Job(partial(score_windows, *given, slice(rank, None, self.size)), rank))
                for rank in range(self.size)
            ]
        parts: list[Floats] = [self._wait(number) for number in numbers]
        total: Floats = np.stack(parts).sum(axis=0)
        return total

    def save_all(self, seconds: float) -> None:
        """Has every training under way write its checkpoint, if it keeps any, and end."""
        until = time.monotonic() + seconds
        with self._lock:
            running = [number for number in self._trainings if not self._desk.answered(number)]
        for number in running:
            (self._trainings[number] / STOP).touch()
        while time.monotonic() < until and not all(map(self._desk.answered, running)):
            time.sleep(POLL_SECONDS)

    def release(self) -> None:
        """Ends all workers, and what they train, so that others may have their cores and memory."""
        self._desk.close()
        self.save_all(0.0)
        if any(last is not None for last in self._last):  # others may be starting up still
            self._thread.join(CLOSING_SECONDS)
        shutil.rmtree(self.folder, ignore_errors=True)

    def alive(self) -> bool:
        """Whether it can be given work."""
        return self._thread.is_alive()

    def _all(self, work: Callable[[int, int], T]) -> list[T]:
        with self._lock:
            numbers = [self._lay(Job(work, rank)) for rank in range(self.size)]
        return [self._wait(number) for number in numbers]

    def _lay(self, job: Job, assignment: Assignment | None = None) -> int:
        if assignment is not None:
            assignment.folder.mkdir(parents=True, exist_ok=True)  # for STOP, before a worker has taken it up
            (assignment.folder / STOP).unlink(missing_ok=True)
        number = self._desk.lay(job)
        if assignment is not None:
            self._trainings[number] = assignment.folder
        for rank in range(self.size) if job.rank is None else [job.rank]:
            self._last[rank] = number
        return number

    def _outcome(
        self, number: int, until: float | None = None, meanwhile: Callable[[], object] = lambda: None
    ) -> Outcome:
        outcome: Outcome = self._wait(number, until, meanwhile)
        return outcome

    def _wait(
        self, number: int, until: float | None = None, meanwhile: Callable[[], object] = lambda: None
    ) -> Any:
        while not self._desk.answered(number):
            meanwhile()
            if until is not None and time.time() > until:
                (self._trainings[number] / STOP).touch()
                raise TooLate("it was not over in time")
            self._check()
            time.sleep(POLL_SECONDS)
        meanwhile()
        return self._desk.answer(number)

    def _check(self) -> None:
        """Raises what ended the group, if it has ended."""
        if not self.alive():
            raise self._problem or RuntimeError("the workers were sent home while there was work for them")


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
            release_workers()
            raise


_groups: dict[str, Workers] = {}
_starting = threading.Lock()


def workers_of(compute: Compute) -> Workers:
    """This process' workers, started at the first call, in the background."""
    with _starting:
        key = compute.model_dump_json()
        if key not in _groups or not _groups[key].alive():
            _groups[key] = Workers(compute)
        return _groups[key]


def at_hand() -> Workers | None:
    """The workers that this process has, if any."""
    return next((group for group in _groups.values() if group.alive()), None)


def save_all(seconds: float) -> None:
    """Has all trainings of this process write their checkpoints and end."""
    for group in list(_groups.values()):
        group.save_all(seconds)


def release_workers() -> None:
    """Ends all workers of this process."""
    while _groups:
        _, group = _groups.popitem()
        group.release()


before_stop(release_workers)
