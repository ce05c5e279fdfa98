"""Documents with words of evaluation texts go, all of them, and next to no others."""

import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks import contamination
from tasks.artifacts import InputError
from tasks.contamination import Contamination, Index
from tasks.text import Text
from tests.planted_texts import vocabulary, written

QUESTION = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."
ANSWER = "Natalia sold 48/2 = 24 clips in May. Natalia sold 48+24 = 72 clips altogether in April and May."


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in (QUESTION, ANSWER)))
    return path


def test_a_document_with_an_evaluation_text_in_it_goes_and_says_why(evaluation: Path) -> None:
    step = Contamination(paths=(str(evaluation),))
    step.check()
    text = Text(f"Some page. {QUESTION} And more of it.")
    assert step.apply(text) == (text, (), "13 words as in an evaluation text")
    assert step.apply(Text("Natalia sold clips to some of her friends in April.")).reason is None


@pytest.mark.parametrize(
    "change",
    [
        str.upper,
        lambda text: text.replace(" ", "\n  "),
        lambda text: text.replace(",", " —").replace(".", "…”"),
        lambda text: " ".join(text.split()[3:16]),
        lambda text: "é " + text,
    ],
)
def test_case_blanks_and_punctuation_hide_nothing(evaluation: Path, change: Callable[[str], str]) -> None:
    assert Contamination(paths=str(evaluation)).reason(Text(change(QUESTION)))  # type: ignore[arg-type]


def test_twelve_words_in_a_row_are_an_accident(evaluation: Path) -> None:
    twelve = Text(" ".join(QUESTION.split()[:12]) + " other words follow")
    assert Contamination(paths=(str(evaluation),)).reason(twelve) is None
    assert Contamination(paths=(str(evaluation),), words=12).reason(twelve)


def test_so_many_runs_may_be_allowed(evaluation: Path) -> None:
    fifteen = Text(" ".join(QUESTION.split()[:15]))
    assert Contamination(paths=(str(evaluation),), allowed=3).reason(fifteen) is None
    assert Contamination(paths=(str(evaluation),), allowed=2).reason(fifteen) == (
        "over 2 runs of 13 words as in an evaluation text"
    )


def test_what_many_evaluation_texts_say_may_be_ignored() -> None:
    licence = "permission is hereby granted free of charge to any person obtaining a copy of this software"
    texts = [f"{licence} {number}" for number in range(5)] + [QUESTION] * 4
    assert Index.of(texts).hits([licence, QUESTION]).tolist() == [4, 8]
    assert Index.of(texts, most_texts=4).hits([licence, QUESTION]).tolist() == [0, 8]


def test_planted_runs_are_all_found_and_clean_documents_stay() -> None:
    dice = random.Random(0)
    known = vocabulary(dice, 5_000)
    frequent = [1 / rank for rank in range(1, len(known) + 1)]  # Zipf's law: common words meet often
    judged = [dice.choices(known, frequent, k=dice.randint(20, 60)) for _ in range(300)]
    clean = [dice.choices(known, frequent, k=150) for _ in range(5_000)]
    dirty = []
    for words_, questioned in zip(clean[:500], dice.choices(judged, k=500), strict=True):
        start = dice.randrange(len(questioned) - 12)
        place = dice.randrange(len(words_))
        dirty.append(words_[:place] + questioned[start : start + 13] + words_[place:])
    index = Index.of(written(dice, words_) for words_ in judged)
    assert np.all(index.hits([written(dice, words_) for words_ in dirty]) >= 1)
    assert np.count_nonzero(index.hits([written(dice, words_) for words_ in clean])) <= 5


@given(texts=st.lists(st.text(st.sampled_from("ab ,é北"), max_size=30), max_size=6), length=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_hits_are_counted_text_by_text(texts: list[str], length: int) -> None:
    index = Index.of(texts[:3], length)
    together = index.hits(texts)
    assert together.tolist() == [index.hits([text])[0] for text in texts]
    counted = [max(0, int(words) - length + 1) for words in index.lengths]
    assert together[:3].tolist() == counted


def test_a_hash_beyond_all_others_is_not_held() -> None:
    index = Index.of([QUESTION])
    beyond = index.hashes[-1:] + np.uint64(1)
    assert index._places(np.concatenate([index.hashes, beyond])).tolist() == list(range(8))


def test_an_index_is_compact_and_survives_pickling() -> None:
    dice = random.Random(1)
    texts = [" ".join(dice.choices(vocabulary(dice, 2_000), k=20_000))]
    index = Index.of(texts)
    packed = pickle.dumps(index)
    assert len(index.hashes) == 20_000 - 12
    assert len(packed) < 16 * len(index.hashes)
    assert pickle.loads(packed).hits(texts).tolist() == [20_000 - 12]


def test_a_step_takes_along_what_the_files_were_and_not_the_index(evaluation: Path) -> None:
    step = Contamination(paths=(str(evaluation),))
    before = step.fingerprint()
    step.check()
    assert len(pickle.dumps(step)) < 2_000
    assert pickle.loads(pickle.dumps(step)).reason(Text(QUESTION)) == step.reason(Text(QUESTION))
    evaluation.write_text(json.dumps({"text": ANSWER}) + "\n")
    assert step.fingerprint() == before
    assert Contamination(paths=(str(evaluation),)).fingerprint() != before
    contamination._index.cache_clear()
    with pytest.raises(InputError, match=r"test\.jsonl changed during the run"):
        pickle.loads(pickle.dumps(step)).reason(Text(QUESTION))


def test_files_are_read_once_in_a_process(evaluation: Path) -> None:
    contamination._index.cache_clear()
    for _ in range(3):
        assert Contamination(paths=(str(evaluation),)).reason(Text(QUESTION))
    assert contamination._index.cache_info().misses == 1


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (None, "contamination.paths: .* does not exist"),
        ([{"question": QUESTION}], "has no column 'text'; it has question"),
        ([{"text": "Too short to tell."}], "1 of 1 texts in .* name longer texts"),
        (
            [{"text": " ".join("abcdefghijklm"[:n])} for n in (11, 11, 13)],
            "set contamination.words to 11",
        ),
        ([{"text": " ".join("abcdefghijklm"[:n])} for n in (3, 3, 13)], "set contamination.words to 8"),
        ([], "0 of 0 texts"),
    ],
)
def test_what_cannot_work_is_refused_at_the_door(
    tmp_path: Path, rows: list[dict[str, str]] | None, words: str
) -> None:
    path = tmp_path / "judged.jsonl"
    if rows is not None:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=words):
        Contamination(paths=(str(path),)).check()


@pytest.mark.parametrize("wrong", [{"paths": []}, {"words": 7}, {"allowed": -1}, {"most_texts": 0}, {}])
def test_settings_are_bounded(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Contamination.model_validate({"paths": ["a"] if wrong else [], **wrong})
