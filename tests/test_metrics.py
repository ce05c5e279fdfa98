"""Bits per byte: every token once, whatever the batching, equal to a plain loop."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import NanoChatConfig, NanoChatForCausalLM

from training import metrics
from training.metrics import _windows, score_documents
from training.units import bits

LENGTHS = [1, 2, 3, 8, 9, 16, 17, 40, 5, 33]


@pytest.fixture(scope="module")
def model() -> NanoChatForCausalLM:
    torch.manual_seed(0)
    config = NanoChatConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16,
    )  # fmt: skip
    return NanoChatForCausalLM(config)


@pytest.fixture(scope="module")
def documents() -> list[npt.NDArray[np.int64]]:
    dice = np.random.default_rng(0)
    return [np.concatenate([[0], dice.integers(1, 50, length - 1)]) for length in LENGTHS]


@given(st.lists(st.integers(1, 60), max_size=5), st.integers(1, 20))
def test_windows_score_every_token_exactly_once(lengths: list[int], context: int) -> None:
    documents = [np.zeros(length, np.int64) for length in lengths]
    scored = [
        (document, position)
        for document, start, end, first in _windows(documents, context)
        for position in range(first, end)
        if end - start <= context and start <= first
    ]
    assert sorted(scored) == [
        (d, position) for d, length in enumerate(lengths) for position in range(length - 1)
    ]


@given(st.integers(2, 200), st.integers(2, 20))
def test_beyond_the_first_window_tokens_see_half_a_context(length: int, context: int) -> None:
    for _, start, _, first in _windows([np.zeros(length, np.int64)], context):
        assert start == 0 or first - start >= context // 2


def plain_score(model: NanoChatForCausalLM, ids: npt.NDArray[np.int64], context: int) -> float:
    """One document, window by window, no batches."""
    total, scored, start = 0.0, 0, 0
    inputs, targets = torch.from_numpy(ids[:-1]), torch.from_numpy(ids[1:])
    while scored < len(inputs):
        end = min(start + context, len(inputs))
        with torch.no_grad():
            logprobs = model(input_ids=inputs[None, start:end]).logits[0].float().log_softmax(-1)
        for position in range(scored, end):
            total -= float(logprobs[position - start, targets[position]])
        scored, start = end, start + context // 2
    return total


def test_equals_a_plain_loop(model: NanoChatForCausalLM, documents: list[npt.NDArray[np.int64]]) -> None:
    expected = [plain_score(model, ids, 16) for ids in documents]
    np.testing.assert_allclose(score_documents(model, documents, 16), expected, rtol=1e-5)
    assert expected[0] == 0.0  # only a start token


@pytest.mark.parametrize("tokens_at_once", [16, 40, 100_000])
def test_batching_changes_nothing(
    model: NanoChatForCausalLM,
    documents: list[npt.NDArray[np.int64]],
    tokens_at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = score_documents(model, documents, 16)
    monkeypatch.setattr(metrics, "WINDOWS_TOKENS", tokens_at_once)
    np.testing.assert_allclose(score_documents(model, documents, 16), expected, rtol=1e-5)
    np.testing.assert_allclose(score_documents(model, documents[::-1], 16)[::-1], expected, rtol=1e-5)


def test_progress_ends_at_one_and_training_mode_is_kept(
    model: NanoChatForCausalLM, documents: list[npt.NDArray[np.int64]]
) -> None:
    shares: list[float] = []
    model.train()
    score_documents(model, documents, 16, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert model.training


def test_bits_per_byte() -> None:
    assert bits(8 * math.log(2), 4) == pytest.approx(2.0)
    assert bits(1.0, 0) == math.inf
