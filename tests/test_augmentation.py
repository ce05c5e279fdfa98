"""Words that move about stay whole, few of them move, and the same ones in every training of one seed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.tiny_labelled import LABELS, text_of, write_texts, write_tokens
from tests.tiny_shards import tiny_blueprint
from training.augmentation import (
    Augmentation,
    Augmented,
    Dice,
    OnTheFly,
    Order,
    RandomDelete,
    RandomInsert,
    RandomSwap,
    check_augmentation,
    each_once,
    ranks,
)
from training.blueprint import Blueprint
from training.budget import TokenCount
from training.data import Documents, Ids, Shards, Slice
from training.model import Scratch
from training.objectives import SequenceClassification
from training.words import Blanks, Words
from training.worker import Assignment, carry_out

MEMBERS: list[Any] = [
    member for member in get_args(get_args(Augmentation)[0]) if issubclass(member, OnTheFly)
]
CONTEXT = 512  # none of the documents is longer


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("data")
    return write_tokens(folder / "tokens", write_texts(folder, [text_of(number) for number in range(180)]))


def blueprint(shards: Shards, *members: object, context: int = CONTEXT) -> Blueprint:
    learning = {"augmentation": members, "context": context, "batch_tokens": 600, "short_context": 0}
    made = tiny_blueprint(**learning)
    settings = {
        "model": Scratch(family="modernbert", depth=1),
        "objective": SequenceClassification(token_dropout=0.0),
        "vocabulary": shards.vocabulary,
        "start_token": 0,
        "labels": LABELS,
    }
    return made.model_copy(update=settings)


def told(shards: Shards, *members: object, place: int = 0, count: int = 90, seed: int = 0) -> list[list[int]]:
    """The documents of one batch, in its order."""
    facts = blueprint(shards, *members).facts()._replace(seed=seed)
    batch = SequenceClassification(token_dropout=0.0).feed(Slice(shards), facts).batch(place, count, CONTEXT)
    rows = zip(batch.inputs["input_ids"], batch.inputs["attention_mask"], strict=True)
    return [ids[mask > 0].tolist() for ids, mask in rows]


def words_of(shards: Shards, documents: Sequence[Sequence[int]]) -> list[list[str]]:
    tokenizer = AutoTokenizer.from_pretrained(shards.folder / "tokenizer")
    return [tokenizer.decode(ids[1:]).split() for ids in documents]


def test_whole_words_move_and_as_many_as_asked_for(shards: Shards) -> None:
    before = words_of(shards, told(shards))
    for member in MEMBERS:
        after = words_of(shards, told(shards, member(words=0.2, documents=1)))
        assert sum(a != b for a, b in zip(after, before, strict=True)) > 60
        for new, old in zip(after, before, strict=True):
            free = len(old) - 1
            lost, gained = Counter(old) - Counter(new), Counter(new) - Counter(old)
            assert new[:1] == old[:1]  # the word before the first blank stays
            if member is RandomSwap:
                moved = sum(a != b for a, b in zip(new, old, strict=True))
                assert not lost and not gained and moved <= max(2, 0.2 * free + 1)
            if member is RandomDelete:
                assert not gained and (len(new) > 1 or free < 1)
            if member is RandomInsert:
                assert not lost and set(new) == set(old)
                assert gained.total() == (max(1, round(0.2 * free)) if free > 0 else 0)
    deleted = words_of(shards, told(shards, RandomDelete(words=0.2, documents=1)))
    assert 0.15 < 1 - sum(map(len, deleted)) / sum(map(len, before)) < 0.25


@pytest.mark.parametrize("member", MEMBERS)
def test_only_the_share_of_documents_is_touched_and_others_each_time(
    member: type[RandomSwap], shards: Shards
) -> None:
    plain = told(shards, count=900)
    once = told(shards, member(documents=0.3), count=900)
    touched = [a != b for a, b in zip(once, plain, strict=True) if len(b) > 40]
    assert 0.2 < np.mean(touched) < 0.4
    other = told(shards, member(documents=0.3), count=900, seed=1)
    assert Counter(map(tuple, plain)) - Counter(map(tuple, other))
    rows: dict[tuple[int, ...], list[bool]] = {tuple(ids): [] for ids in plain}
    for new, old in zip(once, plain, strict=True):
        rows[tuple(old)].append(new != old)
    assert any(0 < sum(seen) < len(seen) for seen in rows.values())  # ten epochs are in there


def test_a_place_is_told_the_same_in_any_batch_and_on_any_number_of_workers(shards: Shards) -> None:
    members = [member() for member in MEMBERS]
    whole = told(shards, *members, count=24)
    assert [ids for at in range(0, 24, 8) for ids in told(shards, *members, place=at, count=8)] == whole
    feed = SequenceClassification().feed(Slice(shards), blueprint(shards, *members).facts())
    all_of_it = feed.batch(96, 12, CONTEXT)
    for workers in (2, 3):
        for rank in range(workers):
            mine = feed.batch(96, 12, CONTEXT, rank, workers).inputs["input_ids"]
            theirs = all_of_it.inputs["input_ids"][rank::workers, : mine.shape[1]]
            assert torch.equal(mine, theirs)


def test_taking_out_one_way_leaves_the_others_as_they_are(shards: Shards) -> None:
    both = Dice(3, "random_swap", np.arange(9)), Dice(3, "random_swap", np.arange(4, 9))
    assert np.array_equal(both[0].documents()[4:], both[1].documents())
    assert not np.array_equal(Dice(3, "random_delete", np.arange(9)).documents(), both[0].documents())
    drawn = Dice(0, "any", np.arange(50_000)).documents()
    assert abs(drawn.mean() - 0.5) < 0.01 and drawn.min() >= 0 and drawn.max() < 1
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 0.02


def test_a_document_cut_at_the_context_is_no_longer_after_it_and_its_cut_word_stays(shards: Shards) -> None:
    length = 24
    source = Documents(Slice(shards), 0, length, 600)
    members = [member(documents=1, words=0.5) for member in MEMBERS]
    augmented = Augmented(source, Slice(shards), members, 0)
    plain, moved = (one.rows(range(60), 0, length).documents for one in (source, augmented))
    lengths = [len(ids) for ids in moved]
    assert max(lengths) == length and min(map(len, plain)) < length
    words, again = (words_of(shards, [ids.tolist() for ids in one]) for one in (plain, moved))
    for old, new, ids in zip(words, again, plain, strict=True):
        if len(ids) == length:
            assert old[-1] not in new[:-1]


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("sizes", [[0], [1], [0, 1, 1, 0], [2], [2, 0, 3]])
def test_documents_of_hardly_any_words_stay_documents(member: type[RandomSwap], sizes: list[int]) -> None:
    blanks = Blanks(np.array([False, True, False]), np.zeros(3, np.bool_))
    documents: list[Ids] = [np.array([0, 2, *[1, 2] * size]) for size in sizes]
    words = Words.of(documents, blanks)
    first, _ = words.ends()
    order = Order(np.arange(len(first)), words.owners, ~first)
    dice = Dice(1, "a", np.arange(len(sizes)))
    order = order.taken(member(words=0.5).places(order, np.flatnonzero(~first), dice))
    for size, ids in zip(sizes, words.told(order.words, order.owners), strict=True):
        assert ids[:2].tolist() == [0, 2]
        assert (len(ids) > 2) == (size > 0)


def test_ranks_count_within_each_owner() -> None:
    assert ranks(np.array([0, 0, 0, 2, 2, 5])).tolist() == [0, 1, 2, 0, 1, 0]
    assert ranks(np.zeros(0, np.int64)).tolist() == []


def test_a_word_of_wordpiece_is_its_first_token_and_what_continues_it(tmp_path: Path) -> None:
    pieces = ["[UNK]", "[CLS]", "[MASK]", "good", "##ness", "bad", ","]
    backend = Tokenizer(models.WordPiece({piece: at for at, piece in enumerate(pieces)}, unk_token="[UNK]"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, cls_token="[CLS]", unk_token="[UNK]")
    blanks = Blanks.of(tokenizer.convert_ids_to_tokens(range(len(pieces))))
    words = Words.of([np.array([1, 3, 4, 6, 5]), np.array([1]), np.array([1, 5])], blanks)
    assert words.lengths.tolist() == [1, 2, 1, 1, 1, 1, 1]
    assert words.owners.tolist() == [0, 0, 0, 0, 1, 2, 2]
    told = words.told(np.array([0, 3, 1, 4, 5, 6]), np.array([0, 0, 0, 1, 2, 2]))
    assert [ids.tolist() for ids in told] == [[1, 5, 3, 4], [1], [1, 5]]


def test_a_training_that_pauses_ends_with_the_same_weights(shards: Shards, tmp_path: Path) -> None:
    def carried(name: str, *pauses: float) -> bytes:
        assignment = Assignment(
            folder=tmp_path / name,
            blueprint=blueprint(shards, *(member() for member in MEMBERS)),
            shards=shards.folder,
            clock=TokenCount(6000),
            checkpoint_seconds=1e9,
            keep_model=True,
        )
        for pause in (*pauses, 1.0):
            carry_out(replace(assignment, pause_at=pause))
        return (tmp_path / name / "model" / "model.safetensors").read_bytes()

    whole = carried("whole")
    assert carried("paused", 0.3, 0.6) == whole


def test_augmentation_is_for_labelled_documents_and_of_each_kind_once() -> None:
    for head in ("causal", "masked"):
        with pytest.raises(ValueError, match=r"learning\.augmentation is for labelled documents"):
            check_augmentation([RandomSwap()], head)
        check_augmentation([], head)
    check_augmentation([RandomSwap(), RandomDelete()], "classification")
    with pytest.raises(ValueError, match="random_swap is there 2 times"):
        each_once((RandomSwap(), RandomDelete(), RandomSwap(words=0.2)))
    with pytest.raises(ValidationError, match="random_swap is there 2 times"):
        tiny_blueprint(augmentation=[{"kind": "random_swap"}] * 2)
    with pytest.raises(ValidationError):
        TypeAdapter(Augmentation).validate_python({"kind": "random_swap", "words": 0.9})
