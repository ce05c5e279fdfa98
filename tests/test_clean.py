"""Cleaning repairs, filters and deduplicates; the counts add up; the corpus is cached while its bytes are there."""

import shutil
import unicodedata
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect import flow
from prefect.client.schemas.objects import TaskRun
from prefect.states import Failed

from tasks import clean as module
from tasks.artifacts import Corpus, InputError
from tasks.clean import Cleaning, clean, clean_corpus, cleaned, document_id, network_failed
from tasks.documents import Document, SetAside
from tasks.filters import TooShort
from tasks.source import Files, HubError

WORDS = st.text(st.sampled_from("abc é\r\n"), max_size=40)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHOESTRING_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def document(text: str, position: int = 0) -> Document:
    return Document("here", position, "group", None, text)


@given(texts=st.lists(WORDS | st.none(), max_size=30), repair=st.booleans(), deduplicate=st.booleans())
@settings(max_examples=60, deadline=None)
def test_counts_add_up_exactly(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str | None], repair: bool, deduplicate: bool
) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    given_ = [document(text) if text is not None else SetAside("here", 0, "not UTF-8") for text in texts]
    cleaning = Cleaning(repair=repair, deduplicate=deduplicate, filters=(TooShort(characters=3),))
    counts = clean(given_, cleaning, folder)
    rows = pq.read_table(folder / "documents.parquet").to_pylist()
    assert counts.read == len(texts) == counts.kept + sum(counts.dropped.values())
    assert counts.dropped["not UTF-8"] == texts.count(None)
    assert len(rows) == counts.kept
    assert sum(len(row["text"].encode()) for row in rows) == counts.bytes == sum(row["bytes"] for row in rows)
    assert all(row["id"] == document_id(row["text"]) and "\r" not in row["text"] for row in rows)
    if deduplicate:
        assert len({row["id"] for row in rows}) == len(rows)


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\0")))
@settings(max_examples=150, deadline=None)
def test_a_repaired_text_is_composed_and_stays_so(text: str) -> None:
    once, _ = cleaned(text, repair=True)
    assert "\r" not in once
    assert unicodedata.is_normalized("NFC", once)


@pytest.mark.parametrize(
    ("text", "expected", "changes"),
    [
        ("a\r\nb\rc\n", "a\nb\nc\n", ["line ends"]),
        ("schÃ¶n und gut", "schön und gut", ["Unicode repaired"]),
        ("cafe\u0301", "café", ["Unicode repaired"]),
        ("“curly” quotes, ﬁne &amp; Ｗide 😀", "“curly” quotes, ﬁne &amp; Ｗide 😀", []),
        ("plain = '\\xc3\\xb6'  # ASCII\n", "plain = '\\xc3\\xb6'  # ASCII\n", []),
    ],
)
def test_repair_mends_encodings_and_nothing_else(text: str, expected: str, changes: list[str]) -> None:
    assert cleaned(text, repair=True) == (expected, changes)


def test_without_repair_only_line_ends_change() -> None:
    assert cleaned("schÃ¶n\r\n", repair=False) == ("schÃ¶n\n", ["line ends"])


def test_the_first_of_equal_documents_is_kept_in_order(tmp_path: Path) -> None:
    texts = ["the second document", "the first document", "the second document\r\n", "the second document"]
    counts = clean([document(t, n) for n, t in enumerate(texts)], Cleaning(), tmp_path)
    rows = pq.read_table(tmp_path / "documents.parquet").to_pylist()
    assert [row["position"] for row in rows] == [0, 1, 2]
    assert counts.dropped == {"exact duplicate": 1}


def test_many_documents_are_written_in_small_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GROUP_BYTES", 1000)
    shares: list[float] = []
    texts = [f"document number {number}" for number in range(200)]
    clean(map(document, texts), Cleaning(), tmp_path, size_bytes=5000, progress=shares.append)
    with pq.ParquetFile(tmp_path / "documents.parquet") as file:
        assert file.num_row_groups >= 4
        assert file.read(columns=["text"])["text"].to_pylist() == texts
    assert shares == sorted(shares) and shares[-1] == 1.0


def test_bad_documents_are_counted_by_reason_in_the_record(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "good.txt").write_text("A perfectly good document.")
    (data / "copy.txt").write_text("A perfectly good document.")
    (data / "latin.txt").write_bytes("naïve café".encode("latin-1"))
    (data / "nul.txt").write_bytes(b"a\0b")
    (data / "empty.txt").write_text("")
    corpus = clean_corpus.fn(Files(paths=(str(data),)), Cleaning())
    assert corpus.dropped == {"exact duplicate": 1, "not UTF-8": 1, "has NUL bytes": 1, "empty": 1}
    assert corpus.documents + sum(corpus.dropped.values()) == corpus.documents_read == 5
    assert corpus.rows()[0]["documents"] == 5


def test_an_empty_corpus_is_refused_with_what_was_dropped(tmp_path: Path, home: Path) -> None:
    (tmp_path / "a.txt").write_text("tiny")
    (tmp_path / "b.txt").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"Of 2 were dropped: .*(not UTF-8: 1).*") as refusal:
        clean_corpus.fn(Files(paths=(str(tmp_path),)), Cleaning())
    assert "shorter than 16 characters: 1" in str(refusal.value)
    assert list((home / "store" / "corpus").iterdir()) == []


@flow
def run(source: Files) -> tuple[str | None, Corpus]:
    state = clean_corpus(source, Cleaning(), return_state=True)
    return state.name, state.result()


def test_a_second_run_is_cached_until_data_change_or_bytes_are_gone(
    tmp_path: Path, home: Path, prefect_server: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("A perfectly good document.")
    source = Files(paths=(str(path),))
    assert run(source)[0] == "Completed"
    name, corpus = run(source)
    assert name == "Cached"
    shutil.rmtree(corpus.folder)
    name, again = run(source)
    assert (name, again) == ("Completed", corpus)
    assert (again.folder / "documents.parquet").exists()
    assert run(source)[0] == "Cached"
    path.write_text("Another perfectly good document.")
    name, other = run(source)
    assert (name, other.key == corpus.key) == ("Completed", False)


def test_only_a_hub_that_does_not_answer_is_tried_again() -> None:
    run_ = TaskRun(task_key="clean", dynamic_key="0")
    assert network_failed(clean_corpus, run_, Failed(data=HubError("away")))
    assert not network_failed(clean_corpus, run_, Failed(data=InputError("no such file")))
