"""Versions of one recipe, which differ in their seeds alone: the best evidence of what seeds do to a score."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.artifacts import Report, Trained
from tasks.heads import USES
from tasks.resampling import standard_error
from tasks.seed_noise import SeedNoise, noise_of_siblings, stored_noise
from tasks.store import content_key
from tasks.verdict import Verdict
from training.held_out import SCORES, read_scores
from training.model import Head
from training.units import bits

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

FEWEST_FOLDS = 3
RECIPE_TAG = "shoestring.recipe"  # equal where blueprint, data and budget are, whatever the seed
NOISE_TAG = "shoestring.seed_noise"  # what the version's own folds say, or else the stored estimate
# Of learning: what changes how fast steps are, and not what is learned in them.
FOR_SPEED = ("attention", "compile", "micro_batch_tokens", "activation_checkpointing", "strategy")


def recipe_of(trained: Trained) -> str:
    """A key of all that was settled, but for the seed; the data are in it, as scores on others do not compare."""
    blueprint = json.loads((trained.folder / "blueprint.json").read_text())
    learning = {name: value for name, value in blueprint["learning"].items() if name not in FOR_SPEED}
    plan = trained.folder / "plan.json"
    budget = json.loads(plan.read_text()).get("clock", {}).get("budget") if plan.exists() else None
    return content_key({**blueprint, "learning": learning, "seed": None}, trained.tokens.key, budget)


def noise_of_folds(folder: Path, head: Head) -> SeedNoise | None:
    """By the folds in a run's folder; None where there are too few.

    Each fold has a seed and documents of its own: what the documents explain of their variance is taken out. They
    trained for less than the final run, and on different text, so this is rather too much than too little; and never
    less than the stored estimate, as three or four folds often agree by chance.
    """
    seen = [read_scores(path).T for path in sorted(folder.glob("[0-9]*")) if (path / SCORES).exists()]
    folds = [(nats, weight) for _, nats, weight in seen if len(nats) > 1]
    if len(folds) < FEWEST_FOLDS:
        return None
    scores = np.array([bits(nats.sum(), weight.sum()) for nats, weight in folds])
    errors = np.array([standard_error(nats, weight) for nats, weight in folds])
    variance = float(np.var(np.log(scores), ddof=1) - np.mean((errors / scores) ** 2))
    known = stored_noise(USES[head].unit)
    if variance <= known.relative**2:
        return known.model_copy(update={"source": f"the stored estimate, as {len(folds)} folds show no more"})
    return SeedNoise(
        relative=variance**0.5,
        freedom=len(folds) - 1,
        source=f"{len(folds)} folds, less what documents explain",
    )


def own_noise(trained: Trained, head: Head) -> SeedNoise:
    """What the run itself says of its luck: by its folds, or else nothing but the stored estimate."""
    return noise_of_folds(trained.folder / "folds", head) or stored_noise(USES[head].unit)


def noise_tags(trained: Trained, head: Head) -> dict[str, str]:
    """What later challengers will read of a version."""
    return {RECIPE_TAG: recipe_of(trained), NOISE_TAG: own_noise(trained, head).model_dump_json()}


def both_noises(
    trained: Trained, report: Report, champion: "ModelVersion | None", versions: Sequence["ModelVersion"]
) -> tuple[SeedNoise, SeedNoise]:
    """Of the challenger and of the champion: by all `versions` of the recipe and this run, or else by its own.

    Where both are of one recipe, they are in its spread themselves, so few seeds alone never tell them apart.
    """
    told = champion.tags.get(NOISE_TAG) if champion else None
    own = own_noise(trained, report.head)
    champions = SeedNoise.model_validate_json(told) if told else stored_noise(report.unit)
    recipes = recipe_of(trained), champion.tags.get(RECIPE_TAG) if champion else None
    scores = [scores_of(recipe, versions) + [report.bits] * (recipe == recipes[0]) for recipe in recipes]
    return noise_of_siblings(scores[0]) or own, noise_of_siblings(scores[1]) or champions


def scores_of(recipe: str | None, versions: Sequence["ModelVersion"]) -> list[float]:
    """Bits of the test of every version of a recipe."""
    if recipe is None:
        return []
    return [
        Verdict.from_tags(version.tags).challenger_bits
        for version in versions
        if version.tags.get(RECIPE_TAG) == recipe
    ]
