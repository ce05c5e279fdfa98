"""The fastest engine that spells as a tokenizer does: tiktoken where it can, tokenizers elsewhere."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as Backend
from tokenizers import pre_tokenizers

Ids = npt.NDArray[np.uint32]
Flags = npt.NDArray[np.bool_]
# What `ByteLevel(use_regex=True)` splits by: GPT-2's expression (Radford et al. 2019), written for tiktoken's matcher.
SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
# The same where \x00 divides texts, and \x01 the last of several blanks from those before it.
MARKED_SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}\x00\x01]+|\s+|[\x00\x01]"
BLANK = np.isin(np.arange(256), list(b"\t\n\v\f\r "))
WIDE_BLANK = re.compile("[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")  # \s beyond ASCII


class Engine(Protocol):
    """Texts to ids, without start tokens, and back."""

    def encode(self, texts: Sequence[str]) -> list[Ids]: ...
    def changed(self, encoded: Sequence[Ids], texts: Sequence[str]) -> Flags: ...


@dataclass(frozen=True)
class Slow:
    """The tokenizer itself; a text that spells a special token is text."""

    backend: Backend

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Each text's ids."""
        self.backend.encode_special_tokens = True
        encoded = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        self.backend.encode_special_tokens = False  # it may be saved, or used by others
        return [np.array(one.ids, np.uint32) for one in encoded]

    def changed(self, encoded: Sequence[Ids], texts: Sequence[str]) -> Flags:
        """bool [texts]: whose ids do not give back the text."""
        decoded = self.backend.decode_batch([ids.tolist() for ids in encoded], skip_special_tokens=False)
        return np.array([one != other for one, other in zip(decoded, texts, strict=True)], np.bool_)


class Fast:
    """Byte pairs by tiktoken, four times as fast on one core; see FACTS.

    Most texts are encoded together, as each call costs what 200 characters do, and without looking ahead,
    which takes a third of the time: what a blank's place depends on is marked before.
    """

    def __init__(self, ranks: dict[bytes, int]) -> None:
        import tiktoken

        self._ranks = ranks
        named = {"mergeable_ranks": ranks, "special_tokens": {}}
        self._engine = tiktoken.Encoding("shoestring", pat_str=SPLIT, **named)
        self._marked_engine = tiktoken.Encoding("shoestring, marked", pat_str=MARKED_SPLIT, **named)
        pieces = [b""] * (max(ranks.values()) + 1)
        for piece, number in ranks.items():
            pieces[number] = piece
        self._lengths = np.array([len(piece) for piece in pieces], np.int32)
        self._starts = np.cumsum(self._lengths, dtype=np.int32) - self._lengths
        self._bytes = np.frombuffer(b"".join(pieces), np.uint8)

    def __reduce__(self) -> tuple[type[Self], tuple[dict[bytes, int]]]:
        return type(self), (self._ranks,)

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Each text's ids."""
        usual = [_usual(text) for text in texts]
        together = iter(self._together([text for text, one in zip(texts, usual, strict=True) if one]))
        return [
            next(together) if one else self._engine.encode_to_numpy(text, disallowed_special=())
            for text, one in zip(texts, usual, strict=True)
        ]

    def _together(self, texts: Sequence[str]) -> list[Ids]:
        if not texts:
            return []
        marked = _marked("\0".join(texts).encode()).decode()
        ids = self._marked_engine.encode_to_numpy(marked, disallowed_special=())
        ids = ids[ids != self._ranks[b"\1"]]
        ends = np.flatnonzero(ids == self._ranks[b"\0"])
        return [ids[start:end] for start, end in zip([0, *ends + 1], [*ends, len(ids)], strict=True)]

    def changed(self, encoded: Sequence[Ids], texts: Sequence[str]) -> Flags:
        """bool [texts]: whose ids do not give back the text."""
        ids = np.concatenate([np.zeros(0, np.uint32), *encoded])
        lengths = self._lengths[ids]
        ends = np.concatenate([[0], np.cumsum(lengths)])
        places = np.repeat(self._starts[ids] - ends[:-1].astype(np.int32), lengths)
        places += np.arange(len(places), dtype=np.int32)
        decoded = self._bytes[places].tobytes()
        cuts = ends[np.cumsum([0, *map(len, encoded)])].tolist()
        spelt = (decoded[start:end] for start, end in pairwise(cuts))
        return np.array([one != text.encode() for one, text in zip(spelt, texts, strict=True)], np.bool_)


def _usual(text: str) -> bool:
    """Whether no character of a text is a mark, or a blank beyond ASCII."""
    return "\0" not in text and "\1" not in text and (text.isascii() or not WIDE_BLANK.search(text))


def _marked(text: bytes) -> bytes:
    """The text with a mark before the last blank of several, unless the text ends with it."""
    letters = np.frombuffer(text, np.uint8)
    blank = BLANK[letters]
    last = blank[:-2] & blank[1:-1] & (letters[2:] != 0) & ~blank[2:]
    return np.insert(letters, np.flatnonzero(last) + 1, 1).tobytes()


def engine_of(backend: Backend) -> Engine:
    """The engine for a tokenizer of ours: the fast one, unless its merges make the same token in two ways."""
    ranks = ranks_of(backend)
    return Slow(backend) if ranks is None else Fast(ranks)


def ranks_of(backend: Backend) -> dict[bytes, int] | None:
    """The bytes of each token and its id, for byte pairs whose ids are in the order of their merges; else None."""
    model = json.loads(backend.to_str())["model"]
    if model["type"] != "BPE":
        return None
    vocabulary: dict[str, int] = model["vocab"]
    made = [
        "".join(pair)
        for pair in (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    ]
    numbers = [vocabulary[token] for token in made]
    letters = bytes_by_letter()
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        return None
    if not letters.keys() <= vocabulary.keys():
        return None
    return {bytes(letters[letter] for letter in token): vocabulary[token] for token in (*letters, *made)}


def bytes_by_letter() -> dict[str, int]:
    """The byte that each letter of the byte-level alphabet stands for."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    found = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    found |= {chr(256 + place): byte for place, byte in enumerate(others)}
    assert set(found) == set(level.alphabet())
    return found
