from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_shards import START, tiny_blueprint, write_shards
from training.data import FOLD, LENGTH, Shards, Slice, Stream
from training.objectives import CausalLanguageModel, MaskedLanguageModel, SequenceClassification


@pytest.fixture
def shards(tmp_path: Path, corpus_texts: list[str]) -> Shards:
    return write_shards(tmp_path / "shards", corpus_texts)


BLOCK = 16


def epoch_of(stream: Stream, number: int) -> list[int]:
    """All tokens of one epoch, in the order of training."""
    blocks = stream.tokens // BLOCK
    rows = [stream.row((number * blocks + block) * BLOCK, BLOCK) for block in range(blocks)]
    return [int(token) for row in rows for token in row]


def test_an_epoch_holds_every_place_at_most_once_and_nearly_all(shards: Shards) -> None:
    slice_ = Slice(shards)
    stream = Stream(slice_, seed=3, block=BLOCK)
    seen, there = Counter(epoch_of(stream, 0)), Counter(shards.ids("train").tolist())
    assert not seen - there
    assert (there - seen).total() < BLOCK


def test_epochs_come_in_different_orders(shards: Shards) -> None:
    stream = Stream(Slice(shards), seed=3, block=BLOCK)
    assert epoch_of(stream, 0) != epoch_of(stream, 1)
    assert epoch_of(stream, 0) != epoch_of(Stream(Slice(shards), seed=4, block=BLOCK), 0)


def test_a_row_is_a_piece_of_the_text_as_it_stands(shards: Shards) -> None:
    text = bytes(token for token in Stream(Slice(shards), 0, BLOCK).read(0, 10**5) if token != START)
    for position in (0, BLOCK, 7 * BLOCK, 1000 * BLOCK):
        row = Stream(Slice(shards), 1, BLOCK).row(position, BLOCK + 1)
        assert bytes(token for token in row if token != START) in text


def test_half_rows_are_the_halves_of_whole_rows(shards: Shards) -> None:
    stream = Stream(Slice(shards), seed=1, block=BLOCK)
    halves = [stream.row(5 * BLOCK, BLOCK // 2), stream.row(5 * BLOCK + BLOCK // 2, BLOCK // 2)]
    assert np.array_equal(np.concatenate(halves), stream.row(5 * BLOCK, BLOCK))


def test_a_slice_shorter_than_a_row_goes_round(shards: Shards) -> None:
    size = Slice(shards, "test").tokens()
    row = Stream(Slice(shards, "test"), seed=0, block=2 * size).row(0, 2 * size)
    assert np.array_equal(row[:size], row[size:])


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_ranks_share_the_same_global_batch(shards: Shards, workers: int) -> None:
    facts = tiny_blueprint(context=16).facts()
    for objective in (CausalLanguageModel(), MaskedLanguageModel(), SequenceClassification()):
        feed = objective.feed(Slice(shards), facts)
        whole = feed.batch(640, rows=8, length=16)
        for rank in range(workers):
            mine = feed.batch(640, 8, 16, rank, workers)
            ids = mine.inputs["input_ids"]  # padded to the longest row of the share
            assert torch.equal(ids, whole.inputs["input_ids"][rank::workers, : ids.shape[1]])
            assert torch.equal(mine.targets, whole.targets[rank::workers])


def test_a_fold_is_left_out_whole(shards: Shards) -> None:
    rest, held_out = Slice(shards, without_fold=1), Slice(shards, only_fold=1)
    assert not (rest.documents()[:, FOLD] == 1).any()
    assert (held_out.documents()[:, FOLD] == 1).all()
    assert rest.tokens() + held_out.tokens() == Slice(shards).tokens()


def test_texts_give_whole_documents_and_their_bytes(shards: Shards) -> None:
    documents, labels, sizes = Slice(shards, "test").texts()
    assert set(labels.tolist()) == {0, 1}
    index = Slice(shards, "test").documents()
    assert [len(ids) for ids in documents] == index[:, LENGTH].tolist()
    assert all(ids[0] == START for ids in documents)
    assert sizes.tolist() == [len(ids) - 1 for ids in documents]  # one token a byte here


def test_an_empty_slice_is_refused(shards: Shards) -> None:
    with pytest.raises(ValueError, match="no tokens"):
        Stream(Slice(shards, only_fold=99), seed=0, block=16)
