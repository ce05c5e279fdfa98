"""Work over processes: the same results in the same order, whoever dies meanwhile."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psutil
import pytest

from tasks import spread as module
from tasks.ray_session import start_ray, stop_ray
from tasks.spread import WorkersDied, spread


def squared(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


def killed_once(job: tuple[Path, int]) -> int:
    folder, number = job
    mark = folder / str(number)
    if number % 5 == 0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def killed_always(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def refuses(number: int) -> int:
    raise ValueError(f"not {number}")


def test_results_come_in_order_from_other_processes() -> None:
    found = list(spread(squared, range(40), workers=2, few=0))
    assert [square for square, _ in found] == [number**2 for number in range(40)]
    others = {pid for _, pid in found}
    assert os.getpid() not in others and 1 <= len(others) <= 2
    assert not any(psutil.pid_exists(pid) for pid in others)


def test_work_is_done_here_until_others_have_started() -> None:
    found = []
    for square, pid in spread(squared, count(), workers=2, few=3):
        found.append(pid)
        assert square == (len(found) - 1) ** 2
        if pid != os.getpid():
            break
        time.sleep(0.01)
    assert len(found) > 5 and set(found[:-1]) == {os.getpid()}


def test_little_is_done_here_and_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_Processes", None)
    assert [square for square, _ in spread(squared, range(3), workers=2)] == [0, 1, 4]
    assert len(list(spread(squared, range(100), workers=1))) == 100


def test_items_are_drawn_as_they_are_needed() -> None:
    drawn = []

    def items() -> Iterator[int]:
        for number in range(1000):
            drawn.append(number)
            yield number

    results = spread(squared, items(), workers=2, few=0)
    for _ in range(5):
        next(results)
    assert len(drawn) <= 5 + 2 * module.AHEAD + 1
    results.close()  # type: ignore[attr-defined]


def test_a_killed_process_costs_no_result(tmp_path: Path) -> None:
    jobs = [(tmp_path, number) for number in range(1, 20)]
    assert list(spread(killed_once, jobs, workers=2, few=0)) == list(range(1, 20))


def test_an_item_that_always_kills_is_given_up() -> None:
    with pytest.raises(WorkersDied, match="died 3 times"):
        list(spread(killed_always, [1, 2], workers=2, few=0))


def test_what_the_work_raises_is_raised_here() -> None:
    with pytest.raises(ValueError, match="not 7"):
        list(spread(refuses, [7], workers=2, few=0))


def test_processes_end_with_a_parent_that_is_killed() -> None:
    script = (
        "import time; from tasks.spread import spread; from tests.test_spread import squared\n"
        "if __name__ == '__main__':\n"
        "    results = spread(squared, range(1000), 2, 0); print(next(results)[1], flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    until = time.monotonic() + 10
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, "it outlived its parent"
        time.sleep(0.05)


def test_a_cluster_gives_the_same_results_and_raises_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    start_ray()  # stands for one at an address: the work travels as it would to other machines
    try:
        monkeypatch.setenv("RAY_ADDRESS", "auto")
        found = list(spread(squared, range(30)))
        assert [square for square, _ in found] == [number**2 for number in range(30)]
        assert os.getpid() not in {pid for _, pid in found}
        with pytest.raises(ValueError, match="not 7"):
            list(spread(refuses, [7], few=0))
    finally:
        stop_ray()
