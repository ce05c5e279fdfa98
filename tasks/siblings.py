"""Versions of one recipe, which differ in their seeds alone: the best evidence of what seeds do to a score."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks.artifacts import Report, Trained
from tasks.seed_noise import SeedNoise, noise_of_folds, noise_of_siblings, stored_noise
from tasks.store import content_key
from tasks.verdict import Verdict
from training.model import Head

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

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


def own_noise(trained: Trained, head: Head) -> SeedNoise:
    """What the run itself says of its luck: by its folds, or else nothing but the stored estimate."""
    return noise_of_folds(trained.folder / "folds", head) or stored_noise(head)


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
    champions = SeedNoise.model_validate_json(told) if told else stored_noise(report.head)
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
