"""What is said of scores: the right sign, intervals that hold as often as they say, and no more than can be told."""

import numpy as np
import pytest
from scipy import stats

from tasks.effects import CONFIDENCE, NOTHING_SEEN, Effect, effects_of, half_width


def described(name: str, *scores: float | None, added: bool = False) -> Effect:
    return Effect(
        technique=name,
        added=added,
        was="on",
        instead="off",
        scores=scores,
        tokens_per_second=1.0,
    )


def test_what_pays_is_worth_more_than_nothing_whichever_way_it_was_compared() -> None:
    recipe = (2.0, 2.1, 2.2)
    effects, seeds = effects_of(
        [
            described("costs", 1.7, 1.81, 1.9),
            described("pays", 2.5, 2.61, 2.7),
            described("adding pays", 1.5, 1.61, 1.7, added=True),
            described("nothing", 2.0, 2.11, 2.2),
        ],
        recipe,
    )
    assert seeds == [0, 1, 2]
    assert [one.technique for one in effects] == ["pays", "adding pays", "nothing", "costs"]
    assert [one.verdict for one in effects] == ["pays", "pays", NOTHING_SEEN, "costs"]
    first = effects[0]
    assert first.worth == pytest.approx(0.5033, abs=1e-3)
    assert first.relative == pytest.approx(0.5033 / 2.1, abs=1e-3)
    assert first.low is not None and first.high is not None and first.low < 0.5033 < first.high


def test_with_one_comparison_it_is_the_paired_t_interval() -> None:
    scores = np.array([[2.0, 2.1, 2.3], [2.2, 2.25, 2.6]])
    paired = scores[1] - scores[0]
    expected = stats.t.ppf((1 + CONFIDENCE) / 2, 2) * np.std(paired, ddof=1) / np.sqrt(3)
    assert half_width(scores) == pytest.approx(expected)


def test_all_intervals_hold_at_once_as_often_as_they_say() -> None:
    """800 comparisons in which nothing is worth anything, seeds differ much, and variants by noise alone."""
    dice = np.random.default_rng(0)
    families, variants, seeds = 800, 8, 3
    held = 0
    for _ in range(families):
        scores = 2 + dice.normal(0, 0.1, (1, seeds)) + dice.normal(0, 0.01, (variants, seeds))
        half = half_width(scores)
        differences = scores.mean(1) - scores[0].mean()
        held += bool(np.abs(differences).max() <= (half or 0))
    # Bonferroni is a little wide; without the correction it would be 0.62.
    assert CONFIDENCE - 0.02 <= held / families <= 0.99


def test_an_effect_three_times_the_noise_is_seen_with_three_seeds() -> None:
    dice = np.random.default_rng(1)
    seen = 0
    for _ in range(100):
        scores = 2 + dice.normal(0, 0.01, (8, 3))
        scores[3] += 0.03
        half = half_width(scores)
        seen += bool(scores[3].mean() - scores[0].mean() > (half or np.inf))
    assert seen > 60


def test_one_seed_tells_nothing() -> None:
    effects, _ = effects_of([described("x", 2.5)], (2.0,))
    assert effects[0].worth == pytest.approx(0.5)
    assert (effects[0].low, effects[0].high) == (None, None)
    assert effects[0].verdict == "one seed: nothing can be told"


def test_a_variant_that_fails_is_told_and_a_seed_without_the_recipe_does_not_count() -> None:
    effects, seeds = effects_of(
        [
            described("clipping", 2.0, None, None),
            described("dropout", 2.1, 2.0, 2.2),
            described("average", None, None, 1.9, added=True),
        ],
        (2.0, None, 2.1),
    )
    assert seeds == [0, 2]
    told = {one.technique: (one.worth, one.verdict) for one in effects}
    assert told["clipping"] == (None, "training fails without it")
    assert told["average"] == (None, "training fails with it")
    assert told["dropout"][0] == pytest.approx(0.1)
