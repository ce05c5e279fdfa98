"""The published rules for prose from the web: which documents, and which of their lines, are worth learning.

They decide as datatrove's filters of the same names do for English. Documentation, tables and code break
them without being worse for it.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from tasks.text import LETTERS, SENTENCE_ENDS, SYMBOLS, Filter, Outcome, Text, repeated_phrases, top_phrase
from training.config import AnyOf, Choice

Share = Annotated[float, Field(ge=0, le=1)]

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))  # Rae et al. 2021
STOP_HASHES = np.array(list(map(hash, STOP_WORDS)))
TOP = 4  # words of the longest phrase of which the most frequent counts; of longer ones, all that repeat
MULTIPLIER = 6364136223846793005  # of hashes, Knuth's for 64 bits; products wrap around

# As in the code that made C4: tensorflow_datasets, text/c4_utils.py
LINE_ENDS = (".", "?", "!", '"', "'")
CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
LOREM, SCRIPT = "lorem ipsum", "javascript"
POLICIES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)


class GopherQuality(Filter, Choice):
    """Drops what does not read like prose: too short, of odd words, all symbols, lists or cut-off lines.

    Rae et al. 2021 (arXiv 2112.11446), appendix A1.1.
    """

    kind: Literal["gopher_quality"] = "gopher_quality"
    least_words: int = Field(default=50, ge=0, le=10**5, description="Fewer drop it: at 50, stubs and menus.")
    most_words: int = Field(
        default=10**5, ge=1, le=10**9, description="More drop it: at 100,000, books and dumps."
    )
    least_word_length: float = Field(
        default=3, ge=0, le=100, description="A smaller mean drops it: letters one by one, columns of digits."
    )
    most_word_length: float = Field(
        default=10, ge=1, le=10**9, description="A larger mean drops it: addresses, identifiers, no blanks."
    )
    symbols_per_word: float = Field(
        default=0.1, ge=0, le=1, description="More hash signs, or more ellipses, to a word drop it."
    )
    bullet_lines: Share = Field(
        default=0.9, description="A larger share of lines with a bullet first drops it."
    )
    ellipsis_lines: Share = Field(
        default=0.3, description="A larger share of lines that break off ... drops it."
    )
    words_with_letters: Share = Field(
        default=0.8, description="A smaller share drops it. Marks count as words: at 0.8, code goes."
    )
    stop_words: int = Field(
        default=2,
        ge=0,
        le=len(STOP_WORDS),
        description="Fewer of the, be, to, of, and, that, have, with drop it; above 0, other languages go.",
    )

    def reason(self, text: Text) -> str | None:
        """Why the text is dropped, or None."""
        words, lines = text.words, text.splitlines()
        if not len(words):
            return "no words"
        real = words["size"][words["kind"] & SYMBOLS == 0]
        if len(real) < self.least_words:
            return f"under {self.least_words} words"
        if len(real) > self.most_words:
            return f"over {self.most_words} words"
        length = real.sum() / max(1, len(real))
        if length < self.least_word_length:
            return f"mean word length under {self.least_word_length:g}"
        if length > self.most_word_length:
            return f"mean word length over {self.most_word_length:g}"
        if text.count("#") / len(words) > self.symbols_per_word:
            return f"over {self.symbols_per_word:g} hash signs to a word"
        ellipses = text.count("...") + text.count("…")
        if ellipses / len(words) > self.symbols_per_word:
            return f"over {self.symbols_per_word:g} ellipses to a word"
        bullets = sum(line.lstrip().startswith(("•", "-")) for line in lines)
        if bullets / len(lines) > self.bullet_lines:
            return f"over {self.bullet_lines:.0%} of lines start with a bullet"
        broken = sum(line.rstrip().endswith(("...", "…")) for line in lines) if ellipses else 0
        if broken / len(lines) > self.ellipsis_lines:
            return f"over {self.ellipsis_lines:.0%} of lines end in an ellipsis"
        if np.count_nonzero(words["kind"] & LETTERS) / len(words) < self.words_with_letters:
            return f"under {self.words_with_letters:.0%} of words have a letter"
        if len(STOP_WORDS.intersection(text.runs)) >= self.stop_words:  # where none has a mark at its end
            return None
        found = np.count_nonzero(np.isin(STOP_HASHES, words["hash"]))
        return f"under {self.stop_words} stop words" if found < self.stop_words else None


class GopherRepetition(Filter, Choice):
    """Drops what says the same over and over: lines, paragraphs or phrases.

    Rae et al. 2021 (arXiv 2112.11446), table A1. Two sequences of words are the same where 64-bit hashes are.
    """

    kind: Literal["gopher_repetition"] = "gopher_repetition"
    paragraphs: Share = Field(default=0.30, description="A larger share of repeated paragraphs drops it.")
    paragraph_characters: Share = Field(default=0.20, description="The same by the paragraphs' characters.")
    lines: Share = Field(default=0.30, description="A larger share of repeated lines drops it: menus.")
    line_characters: Share = Field(default=0.20, description="The same by the lines' characters.")
    top_phrases: tuple[Share, Share, Share] = Field(
        default=(0.20, 0.18, 0.16),
        description="If the most frequent phrase of 2, 3 or 4 words makes up a larger share of the characters, the"
        " document is dropped: keywords stuffed in. Short documents come near these shares by chance.",
    )
    repeated_phrases: tuple[Share, Share, Share, Share, Share, Share] = Field(
        default=(0.15, 0.14, 0.13, 0.12, 0.11, 0.10),
        description="If repeated phrases of 5, 6, 7, 8, 9 or 10 words make up a larger share of the characters, the"
        " document is dropped: templates, logs, licenses with clauses in common.",
    )

    def reason(self, text: Text) -> str | None:
        """Why the text is dropped, or None."""
        if not text:
            return "empty"
        repeated, characters = _repeated(_paragraphs(text))
        if repeated > self.paragraphs:
            return f"over {self.paragraphs:.0%} of paragraphs repeat"
        if characters / len(text) > self.paragraph_characters:
            return f"over {self.paragraph_characters:.0%} of characters in repeated paragraphs"
        repeated, characters = _repeated(_lines(text))
        if repeated > self.lines:
            return f"over {self.lines:.0%} of lines repeat"
        if characters / len(text) > self.line_characters:
            return f"over {self.line_characters:.0%} of characters in repeated lines"
        return self._of_phrases(text)

    def _of_phrases(self, text: Text) -> str | None:
        hashes, characters = text.words["hash"].copy(), len(text)
        starts = np.zeros(len(hashes) + 1, np.int64)  # of words, in characters without blanks
        np.cumsum(text.words["size"], out=starts[1:])
        phrases, times = hashes, len(hashes)
        for n in range(2, min(len(hashes), TOP + len(self.repeated_phrases)) + 1):
            phrases = phrases[:-1] * MULTIPLIER + hashes[n - 1 :]
            sizes = starts[n:] - starts[:-n]
            if n <= TOP:  # a phrase is there no more often than what it begins with
                share = self.top_phrases[n - 2]
                times, top = top_phrase(phrases, sizes + (n - 1), int(share * characters), times)
                if top / characters > share:
                    return f"over {share:.0%} of characters in one phrase of {n} words"
                continue
            share, least = self.repeated_phrases[n - TOP - 1], min(self.repeated_phrases[n - TOP - 1 :])
            at_most, repeated = repeated_phrases(phrases, sizes, n, least * characters)
            if at_most <= least * characters:
                return None  # longer phrases that repeat cover no more than these do
            if repeated / characters > share:
                return f"over {share:.0%} of characters in repeated phrases of {n} words"
        return None


class C4Quality(Choice):
    """Drops lines that are no sentences and documents with few of them, and what is no prose at all.

    Raffel et al. 2020 (JMLR 21/140), section 2.2, without the list of bad words; citation marks are removed,
    and lines about JavaScript or the site's terms dropped.
    """

    kind: Literal["c4_quality"] = "c4_quality"
    least_sentences: int = Field(
        default=5, ge=0, le=10**5, description="Fewer on the lines that are left drop the document; 0: never."
    )
    least_words_per_line: int = Field(
        default=3, ge=0, le=1000, description="Lines with fewer are dropped: headings, buttons, blank lines."
    )
    longest_word: int = Field(
        default=1000, ge=10, le=10**9, description="Lines with a longer word are dropped."
    )
    end_punctuation: bool = Field(
        default=True,
        description="Drops lines that end in no mark, or in an ellipsis. It takes most of what C4 drops, all headings"
        " and lists with it; FineWeb (Penedo et al. 2024) leaves it off.",
    )
    curly_brackets: bool = Field(
        default=True, description="Drops documents with a curly bracket: code, and prose about it."
    )

    def apply(self, text: Text) -> Outcome:
        """The lines that are left, blanks at their ends removed; or the reason."""
        lower = text.lower()
        noticed = any(map(lower.__contains__, (LOREM, SCRIPT, *POLICIES)))
        faults: set[str] = set()
        kept: list[str] = []
        for whole in map(str.strip, text.splitlines()):
            line = CITATION.sub("", whole) if "[" in whole else whole
            fault = self._fault(line, whole)
            if not fault and self.curly_brackets and "{" in line and SCRIPT not in line.lower():
                return Outcome(text, reason="curly bracket")
            if not fault and noticed:
                fault = _notice(line.lower())
                if fault == LOREM:
                    return Outcome(text, reason=LOREM)
            if fault:
                faults.add(fault)
            else:
                kept.append(line)
        if not _has_sentences(kept, self.least_sentences):
            return Outcome(text, reason=f"under {self.least_sentences} sentences")
        left = "\n".join(kept).strip()
        if left == text:
            return Outcome(text)
        changes = sorted(f"lines dropped: {fault}" for fault in faults)
        return Outcome(Text(left), tuple(changes) or ("blanks or citations removed",))

    def _fault(self, line: str, whole: str) -> str | None:
        """Why a line goes, by its form; `whole` has its citations still."""
        longest = self.longest_word
        if len(whole) > longest and any(len(run) > longest for run in whole.split()):
            return f"a word over {longest} characters"
        if self.end_punctuation and (not line.endswith(LINE_ENDS) or line.endswith("...")):
            return "no punctuation at their end"
        least = self.least_words_per_line
        return f"under {least} words" if least and len(whole.split(None, least - 1)) < least else None


class FineWebQuality(Filter, Choice):
    """Drops lists, menus and repeated lines, by the shape of lines alone.

    Penedo et al. 2024 (arXiv 2406.17557), section 3.6.
    """

    kind: Literal["fine_web_quality"] = "fine_web_quality"
    punctuated_lines: Share = Field(
        default=0.12, description="A smaller share of lines that end a sentence drops it: menus, code."
    )
    short_lines: Share = Field(
        default=0.67, description="A larger share of short lines drops it: lists, verse."
    )
    short_line_length: int = Field(
        default=30, ge=0, le=10**5, description="Up to so many characters, a line is short."
    )
    repeated_characters: Share = Field(
        default=0.01, description="A larger share of characters in repeated lines drops it; 1: never."
    )
    newlines_per_word: float = Field(
        default=0.3, ge=0, le=10, description="More drop it: lists with a few words a line."
    )

    def reason(self, text: Text) -> str | None:
        """Why the text is dropped, or None."""
        lines = [line for line in text.lines if line and not line.isspace()]
        if not lines:
            return "empty"
        if sum(line[-1] in SENTENCE_ENDS for line in lines) / len(lines) < self.punctuated_lines:
            return f"under {self.punctuated_lines:.0%} of lines end a sentence"
        if sum(len(line) <= self.short_line_length for line in lines) / len(lines) > self.short_lines:
            return f"over {self.short_lines:.0%} of lines are short"
        newlines = len(text.lines) - 1
        if _repeated(lines)[1] / (len(text) - newlines) > self.repeated_characters:
            return f"over {self.repeated_characters:.0%} of characters in repeated lines"
        most = self.newlines_per_word  # there are no fewer words than runs, which are known sooner
        if newlines / len(text.runs) > most and newlines / len(text.words) > most:
            return f"over {most:g} line ends to a word"
        return None


def _repeated(pieces: Sequence[str]) -> tuple[float, int]:
    """The share of pieces that were there before, and how many characters they have."""
    repeated = len(pieces) - len(different := set(pieces))
    characters = sum(map(len, pieces)) - sum(map(len, different)) if repeated else 0
    return repeated / len(pieces), characters


def _paragraphs(text: str) -> list[str]:
    """What two line ends or more part."""
    pieces = text.strip().split("\n\n")
    return [piece.lstrip("\n") for piece in pieces if piece.strip("\n")] or [""]


def _lines(text: Text) -> list[str]:
    """What line ends part, blank lines passed over; one at either end of the text leaves an empty line there."""
    ends = [""] * (text.startswith("\n") + text.endswith("\n"))
    return [line for line in text.lines if line] + ends


def _has_sentences(lines: Sequence[str], least: int) -> bool:
    """Whether the lines, each of which has one sentence or more, have so many."""
    number = sum(map(bool, lines))
    for line in lines:
        if number >= least:
            break
        number += max(0, Text(line).sentences - 1)
    return number >= least


def _notice(line: str) -> str | None:
    """What a line of lower-case letters is about, where it is no text."""
    if LOREM in line or SCRIPT in line:
        return LOREM if LOREM in line else "JavaScript"
    return "terms, privacy or cookies" if any(map(line.__contains__, POLICIES)) else None


Quality = Annotated[
    GopherQuality | GopherRepetition | C4Quality | FineWebQuality, Field(discriminator="kind"), AnyOf()
]
