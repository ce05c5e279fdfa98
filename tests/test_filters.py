"""Each filter drops what it is for, and spares ordinary prose and code."""

from typing import get_args

import pytest

from tasks.clean import Cleaning
from tasks.documents import Document
from tasks.filters import Filter, MostlySymbols, Repetitive, TooShort, UnbrokenRun, Unprintable
from tasks.library import PythonStdlib

FAMILY = get_args(get_args(Filter)[0])
PROSE = [
    "It was a bright cold day in April, and the clocks were striking thirteen; he slipped quickly indoors.",
    "这是一个普通的段落，里面没有空格，但它当然是正常的文字，应该被保留下来。" * 3,
    "यह एक सामान्य हिंदी वाक्य है जिसमें मात्राएँ और संयुक्ताक्षर हैं।",
    "A reply with faces 😀😀 and a link: https://example.org/" + "path/" * 30,
]
DROPPED = [
    (TooShort(), "ok\n \n"),
    (Unprintable(), "text \x01\x02\x03\x04 and \ufffd\ufffd\ufffd"),
    (MostlySymbols(), "+----+----+\n| a | b |\n+----+----+\n"),
    (UnbrokenRun(), "data = '" + "QUJDREVG0123" * 100 + "'"),
    (Repetitive(), "buy now, buy cheap\n" * 500),
]


@pytest.mark.parametrize("member", FAMILY)
def test_a_filter_spares_prose_and_the_standard_library(member: type[TooShort]) -> None:
    documents = [document for document in PythonStdlib().documents() if isinstance(document, Document)]
    modules = [document.text for document in documents[::5] if len(document.text) > 16]
    assert [text for text in PROSE + modules if member().reason(text)] == []


@pytest.mark.parametrize(("member", "text"), DROPPED)
def test_a_filter_drops_what_it_is_for_and_says_why(member: TooShort, text: str) -> None:
    assert member.reason(text)


def test_every_filter_is_on_by_default_and_tested_here() -> None:
    assert {type(member) for member, _ in DROPPED} == set(FAMILY)
    assert {type(member) for member in Cleaning().filters} == set(FAMILY)


@pytest.mark.parametrize("member", FAMILY)
@pytest.mark.parametrize("text", ["", " ", "\n" * 100_000, "a" * 100_000])
def test_a_filter_answers_for_any_text(member: type[TooShort], text: str) -> None:
    assert member().reason(text) is None or isinstance(member().reason(text), str)
