"""Seconds to tokens to FLOPs to parameters: the laws a plan rests on, and the clocks of a training."""

import math
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, Protocol, Self

from pydantic import AfterValidator, Field

from training.journal import read_journal

if TYPE_CHECKING:
    import torch

SMALLEST_BUDGET_SECONDS = 60  # below this, starting and judging leave nothing to train with; measured
PEAK_SECONDS = 0.2  # for measuring what matrix products reach
UNITS_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
COUNTED = re.compile(r"\s*(\d+(?:\.\d+)?(?:[eE]\+?\d+)?)\s*([kKMGTPE]?)\s*(tok|tokens?|flops?|FLOPs?)\s*")
SCALES = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
SMALLEST = {"tokens": 50_000, "flops": 1e11}  # some twenty steps of the smallest model
TOKENS_A_SECOND, FLOPS_A_SECOND = 2e4, 3e11  # of training, on two cores; measured

# How fast the worth of repeated tokens decays, and of parameters beyond those that the text can fill
# (Muennighoff et al. 2023, appendix A).
REPEATS_DECAY, EXCESS_DECAY = 15.4, 5.3


Unit = Literal["seconds", "tokens", "flops"]


class Amount(NamedTuple):
    """What may be spent: seconds from start to exit, or tokens or FLOPs of training, where no clock is kept."""

    value: float
    unit: Unit

    @property
    def seconds(self) -> float:
        """Seconds until all must be over; infinite where no clock is kept."""
        return self.value if self.unit == "seconds" else math.inf

    @property
    def like_seconds(self) -> float:
        """The time that such an amount takes on two cores, for rules that were measured by time."""
        return self.value / {"seconds": 1.0, "tokens": TOKENS_A_SECOND, "flops": FLOPS_A_SECOND}[self.unit]


def parse_budget(text: str) -> Amount:
    """The amount in a budget such as `90s`, `5m`, `1h30m`, `2d`, `20M tokens` or `3e15 flops`.

    Raises ValueError, saying what a budget looks like or which is the smallest that can work.
    """
    counted = COUNTED.fullmatch(text)
    if counted:
        number, scale, word = counted.groups()
        unit: Unit = "tokens" if word.lower().startswith("t") else "flops"
        amount = Amount(float(number) * SCALES[scale.upper()], unit)
        if amount.value < SMALLEST[unit]:
            raise ValueError(
                f"a budget of {text} is too small: the smallest that can work is {SMALLEST[unit]:.0e} {unit}"
            )
        return amount
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([smhd])", text)
    if not parts or re.sub(r"\d+(?:\.\d+)?\s*[smhd]", "", text).strip():
        raise ValueError(
            f"{text!r} is no budget: write a time with s, m, h or d, such as 90s, 5m or 1h30m, or an amount"
            " of training, such as '20M tokens' or '3e15 flops';"
            f" the smallest that can work is {SMALLEST_BUDGET_SECONDS}s"
        )
    units = [unit for _, unit in parts]
    if len(set(units)) < len(units):
        raise ValueError(f"{text!r} is two budgets: give one, such as 90s, 5m or 1h30m")
    seconds = sum(float(number) * UNITS_SECONDS[unit] for number, unit in parts)
    if seconds < SMALLEST_BUDGET_SECONDS:
        raise ValueError(
            f"a budget of {text} is too small: the smallest that can work is {SMALLEST_BUDGET_SECONDS}s"
        )
    return Amount(seconds, "seconds")


def _checked(text: str) -> str:
    parse_budget(text)
    return text


Budget = Annotated[
    str,
    AfterValidator(_checked),
    Field(
        pattern=r"^\s*((\d+(\.\d+)?\s*[smhd]\s*)+|\d+(\.\d+)?([eE]\+?\d+)?\s*[kKMGTPE]?\s*(tok|tokens?|flops?|FLOPs?)\s*)$",
        examples=["5m", "1h30m", "20M tokens", "3e15 flops"],
        description="Time from start to exit, all stages together, such as 5m or 1h30m; or tokens or FLOPs of"
        " training, such as 20M tokens, whatever the time.",
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


def training_flops_per_token(parameters: int, layers: int, width: int, context: int) -> float:
    """6 FLOPs a weight, and attention's 12 * layers * width * context (Chowdhery et al. 2022, appendix B).

    `parameters` are those that multiply: all but the input embedding.
    """
    return 6.0 * parameters + 12.0 * layers * width * context


def utilisation(flops_per_token: float, tokens_per_second: float, peak_flops: float) -> float:
    """Share of the machine's measured matrix products that a training makes use of, from 0 to about 1."""
    return flops_per_token * tokens_per_second / peak_flops


def matmul_peak_flops(
    device: "torch.device | str",
    precision: Literal["fp32", "bf16", "fp16"],
    seconds: float = PEAK_SECONDS,
) -> float:
    """FLOP/s of the fastest of the large square matrix products that `seconds` have room for, one at least.

    Holds for as many threads as torch has now, and a GPU for itself.
    """
    import torch  # takes a second, which the command line does not have

    device = torch.device(device)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    size = 8192 if device.type == "cuda" else 1024  # fills either, and is far from done in a microsecond
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def product_seconds() -> float:
        started = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    product_seconds()  # the first one sets things up
    fastest, until = product_seconds(), time.perf_counter() + seconds
    while time.perf_counter() < until:
        fastest = min(fastest, product_seconds())
    return 2 * size**3 / fastest


class Clock(Protocol):
    """Says how far a training is: 0 at its start, 1 at its end."""

    def progress(self, step: int, tokens: int, used_seconds: float) -> float:
        """After so many steps, on so many tokens, in so many seconds of training."""


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


@dataclass(frozen=True)
class Effort:
    """Ends after so many seconds inside optimizer steps and as many steps, however long it took to get there.

    After `most_seconds` inside steps it ends whatever was done: one step may take minutes.
    """

    seconds: float
    steps: int = 1
    most_seconds: float = math.inf

    def progress(self, step: int, tokens: int, used_seconds: float) -> float:
        if used_seconds >= self.most_seconds:
            return 1.0
        return min(1.0, used_seconds / self.seconds, step / self.steps)


@dataclass(frozen=True)
class Replay:
    """Goes as another training went, step by step, whatever the time: repeats a run against the clock exactly.

    `after` is the progress after the first, second, ... step.
    """

    after: tuple[float, ...]

    @classmethod
    def of_journal(cls, path: Path) -> Self:
        """The progress that a journal recorded, also where a resumed training corrected it.

        Raises ValueError where a step is missing, or the training came neither to its end nor to that
        of its patience.
        """
        after: dict[int, float] = {}
        done = False
        for event in read_journal(path):
            if event["event"] in ("step", "resumed") and event["step"]:
                after[event["step"]] = float(event["progress"])
            done = event["event"] == "stopped" or (done and event["event"] != "step")
        steps = max(after, default=0)
        if missing := sorted(set(range(1, steps + 1)) - after.keys()):
            raise ValueError(f"{path} lacks step {missing[0]} of {steps}: it cannot be replayed")
        if not done and after.get(steps, 0.0) < 1:
            reached = f"{after[steps]:.1%} of its way" if after else "no step"
            raise ValueError(f"{path} is of a training that came to {reached}: finish it, then replay it")
        return cls(tuple(after[step] for step in range(1, steps + 1)))

    def progress(self, step: int, tokens: int, used_seconds: float) -> float:
        """Raises ValueError after more steps than there were: the training is not the same."""
        if step > len(self.after):
            raise ValueError(f"step {step} of a replayed training that had {len(self.after)}: they differ")
        return self.after[step - 1] if step else 0.0


AnyClock = Wall | TokenCount | Effort | Replay
