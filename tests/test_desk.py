"""The desk between a command and its workers: real processes, killed in the middle."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from training.desk import GRACE_SECONDS, Desk, Job, TooLate, WorkerDied

FORK = multiprocessing.get_context("fork")


class Unreadable(Exception):
    """Can be pickled, but not read again."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


def squares(number: int, rank: int, world_size: int) -> tuple[int, int, int]:
    return number**2, rank, world_size


def fails(problem: Exception, rank: int, world_size: int) -> None:
    raise problem


def fails_strangely(rank: int, world_size: int) -> None:
    raise Unreadable("so", "strange")


def fails_on_the_second(rank: int, world_size: int) -> None:
    if rank == 1:
        raise ValueError("no memory")
    time.sleep(60)


def dies_at_first(marks: Path, times: int, rank: int, world_size: int) -> str:
    with (marks / "tries").open("a") as file:
        file.write("x")
        tries = file.tell()
    if tries <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return f"at the {tries}th"


def loses_the_other(rank: int, world_size: int) -> None:
    raise RuntimeError("connection reset by peer")


def sleeps(seconds: float, rank: int, world_size: int) -> None:
    time.sleep(seconds)


@contextmanager
def workers(desk: Desk, count: int) -> Iterator[list[Any]]:
    running = [FORK.Process(target=desk.work, args=(rank, count), daemon=True) for rank in range(count)]
    for one in running:
        one.start()
    try:
        yield running
    finally:
        for one in running:
            one.kill()
            one.join()


def wait_for(what: Callable[[], bool], seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


def over(desk: Desk, number: int, worker: Any) -> bool:
    return desk.answered(number) or not worker.is_alive()


def test_each_does_its_own_and_all_do_what_is_shared(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with workers(desk, 2) as running:
        alone = [desk.lay(Job(partial(squares, number), rank=number % 2)) for number in range(4)]
        shared = desk.lay(Job(partial(squares, 5)))
        wait_for(lambda: all(map(desk.answered, [*alone, shared])))  # the first may be done before the second
        assert [desk.answer(number) for number in alone] == [(n**2, 0, 1) for n in range(4)]
        assert desk.answer(shared) == (25, 0, 2)
        desk.close()
        wait_for(lambda: not any(one.is_alive() for one in running))


def test_what_a_job_raises_is_raised_by_its_answer(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with workers(desk, 2):
        number = desk.lay(Job(partial(fails, FloatingPointError("it diverged")), rank=1))
        strange = desk.lay(Job(fails_strangely, rank=0))
        shared = desk.lay(Job(fails_on_the_second))  # whose first waits for the second
        wait_for(lambda: all(map(desk.answered, (number, strange, shared))))
        with pytest.raises(FloatingPointError, match="it diverged"):
            desk.answer(number)
        with pytest.raises(RuntimeError, match="Unreadable: so strange"):
            desk.answer(strange)
        with pytest.raises(ValueError, match="no memory"):
            desk.answer(shared)


def test_who_loses_another_in_what_they_share_begins_it_anew(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    number = desk.lay(Job(loses_the_other, attempts=2))
    for _ in range(2):
        with workers(desk, 1) as (one,):
            wait_for(partial(over, desk, number, one))
            assert not desk.answered(number)
    with workers(desk, 1):
        wait_for(lambda: desk.answered(number))
    with pytest.raises(WorkerDied, match="died 2 times under it, at last: connection reset"):
        desk.answer(number)


@pytest.mark.parametrize(("deaths", "outcome"), [(2, "at the 3th"), (3, None)])
def test_a_job_is_begun_anew_after_a_death_but_not_for_ever(
    deaths: int, outcome: str | None, tmp_path: Path
) -> None:
    desk = Desk(tmp_path / "desk")
    number = desk.lay(Job(partial(dies_at_first, tmp_path, deaths), rank=0, attempts=3))
    for _ in range(4):
        with workers(desk, 1) as (one,):
            wait_for(partial(over, desk, number, one))
            if desk.answered(number):
                break
    if outcome:
        assert desk.answer(number) == outcome
    else:
        with pytest.raises(WorkerDied, match="died 3 times"):
            desk.answer(number)


def test_a_worker_that_is_late_ends_itself_and_its_job_is_not_begun_again(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    began = time.time()
    number = desk.lay(Job(partial(sleeps, 600), rank=0, until=began + 0.2))
    with workers(desk, 1) as (one,):
        wait_for(lambda: not one.is_alive(), GRACE_SECONDS + 5)
    assert time.time() - began > GRACE_SECONDS
    with workers(desk, 1):
        wait_for(lambda: desk.answered(number))
    with pytest.raises(TooLate):
        desk.answer(number)


def test_a_smaller_group_does_also_what_was_laid_for_those_that_are_gone(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with workers(desk, 2):
        alone = [desk.lay(Job(partial(squares, number), rank=number)) for number in range(4)]
        shared = desk.lay(Job(partial(squares, 5)))
        wait_for(lambda: all(map(desk.answered, [*alone, shared])))
        assert [desk.answer(number) for number in alone] == [(n**2, 0, 1) for n in range(4)]
        assert desk.answer(shared) == (25, 0, 2)
