"""What a budget would buy: the scaling law, informed by this run's probe and by earlier runs, and asked ahead."""

import math
from collections.abc import Sequence

from tasks.artifacts import Tokens
from tasks.calibrate import Calibration
from tasks.evidence import Earlier, Evidence
from training.law import PRIORS, Forecast, Law, Point
from training.model import hidden_parameters
from training.objectives import Objective

EARLY_ERROR = 0.012  # relative, of a score at a third of a training against one that ends there; seven texts
OTHERS_ERROR = 0.08  # the same where optimizer, schedule or dropout were others: adamw against muon, measured
SEEDS_ERROR = 0.01  # relative, of another run's score: seed, settings, batch; measured, see DECISIONS.md


def point_of(
    tokens: Tokens, batch_tokens: int, depth: int, seen: float, bits: float = 1.0, error: float = 0.0
) -> Point:
    """A training of `seen` tokens as the law sees it; `bits` is what it scored, if it was."""
    each = tokens.bytes_per_token
    return Point(
        parameters=hidden_parameters(depth),
        text_bytes=seen * each,
        unique=tokens.tokens["train"] * each,
        bits=bits,
        error=error,
        batch_bytes=batch_tokens * each,
    )


def informed_law(
    tokens: Tokens, objective: Objective, batch_tokens: int, calibration: Calibration, evidence: Evidence
) -> tuple[Law, float, str]:
    """The law for this text, the error of its offset, and what it rests on.

    Scores are of the test split. Where there are earlier runs, they say where it lies; else the probe
    does, by a small sample, whose error no later point can mend.
    """
    law, earlier = PRIORS[objective.head], evidence.of_this_text()
    law = law.informed([of_earlier(tokens, run) for run in earlier])
    probe = calibration.probe
    share = probe.test_bits / probe.validation_bits
    looked = {
        probe.early_tokens: (probe.early_validation_bits * share, EARLY_ERROR),
        probe.tokens: (probe.test_bits, probe.test_error if earlier else 0.0),
    }
    law = law.informed(
        [
            point_of(tokens, batch_tokens, probe.depth, count, bits, doubt)
            for count, (bits, doubt) in looked.items()
        ]
    )
    basis = (
        f"{len(earlier)} earlier runs on this text"
        if earlier
        else "the probe alone, no earlier run on this text"
    )
    return law, 0.0 if earlier else probe.test_error, basis


def of_earlier(tokens: Tokens, run: Earlier) -> Point:
    """An earlier run's test score; its vocabulary may have been another."""
    return Point(
        parameters=hidden_parameters(run.depth),
        text_bytes=run.tokens * run.bytes_per_token,
        unique=tokens.tokens["train"] * tokens.bytes_per_token,
        bits=run.bits,
        error=math.hypot(SEEDS_ERROR if run.alike else OTHERS_ERROR, run.sample_error),
        batch_bytes=run.batch_tokens * run.bytes_per_token,
    )


def best_depth(law: Law, tokens: Tokens, batch_tokens: int, seen: dict[int, float]) -> int:
    """The depth that ends lowest, of those for which `seen` says how many tokens they would get."""

    return min(seen, key=lambda depth: law.bits(point_of(tokens, batch_tokens, depth, seen[depth])))


def foresee(law: Law, tokens: Tokens, batch_tokens: int, depth: int, seen: float, error: float) -> Forecast:
    """The test score of a training of `seen` tokens at a depth, with a 90 % interval."""
    return law.forecast(point_of(tokens, batch_tokens, depth, seen, error=error))


def optimal_depth(law: Law, tokens: Tokens, batch_tokens: int, depths: Sequence[int], seen: float) -> int:
    """The depth that a given number of tokens feeds best: where weights and tokens are worth the same.

    At a fixed number of tokens the largest model scores best, at any price; so the price counts: of all
    sizes and tokens of the same FLOPs, these are the best (Hoffmann et al. 2022, section 3.3).
    """

    def misfit(depth: int) -> float:
        flops = hidden_parameters(depth) * seen
        ends = {
            other: law.bits(point_of(tokens, batch_tokens, other, flops / hidden_parameters(other)))
            for other in depths
        }
        return ends[depth] - min(ends.values())

    return min(depths, key=misfit)
