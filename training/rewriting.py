"""What tells whole documents in other words, before a training: each copy is made once, and kept."""

import hashlib
import re
from abc import abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
from pydantic import Field

from training.config import Choice

WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
Rewriter = Callable[[Sequence[str], np.random.Generator], list[str]]


class Rewriting(Choice):
    """Documents in other words, as copies that a training reads instead of them."""

    copies: int = Field(
        default=4,  # Wei and Zou 2019, table 3, for 5,000 documents and more
        ge=1,
        le=64,
        description="Copies made of each train document, before the training. More take as much longer to make;"
        " 16 help where there are a few hundred documents.",
    )
    documents: float = Field(
        default=0.5,  # by eye
        gt=0,
        le=1,
        description="Share of documents read as one of their copies, others each time that they are seen.",
    )

    def maker(self) -> str:
        """16 hexadecimal digits for all that the copies hang on but texts and files."""
        told = self.model_dump_json(exclude={"documents"})
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    @abstractmethod
    def sources(self) -> tuple[str, ...]:
        """The files, folders and names on the Hub that are read."""

    @abstractmethod
    def check(self) -> None:
        """Raises ValueError, saying what to do, where what it needs is not there or does not serve."""

    @abstractmethod
    def rewriter(self, device: str) -> Rewriter:
        """What makes a copy of each text, other ones for other dice. Raises ValueError as `check` does."""


def spliced(text: str, spans: Sequence[tuple[int, int]], others: Sequence[str]) -> str:
    """The text with these spans, which rise, replaced; each as large or small as what it stands for."""
    pieces, end = list[str](), 0
    for (start, stop), other in zip(spans, others, strict=True):
        pieces += [text[end:start], cased_as(text[start:stop], other)]
        end = stop
    return "".join([*pieces, text[end:]])


def cased_as(word: str, other: str) -> str:
    """`other` in capitals, or with a capital, where `word` is."""
    if word.isupper() and len(word) > 1:
        return other.upper()
    return other[:1].upper() + other[1:] if word[:1].isupper() else other


def how_many(share: float, words: int, able: int) -> int:
    """Words to replace: this share of all, one at least, of those that can be."""
    return min(able, max(1, round(share * words)))
