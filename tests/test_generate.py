"""Using models: the right one is found, none of its code runs, its text streams and repeats."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tasks import home, tracking
from tasks.artifacts import InputError, Registered
from tasks.evaluate import evaluate
from tasks.generate import choose, complete, export_model, load, resolve_model, sample
from tasks.register import Promotion, register
from tests import tiny_run


@pytest.fixture(autouse=True, scope="module")
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(home.HOME_VARIABLE, str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder


@pytest.fixture(scope="module")
def registered(own_home: Path) -> Registered:
    with pytest.raises(InputError, match="run `shoestring run` first"):
        resolve_model(None)
    trained = tiny_run.trained("first", steps=10)
    report = evaluate(trained, tiny_run.NO_FOLDS, trained.tokens.splits)
    return register(trained, report, Promotion(name="words"))


@pytest.fixture(scope="module")
def folder(own_home: Path) -> Path:
    return tiny_run.write_model(own_home / "loose", steps=10)


def test_text_streams_and_repeats_by_seed(folder: Path) -> None:
    pieces = list(complete(folder, "def return", tokens=40, seed=1))
    assert len(pieces) > 5
    assert pieces == list(complete(folder, "def return", tokens=40, seed=1))
    assert "".join(pieces) != "".join(complete(folder, "def return", tokens=40, seed=2))


def test_the_cache_changes_no_token(folder: Path) -> None:
    """Greedy text with the cache is what the model says of the whole text each time, within the context."""
    model, tokenizer = load(folder)
    ids = [0, *tokenizer("for value in", add_special_tokens=False).input_ids]
    prompt = len(ids)
    while len(ids) < 30:
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    expected = tokenizer.decode([i for i in ids[prompt:] if i])
    got = "".join(sample(model, tokenizer, "for value in", tokens=30 - prompt, temperature=0))
    assert got[:12] == expected[:12]


def test_text_may_grow_beyond_the_context(folder: Path) -> None:
    long_prompt = "def value " * 60
    assert len("".join(complete(folder, long_prompt, tokens=100, seed=0))) > 40
    assert isinstance("".join(complete(folder, "", tokens=3, seed=0)), str)


def test_letters_of_several_bytes_come_whole(folder: Path) -> None:
    model, tokenizer = load(folder)
    text = "".join(sample(model, tokenizer, "\u00e9" * 9, tokens=60, temperature=3.0, seed=3))
    assert text.encode().decode() == text


def test_top_k_and_temperature() -> None:
    logits, dice = torch.tensor([0.0, 3.0, 2.0, -1.0]), torch.Generator().manual_seed(0)
    assert choose(logits, 0.0, None, dice) == 1
    assert {choose(logits, 5.0, 2, dice) for _ in range(200)} == {1, 2}
    assert {choose(logits, 5.0, None, dice) for _ in range(200)} == {0, 1, 2, 3}
    assert {choose(logits, 5.0, 99, dice) for _ in range(200)} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    "reference", [None, "words@champion", "shoestring-words@challenger", "words/1", "shoestring-words/1"]
)
def test_a_registered_model_is_found(registered: Registered, reference: str | None) -> None:
    found = resolve_model(reference)
    assert (found / "config.json").exists()
    assert (found / "tokenizer.json").exists()
    assert "".join(complete(found, "def", tokens=5, seed=0))


def test_a_folder_is_taken_as_it_is(folder: Path) -> None:
    assert resolve_model(str(folder)) == folder


@pytest.mark.parametrize(
    "reference", ["words@nobody", "words/99", "words/x", "unknown@champion", "neither", "@x"]
)
def test_an_unknown_model_is_an_error_that_names_it(registered: Registered, reference: str) -> None:
    with pytest.raises(InputError, match=reference):
        resolve_model(reference)


def test_an_export_loads_without_shoestring(registered: Registered, tmp_path: Path) -> None:
    out = export_model(tmp_path / "exported", "words@champion")
    script = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "m, t = (c.from_pretrained(sys.argv[1]) for c in (AutoModelForCausalLM, AutoTokenizer))\n"
        "ids = t(t.bos_token + 'def', add_special_tokens=False, return_tensors='pt')\n"
        "assert ids.input_ids[0, 0] == t.bos_token_id\n"
        "print(t.decode(m.generate(**ids, max_new_tokens=4, do_sample=False)[0], skip_special_tokens=True))\n"
        "assert not any(name.split('.')[0] in ('tasks', 'training', 'mlflow') for name in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, out], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("def")
    assert {path.suffix for path in out.iterdir()} <= {".json", ".safetensors", ".md", ".jinja"}
    with pytest.raises(InputError, match="not empty"):
        export_model(out, "words@champion")


def test_a_pickle_is_refused_before_it_is_fetched(registered: Registered, tmp_path: Path) -> None:
    client = tracking.client()
    harmful = tmp_path / "pytorch_model.bin"
    harmful.write_bytes(b"cos\nsystem\n")
    logged = client.create_logged_model(tracking.experiment_id(client), name="harmful")
    client.log_model_artifact(logged.model_id, str(harmful), "model/deep")
    client.create_registered_model("harmful")
    client.create_model_version("harmful", logged.artifact_location)
    with pytest.raises(InputError, match=r"pytorch_model\.bin.*could run code"):
        resolve_model("harmful/1")
    assert not list(home.store("models").rglob("*.bin"))
