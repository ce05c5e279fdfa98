"""Whatever engine encodes: the ids are the tokenizer's own, and they give the text back."""

import pickle
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from tasks.encoding import Fast, Slow, engine_of, ranks_of
from tasks.spelling import BytePairs, Bytes

STRANGE = [
    "",
    " ",
    "  \n\t x\u2003y  ",
    "é" * 50,
    "日本語 テスト",
    "\u0301\u200d 😀👩‍👩‍👧 ",
    "a\u00a0b\r\n  c",
    "I'LL don't 'tis",
    "x1y2 ½ ٣",
    "a \0  b\1",
    "\n\n  two\n \n",
    "a\x1c \x1f b\x85 \x85c",
]


@pytest.fixture(scope="module")
def learnt() -> Backend:
    library = Path(sysconfig.get_path("stdlib"))
    texts = [path.read_text(errors="replace") for path in sorted(library.glob("*.py"))[:20]]
    return BytePairs().learn(texts, 2000)


def test_byte_pairs_are_encoded_by_the_fast_engine_as_by_the_tokenizer(learnt: Backend) -> None:
    fast, slow = engine_of(learnt), Slow(learnt)
    assert isinstance(fast, Fast)
    library = Path(sysconfig.get_path("stdlib"))
    texts = [path.read_text(errors="replace") for path in sorted(library.glob("*.py"))[20:60]] + STRANGE
    found, expected = fast.encode(texts), slow.encode(texts)
    for one, other in zip(found, expected, strict=True):
        assert one.tolist() == other.tolist()
    assert not fast.changed(found, texts).any() and not slow.changed(expected, texts).any()


LETTERS = st.characters(codec="utf-8") | st.sampled_from(" \t\n\r\x0b\x1c\0\1\x85\xa0\u2003a1'.é")


@given(texts=st.lists(st.text(LETTERS, max_size=80), max_size=6))
@settings(max_examples=500, deadline=None)
def test_any_texts_are_spelt_alike_and_given_back(learnt: Backend, texts: list[str]) -> None:
    fast, slow = engine_of(learnt), Slow(learnt)
    found = fast.encode(texts)
    assert [one.tolist() for one in found] == [other.tolist() for other in slow.encode(texts)]
    assert not fast.changed(found, texts).any()


def test_another_text_is_not_taken_for_the_same(learnt: Backend) -> None:
    (ids,) = engine_of(learnt).encode(["def f(): pass"])
    for engine in (engine_of(learnt), Slow(learnt)):
        assert engine.changed([ids, ids], ["def g(): pass", "def f(): pass"]).tolist() == [True, False]
        assert engine.changed([ids[:-1], ids], ["def f(): pass"] * 2).tolist() == [True, False]
        assert engine.changed([ids[:-1], ids[-1:]], ["def f(): pass", ""]).tolist() == [True, True]
        assert engine.changed([np.zeros(0, np.uint32)], [""]).tolist() == [False]


def test_an_engine_is_the_same_in_another_process(learnt: Backend) -> None:
    again = pickle.loads(pickle.dumps(engine_of(learnt)))
    assert again.encode(["import os"])[0].tolist() == engine_of(learnt).encode(["import os"])[0].tolist()


def test_bytes_alone_have_the_fast_engine_too() -> None:
    engine = engine_of(Bytes().learn([], 0))
    assert isinstance(engine, Fast)
    assert [len(ids) for ids in engine.encode(["aé", ""])] == [3, 0]


def test_merges_that_make_a_token_twice_are_left_to_the_tokenizer() -> None:
    import json

    backend = BytePairs().learn(["abc abc abc ab bc abc"] * 10, 270)
    model = json.loads(backend.to_str())
    merges = model["model"]["merges"]
    model["model"]["merges"] = [*merges, merges[0]]
    twice = Backend.from_str(json.dumps(model))
    assert ranks_of(backend) is not None
    assert ranks_of(twice) is None
    assert isinstance(engine_of(twice), Slow)
