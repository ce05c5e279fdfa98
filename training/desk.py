"""A desk: what a group of workers is to do, and what came of it, as files in a folder that all of them see.

A worker that dies and is started anew finds its work where it lay. Files are ours alone: pickles, as
between any two processes of Ray. Light to import, as Ray's processes read this before anything else.
"""

import os
import pickle
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.imports import uncollected

POLL_SECONDS = 0.02
GRACE_SECONDS = 5.0  # after which a worker that is late ends itself, to be started anew
CLOSED = "closed"
Work = Callable[[int, int], Any]  # by rank and world size; must pickle, as must what it returns


class TooLate(TimeoutError):
    """A training was not over when it had to be."""


class WorkerDied(RuntimeError):
    """A training's worker died under it, time after time."""


@dataclass(frozen=True)
class Job:
    """Work for one worker, or, without a rank, for all of them together, of whom the first answers."""

    work: Work
    rank: int | None = None
    until: float | None = None  # Unix time; the worker that has not ended it soon afterwards ends itself
    attempts: int = 3  # how often it is begun, when a worker dies


class Desk:
    """Jobs are numbered as they are laid; every worker does its own in that order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._laid = 0
        self._lock = threading.Lock()

    def lay(self, job: Job) -> int:
        """Lays a job down, and says its number."""
        with self._lock:
            number, self._laid = self._laid, self._laid + 1
            self._write(f"{number:06d}.job", pickle.dumps(job))
        return number

    def answered(self, number: int) -> bool:
        """Whether the job has an answer."""
        return self._answer(number).exists()

    def answer(self, number: int) -> Any:
        """What came of an answered job; raises what it raised."""
        result, problem = pickle.loads(self._answer(number).read_bytes())
        if problem is not None:
            raise problem
        return result

    def close(self) -> None:
        """Sends the workers home, once they are done with what they do now."""
        (self.folder / CLOSED).touch()

    def work(self, rank: int, world_size: int) -> None:
        """A worker's life: job after job, until the desk is closed."""
        number = 0
        while not (self.folder / CLOSED).exists():
            path = self.folder / f"{number:06d}.job"
            if not path.exists():
                time.sleep(POLL_SECONDS)
                continue
            with uncollected() if number == 0 else nullcontext():  # the first job brings torch with it
                job: Job = pickle.loads(path.read_bytes())
            mine = (
                job.rank is None or job.rank % world_size == rank
            )  # also of those that a smaller group lacks
            if mine and not self.answered(number):
                self._do(job, number, rank, world_size)
            number += 1

    def _do(self, job: Job, number: int, rank: int, world_size: int) -> None:
        if job.rank is not None:
            rank, world_size = 0, 1
        result, problem = self._tried(job, number, rank, world_size)
        if job.rank is None and isinstance(problem, RuntimeError) and not isinstance(problem, WorkerDied):
            # As when another has died: no answer to the job. The group is started anew, and begins it again.
            (self.folder / f"{number:06d}.problem").write_text(str(problem))
            raise problem
        if rank == 0 or problem is not None:  # the others may wait for this one for ever
            self._write(self._answer(number).name, _pickled(result, problem))

    def _tried(self, job: Job, number: int, rank: int, world_size: int) -> tuple[Any, Exception | None]:
        if rank == 0:
            with (self.folder / f"{number:06d}.begun").open("ab") as begun:
                begun.write(b".")
                if begun.tell() > job.attempts:
                    last = self.folder / f"{number:06d}.problem"
                    why = f", at last: {last.read_text()}" if last.exists() else ""
                    return None, WorkerDied(f"its worker died {job.attempts} times under it{why}")
        if job.until is not None and time.time() > job.until:
            return None, TooLate("it was not over in time")
        patience = None
        if job.until is not None:
            patience = threading.Timer(job.until + GRACE_SECONDS - time.time(), os._exit, (1,))
            patience.daemon = True
            patience.start()
        try:
            return job.work(rank, world_size), None
        except Exception as problem:  # for whoever asked
            return None, problem
        finally:
            if patience is not None:
                patience.cancel()

    def _answer(self, number: int) -> Path:
        return self.folder / f"{number:06d}.answer"

    def _write(self, name: str, data: bytes) -> None:
        draft = self.folder / f".{name}-{os.getpid()}"
        draft.write_bytes(data)
        draft.replace(self.folder / name)


def serve(launch: dict[str, Path]) -> None:
    """One worker of a group under Ray Train, whose process group they share: does what is laid on the desk."""
    from ray import train as ray_train  # the only door to Ray below tasks/

    ranks = ray_train.get_context()
    Desk(launch["desk"]).work(ranks.get_world_rank(), ranks.get_world_size())


def _pickled(result: Any, problem: Exception | None) -> bytes:
    try:
        data = pickle.dumps((result, problem))
        pickle.loads(data)  # some exceptions can be written but not read
    except Exception:
        data = pickle.dumps((None, RuntimeError(f"{type(problem).__name__}: {problem}")))
    return data
