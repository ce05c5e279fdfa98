"""Using models: the right one is found, none of its code runs, its text streams and repeats."""

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
from transformers import Mamba2Config, Mamba2ForCausalLM

from tasks import home, tracking
from tasks.artifacts import InputError, Registered
from tasks.generate import describe_export, export_model, load, resolve_model
from tasks.heads import USES
from tasks.register import Promotion, register
from tasks.writing import Wish, choose, complete, sample
from tests import tiny_run
from training.model import Head
from training.objectives import Objective

pytestmark = pytest.mark.usefixtures("module_home")


@pytest.fixture(scope="module")
def registered(module_home: Path) -> Registered:
    with pytest.raises(InputError, match="run `shoestring run` first"):
        resolve_model(None)
    return register(*tiny_run.judged("first", steps=10), Promotion(name="words"))


@pytest.fixture(scope="module")
def folder(module_home: Path) -> Path:
    return tiny_run.write_model(module_home / "loose", steps=10)


def test_text_streams_and_repeats_by_seed(folder: Path) -> None:
    pieces = list(complete(folder, "def return", Wish(40, seed=1)))
    assert len(pieces) > 5
    assert pieces == list(complete(folder, "def return", Wish(40, seed=1)))
    assert "".join(pieces) != "".join(complete(folder, "def return", Wish(40, seed=2)))


def test_the_cache_changes_no_token(folder: Path) -> None:
    """Greedy text with the cache is what the model says of the whole text each time, within the context."""
    model, tokenizer = load(folder)
    ids = [0, *tokenizer("for value in", add_special_tokens=False).input_ids]
    prompt = len(ids)
    while len(ids) < 30:
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    expected = tokenizer.decode([i for i in ids[prompt:] if i])
    got = "".join(sample(model, tokenizer, "for value in", Wish(30 - prompt, temperature=0)))
    assert got[:12] == expected[:12]


def test_a_recurrent_model_writes_with_its_memory(tmp_path: Path) -> None:
    """Greedy text of a model without attention is what it says of the whole text each time."""
    spelling = tiny_run.tokenizer()
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4, "head_dim": 16, "state_size": 8}
    config = Mamba2Config(
        vocab_size=len(spelling),
        n_groups=1,
        chunk_size=8,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        **sizes,
    )
    Mamba2ForCausalLM(config).save_pretrained(tmp_path)
    spelling.save_pretrained(tmp_path)
    model, tokenizer = load(tmp_path)
    ids = [0, *tokenizer("def", add_special_tokens=False).input_ids]
    prompt = len(ids)
    with torch.inference_mode():
        for _ in range(12):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    expected = tokenizer.decode([i for i in ids[prompt:] if i > 1])
    assert "".join(sample(model, tokenizer, "def", Wish(12, temperature=0)))[:6] == expected[:6]


@pytest.mark.parametrize("head", ["masked", "classification"])
def test_a_model_that_does_not_write_says_what_to_do(head: Head, tmp_path: Path) -> None:
    tiny_run.write_model(tmp_path, head=head)
    with pytest.raises(InputError, match="and does not write: use `shoestring predict`"):
        complete(tmp_path, "def", Wish())


@pytest.mark.parametrize("head", ["causal", "masked", "classification"])
def test_a_model_is_loaded_with_the_head_it_was_saved_with(head: Head, tmp_path: Path) -> None:
    tiny_run.write_model(tmp_path, head=head)
    model, _ = load(tmp_path)
    (saved,) = model.config.architectures
    assert type(model).__name__ == saved
    assert USES[head].auto_class in describe_export(tmp_path)


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    tiny_run.write_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for architectures in ([], None, ["NanoChatModel"]):
        (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": architectures}))
        with pytest.raises(ValueError, match="neither a language model nor a classifier"):
            load(tmp_path)


def test_words_for_heads_are_those_of_the_objectives() -> None:
    objectives = get_args(get_args(Objective)[0])
    assert {objective.head: objective.unit for objective in objectives} == {
        head: use.unit for head, use in USES.items()
    }


def test_text_may_grow_beyond_the_context(folder: Path) -> None:
    long_prompt = "def value " * 60
    assert len("".join(complete(folder, long_prompt, Wish(100, seed=0)))) > 40
    assert isinstance("".join(complete(folder, "", Wish(3, seed=0))), str)


def test_letters_of_several_bytes_come_whole(folder: Path) -> None:
    model, tokenizer = load(folder)
    text = "".join(sample(model, tokenizer, "\u00e9" * 9, Wish(60, 3.0, seed=3)))
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
    assert "".join(complete(found, "def", Wish(5, seed=0)))


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
