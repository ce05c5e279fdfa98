"""What a comparison takes out of a recipe and puts into it: each technique alone, and nothing else."""

import pytest

from tasks.artifacts import InputError
from tasks.clean import Cleaning
from tasks.techniques import (
    CLEANINGS,
    TECHNIQUES,
    UNCLIPPED,
    added,
    all_augmentation,
    in_turn,
    settled_precision,
)
from tests.tiny_shards import tiny_blueprint
from training.blueprint import Blueprint
from training.model import Scratch
from training.objectives import MaskedLanguageModel, SequenceClassification

EVERYTHING = {
    "precision": "bf16",
    "attention": "sdpa",
    "packing": "documents",
    "short_context": 0.3,
    "average": 0.1,
    "patience": 3,
    "dropout": 0.1,
    "label_smoothing": 0.1,
    "l1": 1e-6,
    "micro_batch_tokens": 64,
    "activation_checkpointing": True,
}
NOTHING = {
    "optimizer": {"kind": "adamw", "weight_decay": 0.0},
    "schedule": {"kind": "constant"},
    "precision": "fp32",
    "attention": "eager",
    "short_context": 0.0,
    "gradient_norm": UNCLIPPED,
}
OF_OPTIMIZERS = {
    "weight decay": {"kind": "muon", "weight_decay": 0.1},
    "L2": {"kind": "adam", "l2": 0.01},
}
OF_OBJECTIVES = {
    "masking rate": MaskedLanguageModel(rate=0.3),
    "whole words": MaskedLanguageModel(whole_words=True),
    "token dropout": SequenceClassification(token_dropout=0.5),
    "focal loss": SequenceClassification(focus=2.0),
    "balanced labels": SequenceClassification(balanced=True),
}
OF_AUGMENTATION: dict[str, dict[str, object]] = {
    "random swap": {},
    "random delete": {},
    "random insert": {},
    "thesaurus synonyms": {"thesaurus": "words.txt"},
    "model synonyms": {"model": "masked"},
    "back translation": {"there": "a", "back": "b"},
}
AUGMENTATION = [{"kind": name.replace(" ", "_"), **own} for name, own in OF_AUGMENTATION.items()]


def names(blueprint: Blueprint) -> set[str]:
    return {variant.name for variant in in_turn(blueprint)}


def with_everything() -> dict[str, Blueprint]:
    """Blueprints in which every technique is in use in one at least."""
    bases = {"": tiny_blueprint(**EVERYTHING)}
    for name, optimizer in OF_OPTIMIZERS.items():
        bases[name] = tiny_blueprint(**EVERYTHING, optimizer=optimizer)
    for name, objective in OF_OBJECTIVES.items():
        bases[name] = bases[""].model_copy(update={"objective": objective})
    told = tiny_blueprint(**EVERYTHING, augmentation=AUGMENTATION)
    bases["random swap"] = told.model_copy(update={"objective": SequenceClassification()})
    return bases


def test_every_technique_is_found_where_it_is_in_use() -> None:
    found = {name: names(base) for name, base in with_everything().items()}
    assert set().union(*found.values()) == {name for name, _ in TECHNIQUES}
    assert all(name in techniques for name, techniques in found.items() if name)


def test_what_is_off_is_not_in_the_list() -> None:
    assert not in_turn(tiny_blueprint(**NOTHING))
    assert names(tiny_blueprint(**NOTHING | {"dropout": 0.2})) == {"dropout"}
    causal = names(tiny_blueprint(**EVERYTHING))
    assert not causal & {"masking rate", "whole words", "token dropout", "weight decay", "L2"}


@pytest.mark.parametrize("base", with_everything().values(), ids=list(with_everything()))
def test_a_technique_taken_out_is_out_and_the_others_stay(base: Blueprint) -> None:
    there = names(base)
    for variant in in_turn(base):
        assert variant.was != variant.instead
        left = names(variant.blueprint)
        assert variant.name not in left
        # Another optimizer brings its own decay; all else stays as it was.
        assert left - {"weight decay", "L2"} == there - {variant.name} - {"weight decay", "L2"}
        again = dict(TECHNIQUES)[variant.name](variant.blueprint)
        assert again is None


def test_a_person_reads_what_was_and_what_is_instead() -> None:
    told = {variant.name: (variant.was, variant.instead) for variant in in_turn(tiny_blueprint(**EVERYTHING))}
    assert told["optimizer"] == ("muon", "adamw")
    assert told["schedule"] == ("warmup_stable_decay", "constant")
    assert told["gradient clipping"] == ("1", "off")
    assert told["activation checkpointing"] == ("on", "off")
    assert told["attention within documents"] == ("documents", "blocks")


def test_a_constant_rate_rises_as_it_did() -> None:
    base = tiny_blueprint(schedule={"kind": "cosine", "warmup": 0.2})
    (variant,) = (variant for variant in in_turn(base) if variant.name == "schedule")
    assert variant.blueprint.learning.schedule.warmup == 0.2


def test_automatic_precision_is_a_technique_where_the_hardware_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    auto = tiny_blueprint(precision="auto")
    for fast, expected in ((True, {"precision"}), (False, set())):
        monkeypatch.setattr("tasks.techniques.has_fast_bf16", lambda device, fast=fast: fast)
        assert names(settled_precision(auto, "cpu")) & {"precision"} == expected


def test_a_setting_is_added_in_turn() -> None:
    first, second = added(tiny_blueprint(), ["learning.average=0.1", "learning.optimizer.kind=adamw"])
    assert (first.name, first.was, first.instead, first.added) == ("learning.average=0.1", "off", "0.1", True)
    assert first.blueprint.learning.average == 0.1
    assert first.blueprint.learning.optimizer == tiny_blueprint().learning.optimizer
    assert (second.was, second.instead) == ("muon", "adamw")


def test_ways_of_telling_documents_otherwise_are_taken_out_and_added_by_name() -> None:
    base = tiny_blueprint(augmentation=AUGMENTATION[:2])
    told = {variant.name: (variant.was, variant.instead) for variant in in_turn(base)}
    assert told["random swap"] == ("random_swap, random_delete", "random_delete")
    only = {variant.name: variant for variant in in_turn(tiny_blueprint(augmentation=AUGMENTATION[:1]))}
    assert (only["random swap"].was, only["random swap"].instead) == ("random_swap", "off")
    setting = "learning.augmentation=[{kind: random_insert, words: 0.2}]"
    (more,) = added(tiny_blueprint(), [setting])
    assert (more.was, more.instead) == ("off", "random_insert")
    model, objective = Scratch(), SequenceClassification()
    found = all_augmentation(model, objective, base.learning, [setting, "learning.average=0.1", setting])
    assert found == (*base.learning.augmentation, *more.blueprint.learning.augmentation)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("learning.averag=0.1", "did you mean 'learning.average'"),
        ("learning.optimizer.l2=0.1", "no such setting"),  # of another optimizer
        ("objective.rate=0.3", "no such setting"),  # of another objective
        ("vocabulary=512", "no such setting"),
        ("learning.average", "write field=value"),
        ("learning.average=", "write field=value"),
        ("learning.average=9", "less than or equal to 0.28"),
        ("learning.batch_tokens=many", "valid integer"),
        ("learning.context=64", "cannot be compared"),
        ("objective.kind=masked_language_model", "cannot be compared"),
    ],
)
def test_what_cannot_be_added_is_refused_with_the_reason(setting: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        added(tiny_blueprint(), [setting])


def test_a_size_is_compared_with_one_that_is_given() -> None:
    (deeper,) = added(tiny_blueprint(), ["model.depth=3"])
    assert (deeper.was, deeper.instead) == ("1", "3")
    with pytest.raises(InputError, match="the plan chooses the size here"):
        added(tiny_blueprint().model_copy(update={"model": Scratch()}), ["model.depth=3"])


def test_cleaning_is_taken_out_step_by_step() -> None:
    less = {name: without(Cleaning()) for name, without in CLEANINGS}
    assert less["deduplication"] == Cleaning(duplicates="none")
    assert less["filters"] is not None
    assert [step.kind for step in less["filters"].steps()] == ["repair_unicode"]
    bare = Cleaning(preset="none", duplicates="none")
    assert [without(bare) for _, without in CLEANINGS] == [None, None]
