"""A document's side is its own hash: it never moves, and near-duplicates do not leak across."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.artifacts import InputError
from tasks.clean import Cleaning, clean, clean_corpus
from tasks.documents import Document
from tasks.sides import (
    NO_FOLD,
    NO_LABEL,
    NO_SIDE,
    NOT_LABELLED,
    RARE_LABEL,
    TEST,
    TRAIN,
    VALIDATION,
    Labels,
    Sides,
    Validation,
    assign,
)
from tasks.source import Files
from tasks.split import split, split_corpus
from training.objectives import CausalLanguageModel, SequenceClassification


def hashes(numbers: range) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    digests = (hashlib.sha256(b"%d" % number).digest()[:8] for number in numbers)
    return np.array([int.from_bytes(digest) for digest in digests], np.uint64)


def assigned(numbers: range, validation: Validation) -> Sides:
    ids = hashes(numbers)
    return assign(ids, ids[::-1].copy(), validation)


@given(
    documents=st.integers(400, 900),
    added=st.integers(1, 900),
    test_share=st.floats(0.05, 0.3),
    folds=st.sampled_from([0, 2, 3, 10]),
)
@settings(max_examples=40, deadline=None)
def test_a_side_never_moves_when_documents_are_added(
    documents: int, added: int, test_share: float, folds: int
) -> None:
    validation = Validation(test_share=test_share, folds=folds)  # type: ignore[arg-type]
    ids = hashes(range(documents + added))
    before = assign(ids[:documents], ids[:documents] ^ np.uint64(77), validation)
    after = assign(ids, ids ^ np.uint64(77), validation)
    assert np.array_equal(before.sides, after.sides[:documents])


def test_shares_are_what_was_asked_for_and_folds_are_even() -> None:
    ids = hashes(range(20_000))
    found = assign(ids, ids, Validation(test_share=0.1, validation_share=0.05, folds=4))
    shares = np.bincount(found.sides, minlength=4) / len(ids)
    assert shares[:3] == pytest.approx([0.85, 0.05, 0.1], abs=0.01)
    trained = found.folds[found.sides == TRAIN]
    assert np.ptp(np.bincount(trained)) <= 1
    assert set(found.folds[found.sides != TRAIN]) == {NO_FOLD}


def test_near_duplicates_of_what_is_judged_on_leave_train_and_are_counted(tmp_path: Path) -> None:
    texts = [f"Copy {number} of the same letter." for number in range(60)]
    texts += [f"A letter about {'x' * number} and nothing else." for number in range(300)]
    data = tmp_path / "letters.jsonl"
    clean(
        [Document("letters", n, "g", None, text) for n, text in enumerate(texts)],
        Cleaning(preset="none", duplicates="equal"),
        tmp_path,
        tmp_path / "drafts",
    )
    found, sizes = split(tmp_path / "documents.parquet", Validation(), tmp_path)
    copies = found.sides[:60]
    assert TEST in copies and NO_SIDE in copies and TRAIN not in copies
    trained = set(found.clusters[found.sides == TRAIN].tolist())
    judged = set(found.clusters[(found.sides != TRAIN) & (found.sides != NO_SIDE)].tolist())
    assert not trained & judged
    assert sizes.sum() == sum(len(text) for text in texts)
    rows = pq.read_table(tmp_path / "assignment.parquet").to_pylist()
    corpus = pq.read_table(tmp_path / "documents.parquet", columns=["id"]).to_pylist()
    assert [row["id"] for row in rows] == [row["id"] for row in corpus]
    assert [row["split"] for row in rows].count(None) == np.sum(found.sides == NO_SIDE)
    assert not data.exists()


def shared_among_folds(found: Sides) -> int:
    """How many clusters lie in more than one fold."""
    trained = found.sides == TRAIN
    pairs = np.unique(np.stack([found.clusters[trained], found.folds[trained].astype(np.uint64)]), axis=1)
    return int(pairs.shape[1]) - len(np.unique(found.clusters[trained]))


@given(
    documents=st.integers(60, 400),
    copies=st.integers(1, 5),
    tail=st.floats(0.3, 3.0),
    folds=st.sampled_from([2, 4, 10]),
)
@settings(max_examples=40, deadline=None)
def test_folds_have_whole_clusters_and_as_many_bytes_as_these_allow(
    documents: int, copies: int, tail: float, folds: int
) -> None:
    ids, clusters = hashes(range(documents)), hashes(range(documents // copies + 1)).repeat(copies)
    clusters = clusters[:documents]
    sizes = (1000 * np.random.default_rng(documents).pareto(tail, documents)).astype(np.int64)
    validation = Validation(test_share=0.02, validation_share=0.02, folds=folds)  # type: ignore[arg-type]
    try:
        found = assign(ids, clusters, validation, sizes=sizes)
    except InputError:
        return  # an empty side, or fewer clusters than folds
    assert shared_among_folds(found) == 0
    trained = found.sides == TRAIN
    counted = np.maximum(1, sizes[trained])
    of_clusters = np.bincount(np.unique(clusters[trained], return_inverse=True)[1], counted)
    of_folds = np.bincount(found.folds[trained], counted, minlength=folds)
    assert of_folds.min() > 0
    assert np.ptp(of_folds) <= of_clusters.max()


def test_a_few_large_documents_do_not_make_a_fold_many_times_larger_than_another() -> None:
    ids, sizes = hashes(range(300)), (5000 * np.random.default_rng(0).pareto(2, 300)).astype(np.int64)
    found = assign(ids, ids, Validation(), sizes=sizes)
    by_hash = np.bincount((ids[found.sides == TRAIN] % np.uint64(4)).astype(int), sizes[found.sides == TRAIN])
    by_size = np.bincount(found.folds[found.sides == TRAIN], sizes[found.sides == TRAIN])
    assert by_hash.max() > 1.3 * by_hash.min()
    assert by_size.max() < 1.001 * by_size.min()


def labelled(numbers: np.ndarray[tuple[int], np.dtype[np.int64]], names: int) -> Labels:
    return Labels(numbers, [f"label {number}" for number in range(names)])


@pytest.mark.parametrize("copies", [1, 2, 7])
@pytest.mark.parametrize("folds", [2, 4, 10])
def test_every_fold_has_its_share_of_every_label_and_sides_stay(copies: int, folds: int) -> None:
    ids, clusters = hashes(range(3010)), hashes(range(3010)).repeat(copies)[:3010]
    labels = np.repeat(np.arange(5), [1610, 798, 406, 154, 42])
    validation = Validation(folds=folds, test_share=0.03, validation_share=0.02)  # type: ignore[arg-type]
    found = assign(ids, clusters, validation, labelled(labels, 5))
    assert np.array_equal(found.sides, assign(ids, clusters, validation).sides)
    assert shared_among_folds(found) == 0
    for label in range(5):
        here = (found.sides == TRAIN) & (labels == label)
        largest = np.unique(clusters[here], return_counts=True)[1].max()
        assert np.ptp(np.bincount(found.folds[here], minlength=folds)) <= largest
    assert np.ptp(np.bincount(found.folds[found.sides == TRAIN])) <= 5 * copies


def test_folds_of_a_real_table_have_even_shares_of_its_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOESTRING_HOME", str(tmp_path / "home"))
    rows = [{"text": f"text {'x' * n}", "topic": "abbcccc"[n % 7]} for n in range(700)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Files(paths=(str(tmp_path / "rows.jsonl"),), label_column="topic")
    corpus = clean_corpus.fn(source, Cleaning(preset="none", duplicates="equal"))
    splits = split_corpus.fn(corpus, Validation(), SequenceClassification())
    sides = pq.read_table(splits.folder / "assignment.parquet").to_pylist()
    labels = pq.read_table(corpus.folder / "documents.parquet")["label"].to_pylist()
    counts = Counter((label, row["fold"]) for label, row in zip(labels, sides, strict=True))
    for label in "abc":
        per_fold = [counts[label, fold] for fold in range(4)]
        assert max(per_fold) - min(per_fold) <= 1, (label, per_fold)


def test_rare_labels_and_documents_without_one_are_in_no_split() -> None:
    ids = hashes(range(400))
    labels = np.array([0, 1] * 196 + [2] * 4 + [NOT_LABELLED] * 4)
    found = assign(ids, ids, Validation(folds=3), labelled(labels, 3))
    assert set(found.sides[labels == 2]) == {RARE_LABEL}
    assert set(found.sides[labels == NOT_LABELLED]) == {NO_LABEL}
    assert set(found.sides[:392]) <= {TRAIN, VALIDATION, TEST, NO_SIDE}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"text": f"text {n} {'x' * n}"} for n in range(200)], "None of the 200 documents has a label"),
        (
            [{"text": f"text {n} {'x' * n}", "topic": "a"} for n in range(200)],
            r"at least two labels.*'a' on 1\d\d",
        ),
        (
            [{"text": f"text {n} {'x' * n}", "topic": n} for n in range(200)],
            r"Of 200 found.*source\.label_column",
        ),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, str]], words: str
) -> None:
    monkeypatch.setenv("SHOESTRING_HOME", str(tmp_path / "home"))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Files(paths=(str(tmp_path / "rows.jsonl"),), label_column="topic")
    corpus = clean_corpus.fn(source, Cleaning(preset="none", duplicates="equal"))
    with pytest.raises(InputError, match=words):
        split_corpus.fn(corpus, Validation(), SequenceClassification())
    assert split_corpus.fn(corpus, Validation(), CausalLanguageModel()).left_out == {}


@pytest.mark.parametrize("documents", range(1, 12))
def test_a_tiny_corpus_has_every_side_or_is_refused_with_a_number(documents: int) -> None:
    try:
        found = assigned(range(documents), Validation(folds=2))
    except InputError as refusal:
        assert "add about" in str(refusal) and "\n" not in str(refusal)
    else:
        assert {0, 1, 2} <= set(found.sides.tolist()) and {0, 1} <= set(found.folds.tolist())


@pytest.mark.parametrize(("documents", "unlike", "instead"), [(7, 7, 7), (12, 5, 5), (30, 1, 0)])
def test_more_folds_than_train_can_fill_are_refused_with_a_number_that_helps(
    documents: int, unlike: int, instead: int
) -> None:
    pool = hashes(range(1000))
    sides = assign(pool, pool, Validation(folds=0)).sides
    judged = [pool[sides == side][:1] for side in (TEST, VALIDATION)]
    ids = np.concatenate([pool[sides == TRAIN][:documents], *judged])
    clusters = np.concatenate([ids[np.arange(documents) % unlike], *judged])
    with pytest.raises(InputError) as refusal:
        assign(ids, clusters, Validation(folds=10))
    said = str(refusal.value)
    groups = f" in {unlike} groups of near-duplicates" if unlike < documents else ""
    assert f"validation.folds is 10, but the train split has {documents} documents{groups}, and" in said
    assert f"add about {10 - unlike} documents, or set validation.folds to {instead}," in said
    assert "\n" not in said
    found = assign(ids, clusters, Validation(folds=instead))  # type: ignore[arg-type]
    assert len(set(found.folds[found.sides == TRAIN])) == max(1, instead)


@pytest.mark.parametrize("first", range(0, 200, 10))
def test_the_share_that_a_refusal_names_helps(first: int) -> None:
    validation, refusals = Validation(folds=0), 0
    while refusals < 3:
        try:
            assigned(range(first, first + 10), validation)
            break
        except InputError as refusal:
            if "the train split" in str(refusal):
                break
            field, _, share = str(refusal).split("set validation.")[1].split(",")[0].partition(" to ")
            if float(share) > 0.4:
                break
            validation = Validation.model_validate(validation.model_dump() | {field: float(share)})
            refusals += 1
    assert refusals < 3, "three raised shares were not enough for two sides"


def test_one_long_file_is_refused_with_the_way_out_and_that_way_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOESTRING_HOME", str(tmp_path / "home"))
    book = tmp_path / "book.txt"
    book.write_text("\n\n".join(f"Paragraph {'very ' * (n % 50)}long, number {n}." * 3 for n in range(2000)))
    whole = clean_corpus.fn(Files(paths=(str(book),)), Cleaning(preset="none", duplicates="equal"))
    with pytest.raises(InputError, match=r"source\.cut_bytes"):
        split_corpus.fn(whole, Validation(), CausalLanguageModel())
    cut = clean_corpus.fn(
        Files(paths=(str(book),), cut_bytes=1000), Cleaning(preset="none", duplicates="equal")
    )
    splits = split_corpus.fn(cut, Validation(), CausalLanguageModel())
    assert min(splits.documents.values()) > 0
    assert sum(splits.documents.values()) + splits.near_duplicates == cut.documents
    assert sum(splits.bytes.values()) <= cut.bytes
    assert splits.rows()[-1]["documents"] == splits.near_duplicates


def a_corpus(folder: Path, documents: list[tuple[str, str]]) -> Path:
    """The corpus of texts with their groups, none of which is dropped."""
    read = [Document("there", number, group, None, text) for number, (group, text) in enumerate(documents)]
    clean(read, Cleaning(preset="none", duplicates="none"), folder, folder / "drafts", workers=1)
    return folder / "documents.parquet"


def test_whole_groups_are_on_one_side_and_in_one_fold(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    words = [f"{first}{second}" for first in "bdfgklmnp" for second in ("ab", "eck", "ill", "ot", "un")]
    documents = [(f"author {number // 6}", " ".join(dice.choice(words, 12))) for number in range(1200)]
    corpus = a_corpus(tmp_path, documents)
    found, _ = split(corpus, Validation(whole_groups=True, folds=3), tmp_path)
    groups = np.arange(1200) // 6
    for group in range(200):
        assert len(set(found.sides[groups == group])) == len(set(found.folds[groups == group])) == 1
    assert {TRAIN, VALIDATION, TEST} == set(found.sides) and {0, 1, 2, NO_FOLD} == set(found.folds)
    apart, _ = split(corpus, Validation(folds=3), tmp_path)
    assert any(len(set(apart.sides[groups == group])) > 1 for group in range(200))


def test_train_documents_that_quote_what_is_judged_on_leave_train_and_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOESTRING_HOME", str(tmp_path / "home"))
    dice = np.random.default_rng(0)
    words = [f"word{number}" for number in range(5000)]
    texts = [" ".join(dice.choice(words, 60)) for _ in range(300)]
    quotes = [f"{' '.join(dice.choice(words, 60))} {' '.join(text.split()[:20])}" for text in texts]
    data = tmp_path / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts + quotes))
    corpus = clean_corpus.fn(Files(paths=(str(data),)), Cleaning(preset="none"))
    objective = CausalLanguageModel()
    kept = split_corpus.fn(corpus, Validation(), objective)
    cut = split_corpus.fn(corpus, Validation(quoted_words=13), objective)
    sides, after = (
        {row["id"]: row["split"] for row in pq.read_table(one.folder / "assignment.parquet").to_pylist()}
        for one in (kept, cut)
    )
    rows = pq.read_table(corpus.folder / "documents.parquet")
    ids = dict(zip(rows["text"].to_pylist(), rows["id"].to_pylist(), strict=True))
    pairs = [(ids[text], ids[quote]) for text, quote in zip(texts, quotes, strict=True)]
    for pair in pairs:
        for one, other in (pair, pair[::-1]):
            gives_away = sides[one] == "train" and sides[other] != "train"
            assert after[one] == (None if gives_away else sides[one])
    (left,) = cut.left_out.items()
    assert (
        left[0] == "13 words as in a document to judge by"
        and left[1] == list(after.values()).count(None) > 10
    )
