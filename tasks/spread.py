"""Work over all cores, or over a cluster: the same results in the same order, whoever worked.

A killed process takes nothing with it: what it had in hand is done again by others.
"""

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import get_context
from typing import Any, TypeVar

import psutil

T = TypeVar("T")
R = TypeVar("R")

FEW = 3  # items that are done in this process alone, as to start others takes seconds
AHEAD = 3  # items for each worker that are under way or wait; bounds the memory
PER_CORE_ON_A_CLUSTER = 2
ATTEMPTS = 3  # how often processes are started anew before an item is taken to be what kills them
WATCH_SECONDS = 1.0


class WorkersDied(RuntimeError):
    """The processes died time after time, for instance for want of memory."""


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return psutil.cpu_count(logical=False) or 1


def spread(
    work: Callable[[T], R], items: Iterable[T], workers: int | None = None, few: int = FEW
) -> Iterator[R]:
    """`work` of each item, in the order of the items, which are drawn as they are needed.

    Up to `few` are done here; more on the cluster at RAY_ADDRESS, or by so many processes (None: one for each core;
    1: all here), and here until these are ready (never, where `few` is 0). `work` must pickle, and hang on nothing but
    its item. Raises what `work` raises, and WorkersDied.
    """
    rest = iter(items)
    on_cluster = workers is None and bool(os.environ.get("RAY_ADDRESS"))
    alone = not on_cluster and (workers or cores()) == 1
    first = list(islice(rest, few + 1))
    rest = chain(first, rest)
    if alone or len(first) <= few:
        yield from map(work, rest)
        return
    crew = _Cluster(work) if on_cluster else _Processes(work, workers or cores())
    try:
        if few:
            yield from map(work, _until(crew.ready, rest))
        yield from crew.results(rest)
    finally:
        crew.end()


def _until(ready: Callable[[], bool], items: Iterator[T]) -> Iterator[T]:
    while not ready():
        try:
            yield next(items)
        except StopIteration:
            return


def work_on(work: Callable[[T], R], item: T) -> R:
    """One item, in another process or on a node of the cluster."""
    return work(item)


def _met(work: Callable[[T], R], item: None) -> None:
    """Nothing but to have read the work, with all that it imports."""


class _Processes:
    """A pool of processes that end with this one."""

    def __init__(self, work: Callable[[Any], Any], count: int) -> None:
        self._work, self._count = work, count
        self._pool = self._started()
        self._first = self._submitted(None, _met)

    def _started(self) -> ProcessPoolExecutor:
        # Not forked: this process has threads.
        return ProcessPoolExecutor(self._count, get_context("spawn"), _end_with, (os.getpid(),))

    def results(self, items: Iterator[Any]) -> Iterator[Any]:
        """In order; at most AHEAD items for each process are in flight."""
        under_way: deque[tuple[Any, Future[Any]]] = deque()
        deaths = 0
        while True:
            for item in islice(items, AHEAD * self._count - len(under_way)):
                under_way.append((item, self._submitted(item)))
            if not under_way:
                return
            try:
                result = under_way[0][1].result()
            except BrokenProcessPool:
                deaths += 1
                if deaths == ATTEMPTS:
                    raise WorkersDied(
                        f"the processes that clean died {ATTEMPTS} times on the same documents; is there enough memory?"
                    ) from None
                self._pool.shutdown(wait=False, cancel_futures=True)
                self._pool = self._started()
                under_way = deque((item, self._submitted(item)) for item, _ in under_way)
                continue
            deaths = 0
            under_way.popleft()
            yield result

    def ready(self) -> bool:
        """Whether a process has read what it is to do."""
        return self._first.done()

    def _submitted(self, item: Any, how: Callable[..., Any] = work_on) -> Future[Any]:
        try:
            return self._pool.submit(how, self._work, item)
        except BrokenProcessPool as problem:  # met again where its result is asked for
            failed: Future[Any] = Future()
            failed.set_exception(problem)
            return failed

    def end(self) -> None:
        """Ends the processes, whatever they are at."""
        processes = list((self._pool._processes or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
            process.join()


class _Cluster:
    """Tasks of Ray, which begins those of a node that died on another."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        import ray

        from tasks.ray_session import start_ray

        start_ray()
        self._ray = ray
        self._remote = ray.remote(num_cpus=1, max_retries=ATTEMPTS)(work_on)
        self._work = ray.put(work)
        self._most = PER_CORE_ON_A_CLUSTER * max(1, int(ray.cluster_resources().get("CPU", 1)))

    def ready(self) -> bool:
        """It was there before."""
        return True

    def results(self, items: Iterator[Any]) -> Iterator[Any]:
        """In order; so many items as keep all cores busy are in flight."""
        under_way: deque[Any] = deque()
        while True:
            under_way.extend(
                self._remote.remote(self._work, item) for item in islice(items, self._most - len(under_way))
            )
            if not under_way:
                return
            yield self._ray.get(under_way.popleft())

    def end(self) -> None:
        """Leaves the cluster's session to whoever else uses it."""


def _end_with(parent: int) -> None:
    """Ends this process with its parent, which ctrl-c is meant for, or which was killed and could not say so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="watch", daemon=True).start()
