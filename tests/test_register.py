"""Registering and the gate: the better model wins, the rest stay, and no kill leaves a broken champion."""

import subprocess
import sys
from importlib.metadata import version as installed
from pathlib import Path

import mlflow
import pytest
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks import tracking
from tasks.generate import resolve_model
from tasks.heads import USES
from tasks.logged_model import _know_no_modules
from tasks.register import Promotion, flatten, register
from tasks.verdict import Verdict
from tests import tiny_run
from tests.tiny_run import Work
from training.model import Head

pytestmark = pytest.mark.usefixtures("module_home")  # every test registers under a name of its own


@pytest.fixture(scope="module")
def untrained(module_home: Path) -> Work:
    return tiny_run.judged("run-untrained", 0, seed=1)


@pytest.fixture(scope="module")
def weak(module_home: Path) -> Work:
    return tiny_run.judged("run-weak", 5)


@pytest.fixture(scope="module")
def good(module_home: Path) -> Work:
    return tiny_run.judged("run-good", 30)


@pytest.fixture(scope="module")
def masked(module_home: Path) -> Work:
    return tiny_run.judged("run-masked", 30, head="masked")


@pytest.fixture(scope="module")
def classifier(module_home: Path) -> Work:
    return tiny_run.judged("run-classifier", 5, head="classification")


def champion(name: str) -> str:
    return str(tracking.client().get_model_version_by_alias(f"shoestring-{name}", "champion").version)


def test_the_better_model_becomes_champion_and_the_worse_does_not(
    untrained: Work, weak: Work, good: Work
) -> None:
    first = register(*weak, Promotion(name="contest"))
    assert (first.version, first.aliases) == (1, ("challenger", "champion"))
    assert "first" in first.verdict
    worse = register(*untrained, Promotion(name="contest"))
    assert (worse.version, worse.aliases, worse.champion_version_before) == (2, ("challenger",), 1)
    assert "not better than version 1" in worse.verdict
    assert champion("contest") == "1"
    better = register(*good, Promotion(name="contest"))
    assert (better.version, better.aliases) == (3, ("challenger", "champion"))
    assert champion("contest") == "3"
    tags = tracking.client().get_model_version("shoestring-contest", "3").tags
    verdict = Verdict.from_tags(tags)
    assert verdict.difference is not None
    assert verdict.difference < 0
    assert verdict.champion_bits is not None
    assert verdict.challenger_bits - verdict.champion_bits == pytest.approx(verdict.difference)
    assert better.verdict == verdict.sentence == tags["shoestring.gate"]


def test_the_run_holds_all_evidence(weak: Work) -> None:
    trained, report = weak
    registered = register(trained, report, Promotion(name="my-words"))
    client = tracking.client()
    run = client.get_run(registered.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["prefect.flow_run_id"] == "run-weak"
    assert run.data.params["learning.optimizer.learning_rate"] == "0.04"
    assert run.data.params["plan.trials"] == "2"
    assert run.data.params["search.settings.learning.optimizer.rate"] == "0.04"
    assert run.data.metrics["search/gain"] == 0.02
    assert run.data.metrics["plan/bits_low"] == 1.9
    assert run.data.metrics["final/tokens"] == trained.tokens_trained
    assert run.data.metrics["test/bits"] == report.bits
    assert run.data.metrics["test/bits_low"] == report.low
    assert run.data.metrics["test/perplexity"] == report.metrics["perplexity"][0]
    assert run.data.tags["shoestring.unit"] == "bits per byte"
    assert run.inputs.dataset_inputs[0].dataset.digest == trained.tokens.key
    files = {
        file.path
        for folder in ("", "report", "final")
        for file in client.list_artifacts(run.info.run_id, folder)
    }
    assert files >= {
        "plan.json",
        "blueprint.json",
        "search.json",
        "gate.json",
        "final/journal.jsonl",
        "report/learning_curve.png",
    }
    card = (resolve_model("my-words@champion") / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers")
    for part in (
        f"{report.bits:.4f}",
        "tiny words",
        "champion, as the first",
        report.samples[0][0],
        "## Limits",
    ):
        assert part in card


def test_the_registered_folder_is_one_whole_model(
    weak: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(*weak, Promotion(name="whole"))
    model_id = tracking.client().get_model_version("shoestring-whole", "1").tags["shoestring.logged_model"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.tracking_uri())
    uri = "models:/shoestring-whole@champion"
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(tmp_path)))
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert model.config.vocab_size == len(tokenizer)
    unsafe = {".pkl", ".bin", ".pt", ".pth", ".py", ".joblib"}
    assert not [path for path in folder.rglob("*") if path.suffix in unsafe]
    info = mlflow.models.get_model_info(str(folder))
    assert "code" not in info.flavors["transformers"] or info.flavors["transformers"]["code"] is None
    assert info.signature is not None
    assert info.model_id == model_id
    requirements = (folder / "requirements.txt").read_text().split()
    assert all("==" in line and "+" not in line for line in requirements)


def test_requirements_are_compared_without_a_look_at_every_file_of_every_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow.utils import requirements_utils

    monkeypatch.setattr(requirements_utils, "_MODULES_TO_PACKAGES", None)
    monkeypatch.setattr(requirements_utils.importlib_metadata, "packages_distributions", pytest.fail)
    _know_no_modules()
    assert requirements_utils._check_requirement_satisfied(f"torch=={installed('torch')}") is None
    assert requirements_utils._check_requirement_satisfied("torch==0.1") is not None


@pytest.mark.parametrize("head", ["masked", "classification"])
def test_other_heads_are_registered_as_what_they_are(
    head: Head, masked: Work, classifier: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, report = masked if head == "masked" else classifier
    registered = register(trained, report, Promotion(name=head))
    client = tracking.client()
    run = client.get_run(registered.mlflow_run_id)
    assert run.data.tags["shoestring.unit"] == report.unit
    assert run.data.tags["shoestring.objective"] == trained.objective
    for name, interval in report.metrics.items():
        logged = [run.data.metrics[f"test/{name}{end}"] for end in ("", "_low", "_high")]
        assert logged == pytest.approx(list(interval))
    if report.baseline:
        assert run.data.metrics["baseline/accuracy"] == report.baseline.accuracy
    root = client.get_model_version_download_uri(registered.model_name, str(registered.version))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.tracking_uri())
    folder = Path(mlflow.artifacts.download_artifacts(root))
    info = mlflow.models.get_model_info(str(folder))
    assert info.flavors["transformers"]["task"] == USES[head].pipeline
    assert "code" not in info.flavors["transformers"] or info.flavors["transformers"]["code"] is None
    auto_class = getattr(transformers, USES[head].auto_class)
    assert auto_class.from_pretrained(folder / "model").config.architectures
    card = (folder / "model" / "README.md").read_text()
    assert f"pipeline_tag: {USES[head].pipeline}" in card
    assert USES[head].auto_class in card
    assert "shoestring predict" in card
    assert f"{report.bits:.4f}" in card


@pytest.mark.parametrize("head", ["causal", "masked", "classification"])
def test_the_card_s_lines_run_as_they_stand(
    head: Head, weak: Work, masked: Work, classifier: Work, tmp_path: Path
) -> None:
    trained, report = {"causal": weak, "masked": masked, "classification": classifier}[head]
    registered = register(trained, report, Promotion(name=f"card-{head}"))
    folder = resolve_model(f"{registered.model_name}@champion")
    program = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    program = program.replace("FOLDER", str(folder)).replace("max_new_tokens=100", "max_new_tokens=3")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_classifier_is_gated_by_its_log_loss(classifier: Work) -> None:
    register(*classifier, Promotion(name="tell"))
    better = register(
        *tiny_run.judged("run-better-classifier", 40, head="classification"), Promotion(name="tell")
    )
    assert "better than version 1" in better.verdict
    assert better.aliases == ("challenger", "champion")
    assert "bits per label" in better.verdict


def test_a_champion_of_another_kind_cannot_be_compared(weak: Work, classifier: Work) -> None:
    register(*weak, Promotion(name="kinds"))
    second = register(*classifier, Promotion(name="kinds"))
    assert second.aliases == ("challenger",)
    assert "cannot be compared: it is a causal language model, and this a classifier" in second.verdict
    assert "promotion.name" in second.verdict
    assert champion("kinds") == "1"


def test_a_champion_with_other_labels_cannot_be_compared(classifier: Work) -> None:
    register(*classifier, Promotion(name="labels"))
    root = tracking.client().get_model_version_download_uri("shoestring-labels", "1")
    tiny_run.write_model(
        Path(root.removeprefix("file://")) / "model",
        head="classification",
        labels=("loops", "objects", "poems"),
    )
    second = register(*tiny_run.judged("run-labels", 5, head="classification"), Promotion(name="labels"))
    assert second.aliases == ("challenger",)
    assert "it does not know 'values', and only it knows 'poems'" in second.verdict


def test_a_champion_that_cannot_be_scored_stays_with_the_reason(weak: Work, good: Work) -> None:
    register(*weak, Promotion(name="broken"))
    root = tracking.client().get_model_version_download_uri("shoestring-broken", "1")
    for weights in Path(root.removeprefix("file://")).rglob("*.safetensors"):
        weights.write_bytes(b"\x08" + bytes(20))
    second = register(*good, Promotion(name="broken"))
    assert second.aliases == ("challenger",)
    assert "version 1, the champion, cannot be scored" in second.verdict
    assert champion("broken") == "1"


def test_trying_again_adds_no_second_version(weak: Work, good: Work) -> None:
    register(*weak, Promotion(name="again"))
    once = register(*good, Promotion(name="again"))
    assert register(*good, Promotion(name="again")) == once
    assert (once.version, once.champion_version_before) == (2, 1)
    assert len(tracking.client().search_model_versions("name = 'shoestring-again'")) == 2


def test_a_kill_at_any_call_leaves_a_good_champion(
    weak: Work, good: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registering dies before each of its writes in turn; the champion loads every time, and a retry ends it."""
    register(*weak, Promotion(name="killed"))
    writes = [
        "create_logged_model", "log_model_artifacts", "finalize_logged_model", "create_model_version",
        "set_model_version_tag", "log_dict", "set_registered_model_tag", "set_registered_model_alias",
    ]  # fmt: skip

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for write in writes:
        with monkeypatch.context() as patch:
            patch.setattr(mlflow.MlflowClient, write, killed)
            with pytest.raises(KeyboardInterrupt):
                register(*good, Promotion(name="killed"))
        assert champion("killed") == "1"
    ended = register(*good, Promotion(name="killed"))
    assert (ended.version, champion("killed")) == (2, "2")
    assert resolve_model("killed@champion").exists()


def test_names_are_held_to_a_pattern_and_alpha_to_its_meaning() -> None:
    for wrong in ({"name": "../x"}, {"name": "A B"}, {"alpha": 0.0}, {"alpha": 0.6}):
        with pytest.raises(ValueError, match="1 validation error"):
            Promotion.model_validate(wrong)


def test_flatten_names_fields_by_dots() -> None:
    assert flatten({"a": {"b": 1, "c": [1, 2]}, "d": None, "e": "x"}) == {
        "a.b": "1",
        "a.c": "[1, 2]",
        "d": "null",
        "e": "x",
    }
