"""Packed shards are the same bytes for any number of processes and after any kill; no document is lost."""

import hashlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks import packing
from tasks.encoding import engine_of
from tasks.packing import Encoding, Packer, Texts, pack
from tasks.spelling import BytePairs
from training.data import BYTES, FOLD, LABEL, LENGTH, Shards

SIDES = ("train", "train", "test", "train", "validation", None)
FORK = multiprocessing.get_context("forkserver")  # this process has threads, which no fork survives
FORK.set_forkserver_preload(["tests.test_packing"])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A corpus of 300 documents in two row groups, with sides, folds and labels."""
    texts = [f"document {number}: " + "words and more words, " * (number % 17) for number in range(300)]
    table = pa.table(
        {
            "id": [f"{number:016x}" for number in range(300)],
            "label": [("a", "b", None)[number % 3] for number in range(300)],
            "text": pa.array(texts, pa.large_string()),
            "bytes": [len(text.encode()) for text in texts],
        }
    )
    pq.write_table(table, tmp_path / "corpus.parquet", row_group_size=200)
    sides = [SIDES[number % len(SIDES)] for number in range(300)]
    assignment = {"id": table["id"], "split": sides, "fold": [number % 3 for number in range(300)]}
    pq.write_table(pa.table(assignment), tmp_path / "assignment.parquet")
    return tmp_path


def packed(
    place: Path,
    name: str = "shards",
    workers: int | None = 1,
    progress: Callable[[float], None] = lambda share: None,
    batch_bytes: int = 4000,
) -> Path:
    texts = Texts(place / "corpus.parquet", place / "assignment.parquet")
    engine = engine_of(BytePairs().learn(texts.sample(1.0), 300))
    folder = place / name
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch, Packer(folder, 300, 0, None, ["a", "b"]) as packer:
        patch.setattr(packing, "BATCH_BYTES", batch_bytes)
        done = pack(texts, Encoding(engine, 0, packer.dtype.name), packer, progress, workers)
    assert done.changed == 0
    return folder


def killed_at(place: Path, moment: int) -> None:
    moments = count(1)

    def die(share: float) -> None:
        if next(moments) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    packed(place, progress=die)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_every_document_is_in_its_split_with_its_facts(place: Path) -> None:
    shards = Shards(packed(place))
    corpus = pq.read_table(place / "corpus.parquet").to_pylist()
    documents = pq.read_table(shards.folder / "documents.parquet").to_pylist()
    assert [row["id"] for row in documents] == [row["id"] for row in corpus]
    for split in packing.SPLITS:
        index, ids = shards.documents(split), shards.ids(split)
        rows = [
            (given, made) for given, made in zip(corpus, documents, strict=True) if made["split"] == split
        ]
        assert len(rows) == len(index) and int(index[:, LENGTH].sum()) == len(ids)
        for fact, (given, made) in zip(index, rows, strict=True):
            assert (made["offset"], made["tokens"]) == (fact[0], fact[LENGTH])
            assert (fact[BYTES], fact[FOLD]) == (given["bytes"], made["fold"])
            assert fact[LABEL] == {"a": 0, "b": 1, None: -1}[given["label"]]
            assert ids[fact[0]] == 0
    left = [row for row in documents if row["split"] is None]
    assert len(left) == 50 and all(row["tokens"] is None and row["offset"] is None for row in left)


def test_processes_and_batches_change_no_byte(place: Path) -> None:
    alone = contents(packed(place, "alone"))
    assert contents(packed(place, "others", workers=2)) == alone
    larger = contents(packed(place, "larger", batch_bytes=1_000_000))
    assert {name: larger[name] for name in larger if name != "documents.parquet"} == {
        name: alone[name] for name in alone if name != "documents.parquet"
    }


def test_a_packing_that_is_killed_goes_on_to_the_same_bytes(place: Path) -> None:
    whole = contents(packed(place, "whole"))
    for at in (1, 2, 3):
        process = FORK.Process(target=killed_at, args=(place, at))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        with (place / "shards" / "train.bin").open("ab") as file:
            file.write(os.urandom(100))  # what a kill may leave behind
    assert contents(packed(place)) == whole


def test_an_empty_split_is_an_empty_index(place: Path) -> None:
    with Packer(place, 300) as packer:
        packer.add("train", [0, 1, 2], 2, 0)
        packer.finish()
    assert np.load(place / "test.npy").shape == (0, 5)
    assert Shards(place).documents("train").tolist() == [[0, 3, 2, 0, -1]]
    assert not (place / "progress.json").exists() and not list(place.glob("*.rows"))
