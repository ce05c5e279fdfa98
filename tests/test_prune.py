"""Pruning frees what nobody needs, and nothing else."""

import os
import time
from pathlib import Path

import pytest

from tasks.prune import DAY_SECONDS, IN_USE_SECONDS, Removable, plan_prune, prune

LONG_AGO = time.time() - 30 * DAY_SECONDS
YESTERDAY = time.time() - DAY_SECONDS


def write(path: Path, text: str = "x" * 1000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def entry(home: Path, kind: str, key: str) -> Path:
    folder = write(home / "store" / kind / key / "complete").parent
    os.utime(folder, (LONG_AGO, LONG_AGO))
    return folder


def run(home: Path, name: str, last_seen: float, names: str = "", finished: bool = True) -> Path:
    folder = home / "runs" / name
    write(folder / "tokens.json", f'{{"key": "{names}"}}')
    write(folder / "final" / "checkpoints" / "step-00000010" / "model.safetensors")
    write(folder / "trials" / "0" / "checkpoints" / "step-00000002" / "model.safetensors")
    write(folder / "final" / "model" / "model.safetensors")
    write(folder / "final" / "journal.jsonl")
    if finished:
        write(folder / "registered.json", "{}")
    clock = write(folder / "clock.json", "{}")
    os.utime(clock, (last_seen, last_seen))
    return folder


def paths(removables: list[Removable], home: Path) -> set[str]:
    return {str(removable.path.relative_to(home)) for removable in removables}


def test_stored_data_of_recent_runs_stays_and_other_goes(fresh_home: Path) -> None:
    entry(fresh_home, "tokens", "a" * 16)
    entry(fresh_home, "tokens", "b" * 16)
    entry(fresh_home, "corpus", "c" * 16)
    run(fresh_home, "recent", YESTERDAY, names="a" * 16)
    run(fresh_home, "old", LONG_AGO, names="b" * 16)
    stored = {path for path in paths(plan_prune(keep_days=14), fresh_home) if path.startswith("store")}
    assert stored == {f"store/tokens/{'b' * 16}", f"store/corpus/{'c' * 16}"}


def test_what_a_run_is_writing_just_now_stays(fresh_home: Path) -> None:
    entry(fresh_home, "tokens", "a" * 16)
    fresh = entry(fresh_home, "tokens", "b" * 16)
    os.utime(fresh)
    assert paths(plan_prune(keep_days=0), fresh_home) == {f"store/tokens/{'a' * 16}"}


def test_checkpoints_of_finished_runs_go_and_models_and_journals_stay(fresh_home: Path) -> None:
    folder = run(fresh_home, "done", YESTERDAY)
    planned = plan_prune()
    assert paths(planned, fresh_home) == {"runs/done/final/checkpoints", "runs/done/trials/0/checkpoints"}
    assert prune(planned) == 2000
    left = {path.name for path in folder.rglob("*") if path.is_file()}
    assert left == {"model.safetensors", "journal.jsonl", "tokens.json", "registered.json", "clock.json"}
    assert (folder / "final" / "model" / "model.safetensors").exists()


def test_an_unfinished_run_keeps_its_checkpoints_until_it_is_old(fresh_home: Path) -> None:
    run(fresh_home, "killed", YESTERDAY, finished=False)
    assert plan_prune(keep_days=14) == []
    assert paths(plan_prune(keep_days=0.5), fresh_home) == {
        "runs/killed/final/checkpoints",
        "runs/killed/trials/0/checkpoints",
    }


def test_planning_removes_nothing(fresh_home: Path) -> None:
    entry(fresh_home, "tokens", "a" * 16)
    run(fresh_home, "done", YESTERDAY)
    before = sorted(fresh_home.rglob("*"))
    assert plan_prune(keep_days=0)
    assert sorted(fresh_home.rglob("*")) == before


@pytest.mark.parametrize("finished", [True, False])
def test_nothing_of_a_run_in_use_goes_nor_any_stored_data(fresh_home: Path, finished: bool) -> None:
    entry(fresh_home, "tokens", "a" * 16)
    run(fresh_home, "running", time.time() - IN_USE_SECONDS / 2, finished=finished)
    assert plan_prune(keep_days=0) == []


def test_a_run_that_starts_after_planning_is_spared(fresh_home: Path) -> None:
    stored = entry(fresh_home, "tokens", "a" * 16)
    folder = run(fresh_home, "resumed", YESTERDAY)
    planned = plan_prune(keep_days=0)
    assert len(planned) == 3
    os.utime(folder / "clock.json")
    assert prune(planned) == 0
    assert stored.exists() and (folder / "final" / "checkpoints").exists()


def test_half_written_entries_go(fresh_home: Path) -> None:
    draft = write(fresh_home / "store" / "tokens" / ".aaaa-1234" / "train.bin").parent
    os.utime(draft, (LONG_AGO, LONG_AGO))
    assert [removable.reason for removable in plan_prune()] == ["left behind half written"]
