from pathlib import Path
from typing import Any

import pytest

from flows.pipeline import train_best_model
from tasks.artifacts import InputError
from tasks.cluster import Compute
from tasks.recipe import (
    TOGETHER,
    check_files,
    check_parameters,
    check_together,
    headline,
    list_recipes,
    load_recipe,
)
from tasks.source import Files
from training.architectures import heads_of
from training.model import Pretrained
from training.optimizers import AdamW


def write(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("path", list_recipes(), ids=lambda path: path.stem)
def test_every_recipe_that_comes_along_is_valid_and_says_what_it_is_for(path: Path) -> None:
    parameters = check_parameters(train_best_model.fn, load_recipe(path.stem))
    assert parameters["promotion"].name == path.stem
    assert headline(path)


def test_settings_override_the_recipe() -> None:
    sections = load_recipe("python-code", ["model.depth=5", "source.kind=files", "source.paths=a.txt"])
    parameters = check_parameters(train_best_model.fn, sections)
    assert parameters["model"].depth == 5
    assert parameters["source"] == Files(paths=("a.txt",))


def test_a_choice_without_a_kind_is_of_the_defaults_kind(tmp_path: Path) -> None:
    path = write(tmp_path, "model: {depth: 3}\nlearning: {schedule: {decay: 0.4}}\n")
    parameters = check_parameters(train_best_model.fn, load_recipe(path))
    assert parameters["model"].depth == 3
    assert parameters["learning"].schedule.decay == 0.4


def test_another_kind_brings_its_own_defaults() -> None:
    parameters = check_parameters(
        train_best_model.fn, load_recipe("python-code", ["learning.optimizer.kind=adamw"])
    )
    assert parameters["learning"].optimizer == AdamW()


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ("modl.depth=3", "did you mean 'model'"),
        ("model.dept=3", "did you mean 'depth'"),
        ("learning.optimizer.learning_rat=3", "did you mean 'learning_rate'"),
        ("model.depth=many", "model.*depth.*given: 'many'"),
        ("model.depth=0", "greater than or equal to 1"),
        ("source.kind=fils", "source"),
        ("learning.augmentation=[{kind: random_swap, wrds: 3}]", "did you mean 'words'"),
    ],
)
def test_a_mistake_is_named_with_what_was_meant(setting: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        check_parameters(train_best_model.fn, load_recipe("python-code", [setting]))


def test_another_kind_drops_what_the_recipe_says_of_the_first() -> None:
    settings = ["model.name=somewhere", "model.kind=pretrained", "source.kind=files", "source.paths=a.csv"]
    parameters = check_parameters(train_best_model.fn, load_recipe("classify", settings))
    assert parameters["model"] == Pretrained(name="somewhere")
    assert parameters["source"] == Files(paths=("a.csv",))


def together(name: str, settings: list[str]) -> dict[str, Any]:
    parameters: dict[str, Any] = check_parameters(train_best_model.fn, load_recipe(name, settings))
    check_together(*(parameters[section] for section in TOGETHER))
    return parameters


@pytest.mark.parametrize("name", ["python-code", "masked-text", "classify"])
def test_recipes_that_need_nothing_else_fit_together(name: str) -> None:
    parameters = together(name, [])
    assert parameters["objective"].head in heads_of(parameters["model"].family)


@pytest.mark.parametrize(
    ("name", "setting", "hint"),
    [
        ("masked-text", "model.family=nanochat", "no masked head.*such as modernbert, bert"),
        ("python-code", "model.family=bert", "no causal head.*such as lfm2"),
        ("classify", "model.family=nanochat", "no classification head"),
        ("classify", "model={kind: pretrained, name: ./nowhere}", "no folder ./nowhere"),
        ("classify", "compute.workers=999", "ask for at most"),
        ("masked-text", "learning.packing=documents", "modernbert looks beyond a document"),
        ("python-code", "learning={precision: fp16}", "fp16.*use auto"),
        ("python-code", "learning.augmentation=[{kind: random_swap}]", "is for labelled documents"),
        (
            "classify",
            "learning.augmentation=[{kind: thesaurus_synonyms, thesaurus: ./nowhere}]",
            r"learning\.augmentation, thesaurus_synonyms: thesaurus nowhere cannot be read",
        ),
    ],
)
def test_sections_that_do_not_fit_are_refused_with_what_does(name: str, setting: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        together(name, [setting])


def test_a_labelled_table_must_name_its_labels(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,topic\nhello,a\n")
    source = f"source={{kind: files, paths: {tmp_path}/rows.csv}}"
    with pytest.raises(InputError, match=r"source\.label_column; there are text, topic"):
        together("classify", [source])
    together("classify", [source, "source.label_column=topic"])


@pytest.mark.parametrize("text", ["a: [1, 2", "- just\n- a list\n", "\x00"])
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"mine\.yaml is not"):
        load_recipe(write(tmp_path, text))


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'python-code'"):
        load_recipe("pyton-code")


@pytest.mark.parametrize("setting", ["model.depth", "budget.seconds.x=1"])
def test_a_setting_that_sets_nothing_is_refused(setting: str) -> None:
    with pytest.raises(InputError):
        check_parameters(train_best_model.fn, load_recipe("python-code", [setting]))


@pytest.mark.skipif(Compute().count() < 2, reason="one worker is always a single one")
def test_a_strategy_that_cannot_be_is_refused_before_any_compute() -> None:
    with pytest.raises(InputError, match="strategy is single, but there are"):
        together("python-code", ["learning.strategy.kind=single"])


def test_files_of_steps_are_looked_for_before_all_else(tmp_path: Path) -> None:
    for kind, field in (("toxic_words", "path"), ("contamination", "paths")):
        with pytest.raises(InputError, match="nowhere"):
            check_files({"cleaning": {"also": [{"kind": kind, field: str(tmp_path / "nowhere")}]}})
    check_files(
        {"cleaning": {"also": [{"kind": "toxic_words"}, "what", {"kind": "personal_data"}]}}
    )  # bad values


@pytest.mark.parametrize(
    "objective", ["sequence_classification", {"kind": "sequence_classification"}, None, 3]
)
def test_files_are_looked_for_before_all_else_whatever_the_rest_says(
    objective: object, tmp_path: Path
) -> None:
    missing = {"kind": "files", "paths": [str(tmp_path / "nothing.txt")]}
    with pytest.raises(InputError, match="does not exist"):
        check_files({"source": missing, "objective": objective})
    for source in (
        None,
        3,
        {"kind": "hub"},
        {"kind": "files", "paths": []},
    ):  # for check_parameters to refuse
        check_files({"source": source, "objective": objective})
