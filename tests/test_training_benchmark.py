"""The benchmark of trainings is fair: the same data, score, cores and time for all; and it can say no."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.benchmarks import labelled, nanogpt_baseline, quality, speed
from tests.benchmarks.__main__ import Arguments
from tests.benchmarks.bench_training import PARTS, main, read_options
from tests.benchmarks.byte_level import (
    START,
    VOCABULARY,
    digest,
    documents,
    pieces,
    stdlib_text,
    write_shards,
)
from tests.benchmarks.byte_level_runs import held_out
from tests.benchmarks.lanes import Job, cores, run_in_lanes, run_together
from tests.benchmarks.timed_trainer import WARMUP, cosine, gpt2_like, train_on_time
from tests.benchmarks.trainer_baseline import Rows
from training.data import LABEL, Shards, Slice

ROOT = Path(__file__).parents[1]
LINES = b"".join(b"line %d counts upwards, as lines of this text do\n" % number for number in range(6000))


def made_up(system: str, seed: int, bits: float, curve: Sequence[tuple[float, float]] = ()) -> dict[str, Any]:
    return {"system": system, "seed": seed, "bits": bits, "curve": list(curve), "seconds": 100.0}


def test_a_text_is_cut_at_lines_and_nothing_of_it_is_lost_or_judged_by_what_was_seen(tmp_path: Path) -> None:
    assert b"".join(pieces(LINES, 1000)) == LINES
    assert all(piece.endswith(b"\n") for piece in pieces(LINES, 1000))
    assert [len(piece) for piece in pieces(b"x" * 45, 10)] == [20, 20, 5]
    shards = write_shards(tmp_path, LINES)
    sides = {side: documents(shards, side) for side in ("train", "validation", "test")}
    texts = {side: {bytes(ids[1:].astype(np.uint8)) for ids in found} for side, (found, _) in sides.items()}
    assert all(ids[0] == START for found, _ in sides.values() for ids in found)
    assert not texts["train"] & texts["test"]
    assert not any(looked_at in judged for looked_at in texts["validation"] for judged in texts["test"])
    assert sides["train"][1] == pytest.approx(0.9 * len(LINES), rel=0.03)
    assert sides["test"][1] == sum(len(text) for text in texts["test"])
    assert len(stdlib_text(50_000)) == 50_000 and digest(stdlib_text(50_000)) == digest(stdlib_text(50_000))


def test_nanogpt_learns_on_time_and_is_looked_at_for_nothing(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, LINES)
    ids = torch.from_numpy(shards.ids("train").astype(np.int64))
    looks = []

    def look(model: torch.nn.Module) -> float:
        looks.append(model)
        return held_out(model, shards, nanogpt_baseline.CONTEXT)

    done = nanogpt_baseline.train_nanogpt(ids, VOCABULARY, 2.0, 0, look, 1.0)
    assert 2.0 <= done.seconds < 4.0 and len(looks) == len(done.curve) >= 1
    assert done.curve[-1][1] < 8.0  # bits of a byte of which nothing is known
    assert sum(p.numel() for p in done.model.parameters()) == 4 * 12 * 128**2 + (257 + 64) * 128 + 9 * 128


def test_nanogpts_rate_rises_and_falls_as_a_cosine_to_a_tenth() -> None:
    rate = nanogpt_baseline.rate
    assert rate(0, 0.0) < rate(50, 0.0) < rate(100, 0.0) == 1e-3
    assert rate(1000, 0.5) == pytest.approx(5.5e-4) and rate(2000, 1.0) == pytest.approx(1e-4)


def test_the_timed_trainer_learns_all_its_time_and_its_rate_ends_at_zero(tmp_path: Path) -> None:
    assert cosine(WARMUP) == 1 > cosine(0.5) > cosine(0.9) > cosine(1.0) == 0
    shards = write_shards(tmp_path, LINES)
    torch.manual_seed(0)
    model = gpt2_like(VOCABULARY, 64, 32, START, 100_000, dropout=0.0)
    before = held_out(model, shards, 32)
    done = train_on_time(model, Rows(shards, 32), 2.0, 0, 1e-3, 4)
    assert done.seconds >= 2.0 and done.steps > 1
    assert held_out(model, shards, 32) < before


def test_jobs_start_together_on_cores_of_their_own() -> None:
    jobs = [Job("tests.tiny_jobs:meet", {"preparation": 0.3 * n, "number": n}) for n in range(3)]
    results = run_in_lanes(jobs, threads=1)
    assert [result["number"] for result in results] == [0, 1, 2]
    if len(cores()) > 1:
        first, second = results[:2]
        assert abs(first["began"] - second["began"]) < 0.2 and first["cores"] != second["cores"]
    assert {result["threads"] for result in results} == {"1"}


@pytest.mark.parametrize("early", [True, False])
def test_a_failing_job_is_said(early: bool) -> None:
    with pytest.raises(RuntimeError, match="tiny_jobs:fail"):
        run_together([Job("tests.tiny_jobs:fail", {"early": early})], threads=1)


def test_differences_are_paired_by_seed_and_the_curve_tells_when_the_baseline_was_reached() -> None:
    curve = [(10.0, 5.0), (20.0, 3.0), (100.0, 1.5)]
    results = quality.by_system(
        [
            made_up("ours", 1, 1.6, curve),
            made_up("ours", 0, 1.5, curve),
            *(made_up("nanogpt", seed, 2.0 + seed / 10, [(99.0, 4.0)]) for seed in range(2)),
            *(made_up("trainer", seed, 2.5, [(99.0, 1.0)]) for seed in range(2)),
        ]
    )
    found = {figure.figure: figure for figure in quality.figures(results, 100)}
    nanogpt = found["below nanoGPT, 100 s"]
    assert (nanogpt.low, nanogpt.value, nanogpt.high) == pytest.approx((0.5, 0.5, 0.5)) and nanogpt.holds
    assert found["below transformers.Trainer, 100 s"].low == pytest.approx(0.9)
    short = [{**made_up("ours", seed, 1.9), "seconds": 20.0} for seed in range(2)]
    times = {figure.figure: figure for figure in quality.sooner(results, short, 100)}
    assert times["time until nanoGPT's 100-s loss"].value == pytest.approx(0.15)
    assert times["time until transformers.Trainer's 100-s loss"].value == 1  # never
    assert times["below nanoGPT's 100 s, ours in 1/5"].low == pytest.approx(0.1)


def test_systems_take_turns_in_going_first() -> None:
    firsts = [quality.rivals(Path("x"), 1.0, seed)[0].function for seed in range(3)]
    assert len(set(firsts)) == 3


def test_labelled_texts_are_divided_by_label_and_never_on_both_sides(tmp_path: Path) -> None:
    file = tmp_path / "some.tsv"
    file.write_text(
        "".join(f"text {n} with\ta tab\t{'rare' if n % 5 == 0 else 'common'}\n" for n in range(200))
    )
    data = labelled.read_labelled(file)
    assert [label for _, label in data.dev].count("rare") == 4 and len(data.dev) == 20
    assert not {text for text, _ in data.train} & {text for text, _ in data.dev}
    assert data.labels == ["common", "rare"] and data.train[0][0].endswith("with\ta tab")
    file.write_text("no tab\n")
    with pytest.raises(SystemExit, match="line 1"):
        labelled.read_labelled(file)
    with pytest.raises(SystemExit, match="no file"):
        labelled.read_labelled(tmp_path / "nothing")


def test_tfidf_and_the_shards_tell_the_same_texts(tmp_path: Path) -> None:
    examples = [
        (f"{'good fine' if n % 2 else 'bad poor'} film number {n % 17}", "+-"[n % 2]) for n in range(120)
    ]
    data = labelled.Labelled("films", *labelled.divided(examples))
    assert labelled.judged(labelled.tfidf(data), data) == {"accuracy": 100, "macro-F1": 100}
    assert labelled.judged(["+"] * len(data.dev), data)["macro-F1"] < 40
    backend = labelled.learn_tokenizer([text for text, _ in data.train], 300)
    labelled.write_shards(tmp_path, backend, labelled.sides_of(data, ["unlabelled"]), data.labels)
    shards = Shards(tmp_path)
    sides = {side: Slice(shards, side) for side in ("train", "validation", "test")}
    assert len(sides["train"].documents()) + len(sides["validation"].documents()) == len(data.train) + 1
    assert sides["train"].documents()[-1, LABEL] == -1
    first = sides["test"].texts()
    assert backend.decode(first.documents[0].tolist()).strip() == data.dev[0][0]
    assert shards.header["labels"][first.labels[0]] == data.dev[0][1]
    assert {ids[0] for ids in first.documents} == {shards.start_token}


def test_options_are_checked_and_a_part_is_one_that_there_is() -> None:
    assert read_options(Arguments(False)).part == list(PARTS)
    assert read_options(Arguments(True, ("--part", "quality,scaling"))).part == ["quality", "scaling"]
    for words in (("--part", "speed"), ("--seeds", "0"), ("--nonsense",)):
        with pytest.raises(SystemExit):
            read_options(Arguments(True, words))


def test_stalls_are_measured_at_the_pace_of_the_product() -> None:
    from tasks.train import CHECKPOINT_SECONDS

    assert speed.CHECKPOINT_SECONDS == CHECKPOINT_SECONDS


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_script_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "tests/benchmarks/gpu.py"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "no GPU here" in done.stderr


FIGURES = {
    "quality": {"below transformers.Trainer, 4 s", "below nanoGPT, 4 s", "time until nanoGPT's 4-s loss"},
    "utilisation": {"model FLOP utilisation, 1 thread", "model FLOP utilisation, 2 workers"},
    "scaling": {"2 workers against 1, a batch each"},
    "checkpoint": {"stall, a checkpoint every 1 s"},
    "classify": {"from scratch, above transformers.Trainer"},
    "finetune": {"fine-tuned, above transformers.Trainer", "fine-tuned, above TF-IDF"},
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", PARTS)
def test_every_part_ends_with_its_figures(part: str, tmp_path: Path) -> None:
    text, lines = tmp_path / "text.txt", tmp_path / "lines.tsv"
    text.write_bytes(LINES)
    lines.write_text("".join(f"{'good' if n % 2 else 'bad'} film {n}\t{n % 2}\n" for n in range(400)))
    words = ("--part", part, "--text", str(text), "--labelled", str(lines))
    figures = {figure.figure: figure for figure in main(Arguments(True, words))}
    assert figures.keys() >= FIGURES[part]
    assert all(np.isfinite(figure.value) for figure in figures.values())
    assert all(figures[name].must is not None for name in FIGURES[part])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_gpu_script_can_be_rehearsed_on_a_cpu() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.gpu", "--tiny", "--parts", "exactness,documents"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "'killed and resumed': True" in done.stderr and '"apart": true' in done.stdout
