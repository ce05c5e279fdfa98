"""Texts to 64-bit hashes of their words, and of runs of words: the same on every machine, in every process.

A word is a run of letters and digits, in lower case; punctuation, symbols and blanks only separate words.
In scripts that are written without blanks (Chinese, Japanese, Thai, Lao, Burmese, Khmer) each character
counts as a word, so that five words are five characters: what Leskovec, Rajaraman and Ullman take for
short documents (Mining of Massive Datasets, 3.2.2). By eye; such texts are compared more leniently, as
five characters say less than five words. In other scripts without blanks, what stands between two marks
of punctuation counts as one word.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]
Classes = npt.NDArray[np.uint8]

GROUP_CHARACTERS = 2**16  # hashed at once: its arrays of 64 bits stay in a core's cache
LONGEST_WORD = 2**10  # characters; what goes on beyond is another word, so that memory is bounded

# Odd, and drawn once from the fractional part of pi: any such would do.
LETTER_BASE, WORD_BASE = 0x243F6A8885A308D3, 0x13198A2E03707345
MASK = 2**64 - 1
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))

SEPARATOR, LETTER, ALONE = range(3)
# First and last code points. They are written out, as `unicodedata` learns new ones with each Python.
SEPARATORS = (
    (0x00, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0xA9), (0xAB, 0xB4), (0xB6, 0xB9), (0xBB, 0xBF),
    (0xD7, 0xD7), (0xF7, 0xF7), (0x37E, 0x37E), (0x387, 0x387), (0x55A, 0x55F), (0x589, 0x58A), (0x5BE, 0x5BE),
    (0x5C0, 0x5C0), (0x5C3, 0x5C3), (0x5F3, 0x5F4), (0x600, 0x60F), (0x61B, 0x61F), (0x66A, 0x66D),
    (0x6D4, 0x6D4), (0x964, 0x965), (0xE2F, 0xE2F), (0xE5A, 0xE5B), (0xF0B, 0xF14), (0x104A, 0x104F),
    (0x1361, 0x1368), (0x1680, 0x1680), (0x17D4, 0x17DB), (0x2000, 0x206F), (0x20A0, 0x20CF), (0x2190, 0x2BFF),
    (0x2E00, 0x2E7F), (0x3000, 0x3004), (0x3008, 0x303F), (0x30A0, 0x30A0), (0x30FB, 0x30FB),
    (0xFE10, 0xFE1F), (0xFE30, 0xFE6F), (0xFEFF, 0xFEFF), (0xFF00, 0xFF0F), (0xFF1A, 0xFF20), (0xFF3B, 0xFF40),
    (0xFF5B, 0xFF65), (0xFFF0, 0xFFFF), (0x1F000, 0x1FAFF),
)  # fmt: skip
UNSPACED = (
    (0xE00, 0xEFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3007), (0x3040, 0x312F), (0x31F0, 0x31FF),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x20000, 0x323AF),
)  # fmt: skip


class Ragged(NamedTuple):
    """Hashes of several texts, one after the other: those of text `i` are `hashes[starts[i]:starts[i + 1]]`."""

    hashes: Hashes
    starts: Numbers  # [texts + 1]


def groups(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts in order, in runs of about GROUP_CHARACTERS; they are drawn as they are needed."""
    group, characters = list[str](), 0
    for text in texts:
        if characters and characters + len(text) > GROUP_CHARACTERS:
            yield group
            group, characters = [], 0
        group.append(text)
        characters += len(text)
    if group:
        yield group


def words(texts: Sequence[str]) -> Ragged:
    """The hash of each word of each text; best on a group of `groups`. Lone surrogates count as letters."""
    lowered = [text.lower() for text in texts]
    joined = "\n".join(["", *lowered, ""])
    plain = joined.isascii()
    if plain:
        data = joined.encode("ascii")
        codes, classes = (
            np.frombuffer(data, np.uint8),
            np.frombuffer(data.translate(_PLAIN_CLASSES), np.uint8),
        )
    else:
        codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), "<u4")
        classes = _CLASSES[codes]
    starts, ends = _bounds(classes, not plain)
    hashes = np.empty(len(starts), np.uint64)
    powers, inverses = _powers()
    for low, high in _pieces(starts, len(codes)):
        origin = int(starts[low])
        first, last = starts[low:high] - origin, ends[low:high] - origin
        sums = np.zeros(int(last[-1]) + 1, np.uint64)
        np.cumsum(codes[origin : origin + len(sums) - 1] * powers[: len(sums) - 1], out=sums[1:])
        hashes[low:high] = (sums[last] - sums[first]) * inverses[first]
    borders = np.array([0, *accumulate(len(text) + 1 for text in lowered)])
    return Ragged(mixed(hashes), starts.searchsorted(borders))


def runs(found: Ragged, length: int, shorter: bool = False) -> Ragged:
    """The hash of each `length` words in a row within a text, in order and with repeats.

    A text with fewer has none; if `shorter`, it has one of all its words, unless it has no word.
    """
    if len(found.starts) == 2 and not shorter:  # of one text all
        inside = mixed(_sums_of_runs(found.hashes, length))
        return Ragged(inside, np.array([0, len(inside)]))
    counts = np.diff(found.starts)
    begins, ends = found.starts[:-1], found.starts[1:]
    full = np.zeros(len(found.hashes), np.uint64)
    inside = _sums_of_runs(found.hashes, length)
    full[: len(inside)] = inside
    keep = np.ones(length - 1 + len(full), bool)  # the last ones of a short text are another's, or before all
    keep[ends[:, None] + np.arange(length - 1)] = False
    keep = keep[length - 1 :]
    each = np.maximum(counts - length + 1, 0)
    if shorter:
        few = np.flatnonzero((counts > 0) & (counts < length))
        for at in few.tolist():
            full[begins[at]] = _sums_of_runs(found.hashes[begins[at] : ends[at]], int(counts[at]))[0]
        keep[begins[few]] = True
        each[few] = 1
    return Ragged(mixed(full[keep]), np.concatenate(([0], np.cumsum(each))))


def _bounds(classes: Classes, any_script: bool) -> tuple[Numbers, Numbers]:
    """Where words begin and end (exclusive); a separator stands first and last."""
    before, after = classes[:-1], classes[1:]
    if any_script and ALONE in classes:
        begins = (after == ALONE) | ((after == LETTER) & (before != LETTER))
        finishes = (before == ALONE) | ((before == LETTER) & (after != LETTER))
        starts, ends = begins.nonzero()[0] + 1, finishes.nonzero()[0] + 1
    else:
        edges = (before != after).nonzero()[0] + 1
        starts, ends = edges[::2], edges[1::2]
    if len(classes) > LONGEST_WORD and (ends - starts).max(initial=0) > LONGEST_WORD:
        return _cut(starts, ends)
    return starts, ends


def _pieces(starts: Numbers, characters: int) -> Iterator[tuple[int, int]]:
    """Runs of words that begin within GROUP_CHARACTERS: the first and the one behind the last."""
    if characters <= GROUP_CHARACTERS:
        cuts = [0, len(starts)]
    else:
        cuts = starts.searchsorted(range(0, characters + GROUP_CHARACTERS, GROUP_CHARACTERS)).tolist()
    return ((low, high) for low, high in pairwise(cuts) if low < high)


def _cut(starts: Numbers, ends: Numbers) -> tuple[Numbers, Numbers]:
    """The same words, those longer than LONGEST_WORD in pieces of it."""
    pieces = -(-(ends - starts) // LONGEST_WORD)
    first = np.cumsum(pieces) - pieces
    begins = np.repeat(starts - first * LONGEST_WORD, pieces) + np.arange(pieces.sum()) * LONGEST_WORD
    return begins, np.minimum(begins + LONGEST_WORD, np.repeat(ends, pieces))


def _sums_of_runs(hashes: Hashes, length: int) -> Hashes:
    """The sum over k of `hashes[i + k] * WORD_BASE**k`, k below `length`, for each i that has so many: modulo 2**64.

    By doubling: a run of 13 is one of 8, one of 4 and one more.
    """
    whole, done, block, size = np.zeros(len(hashes) + 1, np.uint64), 0, hashes, 1
    while True:
        if length & size:
            shifted = block[done:] * np.uint64(pow(WORD_BASE, done, MASK + 1))
            whole = whole[: len(shifted)] + shifted
            done += size
        if done == length:
            return whole
        block = block[:-size] + block[size:] * np.uint64(pow(WORD_BASE, size, MASK + 1))
        size *= 2


def mixed(hashes: Hashes) -> Hashes:
    """Each bit hangs on all: without it, sums of hashes would not tell texts with swapped parts apart (splitmix64)."""
    hashes = (hashes ^ (hashes >> _SHIFTS[0])) * _FACTORS[0]
    hashes ^= hashes >> _SHIFTS[1]
    hashes *= _FACTORS[1]
    hashes ^= hashes >> _SHIFTS[2]
    return hashes


@lru_cache(maxsize=1)
def _powers() -> tuple[Hashes, Hashes]:
    """Powers of LETTER_BASE and of its inverse modulo 2**64."""
    length = GROUP_CHARACTERS + LONGEST_WORD
    bases = (LETTER_BASE, pow(LETTER_BASE, -1, MASK + 1))
    first, second = (np.cumprod(np.full(length, base, np.uint64), dtype=np.uint64) for base in bases)
    return first, second


def _classes() -> Classes:
    """SEPARATOR, LETTER or ALONE for each code point."""
    found = np.full(0x110000, LETTER, np.uint8)
    for kind, spans in ((ALONE, UNSPACED), (SEPARATOR, SEPARATORS)):
        for first, last in spans:
            found[first : last + 1] = kind
    return found


_CLASSES = _classes()
_PLAIN_CLASSES = _CLASSES[:256].tobytes()
