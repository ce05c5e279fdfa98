"""What the terminal says at the end of a run: the right figures and the right next command for each model."""

import json
from pathlib import Path

import pytest

from tasks.artifacts import InputError, Registered
from tasks.home import run_folder
from tasks.launch import find_run
from tasks.outcome import summary, tell
from tests import tiny_run
from training.model import Head

pytestmark = pytest.mark.usefixtures("module_home")


def finished(head: Head, aliases: tuple[str, ...] = ("challenger", "champion")) -> str:
    """The id of a finished run whose folder holds what `summary` reads."""
    trained, report = tiny_run.judged(f"told-{head}", 5, head=head)
    registered = Registered(
        key="k",
        model_name="shoestring-words",
        version=3,
        aliases=aliases,
        mlflow_run_id="m",
        verdict="champion, as the first of its name",
        champion_version_before=None,
    )
    folder = trained.folder
    plan = {"workers": 1, "forecasts": {"this budget": [2.0, 1.9, 2.1]}}
    (folder / "plan.json").write_text(json.dumps(plan))
    state = {"budget": "60s", "used_seconds": 50.0, "pid": 0}
    (folder / "clock.json").write_text(json.dumps(state))
    for record in (trained, report, registered):
        (folder / f"{record.kind}.json").write_text(record.model_dump_json())
    for journal in folder.rglob("journal.jsonl"):
        events = [json.loads(line) | {"training_seconds": 1.0} for line in journal.read_text().splitlines()]
        journal.write_text("".join(json.dumps(event) + "\n" for event in events))
    return trained.run_id


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("causal", ("bits per byte (95 % over documents: ", "generate 'def ")),
        ("masked", ("pseudo-bits per byte (95 % over documents: ", "predict 'for i in [MASK]")),
        (
            "classification",
            ("accuracy", "macro F1", "always saying 'loops': ", "bits per label", "predict '"),
        ),
    ],
)
def test_a_person_reads_what_suits_the_model(
    head: Head, words: tuple[str, ...], module_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = summary(finished(head))
    tell(found, as_json=False)
    told = capsys.readouterr().out
    assert all(word in told for word in words)
    assert ("generate" in told) == (head == "causal")
    assert "--model" not in told


def test_a_challenger_is_named_in_the_next_command(
    module_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tell(summary(finished("causal", aliases=("challenger",))), as_json=False)
    assert "--model shoestring-words/3" in capsys.readouterr().out


def test_a_program_reads_one_number_with_its_unit_and_the_others(
    module_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tell(summary(finished("classification")), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["metric"], found["unit"], found["head"]) == (
        "test/bits",
        "bits per label",
        "classification",
    )
    assert found["interval"][0] <= found["value"] <= found["interval"][1]
    value, low, high = found["metrics"]["accuracy"]
    assert 0 <= low <= value <= high <= 1
    assert found["baseline"]["label"] == "loops"


def test_only_runs_that_can_go_on_are_resumed(module_home: Path) -> None:
    for run_id, flow in (("one", "train-best-model"), ("two", "what-pays"), ("three", "preview-plan")):
        folder = run_folder(run_id)
        folder.mkdir(parents=True)
        (folder / "clock.json").write_text(json.dumps({"used_seconds": 1.0, "flow": flow}))
    assert find_run("last") == "one"
    with pytest.raises(InputError, match="two"):
        find_run("two")
