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
    for text, one, other in zip(texts, fast.encode(texts), slow.encode(texts), strict=True):
        assert one.tolist() == other.tolist()
        assert fast.spells(one, text) and slow.spells(other, text)


@given(text=st.text(st.characters(codec="utf-8"), max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_text_is_spelt_alike_and_given_back(learnt: Backend, text: str) -> None:
    fast, slow = engine_of(learnt), Slow(learnt)
    (one,), (other,) = fast.encode([text]), slow.encode([text])
    assert one.tolist() == other.tolist()
    assert fast.spells(one, text)


def test_another_text_is_not_taken_for_the_same(learnt: Backend) -> None:
    fast = engine_of(learnt)
    (ids,) = fast.encode(["def f(): pass"])
    assert not fast.spells(ids, "def g(): pass")
    assert not fast.spells(ids[:-1], "def f(): pass")
    assert fast.spells(np.zeros(0, np.uint32), "")


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
