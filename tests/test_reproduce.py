"""A training done again from what MLflow holds ends with the same bits, or what differs is said."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tasks import home, tracking
from tasks.artifacts import InputError, Report, Tokens, Trained
from tasks.clock import RECIPE
from tasks.cluster import Compute
from tasks.provenance import PROVENANCE, Provenance
from tasks.register import log_evidence
from tasks.reproduce import (
    AGAIN,
    BLUEPRINT,
    FINAL,
    ORIGINAL,
    DataRecipe,
    Original,
    Reproduction,
    data_again,
    differing,
    recall,
    request_of,
    tell,
    train_again,
)
from tasks.train import final_assignment
from tests import tiny_run
from tests.test_command import shoestring
from tests.tiny_shards import tiny_blueprint, write_shards
from training.budget import Wall
from training.worker import Assignment, Outcome, carry_out

SECONDS = 2.0
ONE = Compute(workers=1, device="cpu")


@pytest.fixture(scope="module")
def trained(module_home: Path, corpus_texts: list[str]) -> Trained:
    """A training against the clock, whose end nobody could foresee, and its record in MLflow."""
    torch.set_num_threads(1)
    shards = home.store(Tokens.kind) / "tiny"
    write_shards(shards, corpus_texts[:60])
    (shards / "tokenizer").mkdir()
    (shards / "complete").touch()
    folder, blueprint = home.run_folder("run-one"), tiny_blueprint(average=0.1, dropout=0.1)
    assignment = final_assignment(folder / "final", blueprint, shards, Wall(time.time() + SECONDS), "cpu")
    summary = carry_out(assignment).summary
    (folder / BLUEPRINT).write_text(blueprint.model_dump_json())
    (folder / RECIPE).write_text(
        "budget: 90s\nseed: 0\nsource: {kind: python_stdlib}\nsearch: {share: 0.0}\n"
    )
    (folder / "report").mkdir()
    tokens = Tokens(
        key="tiny",
        splits=tiny_run.splits(),
        vocabulary=258,
        tokens={"train": 900, "validation": 100, "test": 100},
        bytes_per_token=1.0,
    )
    return Trained(
        key="trained",
        run_id="run-one",
        model="final/model",
        journal=FINAL,
        objective="causal_language_model",
        parameters=summary.parameters,
        steps=summary.steps,
        tokens_trained=summary.tokens,
        training_seconds=summary.training_seconds,
        final_seconds=SECONDS,
        workers=1,
        kept=summary.kept,
        validation_bits=summary.validation_bits,
        tokens=tokens,
    )


def logged(trained: Trained, flow: str) -> str:
    """A run of MLflow with the evidence of a training; its id."""
    report = Report(
        key="report",
        run_id=trained.run_id,
        head="causal",
        unit="bits per byte",
        bits=2.0,
        low=1.9,
        high=2.1,
        interval_covers="documents",
        metrics={},
        baseline=None,
        test_documents=6,
        test_bytes=100,
        split_documents=6,
        samples=(),
        plots=(),
        folds=tiny_run.NO_FOLDS,
        seconds=1.0,
    )
    run = tracking.start_parent(flow, "tiny")
    log_evidence(tracking.client(), run, trained, report)
    tracking.end_run(run)
    return run


def alone(assignment: Assignment, meanwhile: Callable[[], object]) -> Outcome:
    """Trains here, as one worker would."""
    outcome = carry_out(assignment)
    meanwhile()
    return outcome


def again(original: Original, folder: Path) -> Reproduction:
    """What the flow does once it has workers."""
    data = data_again(original, DataRecipe(), "cpu")
    apart = differing(original, data, ONE)
    weights, parted = train_again(original, data, "cpu", folder / AGAIN, alone)
    return Reproduction(
        key="r",
        run_id="again",
        original=original.name,
        original_mlflow_run_id=original.mlflow_run_id,
        weights=original.provenance.weights,
        weights_again=weights,
        differences=apart,
        parted=parted,
        steps=len(original.clock.after),
    )


def test_a_run_against_the_clock_is_done_again_bit_by_bit(trained: Trained, tmp_path: Path) -> None:
    found = again(recall(logged(trained, "flow-same"), tmp_path / ORIGINAL), tmp_path)
    assert (found.differences, found.parted) == ((), "")
    assert found.same and found.steps == trained.steps > 10
    assert found.sentence().startswith(f"the same weights after {trained.steps:,} steps, sha256 ")


def test_another_seed_gives_other_weights_and_is_named(
    trained: Trained, tmp_path: Path, module_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = logged(trained, "flow-seed")
    other = tiny_blueprint(average=0.1, dropout=0.1).model_copy(update={"seed": 5})
    tracking.client().log_text(run, other.model_dump_json(), BLUEPRINT)
    found = again(recall(run, tmp_path / ORIGINAL), tmp_path)
    assert not found.same and found.weights_again not in (None, found.weights)
    assert "seed: 0 then, 5 now" in found.differences
    assert any(told.startswith("settings (their fingerprint)") for told in found.differences)
    assert found.parted.startswith("from step 1 on, where the loss was ")
    folder = home.run_folder("again")
    folder.mkdir(parents=True)
    (folder / "reproduction.json").write_text(found.model_dump_json())
    assert tell("again", as_json=False) is False
    said = capsys.readouterr().out
    assert "NOT the same" in said and "seed: 0 then, 5 now" in said
    assert tell("again", as_json=True) is False
    assert json.loads(capsys.readouterr().out)["same"] is False


def test_what_differs_is_known_before_anything_is_trained(trained: Trained, tmp_path: Path) -> None:
    original = recall(logged(trained, "flow-other"), tmp_path)
    then = original.provenance
    other = then.model_copy(
        update={
            "machine": "another x 8",
            "workers": 2,
            "code": "0123",
            "commit": "abc",
            "packages": {**then.packages, "torch": "1.0"},
        }
    )
    said = "; ".join(differing(original._replace(provenance=other), "other-data", ONE))
    for part in (
        "machine: another x 8 then",
        "workers: 2 then, 1 now",
        "torch: 1.0 then",
        "code that trains: abc",
    ):
        assert part in said
    assert "data (its digest): tiny then, other-data now" in said
    with (tmp_path / FINAL).open("a") as journal:
        journal.write(json.dumps({"event": "rolled_back", "step": 3, "time": 0.0}) + "\n")
    assert any("went back to a checkpoint" in told for told in differing(original, "tiny", ONE))


def test_a_training_that_cannot_go_on_is_told_as_such(trained: Trained, tmp_path: Path) -> None:
    original = recall(logged(trained, "flow-shorter"), tmp_path / ORIGINAL)
    after = (*original.clock.after[:5], 0.9)
    weights, parted = train_again(
        original._replace(clock=type(original.clock)(after)), "tiny", "cpu", tmp_path / AGAIN, alone
    )
    assert weights is None
    assert "the training failed: step 7 of a replayed training that had 6" in parted


@pytest.mark.parametrize(
    ("path", "damage", "message"),
    [
        (
            FINAL,
            lambda text: text.replace('"step": 3,', '"step": 4,', 1),
            "cannot be replayed: .* lacks step 3",
        ),
        (
            BLUEPRINT,
            lambda text: text.replace("nanochat", "abacus"),
            "its blueprint.json in MLflow is damaged",
        ),
    ],
)
def test_damaged_records_are_said(
    path: str, damage: Callable[[str], str], message: str, trained: Trained, tmp_path: Path
) -> None:
    run = logged(trained, f"flow-{path}")
    text = (trained.folder / path).read_text()
    assert damage(text) != text
    tracking.client().log_text(run, damage(text), path)
    with pytest.raises(InputError, match=message) as told:
        recall(run, tmp_path)
    assert "\n" not in str(told.value)


def test_the_flow_is_asked_for_what_the_run_had(trained: Trained) -> None:
    run = logged(trained, "flow-asked")
    asked = request_of("tiny-flow-ask")
    assert asked == {
        "run": run,
        "recipe": {"budget": "90s", "source": {"kind": "python_stdlib"}},
        "compute": {"workers": 1, "device": "cpu"},
    }
    DataRecipe.model_validate(asked["recipe"])
    client = tracking.client()
    client.log_text(
        run, _provenance(trained).model_copy(update={"journal": "x"}).model_dump_json(), PROVENANCE
    )
    with pytest.raises(InputError, match="finished early"):
        request_of(run)
    with pytest.raises(InputError, match="there is no run 'nobody'"):
        request_of("nobody")
    bare = tracking.start_parent("flow-bare", "bare")
    with pytest.raises(InputError, match=r"run bare-flow-bar has no provenance\.json"):
        request_of(bare)


def _provenance(trained: Trained) -> Provenance:
    return Provenance.model_validate_json((trained.folder / PROVENANCE).read_text())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_command_reproduces_a_whole_run(tmp_path: Path, corpus_files: Path) -> None:
    """Also where its data is gone from the store and is made anew; a corrupted setting ends with exit code 1."""
    place = tmp_path / "home"
    words = ["my-text", "--set", f"source.paths={corpus_files}", "--set", "model.depth=1", "--budget", "120s"]
    words += ["--set", "validation.folds=0", "--set", "search.share=0", "--json"]
    made = shoestring("run", *words, home=place, timeout=240)
    assert made.returncode == 0, made.stderr
    run = json.loads(made.stdout.splitlines()[-1])
    shutil.rmtree(place / "store" / "tokens")
    done = shoestring("reproduce", "last", "--json", home=place, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["same"] and found["weights"] == found["weights_again"] and found["differences"] == []
    assert "data, settings, code, packages and machine are the same" in done.stderr

    path = next((place / "mlartifacts").glob(f"**/{run['mlflow_run_id']}/**/{BLUEPRINT}"))
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "seed": 1}))
    other = shoestring("reproduce", run["flow_run_id"], home=place, timeout=240)
    assert other.returncode == 1, other.stderr
    assert "NOT the same" in other.stdout and "seed: 0 then, 1 now" in other.stdout
    compared = shoestring("compare", home=place)
    assert compared.returncode == 0 and "120s" in compared.stdout, compared.stderr
