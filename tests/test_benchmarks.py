"""What benchmarks report is what was measured, and the README shows the latest of it."""

import json
import sys
from pathlib import Path

import pytest

from tests.benchmarks.figures import Figure, report, shown
from tests.benchmarks.readme import PAGES, headlines, rewrite, table
from tests.benchmarks.watched import watch

MEGABYTES = 150
MACHINE = {"cores": 2, "cpu": "a CPU", "memory_gb": 8}


def figure(value: float, must: str | None = "<= 4", name: str = "memory") -> Figure:
    return Figure("main_job", name, value, value - 1, value + 1, "GB", must, aim="<= 3")


@pytest.mark.parametrize(
    ("value", "must", "holds"),
    [(4, "<= 4", True), (4.1, "<= 4", False), (4, "< 4", False), (65, ">= 65", True), (9, None, None)],
)
def test_a_figure_holds_when_its_limit_is_met(value: float, must: str | None, holds: bool | None) -> None:
    assert figure(value, must).holds is holds


def test_a_limit_that_says_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="about four"):
        print(figure(1, "about four").holds)


def test_figures_are_printed_last_and_kept_with_their_circumstances(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.jsonl"
    assert report([figure(3), figure(9, None, "time")], True, ("--seeds", "2"), results)
    assert not report([figure(5)], True, (), results)
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    kept = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line["value"] for line in printed] == [line["value"] for line in kept] == [3, 9, 5]
    wanted = ["bench", "figure", "value", "low", "high", "unit", "must", "aim", "holds"]
    assert list(printed[0]) == wanted
    assert set(kept[0]) == {*wanted, "commit", "date", "quick", "arguments", "machine"}
    assert [line["arguments"] for line in kept] == ["--seeds 2", "--seeds 2", ""]


def test_arguments_are_kept_without_paths_of_the_machine(tmp_path: Path) -> None:
    file = tmp_path / "a=b.txt"
    file.touch()
    words = ("--labelled", str(tmp_path), "--text", str(file), f"--text={file}", "--also", "", "--seeds=2")
    assert shown(words) == "--labelled FOLDER --text FILE --text=FILE --also '' --seeds=2"


@pytest.mark.parametrize(
    ("bench", "arguments", "says"),
    [
        ("server", "", "make bench BENCH=server"),
        ("main_job", "--seeds 2", 'make bench BENCH=main_job ARGS="--seeds 2"'),
        ("training/scaling", "", 'make bench BENCH=training ARGS="--part scaling"'),
        (
            "training/scaling",
            "--seconds 12 --part utilisation,scaling --seeds 5",
            'make bench BENCH=training ARGS="--part scaling --seconds 12 --seeds 5"',
        ),
    ],
)
def test_a_table_comes_with_the_command_that_measures_it_again(bench: str, arguments: str, says: str) -> None:
    circumstances = {"commit": "abc", "date": "2026-01-01", "machine": MACHINE, "arguments": arguments}
    assert f"`{says}`" in table([{**figure(3).line(), **circumstances, "bench": bench}])


def test_the_readme_shows_the_latest_full_figures_and_nothing_else_changes(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    lines = [(3.0, "2026-01-01", False), (5.0, "2026-01-02", False), (7.0, "2026-01-03", True)]
    with results.open("w") as file:
        for value, date, quick in lines:
            record = {
                **figure(value).line(),
                "date": date,
                "quick": quick,
                "commit": "abc",
                "arguments": "",
                "machine": MACHINE,
            }
            file.write(json.dumps(record) + "\n")
    page = "# before\n<!-- bench:main_job -->\nold\n<!-- end -->\nafter\n"
    made = rewrite(page, results)
    assert made.startswith("# before\n<!-- bench:main_job -->\n") and made.endswith("<!-- end -->\nafter\n")
    assert "| memory | 5 GB | 4 to 6 | <= 4 ✗ |" in made and "old" not in made and "7 GB" not in made
    assert rewrite(made, results) == made
    with pytest.raises(SystemExit, match="BENCH=other"):
        rewrite(page.replace("main_job", "other"), results)


def test_the_first_page_names_what_there_are_results_of(tmp_path: Path) -> None:
    for page in PAGES:
        assert rewrite(page.read_text()) == page.read_text()
    (tmp_path / "none.jsonl").touch()
    with pytest.raises(SystemExit, match="or mend HEADLINES"):
        headlines(tmp_path / "none.jsonl")


def test_watching_sees_the_memory_of_children_and_what_was_said() -> None:
    child = f"import time; block = bytearray({MEGABYTES} * 2**20); time.sleep(1.5); print('fed')"
    parent = (
        f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {child!r}]).returncode + 3)"
    )
    watched = watch([sys.executable, "-c", parent], sample_seconds=0.5)
    assert (watched.code, watched.output, watched.errors) == (3, "fed\n", "")
    assert MEGABYTES < watched.peak_bytes / 2**20 < 3 * MEGABYTES
    assert 1.5 < watched.seconds < 60
