"""Near-duplicates and contamination: speed against datatrove's, file to file, and what is found of what was planted."""

import io
import os
import random
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.contamination import Contamination, Index
from tasks.near import SIMILARITY, best, clusters, signatures
from tasks.text import Text
from tests.benchmarks.figures import Figure
from tests.planted_texts import exact_jaccard, planted_texts, vocabulary

NEAR, PLANTED, CONTAMINATION = "data/near-duplicates", "data/planted copies", "data/contamination"
ROWS_A_GROUP = 2_000  # of the parquet files that are read and written
BINS = (0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.01)
Say = Callable[[str], None]
Numbers = Sequence[int]


def with_copies(documents: Sequence[str], share: float = 0.2, seed: int = 0) -> list[str]:
    """The documents, and among them edited copies of this share of them: up to every eighth word is another."""
    dice = random.Random(seed)
    copies = []
    for text in dice.sample(documents, int(share * len(documents))):
        words, changed = text.split(" "), dice.random() / 8
        copies.append(" ".join(dice.choice(words) if dice.random() < changed else word for word in words))
    mixed = [*documents, *copies]
    dice.shuffle(mixed)
    return mixed


def write_documents(documents: Sequence[str], path: Path) -> None:
    """A parquet file with the columns id and text."""
    ids = [f"{number:08d}" for number in range(len(documents))]
    pq.write_table(
        pa.table({"id": ids, "text": documents}), path, row_group_size=ROWS_A_GROUP, compression="zstd"
    )


def ours(source: Path, target: Path) -> None:
    """Writes the documents of a parquet file that stay, group by group."""
    with pq.ParquetFile(source) as file:

        @lru_cache(maxsize=2)
        def column(group: int) -> pa.ChunkedArray:
            return file.read_row_group(group, columns=["text"])["text"]

        def text_of(number: int) -> str:
            return str(column(number // ROWS_A_GROUP)[number % ROWS_A_GROUP])

        made, sizes = [], []
        for group in range(file.num_row_groups):
            made.append(signatures(column(group).to_pylist()))
            sizes.append(pc.binary_length(column(group)).to_numpy())
        found = clusters(np.concatenate(made), text_of)
        kept = best(found, np.concatenate(sizes), np.arange(len(found)))
        with pq.ParquetWriter(target, file.schema_arrow, compression="zstd") as writer:
            for group in range(file.num_row_groups):
                stays = kept[group * ROWS_A_GROUP : (group + 1) * ROWS_A_GROUP]
                writer.write_table(file.read_row_group(group).filter(pa.array(stays)))


def datatroves(source: Path, target: Path) -> None:
    """The same by datatrove's four stages of MinHash, with 14 buckets of 8, in this process."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter

    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    with tempfile.TemporaryDirectory(prefix="shoestring-bench-") as folder, redirect_stderr(io.StringIO()):
        signed, paired, gone = (str(Path(folder, name)) for name in ("signed", "paired", "gone"))
        reader = partial(ParquetReader, str(source.parent), glob_pattern=source.name)
        stages = (
            (1, [reader(), MinhashDedupSignature(signed, config=config)]),
            (14, [MinhashDedupBuckets(signed, paired, config=config)]),
            (1, [MinhashDedupCluster(paired, gone, config=config)]),
            (
                1,
                [
                    reader(),
                    MinhashDedupFilter(gone),
                    ParquetWriter(str(target.parent), "${rank}.parquet", max_file_size=-1),
                ],
            ),
        )
        for number, (parts, steps) in enumerate(stages):
            logs = str(Path(folder, f"logs{number}"))
            LocalPipelineExecutor(steps, tasks=parts, workers=1, logging_dir=logs).run()
        target.with_name("00000.parquet").rename(target)


def kept_by(deduplicate: Callable[[Path, Path], None], documents: Sequence[str]) -> tuple[set[int], float]:
    """The numbers of the documents that stay, and the seconds of a core that it took, file to file."""
    with tempfile.TemporaryDirectory(prefix="shoestring-bench-") as folder:
        source, target = Path(folder, "in", "documents.parquet"), Path(folder, "kept.parquet")
        source.parent.mkdir()
        write_documents(documents, source)
        before = sum(os.times()[:4])
        deduplicate(source, target)
        seconds = sum(os.times()[:4]) - before
        return {int(name) for name in pq.read_table(target, columns=["id"])["id"].to_pylist()}, seconds


def measure_near(documents: Sequence[str], repeats: int, say: Say) -> list[Figure]:
    """How fast near-duplicates are dropped, ours and datatrove's in turn, file to file.

    Speeds are medians, their intervals from the least to the greatest; that of the ratio, which is one of
    neighbours, too.
    """
    size = sum(len(text.encode()) for text in documents) / 1e6
    for deduplicate in (ours, datatroves):
        kept_by(deduplicate, documents[:50])  # loads what it needs
    pairs, left = [], []
    for _ in range(repeats):
        sides = [kept_by(deduplicate, documents) for deduplicate in (ours, datatroves)]
        pairs.append((sides[0][1], sides[1][1]))
        left = [len(kept) for kept, _ in sides]
        say("ours {:.2f} MB/s, datatrove {:.3f} MB/s".format(*(size / seconds for seconds in pairs[-1])))
    say(f"of {len(documents):,} documents we keep {left[0]:,}, datatrove {left[1]:,}")
    rates = (
        ("near-duplicates dropped", [size / one for one, _ in pairs], "MB/s a core", None, None),
        ("by datatrove", [size / other for _, other in pairs], "MB/s a core", None, None),
        ("ours to datatrove's", [other / one for one, other in pairs], "times", ">= 15", ">= 20"),
    )
    return [
        Figure(NEAR, name, median(values), min(values), max(values), unit, must, aim)
        for name, values, unit, must, aim in rates
    ]


@dataclass(frozen=True)
class Verdict:
    """What was found of planted pairs; all figures are shares."""

    recall: float  # of pairs at the threshold or above
    at_threshold: float  # of those exactly there
    precision: float
    by_similarity: dict[tuple[float, float], tuple[float, int]]  # share found, and pairs


def verdict(similar: dict[tuple[int, int], float], found: set[tuple[int, int]]) -> Verdict:
    """How `found` compares with the truth."""

    def share(low: float, high: float) -> tuple[float, int]:
        pairs = [pair for pair, truth in similar.items() if low <= truth < high]
        return sum(pair in found for pair in pairs) / max(1, len(pairs)), len(pairs)

    right = sum(similar.get(pair, 0.0) >= SIMILARITY for pair in found)
    return Verdict(
        share(SIMILARITY, BINS[-1])[0],
        share(SIMILARITY, float(np.nextafter(SIMILARITY, 1)))[0],
        right / max(1, len(found)),
        {(low, high): share(low, high) for low, high in pairwise(BINS)},
    )


def measure_planted(pairs: int, singles: int, seed: int, say: Say, compared: bool = True) -> list[Figure]:
    """What is found of pairs with known similarity; of datatrove's too, if `compared` (2,000 pairs take minutes).

    A pair is found where both are in one cluster; of datatrove's result only what stays is known, so there a
    pair is found where one of both is gone.
    """
    planted = planted_texts(pairs, singles, seed)
    grouped = clusters(signatures(planted.texts), planted.texts.__getitem__).tolist()
    sides = {"": verdict(planted.similar, {(low, at) for at, low in enumerate(grouped) if low != at})}
    if compared:
        kept, _ = kept_by(datatroves, planted.texts)
        partner = {at: pair for pair in planted.similar for at in pair}
        gone = [at for at in range(len(planted.texts)) if at not in kept]
        sides["datatrove: "] = verdict(planted.similar, {partner.get(at, (at, at)) for at in gone})
    figures = []
    for side, one in sides.items():
        musts = (">= 0.999", None, ">= 0.99") if not side else (None, None, None)
        named = {
            f"recall of pairs at Jaccard {SIMILARITY} or above": one.recall,
            f"recall of pairs at {SIMILARITY} exactly": one.at_threshold,
            "precision": one.precision,
        }
        for (name, value), must in zip(named.items(), musts, strict=True):
            figures.append(Figure(PLANTED, side + name, value, None, None, "share", must))
        for (low, high), (value, count) in one.by_similarity.items():
            say(f"{side}Jaccard {low:.2f} to {min(high, 1):.2f}: {value:.4f} of {count:,} pairs found")
    return figures


def measure_crowd(texts: int, copies: int, seed: int, say: Say) -> list[Figure]:
    """What is found of copies among texts that share a template, so that whole crowds share their bands."""
    dice = random.Random(seed)
    known = vocabulary(dice)
    figures = []
    for template, own in ((100, 200), (200, 100), (270, 80)):
        beginning = dice.choices(known, k=template)
        bodies = [dice.choices(known, k=own) for _ in range(texts)]
        pairs = {(at, texts + at) for at in range(copies)}
        for at in range(copies):
            copy = list(bodies[at])
            for place in range(2, own, own // 4):
                copy[place] = dice.choice(known)
            bodies.append(copy)
        crowd = [" ".join(beginning + body) for body in bodies]
        found = clusters(signatures(crowd), crowd.__getitem__).tolist()
        alike = [pair for pair in pairs if exact_jaccard(crowd[pair[0]], crowd[pair[1]]) >= SIMILARITY]
        recall = sum(found[low] == found[high] for low, high in alike) / len(alike)
        background = exact_jaccard(crowd[copies], crowd[copies + 1])
        say(
            f"{texts:,} texts of Jaccard {background:.2f} to each other: {recall:.4f} of {len(alike):,} copies"
        )
        name = f"recall among {texts:,} texts of Jaccard {background:.2f} to each other"
        figures.append(Figure(PLANTED, name, recall, None, None, "share"))
    return figures


def measure_contamination(
    clean: int, planted: int, repeats: int, seed: int, say: Say, length: int = 13
) -> list[Figure]:
    """What is found of documents with `length` words of 1,000 evaluation texts, what else is dropped, and how fast.

    Words are drawn as Zipf's law has them, so that common ones meet as often as in prose.
    """
    rng = np.random.default_rng(seed)
    known = vocabulary(random.Random(seed))
    weights = 1 / np.arange(1, len(known) + 1)

    def drawn(least: int, most: int) -> str:
        chosen = rng.choice(len(known), int(rng.integers(least, most)), p=weights / weights.sum())
        return " ".join(map(known.__getitem__, chosen.tolist()))

    judged = [drawn(length, 120) for _ in range(1_000)]
    texts = [Text(drawn(100, 900)) for _ in range(clean)]
    dirty = []
    for at in range(planted):
        chosen, body = judged[rng.integers(len(judged))].split(), texts[at % clean].split()
        start, place = rng.integers(len(chosen) - length + 1), rng.integers(len(body))
        dirty.append(Text(" ".join([*body[:place], *chosen[start : start + length], *body[place:]])))
    with tempfile.TemporaryDirectory(prefix="shoestring-bench-") as folder:
        table = Path(folder, "judged.parquet")
        pq.write_table(pa.table({"text": judged}), table)
        step = Contamination(paths=(str(table),), words=length)
        found = sum(step.reason(text) is not None for text in dirty)
        wrong = sum(step.reason(text) is not None for text in texts)
        size = sum(map(len, texts)) / 1e6
        index = Index.of(judged, length)
        rates = {
            "documents checked, one by one": lambda: [step.apply(text) for text in texts],
            "documents checked, in batches": lambda: index.hits(texts),
        }
        speeds = {name: [size / _seconds(check) for _ in range(repeats)] for name, check in rates.items()}
    say(f"{found:,} of {planted:,} found; {wrong:,} of {clean:,} clean ones dropped")
    return [
        Figure(CONTAMINATION, "planted found", found / planted, None, None, "share", ">= 1"),
        Figure(CONTAMINATION, "clean dropped", wrong / clean, None, None, "share", "<= 0.001"),
        *(
            Figure(CONTAMINATION, name, median(values), min(values), max(values), "MB/s a core", ">= 20")
            for name, values in speeds.items()
        ),
    ]


def _seconds(work: Callable[[], object]) -> float:
    """Of this process' cores."""
    before = sum(os.times()[:2])
    work()
    return sum(os.times()[:2]) - before
