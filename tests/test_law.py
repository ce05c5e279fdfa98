"""The scaling law: its shape, what evidence does to it, and whether its intervals hold what they should."""

import numpy as np
import pytest

from training.law import CAUSAL, LABELS, MASKED, NOISE, Law, Point, gradient, independent, log_bits
from training.model import hidden_parameters

PLENTY = 1e12


def point(parameters: float = 1.3e6, text: float = 3e6, unique: float = PLENTY, **more: float) -> Point:
    return Point(parameters, text, unique, more.get("bits", 1.0), more.get("error", 0.0))


def test_size_and_text_are_traded_against_each_other() -> None:
    small, large = (CAUSAL.bits(point(size, 3e9)) for size in (1e6, 1e7))
    assert large < small
    assert CAUSAL.bits(point(1e7, 3e5)) > CAUSAL.bits(point(1e6, 3e7))
    assert CAUSAL.bits(point(text=3e6)) > CAUSAL.bits(point(text=6e6))


def test_text_seen_again_is_worth_less_and_weights_that_it_cannot_fill_nothing() -> None:
    new, again = CAUSAL.bits(point(text=3e7)), CAUSAL.bits(point(text=3e7, unique=3e5))
    assert again > new
    gains = [CAUSAL.bits(point(size, 3e7, 3e5)) for size in (1e6, 1e8)]
    assert gains[0] - gains[1] < 0.02


def test_a_larger_batch_wants_more_text() -> None:
    small, large = (CAUSAL.bits(point()._replace(batch_bytes=size)) for size in (6e3, 6e4))
    assert large > small


def test_the_slope_is_what_doubling_the_text_does() -> None:
    doubled = np.log(CAUSAL.bits(point(text=6e6)) / CAUSAL.bits(point(text=3e6))) / np.log(2)
    assert CAUSAL.slope(point(text=4e6)) == pytest.approx(doubled, rel=0.05)
    assert -0.3 < doubled < -0.05


def test_what_was_seen_narrows_what_is_expected_and_more_does_so_further() -> None:
    truth = CAUSAL.bits(point(text=1e7)) * 0.9
    widths = []
    for count in (0, 1, 4):
        law = CAUSAL.informed([point(text=1e7, bits=truth, error=0.01)] * count)
        found = law.forecast(point(text=1.1e7))
        widths.append((found.high - found.low) / found.bits)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.06 and widths[0] > 0.3
    law = CAUSAL.informed([point(text=1e7, bits=truth)])
    assert law.bits(point(text=1e7)) == pytest.approx(truth, rel=0.01)


def test_a_law_that_knew_little_meets_what_it_is_told() -> None:
    vague, text = independent((-1.4, -0.7, 0.2, -2.85, 0.65), (1.5, 1.5, 0.12, 1.0, 0.3)), 3.2e6
    told = [
        Point(hidden_parameters(1), 1.9e6, text, 0.9904, 0.01, 11_000),
        Point(hidden_parameters(2), 9.6e6, text, 0.9365, 0.01, 11_000),
    ]
    law = vague.informed(told)
    for point in told:
        assert law.bits(point) == pytest.approx(point.bits, rel=0.01)
    assert law.forecast(told[-1]).high < 1.1 * law.forecast(told[-1]).low


def test_what_a_moment_of_training_shows_is_doubted() -> None:
    first, later = (point(text=text, bits=CAUSAL.bits(point(text=text)) * 0.8) for text in (3e4, 3e6))
    ahead = point(text=1e7)
    moved = [CAUSAL.informed([seen]).bits(ahead) / CAUSAL.bits(ahead) for seen in (first, later)]
    assert moved[0] > 0.93 and moved[1] < 0.87


def test_the_further_ahead_the_less_is_known() -> None:
    law = CAUSAL.informed([point(text=1e6, bits=2.0)])
    widths = [law.forecast(point(text=text)) for text in (1e6, 1e7, 1e9)]
    relative = [(found.high - found.low) / found.bits for found in widths]
    assert relative == sorted(relative)


def test_nine_of_ten_texts_drawn_from_the_prior_end_inside_the_interval() -> None:
    dice = np.random.default_rng(0)
    mean, covariance = np.array(CAUSAL.mean), np.array(CAUSAL.covariance)
    inside = 0
    for _ in range(300):
        constants = dice.multivariate_normal(mean, covariance)
        probe, final = point(0.4e6, 9e5), point(1.3e6, 1e7)
        seen = float(np.exp(log_bits(constants, probe, CAUSAL.repeats) + dice.normal(0, NOISE)))
        found = CAUSAL.informed([probe._replace(bits=seen)]).forecast(final)
        came = float(np.exp(log_bits(constants, final, CAUSAL.repeats) + dice.normal(0, NOISE)))
        inside += found.low <= came <= found.high
    assert 0.84 < inside / 300 < 0.98  # curves of real texts drift, which these do not


def test_the_gradient_is_the_gradient() -> None:
    at, moved = np.array(CAUSAL.mean), np.array([0.01, -0.02, 0.003, 0.01, 0.02])
    change = log_bits(at + moved, point(), 1.2) - log_bits(at, point(), 1.2)
    assert change == pytest.approx(float(gradient(at, point(), 1.2) @ moved), abs=1e-4)


def test_news_change_what_is_known_of_a_text_and_not_what_kind_of_law_it_is() -> None:
    told = MASKED.informed([point(bits=1.5)])
    assert (told.repeats, told.early_bytes) == (MASKED.repeats, MASKED.early_bytes) != (1.2, 3e5)
    early = point(text=6e5, bits=5.0)  # long enough for a causal model, too short for a masked one
    moved = [
        law.informed([early]).bits(early) / law.bits(early)
        for law in (MASKED._replace(early_bytes=3e5), MASKED)
    ]
    assert moved[0] > moved[1] > 1


def test_what_a_label_takes_is_known_to_within_its_own_noise_alone() -> None:
    again = [Point(hidden_parameters(1), 1e6, 3.2e6, 0.9, 0.0) for _ in range(3)]
    labels, text = (law.informed(again).forecast(again[0]) for law in (LABELS, CAUSAL))
    assert labels.high / labels.low > 1.25 > 1.1 > text.high / text.low


def test_a_law_without_news_stays_as_it_is() -> None:
    assert CAUSAL.informed([]) == CAUSAL
    assert isinstance(CAUSAL.informed([point(bits=1.5)]), Law)
