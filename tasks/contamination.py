"""Documents that hold what a model will be judged by: runs of words as they stand in evaluation texts."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field

from tasks.artifacts import InputError
from tasks.documents import Document
from tasks.shingles import Hashes, Numbers, groups, runs, words
from tasks.source import Column, Files
from tasks.text import Filter, Text
from training.config import Choice

WORDS, LEAST_WORDS = 13, 8  # Brown et al. 2020, appendix C
SHORT_SHARE = 0.05  # of evaluation texts may have fewer words than are compared: the same
BITS_A_RUN = 16  # of the table that is asked first; one run in 16 of those not held gets past it
T = TypeVar("T")


@dataclass(frozen=True)
class Index:
    """The runs of words of some texts: 10 to 12 bytes a run, and safe to pickle."""

    words: int  # in a run
    hashes: Hashes  # of the runs: sorted, each once
    table: npt.NDArray[np.uint8]  # bits: whether any hash begins with these bits
    lengths: Numbers  # words of each text that it was made of

    @classmethod
    def of(cls, texts: Iterable[str], length: int = WORDS, most_texts: int | None = None) -> "Index":
        """The runs of `length` words of the texts, without those that are in over `most_texts` of them."""
        found, lengths = [np.empty(0, np.uint64)], list[int]()
        for text in texts:
            counted = words([text])
            lengths.append(len(counted.hashes))
            found.append(np.unique(runs(counted, length).hashes))
        hashes, counts = np.unique(np.concatenate(found), return_counts=True)
        if most_texts is not None:
            hashes = hashes[counts <= most_texts]
        bits = max(3, int(BITS_A_RUN * len(hashes)).bit_length())
        table = np.zeros(2**bits, bool)
        table[hashes >> np.uint64(64 - bits)] = True
        return cls(length, hashes, np.packbits(table, bitorder="little"), np.array(lengths, np.int64))

    def hits(self, texts: Sequence[str]) -> Numbers:
        """int64 [texts]: how many runs of each text are in the index, repeats included.

        Case, punctuation and blanks do not count; see `tasks.shingles`.
        """
        found = [np.empty(0, np.int64)]
        for group in groups(texts):
            hashes, starts = runs(words(group), self.words)
            found.append(np.diff(self._places(hashes).searchsorted(starts)))
        return np.concatenate(found)

    def _places(self, hashes: Hashes) -> Numbers:
        """Where hashes are that the index holds; nearly all others are told by a table in a core's cache."""
        slots = hashes >> np.uint64(64 - (8 * len(self.table) - 1).bit_length())
        bits = (slots & np.uint64(7)).astype(np.uint8)
        likely: Numbers = np.flatnonzero(self.table[slots >> np.uint64(3)] >> bits & 1)
        if not len(likely):
            return likely
        asked = hashes[likely]
        found = self.hashes.searchsorted(asked)
        found[found == len(self.hashes)] = 0
        held: Numbers = likely[self.hashes[found] == asked]
        return held


class Contamination(Filter, Choice):
    """Drops documents with words of evaluation texts, on which a model would only show its memory."""

    kind: Literal["contamination"] = "contamination"
    paths: Annotated[
        tuple[str, ...], BeforeValidator(lambda paths: (paths,) if isinstance(paths, str) else paths)
    ] = Field(
        min_length=1,
        description="Files, folders and globs with the evaluation texts, read as a source's files are.",
    )
    text_column: Column = Field(
        default="text", description="Column of a table that holds what must not be trained on."
    )
    words: int = Field(
        default=WORDS,
        ge=LEAST_WORDS,
        le=100,
        description="So many words in a row, as they stand in an evaluation text, are no accident. Fewer find texts"
        " that are quoted in part, and drop documents for common phrases.",
    )
    allowed: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="Documents with more such runs go. Above 0, those stay that quote a line; a quotation of so"
        " many words more than a run's counts as so many runs.",
    )
    most_texts: int | None = Field(
        default=None,
        ge=1,
        le=10**9,
        description="Runs that are in more evaluation texts are ignored, as instructions and licences are. Where"
        " many questions are asked of one passage, the passage is ignored too. Empty: none are.",
    )

    def reason(self, text: Text) -> str | None:
        """Why the text is dropped, or None. Raises InputError where `check` would."""
        if self._index().hits([text])[0] <= self.allowed:
            return None
        over = f"over {self.allowed} runs of " if self.allowed else ""
        return f"{over}{self.words} words as in an evaluation text"

    def fingerprint(self) -> str:
        """Names the settings and the content of the files, as they were when this object was first asked."""
        return self._named

    @cached_property
    def _named(self) -> str:
        return _in_own_words(self._files().fingerprint)

    def check(self) -> None:
        """Raises InputError for missing files or columns, and for texts that are too short to be found."""
        _in_own_words(self._files().check)
        self._index()

    def _files(self) -> Files:
        return Files(paths=self.paths, text_column=self.text_column)

    def _index(self) -> Index:
        return _index(self._files(), self.words, self.most_texts, self._named)


@lru_cache(maxsize=4)
def _index(files: Files, length: int, most_texts: int | None, fingerprint: str) -> Index:
    """The index of the files while they have this content, made once in a process."""
    texts = (one.text for one in files.documents() if isinstance(one, Document))
    made = Index.of(texts, length, most_texts)
    if files.fingerprint() != fingerprint:
        raise InputError(
            f"contamination.paths: {', '.join(files.paths)} changed during the run; start it again."
        )
    short = int(np.sum(made.lengths < length))
    if not len(made.hashes) or (short > SHORT_SHARE * len(made.lengths) and length > LEAST_WORDS):
        fitting = (
            max(LEAST_WORDS, int(np.quantile(made.lengths, SHORT_SHARE))) if len(made.lengths) else length
        )
        remedy = f"set contamination.words to {fitting}"
        if fitting >= length or made.lengths.max() < fitting:
            remedy = "name longer texts"
        raise InputError(
            f"contamination.paths: {short:,} of {len(made.lengths):,} texts in {', '.join(files.paths)} have fewer"
            f" than {length} words, and cannot be found in documents: {remedy}."
        )
    return made


def _in_own_words(asked: Callable[[], T]) -> T:
    """The answer of a source's files; what is wrong with them is said of this section's fields."""
    try:
        return asked()
    except InputError as wrong:
        raise InputError(str(wrong).replace("source.", "contamination.")) from None
