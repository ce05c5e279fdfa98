"""Cleaning repairs, filters and deduplicates; the counts add up; the corpus is cached while its bytes are there."""

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect import flow
from prefect.client.schemas.objects import TaskRun
from prefect.states import Failed

from tasks import clean as module
from tasks import parts
from tasks.artifacts import Corpus, InputError
from tasks.clean import Cleaning, clean, clean_corpus, network_failed
from tasks.documents import Document, SetAside
from tasks.duplicates import Duplicates
from tasks.filters import TooShort
from tasks.parts import Counts, document_id
from tasks.source import Files, HubError
from tasks.steps import Kind

FORK = multiprocessing.get_context("forkserver")  # this process has threads, which no fork survives
FORK.set_forkserver_preload(["tests.test_clean"])
WORDS = st.text(st.sampled_from("abc é\r\n"), max_size=40)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHOESTRING_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def document(text: str, position: int = 0) -> Document:
    return Document("here", position, "group", None, text)


def cleaned(documents: Iterable[Document | SetAside], cleaning: Cleaning, folder: Path, **how: Any) -> Counts:
    folder.mkdir(parents=True, exist_ok=True)
    return clean(documents, cleaning, folder, folder / "drafts", workers=1, **how)[0]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / "documents.parquet").to_pylist()
    return rows


@given(
    texts=st.lists(WORDS | st.none(), max_size=30),
    go=st.sampled_from(get_args(Duplicates)),
    without=st.sampled_from([(), ("repair_unicode",)]),
    cut=st.sampled_from([None, 256]),
)
@settings(max_examples=60, deadline=None)
def test_counts_add_up_exactly(
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[str | None],
    go: Duplicates,
    without: tuple[Kind, ...],
    cut: int | None,
) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    given_ = [document(text) if text is not None else SetAside("here", 0, "not UTF-8") for text in texts]
    cleaning = Cleaning(duplicates=go, without=without, also=(TooShort(characters=3),), cut_bytes=cut)
    counts = cleaned(given_, cleaning, folder)
    rows = rows_of(folder)
    assert counts.read == len(texts)
    assert counts.read + counts.cut == counts.kept + sum(counts.dropped.values())
    assert counts.dropped["not UTF-8"] == texts.count(None)
    assert len(rows) == counts.kept
    assert sum(len(row["text"].encode()) for row in rows) == counts.bytes == sum(row["bytes"] for row in rows)
    assert all(row["id"] == f"{document_id(row['text']):016x}" for row in rows)
    if go != "none":
        assert len({row["id"] for row in rows}) == len(rows)


def test_the_first_of_equal_documents_is_kept_in_order(tmp_path: Path) -> None:
    texts = ["the second document", "the first document", "the second document", "a third document\r\n"]
    counts = cleaned([document(t, n) for n, t in enumerate(texts)], Cleaning(), tmp_path)
    assert [row["position"] for row in rows_of(tmp_path)] == [0, 1, 3]
    assert counts.dropped == {"exact duplicate": 1}
    assert counts.changed == {"line ends": 1}


def test_of_near_duplicates_the_longest_stays_and_they_share_a_cluster(tmp_path: Path) -> None:
    base = " ".join(f"word{number}" for number in range(300))
    texts = [
        base,
        "something else altogether, by itself",
        base + " and a bit more",
        base.replace("word7 ", "other "),
    ]
    near = cleaned(map(document, texts), Cleaning(), tmp_path / "near")
    assert near.dropped == {"near duplicate": 2}
    assert [row["text"] for row in rows_of(tmp_path / "near")] == [texts[1], texts[2]]
    kept = cleaned(map(document, texts), Cleaning(duplicates="equal"), tmp_path / "equal")
    clusters = [row["cluster"] for row in rows_of(tmp_path / "equal")]
    assert kept.dropped == {} and clusters[0] == clusters[2] == clusters[3] != clusters[1]


def test_what_differs_in_numbers_alone_shares_a_cluster_but_stays(tmp_path: Path) -> None:
    texts = [f"Invoice {number} of the year {2000 + number}, due on day {3 * number}." for number in range(3)]
    counts = cleaned(map(document, texts), Cleaning(), tmp_path)
    assert counts.dropped == {} and len({row["cluster"] for row in rows_of(tmp_path)}) == 1


def test_long_documents_are_cut_at_blank_lines_and_counted(tmp_path: Path) -> None:
    paragraph = "\n".join(f"line {number} of a paragraph" for number in range(10)) + "\n\n"
    text = "".join(f"{number}: {paragraph}" for number in range(12))
    counts = cleaned([document(text)], Cleaning(preset="none", cut_bytes=500, duplicates="none"), tmp_path)
    rows = rows_of(tmp_path)
    assert "".join(row["text"] for row in rows) == text
    assert counts.cut == len(rows) - 1 > 0 and all(row["bytes"] <= 1000 for row in rows)


def test_many_documents_are_written_in_row_groups_that_hang_on_the_rows_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GROUP_BYTES", 1000)
    texts = [f"document number {number} says {number**3:x}" for number in range(200)]
    shares: list[float] = []
    cleaned(map(document, texts), Cleaning(), tmp_path, size_bytes=5000, progress=shares.append)
    with pq.ParquetFile(tmp_path / "documents.parquet") as file:
        assert file.num_row_groups >= 4
        assert file.read(columns=["text"])["text"].to_pylist() == texts
    assert shares == sorted(shares) and shares[-1] == 1.0
    monkeypatch.setattr(parts, "BATCH_BYTES", 300)
    cleaned(map(document, texts), Cleaning(), tmp_path / "again")
    for name in ("documents.parquet", "examples.json", "corpus.png"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_every_reason_has_examples_without_personal_data(tmp_path: Path) -> None:
    texts = ["write to someone.else@example.com" + "!" * 300, "x", "caf\u0065\u0301 au lait, please", "tiny"]
    counts = cleaned(map(document, texts), Cleaning(), tmp_path)
    shown = json.loads((tmp_path / "examples.json").read_text())
    assert {row["what"].partition(": ")[2] for row in shown} == counts.dropped.keys() | counts.changed.keys()
    assert "someone.else@example.com" not in json.dumps(shown)


def killed_at(folder: Path, moment: int) -> None:
    moments = count(1)

    def die(share: float) -> None:
        if next(moments) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    clean_many(folder, progress=die)


def clean_many(
    folder: Path, workers: int = 1, progress: Callable[[float], None] = lambda share: None
) -> None:
    texts = [f"document {number // 2 * 2} has {'words and ' * (number % 40)}an end" for number in range(400)]
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "BATCH_BYTES", 2000)
        clean(map(document, texts), Cleaning(), folder, folder / "drafts", None, progress, workers)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    "moments", [(1, 3, 7), pytest.param((1, 1, 2, 3, 3, 4, 5, 6, 7, 8), marks=pytest.mark.slow)]
)
def test_kills_and_any_number_of_processes_change_no_byte(tmp_path: Path, moments: Sequence[int]) -> None:
    clean_many(tmp_path / "whole")
    clean_many(tmp_path / "others", workers=2)
    assert files_of(tmp_path / "others") == files_of(tmp_path / "whole")
    for at in moments:
        process = FORK.Process(target=killed_at, args=(tmp_path / "killed", at))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    clean_many(tmp_path / "killed")
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


def test_bad_documents_are_counted_by_reason_in_the_record(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "good.txt").write_text("A perfectly good document.")
    (data / "copy.txt").write_text("A perfectly good document.")
    (data / "latin.txt").write_bytes("naïve café".encode("latin-1"))
    (data / "nul.txt").write_bytes(b"a\0b")
    (data / "blank.txt").write_text(" \n" * 20)
    corpus = clean_corpus.fn(Files(paths=(str(data),)), Cleaning())
    assert corpus.dropped == {
        "exact duplicate": 1,
        "not UTF-8": 1,
        "has NUL bytes": 1,
        "shorter than 16 characters": 1,
    }
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
