from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_shards import START, write_shards
from training.data import FOLD, LENGTH, Shards, Slice, Stream


@pytest.fixture
def shards(tmp_path: Path, corpus_texts: list[str]) -> Shards:
    return write_shards(tmp_path / "shards", corpus_texts)


def test_an_epoch_holds_every_token_once(shards: Shards) -> None:
    slice_ = Slice(shards)
    epoch = Stream(slice_, seed=3).read(0, slice_.tokens())
    assert np.array_equal(np.sort(epoch), np.sort(shards.ids("train")))
    assert (epoch == START).sum() == len(slice_.documents())


def test_epochs_come_in_different_orders_and_join_without_a_gap(shards: Shards) -> None:
    slice_ = Slice(shards)
    size = slice_.tokens()
    stream = Stream(slice_, seed=3)
    first, second = stream.read(0, size), stream.read(size, size)
    assert not np.array_equal(first, second)
    across = stream.read(size - 5, 10)
    assert np.array_equal(across, np.concatenate([first[-5:], second[:5]]))


def test_any_position_reads_the_same_whatever_was_read_before(shards: Shards) -> None:
    stream = Stream(Slice(shards), seed=1)
    whole = stream.read(0, 5000)
    assert np.array_equal(Stream(Slice(shards), seed=1).read(1234, 777), whole[1234 : 1234 + 777])


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_ranks_share_the_same_global_batch(shards: Shards, workers: int) -> None:
    stream = Stream(Slice(shards), seed=0)
    inputs, targets = stream.batch(640, rows=8, context=16)
    shared = [stream.batch(640, 8, 16, rank, workers) for rank in range(workers)]
    for rank, (mine, my_targets) in enumerate(shared):
        assert torch.equal(mine, inputs[rank::workers])
        assert torch.equal(my_targets, targets[rank::workers])
    assert torch.equal(inputs[:, 1:], targets[:, :-1])


def test_a_fold_is_left_out_whole(shards: Shards) -> None:
    rest, held_out = Slice(shards, without_fold=1), Slice(shards, only_fold=1)
    assert not (rest.documents()[:, FOLD] == 1).any()
    assert (held_out.documents()[:, FOLD] == 1).all()
    assert rest.tokens() + held_out.tokens() == Slice(shards).tokens()


def test_texts_give_whole_documents_and_their_bytes(shards: Shards) -> None:
    documents, sizes = Slice(shards, "test").texts()
    index = Slice(shards, "test").documents()
    assert [len(ids) for ids in documents] == index[:, LENGTH].tolist()
    assert all(ids[0] == START for ids in documents)
    assert sizes.tolist() == [len(ids) - 1 for ids in documents]  # one token a byte here


def test_an_empty_slice_is_refused(shards: Shards) -> None:
    with pytest.raises(ValueError, match="no tokens"):
        Stream(Slice(shards, only_fold=99), seed=0)
