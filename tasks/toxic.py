"""A filter by the user's own list of words and phrases."""

import re
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import Field, model_validator

from tasks.artifacts import InputError
from tasks.documents import digest
from tasks.text import Filter, Text
from training.config import Choice

WORD = re.compile(r"\w+")
# Scripts without blanks between words: there, an entry counts wherever it stands.
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


class WordList(NamedTuple):
    """Entries by their first word, longest first, and those that count wherever they stand."""

    phrases: dict[str, list[tuple[str, ...]]]
    anywhere: re.Pattern[str] | None

    def occurrences(self, text: str) -> tuple[int, int]:
        """How many entries occur in a text, and of how many words it is."""
        folded = text.casefold()
        words = WORD.findall(folded)
        found = len(self.anywhere.findall(folded)) if self.anywhere else 0
        if self.phrases.keys().isdisjoint(words):
            return found, len(words)
        for place in [place for place, word in enumerate(words) if word in self.phrases]:
            phrases = self.phrases[words[place]]
            found += any(tuple(words[place : place + len(phrase)]) == phrase for phrase in phrases)
        return found, len(words)


class ToxicWords(Filter, Choice):
    """Drops texts with too many words of a list, such as insults: whole words, in small or capital letters."""

    kind: Literal["toxic_words"] = "toxic_words"
    path: str = Field(
        min_length=1,
        description="A text file with a word or phrase a line. None comes with Shoestring: what offends depends on the"
        " readers, and public lists also drop medicine and the speech of minorities (Dodge et al. 2021).",
    )
    most: int | None = Field(
        default=0,
        ge=0,
        le=10_000,
        description="With more of them it is dropped. 0: for a single one, as C4 does (Raffel et al. 2020).",
    )
    share: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="If they are a larger share of its words it is dropped; spares long texts that quote one.",
    )

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.most is None and self.share is None:
            raise ValueError("give most or share: without either, nothing is dropped")
        return self

    def check(self) -> None:
        """Raises InputError for a list that is missing, is not UTF-8, or has no entries."""
        self._list()

    def fingerprint(self) -> str:
        """Names the list's content, which the settings do not tell."""
        self.check()
        return digest(Path(self.path))

    def reason(self, text: Text) -> str | None:
        """Why the text is dropped, or None. Raises InputError as `check` does."""
        found, words = self._list().occurrences(text)
        if self.most is not None and found > self.most:
            return f"over {self.most} words of {Path(self.path).name}"
        if self.share is not None and found > self.share * words:
            return f"over {self.share:.1%} words of {Path(self.path).name}"
        return None

    def _list(self) -> WordList:
        path = Path(self.path)
        try:
            facts = path.stat()
            return _read(path, facts.st_size, facts.st_mtime_ns)
        except OSError:
            raise InputError(
                f"The list of words {path} cannot be read: name a text file in its path."
            ) from None


@lru_cache(maxsize=16)
def _read(path: Path, size: int, changed_ns: int) -> WordList:
    """The list as it is at this size and time of change."""
    try:
        lines = path.read_text(encoding="utf-8-sig").casefold().splitlines()
    except UnicodeError:
        raise InputError(f"The list of words {path} is not UTF-8: save it as such.") from None
    entries = {line.strip() for line in lines if line.strip()}
    if not entries:
        raise InputError(f"The list of words {path} is empty: write a word or phrase a line.")
    anywhere = sorted(entry for entry in entries if UNSPACED.search(entry) or not WORD.search(entry))
    phrases = dict[str, list[tuple[str, ...]]]()
    for entry in entries.difference(anywhere):
        first, *rest = WORD.findall(entry)
        phrases.setdefault(first, []).append((first, *rest))
    pattern = (
        re.compile("|".join(map(re.escape, sorted(anywhere, key=len, reverse=True)))) if anywhere else None
    )
    return WordList(phrases, pattern)
