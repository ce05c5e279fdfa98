"""The published rules hold their thresholds, answer for any text, and decide as datatrove's filters do."""

import pickle
import re
import time
from collections import Counter
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.quality import C4Quality, FineWebQuality, GopherQuality, GopherRepetition, Quality
from tasks.text import KINDS, SPELLED, Outcome, Text, cut, repeated_phrases, top_phrase
from tests.benchmarks.data_quality import agreement, documents, measure_quality

RULES = [rule() for rule in get_args(get_args(Quality)[0])]
GOPHER, FINEWEB, C4 = GopherQuality(), FineWebQuality(), C4Quality()
LINE = "the people of that quiet valley have walked with care"  # five of its words are stop words
WORDS = LINE.split()


def prose(number: int) -> list[str]:
    """So many words."""
    return (WORDS * number)[:number]


def lines(number: int, marked: int, before: str = "", after: str = "") -> str:
    """So many lines, of which the first few are marked."""
    return "\n".join(before + LINE + after if at < marked else LINE for at in range(number))


def filled(length: int, *phrase: str) -> str:
    """A phrase twice among words that come once, so many characters long."""
    text, at = " ".join((*phrase, "first", *phrase)), 0
    while len(text) < length - 20:
        text, at = f"{text} {at}word", at + 1
    return f"{text} " + "z" * (length - len(text) - 1)


def only(**kept: Any) -> GopherRepetition:
    """The rule with the other thresholds out of reach."""
    off = dict.fromkeys(("paragraphs", "paragraph_characters", "lines", "line_characters"), 1)
    phrases = {"top_phrases": (1,) * 3, "repeated_phrases": (1,) * 6}
    return GopherRepetition.model_validate({**off, **phrases, **kept})


def default(name: str, at: int | None = None) -> GopherRepetition:
    """The rule with one of its thresholds where it was published."""
    value = getattr(GopherRepetition(), name)
    return only(**{name: value if at is None else tuple(v if i == at else 1 for i, v in enumerate(value))})


FIFTY_FOUR = " ".join(prose(54))
EDGES: list[tuple[Any, str, str, str]] = [
    (GOPHER, " ".join(prose(50)), " ".join(prose(49)), "under 50 words"),
    (GopherQuality(most_words=60), " ".join(prose(60)), " ".join(prose(61)), "over 60 words"),
    (GOPHER, "the and " * 30, "the and " * 29 + "the a", "mean word length under 3"),
    (
        GOPHER,
        f"the {'q' * 17} and {'q' * 17} " * 20,
        f"the {'q' * 17} and {'q' * 18} " * 20,
        "mean word length over 10",
    ),
    (GOPHER, f"{FIFTY_FOUR} {'# ' * 6}", f"{FIFTY_FOUR} {'# ' * 7}", "over 0.1 hash signs to a word"),
    (GOPHER, f"{'… ' * 6} {FIFTY_FOUR}", f"{'... ' * 7} {FIFTY_FOUR}", "over 0.1 ellipses to a word"),
    (GOPHER, lines(10, 9, "- "), lines(10, 10, " • "), "over 90% of lines start with a bullet"),
    (GOPHER, lines(10, 3, "", "…"), lines(10, 4, "", "... "), "over 30% of lines end in an ellipsis"),
    (
        GOPHER,
        " ".join(prose(80)) + " 7" * 20,
        " ".join(prose(80)) + " 7" * 21,
        "under 80% of words have a letter",
    ),
    (
        GOPHER,
        "in the quiet valley of, our home now " * 20,
        "in the quiet valley so, our home now " * 20,
        "under 2 stop words",
    ),
    (
        default("paragraphs"),
        "\n\n".join("abcdefgggg"),
        "\n\n".join("abcdefffff"),
        "over 30% of paragraphs repeat",
    ),
    (
        default("paragraph_characters"),
        f"{'x' * 20}\n\n{'y' * 56}\n\n{'x' * 20}",
        f"{'x' * 20}\n\n{'y' * 55}\n\n{'x' * 20}",
        "over 20% of characters in repeated paragraphs",
    ),
    (default("lines"), "\n\n".join("abcdefgggg"), "\n".join("abcdefffff"), "over 30% of lines repeat"),
    (
        default("line_characters"),
        f"{'x' * 20}\n{'y' * 58}\n{'x' * 20}",
        f"{'x' * 20}\n{'y' * 57}\n{'x' * 20}",
        "over 20% of characters in repeated lines",
    ),
    *(
        (
            default("top_phrases", at),
            filled(100, *phrase),
            filled(99, *phrase),
            f"characters in one phrase of {at + 2} words",
        )
        for at, phrase in enumerate((("aaaa", "bbbbb"), ("aa", "bb", "ccc"), ("a", "b", "c", "dd")))
    ),
    *(
        (
            default("repeated_phrases"),
            filled(100, *"abcdefghi"[: n - 1], "k" * (21 - 2 * n)),
            filled(99, *"abcdefghi"[: n - 1], "k" * (21 - 2 * n)),
            f"characters in repeated phrases of {n} words",
        )
        for n in range(5, 11)
    ),
    (C4, "One is here. " * 5, "One is here. " * 4, "under 5 sentences"),
    (C4, f"{LINE}.\n" * 5, f"{LINE}.\n" * 5 + "Lorem Ipsum is here.", "lorem ipsum"),
    (C4, f"{LINE}.\n" * 5 + "{ or", f"{LINE}.\n" * 5 + "There is {a} bracket.", "curly bracket"),
    (
        FINEWEB,
        "\n".join(f"{at} {LINE}" + "." * (at < 3) for at in range(25)),
        "\n".join(f"{at} {LINE}" + "." * (at < 2) for at in range(25)),
        "under 12% of lines end a sentence",
    ),
    (
        FINEWEB,
        "\n".join(f"{at} is as short as these few." if at < 67 else f"{at} {LINE}" for at in range(100)),
        "\n".join(f"{at} is as short as these few." if at < 68 else f"{at} {LINE}" for at in range(100)),
        "over 67% of lines are short",
    ),
    (FINEWEB, f"{'x ' * 15}.\n{LINE}!", f"{'x ' * 14}x.", "over 67% of lines are short"),
    (
        FINEWEB,
        f"{'x' * 9}.\n{'y ' * 490}\n{'x' * 9}.",
        f"{'x' * 10}.\n{'y ' * 489}\n{'x' * 10}.",
        "over 1% of characters in repeated lines",
    ),
    (
        FineWebQuality(short_line_length=0),
        "a b\nc d\ne f g\nh so.",
        "a b\nc d\ne f\ng h\nso.",
        "over 0.3 line ends to a word",
    ),
]


@pytest.mark.parametrize(("rule", "kept", "dropped", "reason"), EDGES)
def test_a_threshold_is_met_and_missed(rule: Any, kept: str, dropped: str, reason: str) -> None:
    assert rule.apply(Text(kept)).reason is None
    assert reason in (rule.apply(Text(dropped)).reason or "kept")


KEPT = "\n".join(f"{LINE} {at}." for at in range(5))


@pytest.mark.parametrize(
    ("line", "left", "change"),
    [
        (f"{LINE}", None, "lines dropped: no punctuation at their end"),
        (f"{LINE}...", None, "lines dropped: no punctuation at their end"),
        ("Two words.", None, "lines dropped: under 3 words"),
        ("Three words now.", "Three words now.", None),
        (f"It is {'x' * 1000} long.", f"It is {'x' * 1000} long.", None),
        (f"It is {'x' * 1001} long.", None, "lines dropped: a word over 1000 characters"),
        ("Please do enable JavaScript.", None, "lines dropped: JavaScript"),
        ("Read our Privacy Policy first.", None, "lines dropped: terms, privacy or cookies"),
        ("It is known[12] so[citation needed].", "It is known so.", "blanks or citations removed"),
        ("  It is far from here.\t", "It is far from here.", "blanks or citations removed"),
    ],
)
def test_c4_drops_lines_and_says_why(line: str, left: str | None, change: str | None) -> None:
    outcome = C4.apply(Text(f"{KEPT}\n{line}"))
    assert outcome.text == (KEPT if left is None else f"{KEPT}\n{left}")
    assert outcome.changes == (() if change is None else (change,))


def test_c4_gives_back_the_same_object_where_nothing_changes_and_can_leave_rules_off() -> None:
    text, code = Text(KEPT), Text("\n".join(["int main() { return 0; }"] * 5))
    assert C4.apply(text).text is text
    assert C4Quality(end_punctuation=False, curly_brackets=False).apply(code) == Outcome(code)
    assert C4Quality(end_punctuation=False).apply(code).reason == "curly bracket"


CUTS = """
it 's   ( John 's   ca n't   do n’t ,   You 'll 've   well   were   can not .   e.g. ,   U.S.   Dr.   FOO .   x3 .
end . " )   wait ...   a … b   10 km   3.5 %   $ 5   1,000   a , b   a / b   and/or   foo_bar - baz   word . Word
https://x.org/a.b?c=d ,   _ _ init _ _   foo ( ):   f(self ,   -- >   C++ ,   😀   a 😀 b   中 文 ， 好 。   한국어는
"""


@pytest.mark.parametrize("words", re.split(r"\n|\s{2,}", CUTS.strip()))
def test_words_are_cut_as_by_spacy(words: str) -> None:
    assert cut(words.replace(" ", "")) == tuple(words.split())


@given(text=st.text(st.one_of(st.sampled_from(".,'s-+5k(/:@"), st.characters()), max_size=30))
@settings(max_examples=100, deadline=None)
def test_cutting_loses_nothing(text: str) -> None:
    words = [cut(run) for run in Text(text).runs]
    assert list(map("".join, words)) == text.split()
    assert all(map(all, words))


def test_words_know_what_they_are() -> None:
    text = Text("It's 5km (far)! 中")
    runs = [word for run in text.runs for word in cut(run)]
    assert text.words["size"].tolist() == list(map(len, runs))
    assert text.words["hash"].tolist() == list(map(hash, runs))
    assert text.words["kind"].tolist() == [1, 1, 0, 1, 2 + 8, 1, 2 + 8, 2 + 4 + 8, 1]
    assert vars(pickle.loads(pickle.dumps(text))) == {}  # hashes mean nothing to another process


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", 0),
        ("One", 1),
        ("One. Two", 2),
        ('"One!" he said. Two?', 3),
        ("1.5 is one. (Two.)", 2),
        ("A?! B", 2),
    ],
)
def test_sentences_are_counted(text: str, number: int) -> None:
    assert Text(text).sentences == number


@given(words=st.lists(st.sampled_from("ab"), min_size=12, max_size=60), n=st.integers(2, 10))
@settings(max_examples=100, deadline=None)
def test_phrases_are_counted_as_defined(words: list[str], n: int) -> None:
    spelled = [word * (1 + (word == "b")) for word in words]
    found = [tuple(spelled[at : at + n]) for at in range(len(spelled) - n + 1)]
    sizes = np.array([sum(map(len, phrase)) for phrase in found])
    hashes = np.array([hash(phrase) for phrase in found])
    first, times = Counter(found).most_common(1)[0]
    assert top_phrase(hashes, sizes, 0, len(found)) == (times, times * sum(map(len, first)))
    seen, characters, at = set(), 0, 0
    while at < len(found):
        again = found[at] in seen
        characters += again * int(sizes[at])
        seen.add(found[at])
        at += n if again else 1
    bound, counted = repeated_phrases(hashes, sizes, n, 0)
    assert counted == characters <= bound


ODD = [
    "",
    " ",
    "a",
    "word",
    "no line end",
    "\n",
    "\n" * 1000,
    "\r\x0b\u2028",
    "😀",
    "😀 " * 100,
    "。",
    "\ud800 x",
]
ODD += [
    "这是一个普通的段落，里面没有空格。" * 50,
    "यह एक सामान्य हिंदी वाक्य है। " * 50,
    "...",
    "{",
    "a\n\n\n\nb",
]


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_answers_for_any_text(rule: Any) -> None:
    for text in ODD:
        outcome = rule.apply(Text(text))
        assert isinstance(outcome, Outcome) and isinstance(outcome.text, Text)
        assert pickle.loads(pickle.dumps(rule)).apply(Text(text)) == outcome


@given(text=st.text(max_size=300), before=st.permutations(RULES), other=st.text(max_size=100))
@settings(max_examples=60, deadline=None)
def test_answers_do_not_depend_on_what_was_asked_before(text: str, before: list[Any], other: str) -> None:
    SPELLED.clear()
    KINDS.clear()
    fresh = {rule.kind: rule.apply(Text(text)) for rule in RULES}
    asked = Text(text)
    for rule in before:
        rule.apply(Text(other))
        assert rule.apply(asked) == fresh[rule.kind]


@pytest.mark.parametrize(
    "piece", ["(", "a", "a-", ".", "a@", "'s", "a.", "5k", "…", "a\n", "x x\n\n", "b a "]
)
def test_time_goes_with_length(piece: str) -> None:
    before = time.process_time()
    for rule in RULES:
        rule.apply(Text(piece * 200_000))
    assert time.process_time() - before < 5


def check(found: dict[str, dict[str, float]]) -> None:
    for kind, shares in found.items():
        assert 0.1 <= shares["kept"] <= 0.9, kind
        assert min(shares["alike"], shares["same"]) >= 0.99, kind


def test_rules_decide_as_datatrove_does() -> None:
    check(agreement(documents(150)))


@pytest.mark.slow
def test_rules_decide_as_datatrove_does_on_many_documents() -> None:
    check(agreement(documents(3_000, seed=1)))


def test_the_benchmark_compares_speeds_and_decisions() -> None:
    said: list[str] = []
    figures = {figure.figure: figure for figure in measure_quality(documents(20), 2, said.append)}
    assert len(said) == 2 + len(RULES)
    assert figures["quality rules in series"].value > figures["datatrove's in series"].value
    assert {rule.kind for rule in RULES} <= {name.split(",")[0] for name in figures}
