"""Whole runs, each a `shoestring run` of its own, and what they say of the plan that they had."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.watched import watch
from training.budget import parse_budget

ROOT = Path(__file__).resolve().parents[2]
SHOESTRING = Path(sys.executable).with_name("shoestring")
OURS_TO_SET = ("SHOESTRING_", "PREFECT_", "MLFLOW_", "RAY_")  # nothing of the machine's own reaches a run


@dataclass(frozen=True)
class Request:
    """What a run is asked for."""

    recipe: str
    budget: str
    seed: int = 0
    settings: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """As the command line has it."""
        changed = [word for setting in self.settings for word in ("--set", setting)]
        return ["run", self.recipe, "--budget", self.budget, "--seed", str(self.seed), *changed]


@dataclass(frozen=True)
class Observed:
    """What came of it; `found` is what the command printed, None where it failed."""

    request: Request
    seconds: float  # from start to exit
    found: dict[str, Any] | None
    errors: str

    @property
    def budget_seconds(self) -> float:
        return parse_budget(self.request.budget).seconds

    @property
    def elapsed_share(self) -> float:
        """Of the budget."""
        return self.seconds / self.budget_seconds

    @property
    def on_time(self) -> bool:
        """Within +2 % and +5 s, with a model."""
        return self.found is not None and self.seconds <= 1.02 * self.budget_seconds + 5

    def result(self) -> dict[str, Any]:
        """What was printed. Raises RuntimeError where the run failed."""
        if self.found is None:
            raise RuntimeError(f"{' '.join(self.request.words)} failed: {self.errors[-2000:]}")
        return self.found

    @property
    def steps_share(self) -> float:
        """Of the budget, inside optimizer steps."""
        return float(self.result()["training_seconds"]) / self.budget_seconds

    @property
    def planning_share(self) -> float:
        """Of the budget, spent on the plan."""
        return float(self.result()["stage_seconds"]["Plan the budget"]) / self.budget_seconds

    @property
    def speed_error(self) -> float:
        """Measured tokens/s of the final run over the foreseen, less 1."""
        speeds = self.result()["tokens_per_second"]
        return float(speeds["measured"] / speeds["foreseen"] - 1)

    @property
    def plan(self) -> dict[str, Any]:
        """The run's plan."""
        plan: dict[str, Any] = json.loads((Path(self.result()["run_folder"]) / "plan.json").read_text())
        return plan

    @property
    def depth(self) -> int:
        """Of the model that was trained."""
        path = Path(self.result()["run_folder"]) / "blueprint.json"
        return int(json.loads(path.read_text())["model"]["depth"])

    @property
    def inside(self) -> bool:
        """Whether the test score lies within the foreseen interval."""
        _, low, high = self.result()["foreseen"]
        return bool(low <= self.result()["value"] <= high)

    @property
    def informed(self) -> bool:
        """Whether earlier runs on the text told the forecast where it lies."""
        return not str(self.plan["basis"]).startswith("the probe alone")

    @property
    def width(self) -> float:
        """Of the foreseen interval, relative to its middle."""
        middle, low, high = self.result()["foreseen"]
        return float((high - low) / middle)


def observe(request: Request, home: Path, say: Any) -> Observed:
    """Runs it in a process of its own, in a home that several share, as a person's runs do."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(OURS_TO_SET)}
    words = [str(SHOESTRING), *request.words, "--json", "--home", str(home)]
    watched = watch(words, environment, ROOT, sample_seconds=None)
    found = None
    if watched.code == 0:
        found = json.loads(watched.output.splitlines()[-1])
    seen = Observed(request, watched.seconds, found, watched.errors)
    say(f"{' '.join(request.words[1:])}: {described(seen)}")
    return seen


def described(seen: Observed) -> str:
    """One line of progress."""
    if seen.found is None:
        return f"failed after {seen.seconds:.0f} s: {seen.errors.strip().splitlines()[-1:]}"
    middle, low, high = seen.found["foreseen"]
    return (
        f"{seen.seconds:.1f} s ({seen.elapsed_share:.1%}), {seen.steps_share:.0%} in steps, "
        f"plan {seen.planning_share:.1%}, "
        f"speed {seen.speed_error:+.1%}, {seen.found['value']:.4f} (foreseen {middle:.3f}, {low:.3f} to {high:.3f}), "
        f"depth {seen.depth}"
    )


def recipes_of(text: Path | None) -> Sequence[tuple[str, tuple[str, ...]]]:
    """A recipe of the text, and its settings: the standard library's, or the file's."""
    if text is None:
        return (("python-code", ()),)
    return (("my-text", (f"source.paths=[{text.absolute()}]", "source.cut_bytes=4000")),)
