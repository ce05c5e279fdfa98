"""`shoestring clean-text`: what it leaves in a folder, what it says, and what it refuses."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.__main__ import app
from tasks import store
from tasks.artifacts import InputError
from tasks.clean_text import clean_text
from tasks.store import code_key
from training import budget, law


@pytest.fixture(autouse=True)
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHOESTRING_HOME", str(tmp_path / "home"))
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "good.txt").write_text("Write to someone.else@example.com about a perfectly good text, please.")
    (folder / "again.txt").write_text(
        "Write to someone.else@example.com about a perfectly good text, please."
    )
    (folder / "tiny.txt").write_text("tiny")
    return folder


def test_files_become_a_folder_with_what_was_kept_and_why_the_rest_went(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = CliRunner().invoke(app, ["clean-text", str(texts), "-o", str(out)])
    assert said.exit_code == 0, said.output
    assert len(pq.read_table(out / "documents.parquet")) == 1
    assert (out / "corpus.png").read_bytes().startswith(b"\x89PNG")
    shown = json.loads((out / "examples.json").read_text())
    assert {row["what"] for row in shown} == {
        "dropped: exact duplicate",
        "dropped: shorter than 16 characters",
    }
    assert "someone.else" not in json.dumps(shown) and "someone.else" not in said.output
    assert "exact duplicate" in said.output


def test_settings_count_and_the_store_is_asked_first(texts: Path, tmp_path: Path) -> None:
    masked = ["cleaning.also=[{kind: personal_data}]", "cleaning.duplicates=none"]
    corpus = clean_text([str(texts)], tmp_path / "one", None, masked)
    assert corpus.changed == {"e-mail address masked": 2} and corpus.documents == 2
    (tmp_path / "home" / "store" / "corpus" / corpus.key / "corpus.png").write_bytes(b"as it was")
    assert clean_text([str(texts)], tmp_path / "two", None, masked) == corpus
    assert (tmp_path / "two" / "corpus.png").read_bytes() == b"as it was"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["cleaning.presett=web"], "did you mean 'preset'"),
        (["cleaning.preset=nice"], "'any', 'code', 'prose', 'web' or 'none'"),
        (["cleaning.also=[{kind: toxic_words, path: nowhere.txt}]"], "nowhere.txt cannot be read"),
        (["cleaning.also=[{kind: contamination, paths: nowhere.txt}]"], "nowhere.txt does not exist"),
    ],
)
def test_what_cannot_work_is_refused_in_a_line(
    texts: Path, tmp_path: Path, settings: list[str], said: str
) -> None:
    with pytest.raises(InputError, match=said) as refusal:
        clean_text([str(texts)], tmp_path / "out", None, settings)
    assert "\n" not in str(refusal.value) and not (tmp_path / "out").exists()


def test_a_folder_that_is_there_stays_as_it_is(texts: Path) -> None:
    with pytest.raises(InputError, match="is there already"):
        clean_text([str(texts)], texts, None, [])


def test_a_key_names_the_code_of_all_that_is_below() -> None:
    assert code_key(store) != code_key(store, budget) != code_key(store, law)
    assert code_key(store, law, budget) == code_key(store, law), "law imports budget"
