"""The gate's judgement: luck rarely promotes, no part of the text pays for the others, and nothing is forgotten."""

import math
import shutil
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tasks import home, tracking
from tasks.difference import difference
from tasks.earlier_tests import known_tests
from tasks.gate import compare
from tasks.generate import resolve_model
from tasks.register import Promotion, register
from tasks.resampling import bootstrap, standard_error
from tasks.seed_noise import SeedNoise, noise_of_siblings, stored_noise
from tasks.siblings import noise_of_folds
from tasks.slices import FEWEST_DOCUMENTS, Part, judge_parts, parts_of
from tasks.verdict import Rules, Verdict
from tests import tiny_run

RULES = Rules(alpha=0.05, slice_margin=0.05)
STORED = (stored_noise("bits per byte"),) * 2
NO_NOISE = (SeedNoise(relative=0.0, freedom=1000.0, source="nothing"),) * 2


Nats = np.ndarray


def trainings(count: int, spread: float = 0.01, dice_seed: int = 1) -> list[Nats]:
    """Nats of the same 150 documents by trainings of one recipe, whose scores differ by `spread`, relative."""
    dice = np.random.default_rng(dice_seed)
    costs = dice.normal(700, 150, 150)
    return [costs * (1 + dice.normal(0, spread)) + dice.normal(0, 7, 150) for _ in range(count)]


def share_promoted(spread: float, noise: Callable[[list[Nats]], SeedNoise]) -> float:
    """Of all ordered pairs of seeds, in each of forty groups of eight."""
    sizes, said = np.full(150, 1000), []
    for group in range(40):
        seeds = trainings(8, spread, group)
        known = noise(seeds)
        said += [
            difference(new, old, sizes, (known, known)).chance_below() < RULES.alpha
            for new, old in permutations(seeds, 2)
        ]
    return float(np.mean(said))


def by_seeds(seeds: list[Nats]) -> SeedNoise:
    found = noise_of_siblings([float(nats.sum()) for nats in seeds])
    assert found is not None
    return found


def test_another_seed_is_rarely_promoted() -> None:
    assert share_promoted(0.01, lambda _: NO_NOISE[0]) > 0.2  # what documents alone would do
    assert share_promoted(0.01, lambda _: STORED[0]) <= RULES.alpha
    assert share_promoted(0.04, by_seeds) <= RULES.alpha  # four times what is stored


def test_a_better_model_is_promoted() -> None:
    old, sizes = trainings(1)[0], np.full(150, 1000)
    verdict = compare(0.94 * old, old, sizes, 7, RULES, STORED)
    assert verdict.promoted
    assert "better than version 7" in verdict.sentence
    assert "the stored estimate, of other texts" in verdict.sentence
    assert verdict.runs_error == pytest.approx(
        0.01 * math.hypot(verdict.challenger_bits, verdict.champion_bits or 0)
    )
    assert not compare(0.99 * old, old, sizes, 7, RULES, STORED).promoted
    assert compare(0.99 * old, old, sizes, 7, RULES, NO_NOISE).promoted


def test_few_documents_promote_nothing() -> None:
    better, worse, sizes = np.full(4, 100.0), np.full(4, 200.0), np.full(4, 100)
    verdict = compare(better, worse, sizes, 1, RULES, STORED)
    assert not verdict.promoted
    assert "too few documents" in verdict.reason
    assert compare(np.full(5, 100.0), np.full(5, 200.0), np.full(5, 100), 1, RULES, STORED).promoted
    assert verdict.difference == pytest.approx(-1 / math.log(2))


def test_few_runs_are_sure_of_less() -> None:
    few, many = (SeedNoise(relative=0.01, freedom=freedom, source=f"{freedom}") for freedom in (2, 50))
    old, sizes = trainings(1)[0], np.full(150, 1000)
    sure = difference(0.97 * old, old, sizes, (many, many))
    unsure = difference(0.97 * old, old, sizes, (few, few))
    assert sure.error == unsure.error
    assert sure.chance_below() < 0.05 < unsure.chance_below()
    of_their_own = difference(0.97 * old, old, sizes, (few, few.model_copy(update={"source": "others"})))
    assert unsure.freedom < of_their_own.freedom < 5


def test_the_formula_is_what_resampling_tends_to() -> None:
    dice = np.random.default_rng(3)
    sizes = dice.integers(200, 4000, 300)
    nats = sizes * dice.normal(0.7, 0.1, 300)
    assert standard_error(nats, sizes) == pytest.approx(np.std(bootstrap(nats, sizes)), rel=0.08)


def test_a_slice_that_pays_keeps_the_champion() -> None:
    dice = np.random.default_rng(0)
    old = dice.normal(700, 40, 200)
    new, sizes = old * 0.9, np.full(200, 1000)
    new[:40] = old[:40] * 1.2  # of 200, and the whole is still better
    languages = ["de"] * 40 + ["en"] * 160
    documents = pa.table({"bytes": sizes, "language": languages})
    verdict = compare(new, old, sizes, 3, RULES, STORED, parts=parts_of(documents, new, old, sizes))
    assert verdict.reason == "better"
    assert not verdict.promoted
    assert "but worse than it on language 'de' (40 documents" in verdict.sentence
    lenient = RULES._replace(slice_margin=0.3)
    assert compare(new, old, sizes, 3, lenient, STORED, parts=parts_of(documents, new, old, sizes)).promoted


def test_a_small_slice_has_no_veto_and_says_so() -> None:
    old, sizes = np.full(200, 700.0), np.full(200, 1000)
    new, few = old * 0.9, slice(FEWEST_DOCUMENTS - 1)
    new[few] = 2 * old[0]
    part = Part("source", "a.txt", new[few], old[few], sizes[few])
    verdict = compare(new * 0.8, old, sizes, 1, RULES, STORED, parts=[part])
    assert verdict.promoted
    assert verdict.slices[0].said == "too small to tell"
    assert "| source: a.txt | 19 |  | too small to tell |" in verdict.table()


def test_slices_rarely_veto_by_chance() -> None:
    """Ten slices of thirty documents, all a little better in truth: seeds and documents make them look worse."""
    dice, vetoes = np.random.default_rng(0), 0
    sizes = np.full(30, 1000)
    for _ in range(200):
        old = [dice.normal(700, 150, 30) for _ in range(10)]
        luck = dice.normal(0, 0.01 * 2**0.5)
        new = [
            nats * (1.05 + luck) + dice.normal(0, 60, 30) for nats in old
        ]  # as much worse as the margin says
        parts = [Part("language", f"{n}", *pair, sizes) for n, pair in enumerate(zip(new, old, strict=True))]
        vetoes += any(part.said == "worse" for part in judge_parts(parts, STORED, RULES))
    assert vetoes <= 16  # 10 expected at most at alpha 0.05


def test_slices_are_the_documents_own_kinds() -> None:
    count = 120
    documents = pa.table(
        {
            "bytes": np.arange(1, count + 1),
            "source": [f"folder{n % 3}/{n}.txt" for n in range(count)],
            "language": ["en"] * count,
            "label": [None] * 60 + ["a"] * 40 + ["b"] * 20,
        }
    )
    ones = np.ones(count)
    parts = parts_of(documents, ones, ones, np.ones(count, np.int64))
    sizes = {(part.kind, part.name): len(part.weight) for part in parts}
    assert sizes == {
        ("source", "folder0"): 40,
        ("source", "folder1"): 40,
        ("source", "folder2"): 40,
        ("label", "a"): 40,
        ("label", "b"): 20,
        ("length", "1 to 30 bytes"): 30,
        ("length", "31 to 60 bytes"): 30,
        ("length", "61 to 90 bytes"): 30,
        ("length", "over 90 bytes"): 30,
    }


def write_folds(folder: Path, spread: float) -> None:
    dice = np.random.default_rng(2)
    for fold in range(4):
        weight = dice.integers(500, 1500, 400).astype(float)
        nats = weight * dice.normal(1.0, 0.2, 400) * (1 + spread * (fold - 1.5))
        (folder / f"{fold}").mkdir(parents=True)
        np.save(folder / f"{fold}" / "scores.npy", np.stack([np.arange(400), nats, weight], axis=1))


def test_folds_tell_of_seeds_what_documents_do_not_explain(tmp_path: Path) -> None:
    assert noise_of_folds(tmp_path, "causal") is None
    write_folds(tmp_path / "apart", 0.1)
    apart = noise_of_folds(tmp_path / "apart", "causal")
    assert apart is not None
    assert apart.relative == pytest.approx(0.13, abs=0.03)
    assert (apart.freedom, apart.source) == (3, "4 folds, less what documents explain")
    write_folds(tmp_path / "alike", 0.0)
    alike = noise_of_folds(tmp_path / "alike", "causal")
    assert alike is not None
    assert alike.relative == stored_noise("bits per byte").relative
    assert "4 folds show no more" in alike.source


@pytest.mark.usefixtures("module_home")
def test_old_tests_are_not_forgotten() -> None:
    """What reads backwards alone is better on new text and worse on the old one, which the champion was tested on."""
    old, new = tiny_run.splits(150), tiny_run.splits(150, backwards=True)
    register(*tiny_run.judged("run-old", 40, split=old), Promotion(name="old"))
    forgetful = tiny_run.judged("run-new", 40, split=new)
    kept = register(*forgetful, Promotion(name="old"))
    assert kept.aliases == ("challenger",)
    assert "better than version 1" in kept.verdict
    assert f"but worse than it on earlier test 'corpus {old.corpus.key}'" in kept.verdict
    version = tracking.client().get_model_version("shoestring-old", "2")
    assert [tested.corpus for tested in known_tests(version)] == [new.corpus.key, old.corpus.key]
    card = (resolve_model("old/2") / "README.md").read_text()
    assert f"| earlier test: corpus {old.corpus.key} |" in card

    shutil.rmtree(home.store("corpus") / old.corpus.key)
    again = register(*forgetful, Promotion(name="old"))
    assert (again.version, "champion" in again.aliases) == (2, True)
    verdict = Verdict.from_tags(tracking.client().get_model_version("shoestring-old", "2").tags)
    assert [note.partition(" is skipped, as ")[2] for note in verdict.notes] == [
        "the store does not hold it any more"
    ]


@pytest.mark.usefixtures("module_home")
def test_limits_on_time_and_size_keep_the_champion() -> None:
    register(*tiny_run.judged("run-first", 0, seed=1), Promotion(name="limits"))
    better = tiny_run.judged("run-better", 40)
    limits = {"slower_limit": "times slower than it", "larger_limit": "times larger than it"}
    for limit, said in limits.items():
        kept = register(*better, Promotion.model_validate({"name": "limits", limit: 0.001}))
        assert kept.aliases == ("challenger",)
        assert said in kept.verdict
    wide = dict.fromkeys(limits, 1000.0)
    assert "champion" in register(*better, Promotion.model_validate({"name": "limits", **wide})).aliases
