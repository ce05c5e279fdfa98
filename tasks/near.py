"""Clusters of near-duplicates: MinHash, locality-sensitive hashing, and an exact look at each pair found.

Texts are compared by their shingles: runs of SHINGLE_WORDS words, as `tasks.shingles` has them; a text with
fewer words is one shingle, one without words has none. Three stages, of which the first runs in parallel,
over batches of any size, in any order:

    signatures   144 bytes a document, which say all that the next stage asks
    candidates   pairs whose signatures agree enough
    clusters     what is left of them after the shingles themselves were compared

Two texts of Jaccard similarity J share a band with probability 1 - (1 - J**ROWS)**BANDS: 0.9998 at 0.8, 0.988 at
0.7, 0.64 at 0.5. The usual 14 bands of 8 rows (Penedo et al. 2024, FineWeb) have 0.92 at 0.8; fewer rows find
more, and also more that are not alike, which costs little here, as signatures tell most of them.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tasks.shingles import Hashes, Numbers, groups, mixed, runs, words

SHINGLE_WORDS = 5  # Penedo et al. 2024
SIMILARITY = 0.8  # Lee et al. 2022 (Deduplicating training data makes language models better)
BANDS, ROWS = 16, 4
MINIMA = BANDS * ROWS  # of 16 bits each: Li and König 2010 (b-bit minwise hashing)
SET, SIZE = BANDS, BANDS + 1  # columns after the bands: hash of all shingles, and how many there are
COLUMNS = BANDS + 2
DEVIATIONS = 4.5  # signatures may agree by so much less than is expected: loses 1 pair in 70,000 at 0.8
WINDOW = 64  # neighbours in a bucket that a document is compared with; by eye
LINKS = 16  # candidates of a document in one bucket. In a crowd that is just about similar 1 of 972 was lost; by 8, 8
BLOCK_SHINGLES = 2**22  # remembered at once: 32 MiB
# Remembered, with repeats, before they are looked at: of a crowd of copies, few are then new.
ROUND_PAIRS = 2**16
BLOCK_PAIRS = 2**18  # looked at at once: some 50 MiB
COLUMN_SHINGLES = 2**12  # whose 64 minima are sought at once, in a core's cache

# Odd, and drawn once: a product with one of them modulo 2**32 is a permutation.
_DRAWN = (mixed(np.arange(1, MINIMA + 2, dtype=np.uint64)) >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
_MULTIPLIERS, _FOLD = _DRAWN[:MINIMA, None], _DRAWN[MINIMA]


def signatures(texts: Sequence[str]) -> Hashes:
    """uint64 [documents, COLUMNS]: of each text its bands, the hash of its shingles, and their number with repeats.

    A function of the text alone. A band holds ROWS minima of 16 bits; equal bands are what `candidates` looks for.
    """
    found = np.empty((len(texts), COLUMNS), np.uint64)
    done = 0
    for group in groups(texts):
        shingles, starts = runs(words(group), SHINGLE_WORDS, shorter=True)
        rows = found[done : done + len(group)]
        rows[:] = 0
        rows[:, SIZE] = np.diff(starts)
        some = rows[:, SIZE] > 0
        if len(shingles):
            rows[some, SET] = np.add.reduceat(shingles, starts[:-1][some])
            rows[some, :BANDS] = _bands((shingles >> np.uint64(32)).astype(np.uint32), starts[:-1][some])
        done += len(group)
    return found


def candidates(signatures: Hashes, similarity: float = SIMILARITY) -> Iterator[Numbers]:
    """int64 [pairs, 2], again and again: numbers of documents that share a band and may be as similar, lower first.

    Of documents with equal shingles, the first stands for all. In each band, documents that share it are ordered
    by the next band; each is compared with the WINDOW that follow, and takes the first LINKS whose signatures
    agree enough. So work and memory grow with the documents, whatever they share, and their order changes no
    pair; a pair comes once for each band that it shares. What is lost where far more than WINDOW documents share
    a band (templates, licences): `measure_crowd` in `tests/benchmarks/data_near.py` looks for it.
    """
    first, _ = _distinct(signatures)
    expected = MINIMA * similarity
    least = math.ceil(expected - DEVIATIONS * math.sqrt(expected * (1 - similarity)))
    for band in range(BANDS):
        yield from (np.sort(pairs, axis=1) for pairs in _in_buckets(signatures, first, band, least))


def clusters(
    signatures: Hashes, text_of: Callable[[int], str], similarity: float = SIMILARITY
) -> npt.NDArray[np.int64]:
    """int64 [documents]: the lowest number of a document in the same cluster; its own where it is alone.

    A cluster is what is connected by links. Documents are linked whose shingles are equal with their repeats
    (by a hash of 64 bits), and candidates whose sets of shingles have this Jaccard similarity or a higher one
    (by their hashes). Two documents of a cluster may thus be less similar than that, if others stand between
    them. The result hangs on the set of texts alone, apart from the numbers.

    `text_of` is asked for texts in ascending order, in rounds of about BLOCK_SHINGLES words, and once for
    nearly all where there are fewer than ROUND_PAIRS candidates; documents without candidates are never asked
    for. What is in one cluster by then is not looked at again, so a crowd of copies takes no memory of its own.
    """
    first, inverse = _distinct(signatures)
    forest, refused = _Forest(len(signatures)), np.empty(0, np.int64)
    code = np.array([len(signatures), 1])
    for pairs in _rounds(candidates(signatures, similarity), forest):
        unlike = list[tuple[int, int]]()
        new = np.stack(np.divmod(np.setdiff1d(pairs @ code, refused), max(1, len(signatures))), axis=1)
        for block in _blocks(_by_component(new, len(signatures)), signatures[:, SIZE]):
            roots = forest.roots(np.array(block))
            apart = [pair for pair, new in zip(block, roots[:, 0] != roots[:, 1], strict=True) if new]
            wanted = sorted({at for pair in apart for at in pair})
            sets = dict(zip(wanted, shingle_sets(map(text_of, wanted)), strict=True))
            for low, high in apart:
                if forest.joined(low, high):
                    continue
                if jaccard(sets[low], sets[high]) >= similarity:
                    forest.join(low, high)
                else:
                    unlike.append((low, high))
        refused = np.union1d(refused, np.array(unlike, np.int64).reshape(-1, 2) @ code)
    return forest.roots(np.arange(len(signatures)))[first[inverse]]


def best(clusters: Numbers, sizes: npt.ArrayLike, ids: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """bool [documents]: whether it is the one of its cluster to keep: of most bytes, among equals of the least id."""
    order = np.lexsort((np.asarray(ids), -np.asarray(sizes, np.int64), clusters))
    ordered = np.asarray(clusters)[order]
    kept = np.zeros(len(ordered), bool)
    kept[order[np.flatnonzero(np.diff(ordered, prepend=-1))]] = True
    return kept


def jaccard(first: Hashes, second: Hashes) -> float:
    """The Jaccard similarity of two sorted sets of hashes; 1 where both are empty."""
    shared = len(np.intersect1d(first, second, assume_unique=True))
    together = len(first) + len(second) - shared
    return shared / together if together else 1.0


def shingle_sets(texts: Iterable[str]) -> Iterator[Hashes]:
    """The sorted hashes of each text's shingles, each once."""
    for group in groups(texts):
        shingles, starts = runs(words(group), SHINGLE_WORDS, shorter=True)
        yield from map(np.unique, np.split(shingles, starts[1:-1]))


def _bands(shingles: npt.NDArray[np.uint32], starts: Numbers) -> Hashes:
    """The bands of texts that have shingles, and begin at `starts`.

    Of the smallest shingle under each permutation 16 bits are kept, which hang on all of it.
    """
    edges = np.union1d(starts, np.arange(0, len(shingles), COLUMN_SHINGLES))
    pieces = np.empty((MINIMA, len(edges)), np.uint32)
    permuted = np.empty((MINIMA, COLUMN_SHINGLES), np.uint32)
    for begin in range(0, len(shingles), COLUMN_SHINGLES):
        low, high = np.searchsorted(edges, (begin, begin + COLUMN_SHINGLES))
        column = shingles[begin : begin + COLUMN_SHINGLES]
        into = permuted[:, : len(column)]
        np.multiply(_MULTIPLIERS, column, out=into)
        np.minimum.reduceat(into, edges[low:high] - begin, axis=1, out=pieces[:, low:high])
    minima = np.minimum.reduceat(pieces, np.searchsorted(edges, starts), axis=1)
    bands: Hashes = (minima.T * _FOLD >> np.uint32(16)).astype("<u2", order="C").view(np.uint64)
    return bands


def _distinct(signatures: Hashes) -> tuple[Numbers, Numbers]:
    """Of equal documents the first, in an order that hangs on their contents alone; and of each, which it is."""
    _, first, inverse = np.unique(signatures[:, SET], return_index=True, return_inverse=True)
    return first, inverse


def _in_buckets(signatures: Hashes, documents: Numbers, band: int, least: int) -> Iterator[Numbers]:
    """Pairs of the documents with an equal band, of which at least so many minima are equal."""
    if len(documents) < 2:
        return
    keys = signatures[documents, band]
    order = np.argsort(keys, kind="stable")
    equal = np.diff(keys[order]) == 0
    shared = order[np.append(equal, False) | np.insert(equal, 0, False)]
    order = shared[np.lexsort((signatures[documents[shared], (band + 1) % BANDS], keys[shared]))]
    keys, documents = keys[order], documents[order]
    links = np.zeros(len(documents), np.int64)
    at = np.arange(len(documents))
    for step in range(1, WINDOW + 1):
        at = at[(at + step < len(documents)) & (links[at] < LINKS)]
        at = at[keys[at] == keys[at + step]]
        if not len(at):
            return
        good = at[_agreement(signatures, documents[at], documents[at + step]) >= least]
        links[good] += 1
        yield np.stack((documents[good], documents[good + step]), axis=1)


def _agreement(signatures: Hashes, first: Numbers, second: Numbers) -> Numbers:
    """How many of their MINIMA each two documents have in common."""
    counts = np.empty(len(first), np.int64)
    for part in _slices(len(first)):
        minima = [
            np.take(signatures, rows[part], axis=0)[:, :BANDS].copy().view("<u2") for rows in (first, second)
        ]
        counts[part] = np.count_nonzero(minima[0] == minima[1], axis=1)
    return counts


def _slices(length: int) -> Iterator[slice]:
    """Parts that are small enough to be copied."""
    return (slice(begin, begin + 2**14) for begin in range(0, length, 2**14))


def _rounds(found: Iterator[Numbers], forest: "_Forest") -> Iterator[Numbers]:
    """The pairs that are not in one cluster by then, about ROUND_PAIRS at a time."""
    waiting, count = [np.empty((0, 2), np.int64)], 0
    for pairs in found:
        roots = forest.roots(pairs)
        waiting.append(pairs[roots[:, 0] != roots[:, 1]])
        count += len(waiting[-1])
        if count >= ROUND_PAIRS:
            yield np.concatenate(waiting)
            waiting, count = [np.empty((0, 2), np.int64)], 0
    yield np.concatenate(waiting)


def _by_component(pairs: Numbers, documents: int) -> Numbers:
    """The pairs, those that hang together next to each other, so that texts need not be remembered for long."""
    graph = coo_array(
        (np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(documents, documents)
    )
    component = connected_components(graph, directed=False)[1] if len(pairs) else np.empty(0, np.int64)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0], component[pairs[:, 0]]))]


def _blocks(pairs: Numbers, sizes: Hashes) -> Iterator[list[tuple[int, int]]]:
    """The pairs in order, cut after BLOCK_PAIRS, and where their documents have over BLOCK_SHINGLES together."""
    block, members, total = list[tuple[int, int]](), set[int](), 0
    for low, high in chain.from_iterable(pairs[part].tolist() for part in _slices(len(pairs))):
        added = sum(int(sizes[at]) for at in {low, high} - members)
        if block and (total + added > BLOCK_SHINGLES or len(block) == BLOCK_PAIRS):
            yield block
            block, members, total, added = [], set(), 0, int(sizes[low] + sizes[high])
        block.append((low, high))
        members |= {low, high}
        total += added
    if block:
        yield block


class _Forest:
    """Which documents are in one cluster, found so far (union-find); a root is the lowest number."""

    def __init__(self, documents: int) -> None:
        self._parents = np.arange(documents)

    def roots(self, documents: Numbers) -> Numbers:
        """Of each the lowest number of its cluster; all paths are one step long then."""
        while np.any((above := self._parents[self._parents]) != self._parents):
            self._parents = above
        found: Numbers = self._parents[documents]
        return found

    def joined(self, low: int, high: int) -> bool:
        """Whether both are in one cluster."""
        return self._root(low) == self._root(high)

    def join(self, low: int, high: int) -> None:
        """Makes one cluster of both."""
        first, second = sorted((self._root(low), self._root(high)))
        self._parents[second] = first

    def _root(self, at: int) -> int:
        """The path there is halved on the way (Tarjan and van Leeuwen 1984)."""
        parents = self._parents
        while (parent := int(parents[at])) != at:
            parents[at] = parents[parent]
            at = int(parents[at])
        return at
