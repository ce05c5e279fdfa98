"""How much personal data is found, how much of what is found is some, and how fast; languages and repair likewise."""

import pydoc_data.topics
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import ftfy
from scipy.stats import binomtest

from tasks.changes import REPAIR, RepairUnicode
from tasks.documents import Document
from tasks.language import UNDETERMINED, language_of
from tasks.library import PythonFunctions, PythonStdlib
from tasks.personal import KINDS, Item, Kind, PersonalData, personal_data
from tasks.text import Text
from tests.benchmarks.catalogues import catalogue_documents
from tests.benchmarks.figures import Figure
from tests.benchmarks.personal_items import Planted, planted
from tests.benchmarks.personal_lookalikes import lookalike

Say = Callable[[str], None]
BENCH = "data"
REPEATS = 5
ITEM_CHARACTERS = 10_000  # of text for an item of personal data, which is more than the web has; by eye
FOREIGN_CHARACTERS = 200  # of English for a curly quote, a dash or an accent; by eye


@dataclass(frozen=True)
class Found:
    """What was planted of a kind, how much of it was found, and how many items were found that none had planted."""

    planted: int
    found: int
    false: int


def score_personal(seed: int, count: int, say: Say) -> dict[Kind, Found]:
    """What is found by kind in `count` sentences with an item and `count` with a look-alike; says all that is wrong."""
    chance = random.Random(seed)
    made, found, false = Counter[Kind](), Counter[Kind](), Counter[Kind]()
    for number in range(count):
        one = planted(chance, KINDS[number % len(KINDS)])
        made[one.kind] += 1
        items = personal_data(one.text)
        hits = [item for item in items if hit(item, one)]
        found[one.kind] += bool(hits)
        if not hits:
            say(f"missed {one.kind}: {one.text!r}")
        for item in items:
            if item not in hits:
                false[item.kind] += 1
                say(f"no {item.kind}: {one.text[item.start : item.end]!r} in {one.text!r}")
    for _ in range(count):
        text = lookalike(chance)
        for item in personal_data(text):
            false[item.kind] += 1
            say(f"no {item.kind}: {text[item.start : item.end]!r} in {text!r}")
    return {kind: Found(made[kind], found[kind], false[kind]) for kind in KINDS}


def hit(item: Item, one: Planted) -> bool:
    """Whether an item is the planted one: of its kind, its ends no more than two characters off."""
    return item.kind == one.kind and abs(item.start - one.start) <= 2 and abs(item.end - one.end) <= 2


def measure_personal(seed: int, count: int, say: Say) -> list[Figure]:
    """Recall and precision overall and by kind, with Wilson's intervals of 95 %, and MB/s of masking prose and code."""
    scores = score_personal(seed, count, say)
    everything = Found(
        sum(score.planted for score in scores.values()),
        sum(score.found for score in scores.values()),
        sum(score.false for score in scores.values()),
    )
    figures = [
        _share("personal data: recall", everything.found, everything.planted, ">= 0.99"),
        _share("personal data: precision", everything.found, everything.found + everything.false, ">= 0.98"),
    ]
    for kind, score in scores.items():
        figures.append(_share(f"personal data: recall of {kind}", score.found, score.planted))
        figures.append(_share(f"personal data: precision of {kind}", score.found, score.found + score.false))
    chance = random.Random(seed)
    for name, texts in (("prose", prose()), ("code", code())):
        sown = [sow(text, chance) for text in texts]
        say(
            f"{name}: {sum(len(personal_data(text)) for text in sown)} items in {sum(map(len, sown)):,} characters"
        )
        speeds = megabytes_a_second(PersonalData().apply, sown)
        figures.append(_speed(f"personal data: speed on {name}", speeds, ">= 10", ">= 20"))
    return figures


def measure_language(say: Say) -> list[Figure]:
    """The share of texts of over 500 characters in 20 languages that is told right, that of code that is called no
    language, and texts a second."""
    right, documents = Counter[str](), catalogue_documents()
    for language, text in documents:
        told, probability = language_of(text)
        right[language] += int(told == language)
        if told != language:
            say(f"{language} taken for {told} ({probability:.2f}): {text[:80]!r}")
    functions = [one.text for one in PythonFunctions().documents() if isinstance(one, Document)]
    functions = [text for text in functions if len(text) > 500][::10]
    no_language = sum(language_of(text)[0] == UNDETERMINED for text in functions)
    seconds = [
        _seconds(language_of, [text for _, text in documents]) / len(documents) for _ in range(REPEATS)
    ]
    milliseconds = [1000 * one for one in seconds]
    return [
        _share(f"language: told right, of {len(right)} languages", right.total(), len(documents), ">= 0.99"),
        _share("language: code that is called none", no_language, len(functions)),
        Figure(
            BENCH, "language: time", min(milliseconds), min(milliseconds), max(milliseconds), "ms/document"
        ),
    ]


def measure_repair(seed: int, say: Say) -> list[Figure]:
    """MB/s of repairing English with quotes and accents here and there, and whether it is what ftfy makes of it."""
    chance = random.Random(seed)
    texts = [typeset(text, chance) for text in prose()]
    same = sum(RepairUnicode().apply(Text(text)).text == ftfy.fix_text(text, REPAIR) for text in texts)
    beyond = sum(not sign.isascii() for text in texts for sign in text) / sum(map(len, texts))
    say(f"{len(texts)} texts, {beyond:.2%} of characters beyond ASCII")
    return [
        _speed("repair: speed on mostly ASCII", megabytes_a_second(RepairUnicode().apply, texts), ">= 20"),
        _share("repair: as ftfy on the whole text", same, len(texts)),
    ]


def prose() -> list[str]:
    """Texts of the language reference that comes with Python, a paragraph a line."""
    texts = pydoc_data.topics.topics.values()
    return ["\n".join(" ".join(part.split()) for part in text.split("\n\n")) for text in texts]


def code() -> list[str]:
    """Every sixth module of Python's own library."""
    return [one.text for one in PythonStdlib().documents() if isinstance(one, Document)][::6]


def sow(text: str, chance: random.Random) -> str:
    """The text with items of personal data between its lines."""
    lines = text.split("\n")
    for _ in range(round(len(text) / ITEM_CHARACTERS + chance.uniform(-0.5, 0.5))):
        lines.insert(chance.randrange(len(lines) + 1), planted(chance, chance.choice(KINDS)).text)
    return "\n".join(lines)


def typeset(text: str, chance: random.Random) -> str:
    """The text with curly quotes, dashes and accents here and there."""
    pieces, reached = list[str](), 0
    while reached < len(text):
        step = chance.randrange(1, 2 * FOREIGN_CHARACTERS)
        pieces += [text[reached : reached + step], chance.choice(["’", "“", "”", "—", "é", "…"])]
        reached += step
    return "".join(pieces)


def megabytes_a_second(step: Callable[[Text], object], texts: Sequence[str]) -> list[float]:
    """Of UTF-8, by the processor's time of one core; once for each repeat."""
    size = sum(len(text.encode()) for text in texts)
    return [size / 1e6 / _seconds(step, [Text(text) for text in texts]) for _ in range(REPEATS)]


def _seconds(step: Callable[[Text], object], texts: Sequence[str]) -> float:
    begun = time.process_time()
    for text in texts:
        step(text)  # type: ignore[arg-type]
    return time.process_time() - begun


def _share(name: str, part: int, whole: int, must: str | None = None) -> Figure:
    interval = binomtest(part, max(1, whole)).proportion_ci(method="wilson")
    return Figure(BENCH, name, part / max(1, whole), float(interval.low), float(interval.high), "share", must)


def _speed(name: str, speeds: list[float], must: str, aim: str | None = None) -> Figure:
    return Figure(BENCH, name, median(speeds), min(speeds), max(speeds), "MB/s/core", must, aim)
