"""Seconds to tokens to FLOPs to parameters: the laws a plan rests on, and the clocks of a training."""

import math
import re
import time
from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import AfterValidator, Field

SMALLEST_BUDGET_SECONDS = 45  # below this, starting and judging leave nothing to train with; measured
UNITS_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

# Loss in nats a token = E + A / parameters^ALPHA + B / tokens^BETA (Hoffmann et al. 2022, table A3).
IRREDUCIBLE_NATS, A, B, ALPHA, BETA = 1.69, 406.4, 410.7, 0.34, 0.28
# How fast the worth of repeated tokens decays, and of parameters beyond those that the text can fill
# (Muennighoff et al. 2023, appendix A); a text fills one parameter with TOKENS_PER_PARAMETER.
REPEATS_DECAY, EXCESS_DECAY = 15.4, 5.3
TOKENS_PER_PARAMETER = 20  # Hoffmann et al. 2022


def parse_budget(text: str) -> float:
    """Seconds in a budget such as `90s`, `5m`, `1h30m` or `2d`.

    Raises ValueError, saying what a budget looks like or which is the smallest that can work.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([smhd])", text)
    if not parts or re.sub(r"\d+(?:\.\d+)?\s*[smhd]", "", text).strip():
        raise ValueError(
            f"{text!r} is no budget: write a number and s, m, h or d, such as 90s, 5m or 1h30m; "
            f"the smallest that can work is {SMALLEST_BUDGET_SECONDS}s"
        )
    seconds = sum(float(number) * UNITS_SECONDS[unit] for number, unit in parts)
    if seconds < SMALLEST_BUDGET_SECONDS:
        raise ValueError(
            f"a budget of {text} is too small: the smallest that can work is {SMALLEST_BUDGET_SECONDS}s"
        )
    return seconds


def _checked(text: str) -> str:
    parse_budget(text)
    return text


Budget = Annotated[
    str,
    AfterValidator(_checked),
    Field(
        pattern=r"^\s*(\d+(\.\d+)?\s*[smhd]\s*)+$",
        examples=["5m", "1h30m"],
        description="Time from start to exit, all stages together, such as 5m or 1h30m.",
    ),
]


def vocabulary_rule(corpus_bytes: int, seconds: float) -> int:
    """How many tokens the vocabulary holds: a power of two from 512 to 32,768.

    The output layer's cost grows with the vocabulary, what it saves in tokens only with its
    logarithm, so little time and little text want a small one; see DECISIONS for the measurement.
    """
    by_time = 2048 * math.sqrt(seconds / 120)  # measured at 512 to 4,096; see DECISIONS
    by_text = corpus_bytes / 1000  # an entry seen less than some hundred times learns nothing
    return 1 << int(min(15, max(9, math.log2(max(1.0, min(by_time, by_text))))))


def worth(amount: float, unique: float, decay: float) -> float:
    """What `amount` is worth where only `unique` of it is new: more and more of the rest is wasted."""
    excess = max(0.0, amount / unique - 1)
    return min(amount, unique) + unique * decay * (1 - math.exp(-excess / decay))


def expected_loss_nats(parameters: float, tokens: float, unique_tokens: float) -> float:
    """The law's loss in nats a token; good for ranking sizes at one vocabulary, not as a forecast."""
    filled = worth(parameters, unique_tokens / TOKENS_PER_PARAMETER, EXCESS_DECAY)
    seen = worth(tokens, unique_tokens, REPEATS_DECAY)
    return IRREDUCIBLE_NATS + float(A / filled**ALPHA) + float(B / seen**BETA)


def training_flops_per_token(parameters: int, layers: int, width: int, context: int) -> float:
    """6 FLOPs a weight, and attention's 12 * layers * width * context (Chowdhery et al. 2022, appendix B).

    `parameters` are those that multiply: all but the input embedding.
    """
    return 6.0 * parameters + 12.0 * layers * width * context


class Clock(Protocol):
    """Says how far a training is: 0 at its start, 1 at its end."""

    def progress(self, step: int, tokens: int, used_seconds: float) -> float: ...


@dataclass
class Wall:
    """Ends at `deadline` (Unix time), or after `tokens`, whichever is first.

    Time when nothing ran does not count as progress: after a crash, what is left until the
    deadline is spread over the rest of the schedule, which still reaches its end on time.
    """

    deadline: float
    tokens: int | None = None
    _total: float | None = None

    def progress(self, step: int, tokens: int, used_seconds: float) -> float:
        if self._total is None:
            self._total = used_seconds + max(0.0, self.deadline - time.time())
        by_time = 1.0 if time.time() >= self.deadline else used_seconds / max(self._total, 1e-9)
        by_tokens = tokens / self.tokens if self.tokens else 0.0
        return min(1.0, max(by_time, by_tokens))


@dataclass(frozen=True)
class TokenCount:
    """Ends after a number of tokens: the same progress on every machine."""

    tokens: int

    def progress(self, step: int, tokens: int, used_seconds: float) -> float:
        return min(1.0, tokens / self.tokens)
