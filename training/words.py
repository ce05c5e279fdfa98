"""Words in rows of tokens: which tokens open one, by the mark that their kind of tokenizer puts there.

Shapes: T tokens of all documents together, W words of all documents together, B documents, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from training.data import Ids

Bools = npt.NDArray[np.bool_]
BLANKS = "\u0120\u010a\u0109\u2581"  # how byte-level BPE and SentencePiece write the blank that opens a word
INSIDE = "##"  # how WordPiece marks what continues a word


def token_names(tokenizer: Path) -> list[str]:
    """How the tokens of a tokenizer's folder are written, in order of their ids."""
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False, local_files_only=True)
    names: list[str] = loaded.convert_ids_to_tokens(range(len(loaded)))
    return names


def word_starts(tokenizer: Path) -> Bools:
    """bool [V]: whether a token opens a word; punctuation is a word of its own."""
    names = token_names(tokenizer)
    if any(name.startswith(INSIDE) for name in names):
        return np.array([not name.startswith(INSIDE) for name in names])
    return np.array([name[:1] in BLANKS or not name[:1].isalnum() for name in names])


@dataclass(frozen=True)
class Blanks:
    """Where a tokenizer's tokens hold blanks, which part words: bool [V] each."""

    opens: Bools  # begins with a blank
    bare: Bools  # is nothing else: the word comes after it

    @classmethod
    def of(cls, names: Sequence[str]) -> Self:
        """Those of tokens so written; of WordPiece, whose blanks are in no token, every word's first token opens."""
        if any(name.startswith(INSIDE) for name in names):
            return cls(
                np.array([not name.startswith(INSIDE) for name in names]), np.zeros(len(names), np.bool_)
            )
        opens = np.array([name.startswith(tuple(BLANKS)) for name in names])
        return cls(opens, opens & np.array([not name.strip(BLANKS) for name in names]))


@dataclass(frozen=True)
class Words:
    """The words of documents, each with the blank before it, so that they may stand in any order.

    A document's first word is its start token, with what comes before the first blank.
    """

    ids: Ids  # int64 [T]
    begins: Ids  # int64 [W]: into `ids`
    lengths: Ids  # int64 [W], in tokens
    owners: Ids  # int64 [W]: the document, rising
    documents: int

    @classmethod
    def of(cls, documents: Sequence[Ids], blanks: Blanks) -> Self:
        """Those of documents that each begin with a start token."""
        ids = np.concatenate(documents)
        sizes = np.array([len(document) for document in documents])
        firsts = np.cumsum(sizes) - sizes
        opens = blanks.opens[ids]
        opens[1:] &= ~blanks.bare[ids[:-1]]
        opens[firsts] = True
        begins = np.flatnonzero(opens)
        lengths = np.diff(begins, append=len(ids))
        return cls(ids, begins, lengths, np.repeat(np.arange(len(sizes)), sizes)[begins], len(sizes))

    def ends(self) -> tuple[Bools, Bools]:
        """bool [W] each: whether a word is the first of its document, whether it is the last."""
        first = np.diff(self.owners, prepend=-1) > 0
        return first, np.append(first[1:], True)

    def told(self, order: Ids, owners: Ids) -> list[Ids]:
        """The documents with these words, in this order; `owners`, rising, says whose each is."""
        lengths = self.lengths[order]
        ends = np.cumsum(lengths)
        ids = self.ids[np.arange(ends[-1]) + np.repeat(self.begins[order] - ends + lengths, lengths)]
        cuts = np.cumsum(np.bincount(owners, lengths, self.documents)).astype(np.int64).tolist()
        return [ids[start:stop] for start, stop in zip([0, *cuts], cuts, strict=False)]
