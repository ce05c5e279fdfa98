"""What all steps here promise, and what each of them changes."""

import itertools
import pickle
import time
import unicodedata
from pathlib import Path

import ftfy
import pytest
from ftfy.badness import is_bad
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.boilerplate import BoilerplateLines
from tasks.changes import REPAIR, TYPESET, Normalise, RepairUnicode
from tasks.documents import Document
from tasks.language import Language
from tasks.library import PythonStdlib
from tasks.personal import PersonalData
from tasks.text import Text
from tasks.toxic import ToxicWords

AnyStep = PersonalData | RepairUnicode | Normalise | BoilerplateLines | ToxicWords | Language


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("words") / "bad.txt"
    path.write_text("\ufeffDamn\nutter fool\n\n馬鹿\n💩\nÜbel\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def steps(words: Path) -> list[AnyStep]:
    return [
        PersonalData(),
        PersonalData(action="remove"),
        RepairUnicode(),
        Normalise(),
        Normalise(blank_lines=0, tab_blanks=4, quotes=True),
        BoilerplateLines(),
        BoilerplateLines(most=1, single_words=True),
        ToxicWords(path=str(words)),
        ToxicWords(path=str(words), most=None, share=0.1),
        Language(),
    ]


# What the steps look for, in pieces that come together by chance.
LOOKED_FOR = (
    "a é ü ’ “ … Ã¼ â€™ \u00a0 \u200b \u00ad \t \n \r\n \x1b[31m \x85 \u2028 \ufeff e\u0301 한 中 😀 1 0171 -1234567"
    " + 49 ( ) . / @ jo@example.org [at] 8.34.208.12 : :: 2a00:1450:4001:81b::200e 4111111111111111 api_key= ghp_"
    " AKIA eyJ -----BEGIN PRIVATE KEY----- SIGN In more damn 馬鹿 utter fool Tel: likes 3"
)
PIECES = st.sampled_from(LOOKED_FOR.split(" "))
TEXTS = st.text(st.characters(codec="utf-8"), max_size=200) | st.lists(
    PIECES | st.just(" "), max_size=30
).map("".join)


@given(text=TEXTS)
@settings(max_examples=300, deadline=None)
def test_a_step_keeps_its_promises_for_any_text(steps: list[AnyStep], text: str) -> None:
    given_ = Text(text)
    for step in steps:
        outcome = step.apply(given_)
        assert isinstance(outcome.text, Text)
        assert step.apply(Text(text)) == outcome
        assert (outcome.text is given_) == (not outcome.changes), step
        assert (outcome.text == text) == (not outcome.changes), step
        assert outcome.reason is None or (outcome.reason and not outcome.changes)
        if outcome.changes and not isinstance(step, BoilerplateLines):
            assert step.apply(outcome.text).changes == (), step


EMPTY = ["", " ", "\n", "\t\r\n", "\ufeff"]
HUGE = [
    "\n",
    "a",
    "é",
    "1",
    "1 ",
    "1.",
    "@",
    "a@",
    "(",
    "=",
    "://a:",
    "eyJ",
    "x" * 19 + " ",
    "1-1/",
    "cookies ",
    "{a,",
    "�",
]
HUGE += [
    "8.34.208.12 ",
    "+49 30 1234567 ",
    "jo@example.org ",
    "-----BEGIN PRIVATE KEY-----",
    "Ã¼",
    "0171 1234567 ",
]


@pytest.mark.parametrize("text", EMPTY)
def test_nothing_becomes_nothing(steps: list[AnyStep], text: str) -> None:
    for step in steps:
        assert not step.apply(Text(text)).text.strip("\ufeff \t\r\n")


@pytest.mark.parametrize("piece", HUGE)
def test_time_goes_with_length_whatever_the_text(steps: list[AnyStep], piece: str) -> None:
    text = piece * (100_000 // len(piece))
    for step in steps:
        begun = time.process_time()
        step.apply(Text(text))
        assert time.process_time() - begun < 5, step  # a quadratic one takes minutes


def test_steps_survive_pickling(steps: list[AnyStep]) -> None:
    text = Text("Damn! Write  \nto jo@example.org. \u00a0Ã¼")
    for step in steps:
        assert pickle.loads(pickle.dumps(step)).apply(text) == step.apply(text)


@given(text=TEXTS)
@settings(max_examples=300, deadline=None)
def test_repair_is_that_of_ftfy_on_all_lines_beyond_ascii(text: str) -> None:
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    repaired = "\n".join(
        line if line.isascii() else ftfy.fix_text(line, REPAIR) for line in lines.split("\n")
    )
    result = RepairUnicode().apply(Text(text)).text
    assert result == repaired
    assert unicodedata.is_normalized("NFC", result)
    if lines.isprintable() and not lines.isascii():
        assert result == ftfy.fix_text(lines, REPAIR)


def test_lines_of_plain_ascii_stay_beside_others() -> None:
    ascii_ = "def f():\n\treturn '\\xc3\\xbc'  # \x1b[31m\x07\n"
    assert RepairUnicode().apply(Text(ascii_ + "schÃ¶n\n" + ascii_)).text == ascii_ + "schön\n" + ascii_


@pytest.mark.parametrize(
    ("text", "expected", "changes"),
    [
        ("a\r\nb\rc\n", "a\nb\nc\n", ("line ends",)),
        ("schÃ¶n und gut\r\n", "schön und gut\n", ("line ends", "Unicode repaired")),
        ("voilÃ le travail", "voilà le travail", ("Unicode repaired",)),
        ("cafe\u0301", "café", ("Unicode repaired",)),
        ("“curly” quotes, ﬁne &amp; Ｗide 😀", "“curly” quotes, ﬁne &amp; Ｗide 😀", ()),
    ],
)
def test_repair_mends_encodings_and_nothing_else(text: str, expected: str, changes: tuple[str, ...]) -> None:
    outcome = RepairUnicode().apply(Text(text))
    assert (outcome.text, outcome.changes) == (expected, changes)


def test_ftfy_takes_no_typesetting_for_wrong_decoding() -> None:
    signs = "".join(sorted(TYPESET)) + "aA 1.,'(-\n$&"
    three = map("".join, itertools.product(signs, repeat=3))
    assert not [text for text in three if is_bad(text)]


@pytest.mark.parametrize(
    ("step", "text", "expected", "changes"),
    [
        (Normalise(), "a \t\n  b\n \nc ", "a\n  b\n\nc", ("trailing blanks",)),
        (Normalise(), "a\n\n\n\n\nb", "a\n\n\nb", ("blank lines",)),
        (Normalise(blank_lines=1), "a\n \n\t\n\nb", "a\n\nb", ("trailing blanks", "blank lines")),
        (
            Normalise(),
            "10\u202f000\u00a0€, Wör\u00adter\u200b\ufeff",
            "10 000 €, Wörter",
            ("invisible characters",),
        ),
        (
            Normalise(),
            "می\u200cخواهم 👩\u200d💻 ខ្មែរ\u200bភាសា",
            "می\u200cخواهم 👩\u200d💻 ខ្មែរ\u200bភាសា",
            (),
        ),
        (Normalise(), "“a” ’b’\tc", "“a” ’b’\tc", ()),
        (Normalise(quotes=True), "“a” ’b’", "\"a\" 'b'", ("curly quotes",)),
        (Normalise(tab_blanks=4), "\tif a:\n  \tb\tc", "    if a:\n    b\tc", ("tabs",)),
        (
            Normalise(trailing_blanks=False, blank_lines=None, invisible=False),
            "a \n\n\n\n\u00a0",
            "a \n\n\n\n\u00a0",
            (),
        ),
    ],
)
def test_normalising_does_what_its_fields_say(
    step: Normalise, text: str, expected: str, changes: tuple[str, ...]
) -> None:
    outcome = step.apply(Text(text))
    assert (outcome.text, outcome.changes) == (expected, changes)


def test_normal_code_keeps_its_indentation() -> None:
    for document in list(PythonStdlib().documents())[::20]:
        assert isinstance(document, Document)
        result = Normalise(quotes=True).apply(Text(document.text)).text
        before = [line.rstrip(" \t") for line in document.text.split("\n") if line.strip()]
        after = [line for line in result.split("\n") if line.strip()]
        assert [len(line) - len(line.lstrip()) for line in after] == [
            len(line) - len(line.lstrip()) for line in before
        ]


BOILERPLATE = """Home > News > Science
Sign in
Skip to content
MENU
3 likes
12 Comments
Likes: 1.2k
Share on Facebook
Posted 3 days ago
5 min read
Read more...
Learn more »
2,345
10/12/2020
ALL YOU NEED TO KNOW
2 items in your cart
Copyright 2020 Acme Inc.
Please enable JavaScript
Log in to reply
We use cookies to ensure that we give you the best experience on our website. By continuing you agree."""
TEXT = """The discovery of the new comet surprised astronomers around the world on Tuesday.
Astronomers said they had read more about it in the NASA report than anywhere else.
"Sign in, please," said the guard at the desk, and nobody moved for a while after that.
In 1998 he moved to Paris, where he lived for 20 years.
- 12 eggs
Introduction
She shared 3 photos
第三章 北京

The cookies were baked by my grandmother, and all of them were gone by noon."""


def test_boilerplate_goes_and_text_stays() -> None:
    step = BoilerplateLines(most=1)
    pairs = itertools.zip_longest(TEXT.split("\n"), BOILERPLATE.split("\n"))
    outcome = step.apply(Text("\n".join(line for pair in pairs for line in pair if line is not None)))
    assert outcome.text == TEXT
    assert outcome.changes == ("boilerplate lines dropped",)
    assert step.apply(outcome.text).text is outcome.text
    short = BoilerplateLines(most=1, single_words=True).apply(Text("Introduction\nHe came home.\n"))
    assert short.text == "He came home.\n"


def test_a_page_that_is_mostly_boilerplate_goes_whole() -> None:
    long = "The discovery of the new comet surprised astronomers. " * 10
    kept = BoilerplateLines().apply(Text(f"Sign in\n{long}"))
    assert kept.text == long and kept.reason is None
    assert BoilerplateLines().apply(Text(f"Sign in\n3 likes\n{long[:54]}")).reason == (
        "over 5% of words in boilerplate lines"
    )
    assert BoilerplateLines(most=1).apply(Text("Sign in\n3 likes")).reason == "all lines are boilerplate"
