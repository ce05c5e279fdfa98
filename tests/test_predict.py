"""Asking a model: labels with probabilities, filled gaps, and a word to those who ask the wrong model."""

import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.__main__ import app
from tasks.artifacts import InputError
from tasks.asked import AT_ONCE
from tasks.generate import load
from tasks.predict import MASKS, answer, answers, candidates, predictions, with_gaps
from tasks.told import Request
from tests import tiny_run


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.write_model(tmp_path_factory.mktemp("classifier"), steps=40, head="classification")


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.write_model(tmp_path_factory.mktemp("masked"), steps=80, head="masked")


def test_a_text_gets_its_label_with_probabilities(classifier: Path) -> None:
    texts = [f"def {sign} value in range len" for sign in tiny_run.SIGNS.values()]
    found = list(predictions(classifier, texts))
    assert [one["label"] for one in found] == list(tiny_run.SIGNS)
    for one, text in zip(found, texts, strict=True):
        assert one["text"] == text
        assert one["labels"][0] == (one["label"], one["probability"])
        chances = [chance for _, chance in one["labels"]]
        assert chances == sorted(chances, reverse=True)
        assert sum(chances) == pytest.approx(1, abs=1e-3)


def test_more_texts_than_fit_at_once_come_in_order(classifier: Path) -> None:
    texts = [f"def {'while' if number % 2 else 'class'} key" for number in range(AT_ONCE + 3)]
    found = list(predictions(classifier, texts))
    assert [one["text"] for one in found] == texts
    assert {one["label"] for one in found[::2]} == {"objects"}


@pytest.mark.parametrize("gap", [*MASKS, tiny_run.MASK])
def test_a_gap_is_filled_however_it_is_written(masked: Path, gap: str) -> None:
    (found,) = predictions(masked, [f"def value in {gap} len key"])
    assert found["text"].startswith("def value in")
    assert found["text"].endswith(" len key")
    assert gap not in found["text"]
    (ranked,) = found["gaps"]
    assert len(ranked) == 5
    assert found["text"] == f"def value in {ranked[0][0]} len key"
    assert not any("<|" in word for word, _ in ranked)


def test_gaps_are_filled_each_for_itself(masked: Path) -> None:
    (found,) = predictions(masked, ["[MASK] value<mask> key"])
    assert len(found["gaps"]) == 2
    model, tokenizer = load(masked)
    ids = with_gaps(tokenizer, "[MASK] value<mask> key")
    assert ids[0] == 0
    assert (ids == tokenizer.mask_token_id).sum() == 2
    ((tokens, _),) = candidates(model, tokenizer, [ids])
    assert tokens.shape == (2, 5)


def test_what_cannot_be_filled_is_said(masked: Path) -> None:
    with pytest.raises(InputError, match=r"no gap to fill in 'def value'.*\[MASK\]"):
        list(predictions(masked, ["def value"]))
    with pytest.raises(InputError, match="sees 32 at once"):
        list(predictions(masked, ["def value in range [MASK]" * 20]))


def test_a_model_that_writes_is_pointed_to_generate(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="use `shoestring generate`"):
        list(predictions(tiny_run.write_model(tmp_path), ["def"]))


def test_answers_for_people_and_programs(
    classifier: Path, masked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(classifier, "def class key", Request())
    first = capsys.readouterr().out.splitlines()[0].split()
    assert (first[0][-1], first[1]) == ("%", "objects")
    answer(classifier, "def class key", Request(as_json=True))
    assert json.loads(capsys.readouterr().out)["label"] == "objects"
    answer(masked, "def [MASK] key", Request())
    assert "gap 1: " in capsys.readouterr().out


def test_lines_of_a_file_or_a_pipe_become_lines_of_a_table(
    classifier: Path,
    masked: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("def while\tkey\n\nin class value\n")
    answer(classifier, None, Request((str(lines),)))
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows][::2] == ["loops", "objects"]
    assert [row[2] for row in rows] == ["def while key", "", "in class value"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"def [MASK] key\n")))
    answer(masked, None, Request())
    text, filled = capsys.readouterr().out.rstrip("\n").split("\t")
    assert text.startswith("def")
    assert 0 < float(filled.split("=")[-1]) < 1


def test_a_missing_file_is_named(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.txt does not exist"):
        answer(classifier, None, Request((str(tmp_path / "no.txt"),)))


def test_the_command_predicts(classifier: Path, fresh_home: Path) -> None:
    done = CliRunner().invoke(
        app, ["predict", "def class key", "--model", str(classifier), "--home", str(fresh_home), "--json"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["label"] == "objects"


@pytest.mark.parametrize("head", ["classification", "masked"])
def test_many_at_once_get_the_answers_that_each_gets_alone(head: str, classifier: Path, masked: Path) -> None:
    model, tokenizer = load(classifier if head == "classification" else masked)
    texts = [text[:40].rstrip() + " [MASK] in" for text in tiny_run.texts(40)] + ["no gap", "[MASK] " * 40]
    together = answers(model, tokenizer, texts)
    alone = [answers(model, tokenizer, [text])[0] for text in texts]
    assert [one.get("error") for one in together] == [one.get("error") for one in alone]
    for many, one in zip(together, alone, strict=True):
        if head == "classification":
            assert dict(many["labels"]) == pytest.approx(dict(one["labels"]), abs=0.01)
        elif "error" not in one:
            assert dict(many["gaps"][0]) == pytest.approx(dict(one["gaps"][0]), abs=0.01)
    wrong = [one["error"] for one in together if "error" in one]
    assert len(wrong) == (2 if head == "masked" else 0)
