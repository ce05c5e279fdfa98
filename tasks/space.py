"""What a search turns: the fields that carry `Tune`, and the choices that the user opens."""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from optuna.trial import Trial
from pydantic import ValidationError

from tasks.artifacts import InputError
from tasks.study import Search
from training.blueprint import Blueprint
from training.config import Section, Tune, tunable_fields, with_fields
from training.model import width_of

Choices = Mapping[str, tuple[Any, ...]]
NO_CHOICES: Choices = MappingProxyType({})


class Dial(NamedTuple):
    """One setting that a search turns: its name in the study, its field, and its range."""

    name: str
    field: str
    tune: Tune
    whole: bool

    def suggest(self, trial: Trial) -> float:
        """The sampler's value."""
        if self.whole:
            low, high = math.ceil(self.tune.low), math.floor(self.tune.high)
            return int(trial.suggest_int(self.name, low, high, log=self.tune.log))
        return float(trial.suggest_float(self.name, self.tune.low, self.tune.high, log=self.tune.log))

    def points(self, count: int) -> list[float]:
        """So many values over the range, evenly, or evenly in the logarithm."""
        spread = np.geomspace if self.tune.log else np.linspace
        values = [float(value) for value in spread(self.tune.low, self.tune.high, count)]
        return sorted({round(value) for value in values}) if self.whole else values


def value_of(blueprint: Section, field: str) -> Any:
    """The value of a field by its dotted name. Raises AttributeError where there is none."""
    return functools.reduce(getattr, field.split("."), blueprint)


def dials(blueprint: Section, choices: Choices = NO_CHOICES) -> list[Dial]:
    """The settings to turn, each with the blueprint's own value in its range; what is off stays off.

    Below a choice that is open, a setting bears the name of what was chosen: ranges differ.
    """
    found = []
    for field, tune in tunable_fields(blueprint).items():
        if field in choices:
            continue
        value = value_of(blueprint, field)
        name = field
        for parent in (choice.removesuffix(".kind") for choice in choices if choice.endswith(".kind")):
            if field.startswith(f"{parent}."):
                name = f"{parent}.{value_of(blueprint, parent).kind}.{field.removeprefix(f'{parent}.')}"
        wide = tune._replace(low=min(tune.low, value), high=max(tune.high, value))
        found.append(Dial(name, field, wide, isinstance(value, int)))
    return found


def chosen(blueprint: Blueprint, values: Mapping[str, Any]) -> Blueprint:
    """The blueprint with a value for each open choice."""
    return with_fields(blueprint, dict(values)) if values else blueprint


def draw(trial: Trial, blueprint: Blueprint, choices: Choices) -> dict[str, Any]:
    """A trial's settings by field: first the choices, then what these bring along."""
    picked = {field: trial.suggest_categorical(field, list(options)) for field, options in choices.items()}
    turned = {dial.field: dial.suggest(trial) for dial in dials(chosen(blueprint, picked), choices)}
    return picked | turned


def as_asked(
    blueprint: Blueprint, choices: Choices, settings: Mapping[str, Any] = NO_CHOICES
) -> dict[str, Any]:
    """The study's names and values of a blueprint with these settings, for a trial to be put in line.

    The blueprint's own value of a choice that is not among the options gives way to the first of them.
    """
    own = {field: settings.get(field, value_of(blueprint, field)) for field in choices}
    picked = {field: value if value in choices[field] else choices[field][0] for field, value in own.items()}
    there = chosen(blueprint, picked)
    return picked | {
        dial.name: min(
            dial.tune.high, max(dial.tune.low, settings.get(dial.field, value_of(there, dial.field)))
        )
        for dial in dials(there, choices)
    }


def grid(blueprint: Blueprint, choices: Choices, points: int) -> Iterator[dict[str, Any]]:
    """Every combination of choices and of `points` values of each setting that they bring along."""
    for options in itertools.product(*choices.values()):
        picked = dict(zip(choices, options, strict=True))
        turned = dials(chosen(blueprint, picked), choices)
        for values in itertools.product(*(dial.points(points) for dial in turned)):
            yield picked | {dial.name: value for dial, value in zip(turned, values, strict=True)}


def check_search(search: Search, blueprint: Blueprint) -> None:
    """Raises InputError for a search of nothing, a choice without options, of no such field, or that does not fit."""
    for field, options in search.choices.items():
        if not options:
            raise InputError(f"search.choices: {field} has no options: name some, or leave it out")
        for option in options:
            try:
                value_of(blueprint, field)
                with_fields(blueprint, {field: option})
            except (AttributeError, KeyError):
                raise InputError(f"search.choices: there is no setting {field}") from None
            except ValidationError as problem:
                why = problem.errors()[0]["msg"]
                raise InputError(f"search.choices: {field} cannot be {option!r}: {why}") from None
    wanted = bool(search.share) or search.sampler == "grid" or search.second == "latency"
    if wanted and not search.choices and not dials(blueprint):
        raise InputError(
            "there is nothing to search: no setting of this recipe has a range. Name some in search.choices,"
            " such as {learning.optimizer.kind: [muon, adamw]}, or set search.share to 0"
        )


def transferred(settings: Mapping[str, Any], blueprint: Blueprint, depth: int) -> dict[str, Any]:
    """Settings found at the blueprint's depth, as they are best at another: see `Tune.width_power`.

    The rule is that of Yang et al. 2022 (muP, table 8): what multiplies an Adam-like step of a matrix
    falls with the width, all else stays. What it does here, `make bench BENCH=planning
    ARGS="--part transfer"` measures.
    """
    found = dict(settings)
    there = with_fields(blueprint, found)
    narrow = there.model.settled_depth()
    if narrow is None or narrow == depth:
        return found
    wider = width_of(depth) / width_of(narrow)
    for field, tune in tunable_fields(there).items():
        if tune.width_power and field in found:
            found[field] = found[field] * wider**tune.width_power
    return found
