"""A model that was made to do harm is refused in one line by every way in that loads models, and runs nothing."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from flows.__main__ import main
from tasks import tracking
from tasks.artifacts import InputError
from tasks.door import Limits
from tasks.gate import judge
from tasks.generate import export_model, resolve_model
from tasks.home import run_folder
from tasks.predict import predictions
from tasks.processes import ROOT
from tasks.recipe import load_recipe
from tasks.seed_noise import stored_noise
from tasks.serve import app_of
from tasks.spelling import Spelling
from tasks.study import open_study
from tasks.tracking import settings
from tasks.verdict import Rules
from tasks.writing import Wish, complete
from tests import malicious, tiny_run
from tests.malicious import PLANTS, Plant, planted
from tests.tiny_run import Work
from training.model import Pretrained, Shape

pytestmark = pytest.mark.usefixtures("module_home")

RULES = Rules(alpha=0.05, slice_margin=0.05)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.write_model(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def challenger(module_home: Path) -> Work:
    return tiny_run.judged("challenger")


def generate(folder: Path) -> object:
    return list(complete(resolve_model(str(folder)), "def", Wish(8, temperature=0.0)))


def predict(folder: Path) -> object:
    return list(predictions(resolve_model(str(folder)), ["def"]))


def export(folder: Path) -> object:
    return export_model(folder.parent / "exported", str(folder))


def pretrained(folder: Path) -> object:
    """Both doors: the model, and the tokenizer that the data is to be spelt with."""
    start = Pretrained(name=str(folder))
    spelling = Spelling.of_checkpoint(start, "causal")
    return start.load(Shape(vocabulary=spelling.vocabulary, context=16), seed=0)


def serve(folder: Path) -> object:
    return app_of(resolve_model(str(folder)), Limits())


WAYS: dict[str, Callable[[Path], object]] = {
    "generate": generate,
    "predict": predict,
    "serve": serve,
    "export": export,
    "pretrained": pretrained,
}


def refusal(way: Callable[[Path], object], folder: Path) -> str:
    with pytest.raises(ValueError) as caught:
        way(folder)
    return str(caught.value)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_every_way_in_refuses_it_in_one_line(plant: Plant, good: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    folder = planted(good, tmp_path / "model", plant, canary)
    for name, way in WAYS.items():
        said = refusal(way, folder)
        assert len(said.splitlines()) == 1, (name, said)
        assert len(said) < 700, (name, said)
        assert pytest.raises(ValueError, match=PLANTS[plant]).matches(ValueError(said)), (name, said)
        assert not canary.exists(), name
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_the_gate_refuses_it_as_champion(plant: Plant, good: Path, challenger: Work, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    folder = planted(good, tmp_path / "model", plant, canary)
    client = tracking.client()
    logged = client.create_logged_model(tracking.experiment_id(client), name="harmful")
    store = Path(logged.artifact_location.removeprefix("file://"))
    shutil.copytree(folder, store / "model", symlinks=True)
    if (folder / "MLmodel").exists():
        (store / "model" / "MLmodel").rename(store / "MLmodel")
        (store / "model" / "evil_loader.py").unlink(missing_ok=True)
    name = f"harmful-{plant.__name__}".replace("_", "-")
    client.create_registered_model(name)
    champion = client.create_model_version(name, logged.artifact_location)
    verdict = judge(client, champion, *challenger, RULES, (stored_noise("bits per byte"),) * 2)
    assert not verdict.promoted
    assert "cannot be scored" in verdict.reason
    assert len(verdict.reason.splitlines()) == 1
    assert pytest.raises(ValueError, match=PLANTS[plant]).matches(ValueError(verdict.reason)), verdict.reason
    assert not canary.exists()


def test_a_good_model_passes_every_way_in(good: Path, tmp_path: Path) -> None:
    """Or the refusals would say nothing."""
    folder = tmp_path / "model"
    shutil.copytree(good, folder)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    assert generate(folder)
    assert serve(folder)
    assert pretrained(folder)
    assert export(folder)
    with pytest.raises(InputError, match="use `shoestring generate`"):
        predict(folder)


def test_a_snapshot_of_the_hub_may_lie_in_links_beside_pickles(good: Path, tmp_path: Path) -> None:
    """As the cache is laid out, and as other programs fill it; the pickle is not read."""
    canary, cache = tmp_path / "canary", tmp_path / "models--some--model"
    snapshot = cache / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    shutil.copytree(good, cache / "blobs")
    malicious.pickled_weights_beside(cache / "blobs", canary)
    for file in (cache / "blobs").iterdir():
        (snapshot / file.name).symlink_to(file)
    assert pretrained(snapshot)
    assert not canary.exists()
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(good / "config.json")
    assert "leads out of it" in refusal(pretrained, snapshot)


def test_weights_that_lack_a_part_are_not_made_up(good: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(good, folder)
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.fc1.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "lack model.layers.1.mlp.fc1.weight" in refusal(generate, folder)


@pytest.mark.parametrize("file", ["recipe.yaml", "mlflow.yaml"])
def test_tags_in_yaml_make_no_object(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = tmp_path / "canary"
    (tmp_path / file).write_text(f"source: {malicious.yaml_tag(canary)}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"\.yaml is not YAML") as caught:
        settings() if file == "mlflow.yaml" else load_recipe(str(tmp_path / file))
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(InputError):
        load_recipe("python-code", [f"model={malicious.yaml_tag(canary)}"])["model"].upper()
        raise InputError("it stays text, which no section is")
    assert not canary.exists()


@pytest.mark.parametrize(
    "line",
    [
        '{"op_code": 0, "worker_id": "w", "study_name": "search", "directions": [1]}\n{"op_code": 2, "study_id": 0,',
        "not a journal\n",
        '{"op_code": 99}\n',
        "[1]\n",
    ],
)
def test_a_poisoned_journal_of_a_search_is_refused_in_one_line(line: str, module_home: Path) -> None:
    canary = module_home / "canary"
    folder = run_folder("poisoned")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "sampler.pkl").write_bytes(pickle.dumps(malicious.Payload(canary)))
    (folder / "study.journal").write_text(line + "\n")
    with pytest.raises(InputError, match=r"study\.journal is damaged") as caught:
        open_study("poisoned", "tpe", seed=0)
    assert len(str(caught.value).splitlines()) == 1
    assert not canary.exists()


def test_the_command_says_it_and_exits_with_2(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A panic in Rust writes to standard error by itself; what counts is that no traceback follows."""
    folder = planted(good, tmp_path / "model", malicious.panicking_tokenizer, tmp_path / "canary")
    monkeypatch.setattr("sys.argv", ["shoestring", "generate", "def", "--model", str(folder)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "the tokenizer of" in said.splitlines()[-1]


def test_nothing_in_the_tree_gives_a_library_leave_to_run_code() -> None:
    """So that a new call cannot forget it."""
    for path in (path for floor in ("flows", "tasks", "training") for path in (ROOT / floor).glob("*.py")):
        text = path.read_text()
        for leave in (
            "trust_remote_code=True",
            "torch.load(",
            "pyfunc.load_model",
            "yaml.load(",
            "import joblib",
        ):
            assert leave not in text, path
