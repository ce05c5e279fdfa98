"""The techniques that a comparison takes out of a recipe one after the other; add one to TECHNIQUES.

Each is a function: a blueprint, or a cleaning, to the same without it, and None where it is not in use.
"""

import difflib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, get_args

import yaml
from pydantic import ValidationError

from tasks.artifacts import InputError
from tasks.clean import Cleaning
from tasks.space import value_of
from tasks.text import Filter
from training.augmentation import Augmentation
from training.blueprint import Blueprint, Learning
from training.config import Section, with_fields
from training.model import Model, has_fast_bf16
from training.objectives import Objective

Without = Callable[[Blueprint], Blueprint | None]
UNCLIPPED = 1e9  # no gradient that a training survives is longer
CLASSIC_RATE = 0.15  # of tokens hidden (Devlin et al. 2019)
AUGMENTATIONS = [member.model_fields["kind"].default for member in get_args(get_args(Augmentation)[0])]
SECTIONS = ("learning", "objective", "model")
INCOMPARABLE = {
    "learning.context": "validation is read in pieces of it, so scores would be of other pieces",
    "objective.kind": "scores of other objectives are of another unit",
} | dict.fromkeys(
    ("model.kind", "model.name", "model.revision"),
    "another start wants another tokenizer; compare two runs instead",
)


SIZES = ("model.depth", "model.parameters")


class Variant(NamedTuple):
    """The recipe but for one technique: what it is called, how it is trained, and what differs.

    `added` says that the technique is in it instead of out of it; the recipe itself has no `was`.
    """

    name: str
    blueprint: Blueprint
    was: str = ""
    instead: str = ""
    added: bool = False


def set_to(field: str, plain: Any) -> Without:
    """Takes out a technique that one field turns: it is not in use where the field is `plain`, empty or not there."""
    *path, last = field.split(".")

    def without(blueprint: Blueprint) -> Blueprint | None:
        section: Section = value_of(blueprint, ".".join(path))
        if last not in type(section).model_fields or getattr(section, last) in (plain, None):
            return None
        return with_fields(blueprint, {field: plain})

    return without


def plain_optimizer(blueprint: Blueprint) -> Blueprint | None:
    """AdamW at its defaults."""
    if blueprint.learning.optimizer.kind == "adamw":
        return None
    return with_fields(blueprint, {"learning.optimizer.kind": "adamw"})


def constant_rate(blueprint: Blueprint) -> Blueprint | None:
    """A rate that does not fall; it rises as it did."""
    schedule = blueprint.learning.schedule
    if schedule.kind == "constant":
        return None
    changed = {"learning.schedule.kind": "constant", "learning.schedule.warmup": schedule.warmup}
    return with_fields(blueprint, changed)


def full_precision(blueprint: Blueprint) -> Blueprint | None:
    """All products in 32 bits; `auto` counts as that, so settle it first."""
    return None if blueprint.learning.precision == "auto" else set_to("learning.precision", "fp32")(blueprint)


def plain_attention(blueprint: Blueprint) -> Blueprint | None:
    """Attention as a plain product; `auto`, which no plan has settled, counts as that."""
    return (
        None if blueprint.learning.attention == "auto" else set_to("learning.attention", "eager")(blueprint)
    )


def without_augmentation(kind: str) -> Without:
    """Takes out one way of telling documents otherwise; the others stay."""

    def without(blueprint: Blueprint) -> Blueprint | None:
        members = blueprint.learning.augmentation
        kept = tuple(member for member in members if member.kind != kind)
        return with_fields(blueprint, {"learning.augmentation": kept}) if len(kept) < len(members) else None

    return without


def all_augmentation(
    model: Model, objective: Objective, learning: Learning, also: Sequence[str]
) -> tuple[Augmentation, ...]:
    """What a recipe asks for, and what the settings to add do. Raises InputError as `added` does."""
    bare = Blueprint(model=model, objective=objective, learning=learning, vocabulary=512)
    others = [variant.blueprint.learning.augmentation for variant in added(bare, also)]
    return tuple(dict.fromkeys(member for members in (learning.augmentation, *others) for member in members))


TECHNIQUES: tuple[tuple[str, Without], ...] = (
    ("optimizer", plain_optimizer),
    ("schedule", constant_rate),
    ("warm-up", set_to("learning.schedule.warmup", 0.0)),
    ("precision", full_precision),
    ("way of attention", plain_attention),
    ("attention within documents", set_to("learning.packing", "blocks")),
    ("short context first", set_to("learning.short_context", 0.0)),
    ("average of weights", set_to("learning.average", None)),
    ("early stopping", set_to("learning.patience", None)),
    ("dropout", set_to("learning.dropout", 0.0)),
    ("label smoothing", set_to("learning.label_smoothing", 0.0)),
    ("L1", set_to("learning.l1", 0.0)),
    ("L2", set_to("learning.optimizer.l2", 0.0)),
    ("weight decay", set_to("learning.optimizer.weight_decay", 0.0)),
    ("gradient clipping", set_to("learning.gradient_norm", UNCLIPPED)),
    ("gradient accumulation", set_to("learning.micro_batch_tokens", None)),
    ("activation checkpointing", set_to("learning.activation_checkpointing", False)),
    ("masking rate", set_to("objective.rate", CLASSIC_RATE)),
    ("whole words", set_to("objective.whole_words", False)),
    ("token dropout", set_to("objective.token_dropout", 0.0)),
    ("focal loss", set_to("objective.focus", 0.0)),
    ("balanced labels", set_to("objective.balanced", False)),
    *((kind.replace("_", " "), without_augmentation(kind)) for kind in AUGMENTATIONS),
)


def keep_copies(cleaning: Cleaning) -> Cleaning | None:
    """All copies stay."""
    return cleaning.model_copy(update={"duplicates": "none"}) if cleaning.duplicates != "none" else None


def keep_all(cleaning: Cleaning) -> Cleaning | None:
    """No filter objects; what is empty goes still."""
    filters = tuple(step.kind for step in cleaning.steps() if isinstance(step, Filter))
    return cleaning.model_copy(update={"without": cleaning.without + filters}) if filters else None


# What changes a text is none of them: unrepaired, a held-out document has another hash, and would be trained on.
CLEANINGS: tuple[tuple[str, Callable[[Cleaning], Cleaning | None]], ...] = (
    ("deduplication", keep_copies),
    ("filters", keep_all),
)


def settled_precision(blueprint: Blueprint, device: str) -> Blueprint:
    """The blueprint with the precision that `auto` means on this device, if that is a technique."""
    import torch

    if blueprint.learning.precision != "auto" or not has_fast_bf16(torch.device(device)):
        return blueprint
    return with_fields(blueprint, {"learning.precision": "bf16"})


def in_turn(blueprint: Blueprint) -> list[Variant]:
    """The blueprint without each technique that it uses."""
    found = [(name, without(blueprint)) for name, without in TECHNIQUES]
    return [Variant(name, other, *differing(blueprint, other)) for name, other in found if other]


def added(blueprint: Blueprint, settings: Sequence[str]) -> list[Variant]:
    """The blueprint with each of these `field=value` in turn.

    Raises InputError for what is no setting of it, or would not compare.
    """
    return [_added(blueprint, setting) for setting in dict.fromkeys(settings)]


def _added(blueprint: Blueprint, setting: str) -> Variant:
    field, equals, text = (part.strip() for part in setting.partition("="))
    if not equals or not text:
        raise InputError(f"--also {setting!r} adds nothing: write field=value, such as learning.average=0.1")
    known = [name for name, _ in _values(blueprint) if name.partition(".")[0] in SECTIONS]
    if field in INCOMPARABLE:
        raise InputError(f"--also {setting!r} cannot be compared: {INCOMPARABLE[field]}")
    if field in SIZES and blueprint.model.settled_depth() is None:
        raise InputError(
            f"--also {setting!r}: the plan chooses the size here; fix it first, --set model.depth=2"
        )
    if field not in known:
        near = difflib.get_close_matches(field, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        raise InputError(f"--also {setting!r}: this recipe has no such setting; {hint}")
    try:
        other = with_fields(blueprint, {field: yaml.safe_load(text)})
    except ValidationError as problem:
        raise InputError(f"--also {setting!r}: {problem.errors()[0]['msg']}") from None
    except yaml.YAMLError:
        raise InputError(f"--also {setting!r}: {text} is no value") from None
    return Variant(f"{field}={text}", other, *differing(blueprint, other), added=True)


def differing(blueprint: Blueprint, other: Blueprint) -> tuple[str, str]:
    """What the first is where the second differs, and what that is instead: of a choice, its kind; or nothing."""
    before, after = dict(_values(blueprint)), dict(_values(other))
    names = [name for name in before | after if before.get(name) != after.get(name)]
    kinds = [name for name in names if name.endswith(".kind")]
    if not names:
        return "", ""
    name = (kinds or names)[0]
    return _told(before.get(name)), _told(after.get(name))


def _values(section: Section, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _values(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _told(value: Any) -> str:
    if value in (None, False, 0, UNCLIPPED):
        return "off"
    if isinstance(value, tuple):
        return ", ".join(str(getattr(member, "kind", member)) for member in value) or "off"
    return "on" if value is True else f"{value:g}" if isinstance(value, float) else str(value)
