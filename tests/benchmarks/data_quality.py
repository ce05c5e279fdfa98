"""The published quality rules held against datatrove's: how often both decide alike, and at what speed.

The documents are what any Python comes with (docstrings, modules, licenses, descriptions of packages),
half of them damaged on purpose so that every rule has something to drop.
"""

import codecs
import contextlib
import importlib
import inspect
import io
import random
import re
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from tasks.quality import C4Quality, FineWebQuality, GopherQuality, GopherRepetition, Quality
from tasks.text import KINDS, SPELLED, Outcome, Text
from tests.benchmarks.figures import Figure

BENCH = "data/quality"
RULES: tuple[Quality, ...] = (
    GopherRepetition(),
    GopherQuality(),
    C4Quality(),
    FineWebQuality(),
)  # in FineWeb's order
Say = Callable[[str], None]
LEAST, MOST = 300, 8_000  # characters of a document before it is damaged
DOCSTRING = re.compile(r'"""([^"]{100,}?)"""')
MODULES = ("*.py", "*/*.py")
DESCRIPTIONS = (
    "*.dist-info/METADATA",
    "*.dist-info/**/LICENSE*",
    "*/*.md",
    "*/*/*.md",
    "*/*/*.rst",
    "*/*/*/*.html",
)
BROKEN_LINE = re.compile(r"(?<=\S)\n(?=\w)")  # within a paragraph
Damage = Callable[[str, random.Random], str]


def documents(count: int, seed: int = 0) -> list[str]:
    """As many documents of several kinds, every second one damaged; the same for a seed and an installation."""
    dice = random.Random(seed)
    kinds = [
        _docstrings(_files("purelib", ("*/*.py",)), dice),
        _docstrings(_files("stdlib", MODULES), dice),
        _pieces(_files("purelib", DESCRIPTIONS), dice),
        _pieces(_files("purelib", DESCRIPTIONS), dice),
        _pieces(_files("stdlib", MODULES), dice),
    ]
    found = [_zen()]
    while len(found) < count:
        text = next(dice.choice(kinds))
        if dice.random() < 0.5:
            text = BROKEN_LINE.sub(" ", text)
        if dice.random() < 0.5:
            text = dice.choice(DAMAGES)(text, dice)
        found.append(text)
    return found


def _zen() -> str:
    with contextlib.redirect_stdout(io.StringIO()):
        return codecs.decode(importlib.import_module("this").s, "rot13")


@cache
def _files(place: str, patterns: tuple[str, ...]) -> list[Path]:
    folder = Path(sysconfig.get_path(place))
    found = [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]
    return sorted(path for path in found if place != "stdlib" or "site-packages" not in path.parts)


def _read(paths: Sequence[Path], dice: random.Random) -> Iterator[str]:
    while True:
        text = dice.choice(paths).read_text(encoding="utf-8", errors="replace")
        if len(text) >= LEAST:
            yield text


def _docstrings(paths: Sequence[Path], dice: random.Random) -> Iterator[str]:
    """A few successive ones of a module, as one document."""
    for text in _read(paths, dice):
        found = [inspect.cleandoc(match) for match in DOCSTRING.findall(text)]
        start = dice.randrange(max(1, len(found)))
        document = "\n\n".join(found[start : start + dice.randint(1, 6)])
        if LEAST <= len(document) <= MOST:
            yield document


def _pieces(paths: Sequence[Path], dice: random.Random) -> Iterator[str]:
    """Of each file one, from a blank line to a blank line where there are any."""
    for text in _read(paths, dice):
        start = dice.choice([0, *(match.end() for match in re.finditer(r"\n\n+", text[:-LEAST]))])
        size = dice.randrange(LEAST, MOST)
        end = text.find("\n\n", start + size)
        yield text[start : end if 0 < end < start + MOST else start + size]


def _lines(change: Callable[[str, random.Random], str]) -> Damage:
    """A damage to a random share of the lines."""

    def damage(text: str, dice: random.Random) -> str:
        share = dice.random()
        return "\n".join(change(line, dice) if dice.random() < share else line for line in text.split("\n"))

    return damage


def _words(change: Callable[[str, random.Random], str], most: float = 1.0) -> Damage:
    """A damage to a random share of the words."""

    def damage(text: str, dice: random.Random) -> str:
        share = most * dice.random()
        return re.sub(r"\w+", lambda word: change(word[0], dice) if dice.random() < share else word[0], text)

    return damage


def _repeated(pattern: str, least: int, most: int) -> Damage:
    """A damage that writes one passage of `least` to `most` pieces several times, anywhere."""

    def damage(text: str, dice: random.Random) -> str:
        pieces = re.split(pattern, text)  # the pattern is a group, so separators are pieces too
        length = 2 * dice.randint(least, most)
        start = 2 * dice.randrange(1 + max(0, len(pieces) - length) // 2)
        passage = pieces[start : start + length]
        share = 0.6 * dice.random()
        for _ in range(max(1, round(share * len(pieces) / max(1, len(passage))))):
            at = 2 * dice.randrange(1 + len(pieces) // 2)
            pieces[at:at] = passage if len(passage) % 2 == 0 else [*passage, " "]
        return "".join(pieces)

    return damage


def _short_lines(text: str, dice: random.Random) -> str:
    words, most = text.split(" "), dice.randint(1, 12)
    return "\n".join(" ".join(words[at : at + most]) for at in range(0, len(words), most))


DAMAGES: tuple[Damage, ...] = (
    _repeated(r"(\n)", 1, 1),
    _repeated(r"(\n)", 1, 4),
    _repeated(r"(\n\n+)", 1, 1),
    _repeated(r"( )", 2, 4),
    _repeated(r"( )", 2, 4),
    _repeated(r"( )", 5, 12),
    _repeated(r"( )", 5, 12),
    _lines(lambda line, dice: dice.choice(("- ", "• ", "  -")) + line),
    _lines(lambda line, dice: line + dice.choice(("...", "…", " ... "))),
    _lines(lambda line, dice: line.rstrip(".!?\"'")),
    _lines(lambda line, dice: line.rstrip() + "."),
    _lines(lambda line, dice: line.rstrip() + "."),
    _lines(lambda line, dice: line + " [1][citation needed]."),
    _lines(lambda line, dice: f"{line} Please enable {dice.choice(('JavaScript', 'javascript'))}."),
    _lines(lambda line, dice: f"{line} Read our {dice.choice(('Terms of Use', 'cookie policy'))}."),
    _lines(lambda line, dice: f"{line}\n{dice.choice(('', '* * *', '* * *', line))}"),
    _words(lambda word, dice: "".join(dice.choices(word, k=dice.randint(8, 20)))),
    _words(lambda word, dice: word[:2]),
    _words(lambda word, dice: f"{word} {dice.choice(('#', '...', '…'))}", most=0.3),
    _words(lambda word, dice: str(dice.randrange(1000)), most=0.5),
    _words(lambda word, dice: f"{word} {dice.choice('=+/|')}", most=0.5),
    _words(lambda word, dice: "" if len(word) < 5 else word),
    _short_lines,
    _short_lines,
    lambda text, dice: " ".join(text.split(" ")[: dice.randint(1, 120)]),
    lambda text, dice: f"{text}\nLorem ipsum dolor sit amet, it says here.",
    lambda text, dice: f"{text}\nThese are braces: {{}}, and so on.",
    lambda text, dice: f"{text}\nThis line has a {'very' * dice.randint(240, 260)} long word.",
    lambda text, dice: text.replace("{", "(").replace("}", ")"),
    lambda text, dice: re.sub(r"\n[ \t\n]*", " ", text).replace(". ", ".\n"),
)


@cache
def theirs() -> tuple[Any, ...]:
    """datatrove's filters, in the order of `RULES`."""
    filters = importlib.import_module("datatrove.pipeline.filters")
    names = ("GopherRepetitionFilter", "GopherQualityFilter", "C4QualityFilter", "FineWebQualityFilter")
    return tuple(getattr(filters, name)() for name in names)


def _document(text: str) -> Any:
    return importlib.import_module("datatrove.data").Document(text=text, id="")


def decided(rule: Any, text: str) -> Outcome:
    """What one of datatrove's filters makes of a text."""
    document = _document(text)
    answer = rule.filter(document)
    return Outcome(Text(document.text), reason=None if answer is True else answer[1])


def agreement(documents: Sequence[str]) -> dict[str, dict[str, float]]:
    """By rule the shares of documents decided alike, kept by datatrove, and, of those kept by both, left the same."""
    found: dict[str, dict[str, float]] = {}
    for ours, other in zip(RULES, theirs(), strict=True):
        pairs = [(ours.apply(Text(text)), decided(other, text)) for text in documents]
        both = [(a.text, b.text) for a, b in pairs if a.reason is b.reason is None]
        found[ours.kind] = {
            "alike": sum((a.reason is None) == (b.reason is None) for a, b in pairs) / len(pairs),
            "kept": sum(b.reason is None for _, b in pairs) / len(pairs),
            "same": sum(a == b for a, b in both) / max(1, len(both)),
        }
    return found


def _ours_in_series(documents: Sequence[str]) -> None:
    SPELLED.clear()  # as a new process would find them
    KINDS.clear()
    for document in documents:
        text = Text(document)
        for rule in RULES:
            text, _, reason = rule.apply(text)
            if reason:
                break


def _theirs_in_series(documents: Sequence[str]) -> None:
    for text in documents:
        document = _document(text)
        for rule in theirs():
            if rule.filter(document) is not True:
                break


def _seconds(work: Callable[[Sequence[str]], None], documents: Sequence[str]) -> float:
    """Of one core."""
    before = time.process_time()
    work(documents)
    return time.process_time() - before


def measure_quality(documents: Sequence[str], repeats: int, say: Say) -> list[Figure]:
    """How fast the four rules are in series, ours and datatrove's in turn, and how often they agree.

    A document that a rule drops is not shown to the next. Speeds are medians, their intervals from the least to
    the greatest; that of the ratio, which is one of neighbours, too.
    """
    size = sum(len(text.encode()) for text in documents) / 1e6
    _theirs_in_series(documents[:10])  # loads what they need
    pairs = []
    for _ in range(repeats):
        pairs.append((_seconds(_ours_in_series, documents), _seconds(_theirs_in_series, documents)))
        say("ours {:.2f} MB/s, datatrove {:.3f} MB/s".format(*(size / seconds for seconds in pairs[-1])))
    rates = (
        ("quality rules in series", [size / ours for ours, _ in pairs], "MB/s a core", None, None),
        ("datatrove's in series", [size / other for _, other in pairs], "MB/s a core", None, None),
        ("ours to datatrove's", [other / ours for ours, other in pairs], "times", ">= 10", ">= 20"),
    )
    figures = [
        Figure(BENCH, name, median(values), min(values), max(values), unit, must, aim)
        for name, values, unit, must, aim in rates
    ]
    for kind, shares in agreement(documents).items():
        say(f"{kind}: " + ", ".join(f"{name} {share:.2%}" for name, share in shares.items()))
        for name in ("alike", "same") if kind == C4Quality().kind else ("alike",):
            what = {"alike": "decided as by datatrove", "same": "left the same text"}[name]
            figures.append(Figure(BENCH, f"{kind}, {what}", shares[name], None, None, "share", ">= 0.99"))
    return figures
