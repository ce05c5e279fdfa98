"""Labels learnt in little time: ours against `transformers.Trainer` on the same model, and against TF-IDF.

Ours and the Trainer's train side by side, each on cores of its own. Figures are medians over seeds, paired
by seed where they are differences, with intervals from the least to the greatest seed.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.byte_level import pieces, read_text
from tests.benchmarks.figures import Figure
from tests.benchmarks.labelled import (
    Labelled,
    judged,
    learn_tokenizer,
    read_labelled,
    sides_of,
    tfidf,
    write_shards,
)
from tests.benchmarks.lanes import Job, cores, run_in_lanes, run_together
from tests.benchmarks.quality import over_seeds

MODULE = "tests.benchmarks.labelled_runs"
TEXT_PIECE_BYTES = 2048  # of unlabelled text, to learn to fill gaps from
Say = Callable[[str], None]


def measure_classification(
    labelled: Path | None, seconds: float, seeds: int, threads: int, say: Say
) -> list[Figure]:
    """Dev accuracy of a model trained from scratch for `seconds`."""
    data = read_labelled(labelled)
    say(described(data))
    with tempfile.TemporaryDirectory(prefix="shoestring-bench-") as folder:
        place = Path(folder)
        backend = learn_tokenizer([text for text, _ in data.train])
        write_shards(place / "labelled", backend, sides_of(data), data.labels)
        scores = compared(place, data, "accuracy", seconds, seeds, threads, None, say)
    return [
        over_seeds(f"from scratch, {name}, {seconds:.0f} s", scores[system], "% accuracy")
        for system, name in (("ours", "Shoestring"), ("trainer", "transformers.Trainer"))
    ] + [above("from scratch, above transformers.Trainer", scores["ours"], scores["trainer"], "points")]


def measure_fine_tuning(
    labelled: Path | None,
    text: Path | None,
    pretraining_seconds: float,
    seconds: float,
    seeds: int,
    threads: int,
    say: Say,
) -> list[Figure]:
    """Dev macro-F1 after `seconds` from our own masked model.

    It was pretrained on all cores, on the training texts without their labels, and on `text`; where the
    labelled texts are the standard library's, so is the text.
    """
    data = read_labelled(labelled)
    say(described(data))
    with tempfile.TemporaryDirectory(prefix="shoestring-bench-") as folder:
        place = Path(folder)
        more = read_text(text) if text or labelled is None else b""
        plain = [piece.decode("utf-8", "replace") for piece in pieces(more, TEXT_PIECE_BYTES)]
        backend = learn_tokenizer([*(text for text, _ in data.train), *plain])
        write_shards(place / "plain", backend, sides_of(data, plain), ())
        write_shards(place / "labelled", backend, sides_of(data), data.labels)
        same = {"shards": str(place / "plain"), "folder": str(place / "masked"), "seed": 0}
        job = Job(f"{MODULE}:pretrain", {**same, "seconds": pretraining_seconds})
        (pretrained,) = run_together([job], len(cores()))
        say(f"pretrained for {pretraining_seconds:.0f} s: {pretrained}")
        checkpoint = str(place / "masked" / "model")
        scores = compared(place, data, "macro-F1", seconds, seeds, threads, checkpoint, say)
    lines = judged(tfidf(data), data)["macro-F1"]
    return [
        *(
            over_seeds(f"fine-tuned, {name}, {seconds:.0f} s", scores[system], "% macro-F1")
            for system, name in (("ours", "Shoestring"), ("trainer", "transformers.Trainer"))
        ),
        over_seeds("TF-IDF with logistic regression", [lines], "% macro-F1"),
        above("fine-tuned, above transformers.Trainer", scores["ours"], scores["trainer"], "points"),
        above("fine-tuned, above TF-IDF", scores["ours"], [lines] * seeds, "points"),
    ]


def compared(
    place: Path,
    data: Labelled,
    metric: str,
    seconds: float,
    seeds: int,
    threads: int,
    checkpoint: str | None,
    say: Say,
) -> dict[str, list[float]]:
    """The metric of each system, in the order of the seeds."""
    jobs = []
    for seed in range(seeds):
        same = {"shards": str(place / "labelled"), "seconds": seconds, "seed": seed, "checkpoint": checkpoint}
        pair = [
            Job(f"{MODULE}:ours", {**same, "folder": str(place / f"ours-{seed}")}),
            Job(f"{MODULE}:trainer", same),
        ]
        jobs += pair if seed % 2 == 0 else pair[::-1]
    scores: dict[str, list[float]] = {"ours": [], "trainer": []}
    for result in sorted(run_in_lanes(jobs, threads), key=lambda result: int(result["seed"])):
        found = judged(result["said"], data)
        scores[result["system"]].append(found[metric])
        say(summary(result, found))
    return scores


def summary(result: dict[str, Any], found: dict[str, float]) -> str:
    """One line for a person."""
    scores = ", ".join(f"{name} {value:.2f} %" for name, value in found.items())
    return (
        f"{result['system']}, seed {result['seed']}: {scores}; {result['parameters']:,} parameters, "
        f"{result['steps']:,} steps, {result['kept']} weights"
    )


def above(name: str, ours: list[float], theirs: list[float], unit: str) -> Figure:
    """By how much ours is better, which it must be."""
    gaps = [mine - other for mine, other in zip(ours, theirs, strict=True)]
    return over_seeds(name, gaps, unit, "> 0")


def described(data: Labelled) -> str:
    """One line for a person."""
    sizes = f"{len(data.train):,} to train, {len(data.dev):,} to judge, {len(data.labels)} labels"
    return f"{data.name}, digest {data.digest}: {sizes}"
