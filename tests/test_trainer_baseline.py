"""The comparison with `transformers.Trainer` is fair: same size, same tokens, same documents, all the time."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from tasks.packing import Packer
from tests.benchmarks.__main__ import Arguments
from tests.benchmarks.bench_main_job import Pair, Run, documents_of, quality, read_options, time_and_memory
from tests.benchmarks.trainer_baseline import GRACE, Rows, closest_gpt2, train_gpt2
from tests.benchmarks.watched import Watched
from training.data import Shards
from training.metrics import score_documents
from training.model import Scratch, Shape, count_parameters

CONTEXT, VOCABULARY = 32, 300
DOCUMENTS = 40


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    """Documents that count upwards, which a model learns soon; every fourth is a test document."""
    dice = np.random.default_rng(0)
    names, sides = [], []
    with Packer(tmp_path, VOCABULARY) as packer:
        for number in range(DOCUMENTS):
            first, length = dice.integers(1, 100), int(dice.integers(20, 200))
            names.append(f"d{number}")
            sides.append("test" if number % 4 == 0 else "train")
            packer.add(sides[-1], [0, *range(first, first + length)], 2 * length, 0)
        packer.finish()
    pq.write_table(pa.table({"id": names, "split": sides}), tmp_path / "documents.parquet")
    return Shards(tmp_path)


@pytest.mark.parametrize("depth", [1, 4, 8])
def test_gpt2_gets_the_layers_that_bring_it_closest_to_our_size(depth: int) -> None:
    with torch.device("meta"):
        ours = GPT2LMHeadModel(
            Scratch(family="gpt2", depth=depth).config(Shape(vocabulary=4096, context=256))
        )
        parameters, width = count_parameters(ours), ours.config.n_embd
        config = closest_gpt2(4096, width, 256, 0, parameters)
        gaps = {}
        for layers in {max(1, config.n_layer - 1), config.n_layer, config.n_layer + 1}:
            other = GPT2Config(**{**config.to_dict(), "n_layer": layers})
            gaps[layers] = abs(count_parameters(GPT2LMHeadModel(other)) - parameters)
    assert min(gaps, key=lambda layers: gaps[layers]) == config.n_layer
    assert config.n_embd // config.n_head == 64
    assert (config.resid_pdrop, config.tie_word_embeddings) == (0.1, True)  # GPT-2's own


def test_rows_are_the_train_split_in_order_cut_to_the_context(shards: Shards) -> None:
    rows, ids = Rows(shards, CONTEXT), shards.ids("train")
    together = torch.cat([rows[number]["input_ids"] for number in range(len(rows))])
    assert len(ids) - CONTEXT < len(together) <= len(ids)
    assert together.tolist() == ids[: len(together)].tolist()
    assert torch.equal(rows[1]["labels"], rows[1]["input_ids"])


def test_the_trainer_learns_until_its_time_is_up_and_its_schedule_is_done(shards: Shards) -> None:
    config = closest_gpt2(VOCABULARY, 64, CONTEXT, 0, 70_000)
    baseline = train_gpt2(shards, config, seconds=1.5, seed=0, probe_seconds=0.5)
    assert baseline.steps == baseline.planned_steps or baseline.seconds >= GRACE * 1.5
    torch.manual_seed(0)
    documents = documents_of(shards, ["d4", "d8"])
    untrained = score_documents(GPT2LMHeadModel(config), documents, CONTEXT)
    assert score_documents(baseline.model, documents, CONTEXT).sum() < untrained.sum()


def test_test_documents_are_found_by_their_ids_in_the_order_asked_for(shards: Shards) -> None:
    index = shards.documents("test")
    lengths = [len(document) for document in documents_of(shards, ["d8", "d0"])]
    assert lengths == [index[2, 1], index[0, 1]]
    with pytest.raises(KeyError):
        documents_of(shards, ["d1"])  # a train document


def pair(ours: list[float], trainer: list[float]) -> Pair:
    names = tuple(f"d{number}" for number in range(len(ours)))
    sizes = np.full(len(ours), 10)
    return Pair(names, sizes, np.array(ours), np.array(trainer), 1.01, 1.0, 1.02)


def test_the_difference_is_paired_by_document_and_the_worst_seed_is_shown() -> None:
    better, worse = pair([10, 20, 30], [11, 21, 31]), pair([10, 20], [9, 19])
    figures = {figure.figure: figure for figure in quality("5m", [better, worse])}
    even = figures["difference, test, 5m"]
    assert (even.value, even.low, even.high, even.holds) == (0, 0, 0, False)  # no document differs
    worst = figures["difference, worst seed, 5m"]
    assert worst.value > 0 > (worst.low or 0) and worst.holds is False
    assert figures["Shoestring, test, 5m"].value == pytest.approx(30 / 20 / np.log(2))
    alone = {figure.figure: figure.holds for figure in quality("5m", [better])}
    assert alone["difference, test, 5m"] and alone["difference, worst seed, 5m"]
    with pytest.raises(ValueError, match="different test documents"):
        quality("5m", [better, Pair(("x", "y"), *list(vars(worse).values())[1:])])


def test_the_worst_run_counts_and_a_failed_one_is_no_model() -> None:
    said = json.dumps({"model_version": 1, "value": 2.0, "training_seconds": 40.0})
    good = [
        Run("1m", seed, seed == 0, Watched(0, f"noise\n{said}\n", "", seconds, 3 * 10**9))
        for seed, seconds in enumerate((66.0, 57.0, 60.0))
    ]
    figures = {figure.figure: figure for figure in time_and_memory("1m", good)}
    assert figures["elapsed, nothing cached, 1m"].value == pytest.approx(1.1)
    warm = figures["elapsed, data cached, 1m"]
    assert (warm.value, warm.low, warm.high) == pytest.approx((1.0, 0.95, 1.0))
    assert figures["evaluated and registered, 1m"].holds
    assert figures["peak memory of all processes, 1m"].value == pytest.approx(3.0)
    failed = Run("1m", 3, False, Watched(1, "", "Traceback", 5.0, 5 * 10**9))
    figures = {figure.figure: figure for figure in time_and_memory("1m", [*good, failed])}
    assert figures["evaluated and registered, 1m"].value == pytest.approx(0.75)
    assert figures["evaluated and registered, 1m"].holds is False
    assert figures["peak memory of all processes, 1m"].holds is False


def test_a_quick_answer_takes_less_and_bad_options_are_refused() -> None:
    quick, full = read_options(Arguments(True)), read_options(Arguments(False))
    assert (quick.seeds, quick.budget, quick.also, quick.trainer_seconds) == (1, "2m", ["1m"], 120)
    assert (full.seeds, full.budget, full.also, full.trainer_seconds) == (3, "5m", ["3m", "1m"], 300)
    for words in (("--seeds", "0"), ("--budget", "5 parsecs"), ("--nonsense",)):
        with pytest.raises(SystemExit):
            read_options(Arguments(True, words))
