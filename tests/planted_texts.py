"""Texts with near-duplicates and contamination planted among them, and the exact truth of what was planted."""

import random
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass, field

SHINGLE = 5
PAUSES = (" ",) * 12 + (", ", ". ", "; ", "\n", " - ")


@dataclass
class PlantedTexts:
    """Texts in a random order, and the Jaccard similarity of each pair that was planted, by their numbers."""

    texts: list[str]
    similar: dict[tuple[int, int], float] = field(default_factory=dict)


def vocabulary(dice: random.Random, words: int = 20_000) -> list[str]:
    """Made-up words, each another."""
    found = set[str]()
    while len(found) < words:
        found.add("".join(dice.choices(string.ascii_lowercase, k=dice.randint(2, 9))))
    return sorted(found)


def written(dice: random.Random, words: Sequence[str]) -> str:
    """The words as a text, with punctuation and capitals that must not matter."""
    return "".join(
        (word.capitalize() if dice.random() < 0.1 else word) + dice.choice(PAUSES) for word in words
    )


def shingle_tuples(text: str) -> set[tuple[str, ...]]:
    """The runs of five words, by a way of its own."""
    words = re.findall("[a-z0-9]+", text.lower())
    if not words:
        return set()
    return {tuple(words[at : at + SHINGLE]) for at in range(max(1, len(words) - SHINGLE + 1))}


def exact_jaccard(first: str, second: str) -> float:
    """The Jaccard similarity of the sets of shingles; of two empty texts 1."""
    left, right = shingle_tuples(first), shingle_tuples(second)
    return len(left & right) / len(left | right) if left or right else 1.0


def copy_pair(dice: random.Random, known: Sequence[str], planned: float) -> tuple[list[str], list[str]]:
    """Words of a text and of its copy, of about the planned similarity: words are replaced, inserted and left out.

    Where words are only replaced (every third pair), the similarity is exactly the planned one, if it is a
    fraction of small numbers: so are pairs at a threshold made.
    """
    edits = dice.randint(1, 1 + int(30 * (1 - planned))) if planned < 1 else 0
    shingles = round(SHINGLE * edits * (1 + planned) / (1 - planned)) if edits else dice.randint(20, 900)
    words = dice.choices(known, k=shingles + SHINGLE - 1)
    copy = list(words)
    room = (len(words) - 2 * SHINGLE) // max(1, edits)
    only_replace = dice.random() < 1 / 3
    for edit in reversed(range(edits)):
        at = SHINGLE + edit * room + dice.randrange(max(1, room - SHINGLE))
        kind = 0 if only_replace else dice.randrange(3)
        copy[at : at + (kind != 1)] = [] if kind == 2 else [dice.choice(known)]
    return words, copy


def planted_texts(
    pairs: int, singles: int, seed: int, low: float = 0.5, at: float = 0.8, template_words: int = 0
) -> PlantedTexts:
    """Pairs of planned similarity from `low` to 1, every fourth exactly `at`, among texts that are like none.

    With a template, each text begins with the same so many words, and the similarity of the pairs rises.
    """
    dice = random.Random(seed)
    known = vocabulary(dice)
    template = dice.choices(known, k=template_words)
    written_texts = [
        written(dice, template + dice.choices(known, k=dice.randint(template_words or 1, 400)))
        for _ in range(singles)
    ]
    couples = []
    for number in range(pairs):
        planned = at if number % 4 == 0 else dice.uniform(low, 0.98) if number % 16 > 1 else 1.0
        couple = [written(dice, template + words) for words in copy_pair(dice, known, planned)]
        couples.append((len(written_texts), len(written_texts) + 1, exact_jaccard(*couple)))
        written_texts += couple
    place = list(range(len(written_texts)))
    dice.shuffle(place)
    texts = [""] * len(written_texts)
    for number, text in zip(place, written_texts, strict=True):
        texts[number] = text
    similar = {(min(place[i], place[j]), max(place[i], place[j])): found for i, j, found in couples}
    return PlantedTexts(texts, similar)
