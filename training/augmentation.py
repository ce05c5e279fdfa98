"""Labelled documents told otherwise each time that they are seen, so that few of them are not learned by heart.

Words change places, go and come on the fly; other words and back-translations are copies, which
`tasks.augment` has made before the training. Whatever is drawn hangs on the seed and the document's place in
the training alone: a training that goes on, and one with other workers, draws the same.

Shapes: B documents of a batch, W words of all of them together.
"""

import zlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from training.architectures import Head
from training.back_translation import BackTranslation
from training.config import AnyOf, Choice
from training.copies import Copies
from training.data import Documents, Ids, Sample, Slice
from training.rewriting import Rewriting
from training.synonyms import ModelSynonyms, ThesaurusSynonyms
from training.words import Blanks, Bools, Words, token_names

Floats = npt.NDArray[np.float64]
Hashes = npt.NDArray[np.uint64]


class Dice:
    """Numbers in [0, 1) that hang on the seed, on what they are for, and on each document's place alone."""

    def __init__(self, seed: int, purpose: str, places: Ids) -> None:
        salt = np.full(1, (seed << 32 | zlib.crc32(purpose.encode())) & (2**64 - 1), np.uint64)
        self._keys = scrambled(scrambled(salt) + places.astype(np.uint64))

    def documents(self) -> Floats:
        """float64 [B]."""
        return _fractions(self._keys)

    def words(self, owners: Ids, turn: int) -> Floats:
        """float64 [W]: one for each word of the `owners`, rising, other ones each turn from 1 on."""
        return _fractions(scrambled(self._keys + np.uint64(turn))[owners] + ranks(owners).astype(np.uint64))


class Order(NamedTuple):
    """The words of documents in the order in which they are told; `free`: those that may be touched."""

    words: Ids  # int64 [W]: numbers into the batch's `Words`
    owners: Ids  # int64 [W]: the document, rising
    free: Bools  # bool [W]

    def taken(self, places: Ids) -> "Order":
        """The words at these places, one after the other."""
        return Order(self.words[places], self.owners[places], self.free[places])


class OnTheFly(Choice):
    """What moves words about while a training reads."""

    words: float = Field(
        default=0.1,  # alpha of Wei and Zou 2019, section 3.2; they advise 0.05 for 2,000 documents and fewer
        gt=0,
        le=0.5,
        description="Share of a document's words touched, one at least. Above about 0.3, labels stop fitting.",
    )
    documents: float = Field(
        default=0.5,  # by eye
        gt=0,
        le=1,
        description="Share of documents touched, others each time that they are seen. At 1, none is read as it is.",
    )

    @abstractmethod
    def places(self, order: Order, at: Ids, dice: Dice) -> Ids:
        """Which words of the order are told, one after the other, where those `at` these places may be touched."""

    def counts(self, owners: Ids) -> Ids:
        """int64 [W]: how many words are touched in the document of each."""
        wanted: Ids = np.maximum(1, np.rint(self.words * np.bincount(owners))).astype(np.int64)
        return wanted[owners]


class RandomSwap(OnTheFly):
    """Has words change places in pairs (Wei and Zou 2019)."""

    kind: Literal["random_swap"] = "random_swap"

    def places(self, order: Order, at: Ids, dice: Dice) -> Ids:
        """All of them, some in each other's place."""
        owners = order.owners[at]
        pairs = np.minimum(np.maximum(1, self.counts(owners) // 2), np.bincount(owners)[owners] // 2)
        chosen = at[_in_random_order(owners, dice, 1)][ranks(owners) < 2 * pairs]
        places = np.arange(len(order.owners))
        places[chosen] = chosen.reshape(-1, 2)[:, ::-1].ravel()
        return places


class RandomDelete(OnTheFly):
    """Leaves words out, never all of a document (Wei and Zou 2019)."""

    kind: Literal["random_delete"] = "random_delete"

    def places(self, order: Order, at: Ids, dice: Dice) -> Ids:
        """All but some."""
        owners = order.owners[at]
        drawn = dice.words(owners, 1)
        highest = np.zeros(len(order.owners))
        np.maximum.at(highest, owners, drawn)
        kept = np.ones(len(order.owners), np.bool_)
        kept[at[(drawn < self.words) & (drawn < highest[owners])]] = False
        return np.flatnonzero(kept)


class RandomInsert(OnTheFly):
    """Says words of the document a second time, anywhere in it (Wei and Zou 2019, but theirs are synonyms)."""

    kind: Literal["random_insert"] = "random_insert"

    def places(self, order: Order, at: Ids, dice: Dice) -> Ids:
        """All of them, and some again after others."""
        owners = order.owners[at]
        chosen = ranks(owners) < self.counts(owners)
        again, after = (at[_in_random_order(owners, dice, turn)][chosen] for turn in (1, 2))
        return np.insert(np.arange(len(order.owners)), after + 1, again)


class Augmented:
    """Documents as `training.data` deals them out, each told otherwise by some of the members, in their order.

    Raises ValueError where a member's copies are not beside the shards.
    """

    def __init__(
        self, source: Documents, slice_: Slice, members: "Sequence[Augmentation]", seed: int
    ) -> None:
        self._source, self._seed, self._rows = source, seed, slice_.rows()
        self._moving = [member for member in members if isinstance(member, OnTheFly)]
        written = [member for member in members if isinstance(member, Rewriting)]
        self._copies = [(member, Copies(slice_, member.maker())) for member in written]
        if self._moving:
            self._blanks = Blanks.of(token_names(slice_.shards.folder / "tokenizer"))

    def rows_in(self, batch_tokens: int, length: int) -> float:
        """As many as of the documents themselves."""
        return self._source.rows_in(batch_tokens, length)

    def moved(self, position: int, rows: int, length: int) -> tuple[int, int]:
        """As of the documents themselves."""
        return self._source.moved(position, rows, length)

    def rows(self, numbers: range, position: int, length: int) -> Sample:
        """The documents of these numbers in the batch that starts at `position`; none is longer than `length`."""
        sample = self._source.rows(numbers, position, length)
        places, documents = position + np.array(numbers), list(sample.documents)
        for member, copies in self._copies:
            drawn = Dice(self._seed, member.kind, places).documents() / member.documents
            for number in np.flatnonzero(drawn < 1).tolist():
                row = int(self._rows[self._source.document(int(places[number]))])
                documents[number] = copies.read(row, int(drawn[number] * member.copies), length)
        if self._moving:
            documents = self._moved_about(documents, places, length)
        return sample._replace(documents=documents)

    def _moved_about(self, documents: list[Ids], places: Ids, length: int) -> list[Ids]:
        """The documents with words moved about; the first word stays, and what was cut off at `length` with it."""
        words = Words.of(documents, self._blanks)
        first, last = words.ends()
        whole = np.array([len(document) < length for document in documents])
        order = Order(np.arange(len(first)), words.owners, ~first & (~last | whole[words.owners]))
        for member in self._moving:
            dice = Dice(self._seed, member.kind, places)
            touched = dice.documents() < member.documents
            at = np.flatnonzero(order.free & touched[order.owners])
            order = order.taken(member.places(order, at, dice))
        return [ids[:length] for ids in words.told(order.words, order.owners)]


def ranks(owners: Ids) -> Ids:
    """int64 [W]: how many words of the same owner stand before each, the owners rising."""
    places = np.arange(len(owners))
    new = np.diff(owners, prepend=-1) > 0
    return places - np.maximum.accumulate(np.where(new, places, 0))


def scrambled(numbers: Hashes) -> Hashes:
    """Numbers as unlike as if drawn, the same for the same: the finish of SplitMix64 (Steele et al. 2014)."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _fractions(keys: Hashes) -> Floats:
    return (scrambled(keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _in_random_order(owners: Ids, dice: Dice, turn: int) -> Ids:
    """Places of `owners` in another order, in which each document's stay together."""
    return np.lexsort((dice.words(owners, turn), owners))


def each_once(members: "tuple[Augmentation, ...]") -> "tuple[Augmentation, ...]":
    """The members themselves. Raises ValueError where one kind is there twice."""
    kinds = [member.kind for member in members]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise ValueError(f"{kind} is there {kinds.count(kind)} times: once will do, with other settings")
    return members


def check_augmentation(members: "Sequence[Augmentation]", head: Head) -> None:
    """Raises ValueError where there are no labels that the augmentation could leave as they are, or files lack."""
    if members and head != "classification":
        raise ValueError(
            "learning.augmentation is for labelled documents, which keep their label in other words: leave it"
            " out, or set objective.kind to sequence_classification"
        )
    for member in members:
        if isinstance(member, Rewriting):
            try:
                member.check()
            except ValueError as problem:
                raise ValueError(f"learning.augmentation, {member.kind}: {problem}") from None


Writing = ThesaurusSynonyms | ModelSynonyms | BackTranslation  # what makes copies, before the training
Augmentation = Annotated[
    RandomSwap | RandomDelete | RandomInsert | Writing, Field(discriminator="kind"), AnyOf()
]
