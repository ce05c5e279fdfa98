"""Copies: equal documents, those that hardly differ, and what hangs together by either."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tasks import near

Hashes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Duplicates = Literal["near", "equal", "none"]  # which go
EQUAL, NEAR = "exact duplicate", "near duplicate"


@dataclass(frozen=True)
class Documents:
    """What is known of all documents, in their order, to find copies by."""

    ids: Hashes
    alike: Hashes
    sizes: Numbers  # bytes
    bands: Hashes  # [documents, near.COLUMNS]
    text_of: Callable[[int], str]


@dataclass(frozen=True)
class Found:
    """Of each document, in their order, what is to become of it."""

    kept: Flags
    repeats: Flags  # whether it is equal to an earlier one
    instead: Numbers  # the document that stays in its place, or itself
    clusters: Numbers  # the first document of its cluster


def find(documents: Documents, go: Duplicates, similarity: float) -> Found:
    """Which documents stay where these copies go: of equal ones the first, of near ones the longest.

    Near are those that share this part of their runs of words (Jaccard similarity). A cluster holds them, and
    what differs in case, blanks and numbers alone, link by link.
    """
    everyone = np.arange(len(documents.ids))
    equal = first_of(documents.ids)
    similar = near.clusters(documents.bands, documents.text_of, similarity)
    instead = everyone
    if go == "equal":
        instead = equal
    elif go == "near":
        best = np.flatnonzero(near.best(similar, documents.sizes, documents.ids))
        instead = np.zeros_like(similar)
        instead[similar[best]] = best
        instead = instead[similar]
    clusters = joined(similar, first_of(documents.alike))
    return Found(instead == everyone, equal != everyone, instead, clusters)


def first_of(names: Hashes) -> Numbers:
    """The number of the first document that bears the name of each."""
    _, first, inverse = np.unique(names, return_index=True, return_inverse=True)
    found: Numbers = first[inverse]
    return found


def joined(one: Numbers, other: Numbers) -> Numbers:
    """The clusters of two groupings together, each named by its first document."""
    count = len(one)
    here = np.tile(np.arange(count), 2)
    links = coo_array((np.ones(2 * count, np.int8), (here, np.concatenate([one, other]))), (count, count))
    _, found = connected_components(links, directed=False)
    return first_of(found.astype(np.uint64))
