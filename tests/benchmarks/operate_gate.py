"""How often the gate promotes: models that differ in their seeds alone, and models that saw twice the text.

All ordered pairs of trainings of one recipe are judged, with each kind of evidence of what seeds do; documents
alone, which is what most comparisons of models count, stand beside it.
"""

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.gate import compare
from tasks.resampling import Floats, Ints
from tasks.seed_noise import SeedNoise, noise_of_siblings, stored_noise
from tasks.siblings import noise_of_folds
from tasks.verdict import Rules
from tests.benchmarks.byte_level import START, VOCABULARY, documents, read_text, write_shards
from tests.benchmarks.figures import Figure
from tests.benchmarks.lanes import Go, Job, cores, run_together
from training.blueprint import Blueprint, Learning
from training.budget import TokenCount
from training.data import FOLD, Shards
from training.held_out import write_scores
from training.model import Scratch
from training.units import bits

DEPTH, CONTEXT, BATCH_TOKENS, FOLDS = 1, 128, 1024, 4
DOCUMENT_BYTES, TEXT_BYTES = 1024, 2_000_000
RULES = Rules(alpha=0.05, slice_margin=0.05)
FOLD_SHARE = 4  # of its tokens, that a fold is trained on
FOLDED = 8  # seeds that have folds, and trainings on twice the text, at most
SIBLINGS = 3  # other seeds of the recipe that are known, beside the two that are compared
DETECTED = 0.8  # of pairs, at least, where one saw twice the text
Training = dict[str, Any]
Noises = Callable[[int, int], tuple[SeedNoise, SeedNoise]]


def measure_gate(
    text: Path | None, seeds: int, tokens: int, kept: Path | None, say: Callable[[str], None]
) -> list[Figure]:
    """Shares of pairs that are promoted; `kept` is where the trainings' scores are written, or read if there."""
    if kept is not None and kept.exists():
        trainings = json.loads(kept.read_text())
    else:
        trainings = train_all(text, seeds, tokens, min(seeds, FOLDED))
        if kept is not None:
            kept.write_text(json.dumps(trainings))
    whole = [training for training in trainings if training["fold"] is None]
    weight = np.array(whole[0]["weight"], np.int64)
    once, twice = (
        [np.array(training["nats"]) for training in whole if (training["tokens"] == tokens) is equal]
        for equal in (True, False)
    )
    scores = [bits(float(nats.sum()), int(weight.sum())) for nats in once]
    say(
        f"{len(once)} seeds: {min(scores):.4f} to {max(scores):.4f} bits, {np.std(np.log(scores), ddof=1):.2%} apart"
    )
    figures = [figure("seeds differ by", 100 * float(np.std(np.log(scores), ddof=1)), "% of the score")]
    for name, noises in ways(trainings, scores).items():
        must = None if name == "documents alone" else f"<= {RULES.alpha}"
        figures.append(share(f"another seed promoted, by {name}", once, once, weight, noises, must))
        if "seeds" not in name:
            must = None if name == "documents alone" else f">= {DETECTED}"
            figures.append(share(f"twice the text promoted, by {name}", twice, once, weight, noises, must))
        say(", ".join(f"{seen.figure} {seen.value:.3f}" for seen in figures[-2:]))
    return figures


def ways(trainings: Sequence[Training], scores: Sequence[float]) -> dict[str, Noises]:
    """What a pair's run-to-run variance may rest on: the numbers of challenger and champion to their estimates."""
    none = SeedNoise(relative=0.0, freedom=math.inf, source="nothing")
    known, by_folds = stored_noise("bits per byte"), folds_of(trainings)

    def siblings(of: int) -> Noises:
        def noises(new: int, old: int) -> tuple[SeedNoise, SeedNoise]:
            others = [score for number, score in enumerate(scores) if number not in (new, old)][:of]
            found = noise_of_siblings([*others, scores[new], scores[old]])
            assert found is not None
            return found, found

        return noises

    return {
        "documents alone": lambda new, old: (none, none),
        "the stored estimate": lambda new, old: (known, known),
        "folds": lambda new, old: (by_folds[new % len(by_folds)], by_folds[old % len(by_folds)]),
        f"{SIBLINGS + 2} seeds": siblings(SIBLINGS),
        "all seeds": siblings(len(scores)),
    }


def folds_of(trainings: Sequence[Training]) -> list[SeedNoise]:
    """Of every seed that has folds, what they say of the noise."""
    found = []
    for seed in sorted({training["seed"] % 1000 for training in trainings if training["fold"] is not None}):
        with tempfile.TemporaryDirectory() as folder:
            for training in trainings:
                if training["fold"] is not None and training["seed"] % 1000 == seed:
                    nats, weight = np.array(training["nats"]), np.array(training["weight"])
                    place = Path(folder) / str(training["fold"])
                    place.mkdir()
                    write_scores(place, np.arange(len(nats)), nats, weight)
            noise = noise_of_folds(Path(folder), "causal")
            assert noise is not None
            found.append(noise)
    return found


def share(
    name: str, new: Sequence[Floats], old: Sequence[Floats], weight: Ints, noises: Noises, must: str | None
) -> Figure:
    """Of all pairs of a challenger and a champion, those promoted; the interval is over champions."""
    of_each = []
    for champion, held in enumerate(old):
        said = [
            compare(nats, held, weight, 1, RULES, noises(challenger, champion)).promoted
            for challenger, nats in enumerate(new)
            if nats is not held
        ]
        of_each.append(float(np.mean(said)))
    half = 1.96 * float(np.std(of_each, ddof=1)) / len(of_each) ** 0.5
    middle = float(np.mean(of_each))
    return figure(name, middle, "of pairs", max(0.0, middle - half), min(1.0, middle + half), must)


def figure(
    name: str,
    value: float,
    unit: str,
    low: float | None = None,
    high: float | None = None,
    must: str | None = None,
) -> Figure:
    """One number of this part."""
    return Figure("operate/gate", name, value, low, high, unit, must)


def train_all(text: Path | None, seeds: int, tokens: int, folded: int) -> list[Training]:
    """Seeds that train on `tokens`, some on twice as many, and the folds of some of the first."""
    wanted = [{"seed": seed, "tokens": tokens, "fold": None} for seed in range(seeds)]
    wanted += [
        {"seed": seed, "tokens": 2 * tokens, "fold": None} for seed in range(100, 100 + min(seeds, FOLDED))
    ]
    wanted += [
        {"seed": seed + 1000 * (1 + fold), "tokens": tokens // FOLD_SHARE, "fold": fold}
        for seed in range(folded)
        for fold in range(FOLDS)
    ]
    with tempfile.TemporaryDirectory(prefix="shoestring-bench-") as folder:
        shards = write_shards(Path(folder) / "shards", read_text(text, TEXT_BYTES), DOCUMENT_BYTES)
        index = shards.documents("train").copy()
        index[:, FOLD] = np.arange(len(index)) // 8 % FOLDS  # neighbours are of one module
        np.save(shards.folder / "train.npy", index)
        lanes = len(cores())
        jobs = [
            Job(
                "tests.benchmarks.operate_gate:train_some",
                {
                    "shards": str(shards.folder),
                    "folder": f"{folder}/{lane}",
                    "trainings": wanted[lane::lanes],
                },
            )
            for lane in range(lanes)
        ]
        return [training for found in run_together(jobs, 1) for training in found["trainings"]]


def train_some(go: Go, shards: str, folder: str, trainings: Sequence[Training]) -> dict[str, Any]:
    """One after the other; nats and bytes of each test document, of a fold those of the text it left out."""
    go()
    found = []
    for number, training in enumerate(trainings):
        found.append(training | train_one(Path(shards), Path(folder) / f"{number}", **training))
        print(training, flush=True)
    return {"trainings": found}


def train_one(shards: Path, folder: Path, seed: int, tokens: int, fold: int | None) -> dict[str, list[float]]:
    """Nats and bytes of each document that the training is judged on."""
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    from training.held_out import read_scores
    from training.metrics import score_documents
    from training.worker import Assignment, carry_out

    disable_progress_bar()
    blueprint = Blueprint(
        model=Scratch(depth=DEPTH),
        learning=Learning(context=CONTEXT, batch_tokens=BATCH_TOKENS),
        vocabulary=VOCABULARY,
        start_token=START,
        seed=seed,
    )
    carry_out(
        Assignment(
            folder=folder,
            blueprint=blueprint,
            shards=shards,
            clock=TokenCount(tokens),
            without_fold=fold,
            looks=(),
            held_out_tokens=60_000 if fold is not None else 0,
            keep_model=fold is None,
            threads=torch.get_num_threads(),
        )
    )
    if fold is not None:
        _, nats, weights = read_scores(folder).T
        return {"nats": nats.tolist(), "weight": weights.tolist()}
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tested, _ = documents(opened := Shards(shards), "test")
    sizes = opened.documents("test")[:, 2]
    return {"nats": score_documents(model, tested, CONTEXT).tolist(), "weight": sizes.tolist()}
