from pathlib import Path

from tasks.telemetry import Tail
from training.journal import Journal, read_journal


def events(path: Path) -> list[int]:
    return [event["step"] for event in read_journal(path)]


def test_a_half_written_line_is_dropped_and_written_over(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append({"event": "step", "step": 1})
    journal.close()
    with path.open("a") as file:
        file.write('{"event": "step", "st')
    assert events(path) == [1]
    again = Journal(path)
    again.append({"event": "step", "step": 2})
    again.close()
    assert events(path) == [1, 2]


def test_rewinding_forgets_what_will_be_done_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for step in range(1, 6):
        journal.append({"event": "step", "step": step})
    journal.rewind(3)
    journal.append({"event": "step", "step": 4})
    journal.close()
    assert events(path) == [1, 2, 3, 4]


def test_a_tail_sees_every_line_once_also_across_a_rewind(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    tail = Tail(path)
    assert tail.new_events() == []
    journal = Journal(path)
    for step in (1, 2, 3):
        journal.append({"event": "step", "step": step})
    assert [event["step"] for event in tail.new_events()] == [1, 2, 3]
    journal.rewind(2)
    assert tail.new_events() == []
    journal.append({"event": "step", "step": 4})
    assert [event["step"] for event in tail.new_events()] == [4]
    journal.close()


def test_a_missing_journal_is_empty(tmp_path: Path) -> None:
    assert list(read_journal(tmp_path / "none.jsonl")) == []
