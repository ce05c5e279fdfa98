"""Recipes: YAML files of sections, and the door at which what cannot work stops before any compute."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model

from tasks.artifacts import InputError
from tasks.secrets import HOW, holds_secret
from training.budget import parse_budget

if TYPE_CHECKING:
    from tasks.cluster import Compute
    from tasks.source import Source
    from tasks.study import Search
    from training.blueprint import Learning
    from training.model import Model
    from training.objectives import Objective

FOLDER = Path(__file__).resolve().parent.parent / "deployments" / "recipes"
DEFAULT = "python-code"
# What `check_together` takes.
TOGETHER = ("source", "objective", "model", "learning", "compute", "search")


def recipe_path(name: str) -> Path:
    """The file of a recipe, given by path or by the name of one that comes along."""
    for path in (Path(name), FOLDER / f"{name}.yaml", FOLDER / name):
        if path.is_file():
            return path
    there = [path.stem for path in list_recipes()]
    near = difflib.get_close_matches(Path(name).stem, there, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(f"there is no recipe {name!r}: {hint}give a YAML file, or one of {', '.join(there)}")


def list_recipes() -> list[Path]:
    """The recipes that come along."""
    return sorted(FOLDER.glob("*.yaml"))


def headline(path: Path) -> str:
    """The first comment line of a recipe, which says what it is for."""
    first = path.read_text(encoding="utf-8").splitlines()[:1]
    return first[0].lstrip("# ").strip() if first and first[0].startswith("#") else ""


def load_recipe(name: str, settings: Iterable[str] = ()) -> dict[str, Any]:
    """The sections of a recipe with `section.field=value` settings put in, not yet validated.

    A setting that changes a `kind` drops what the recipe says about the other one. Raises InputError
    where the file is no YAML mapping or a setting is no assignment.
    """
    path = recipe_path(name)
    try:
        sections = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        where = " ".join(str(problem).split())
        raise InputError(f"{path} is not YAML: {where}") from problem
    if not isinstance(sections, dict):
        raise InputError(f"{path} is not a recipe: it must hold sections such as `source:` and `learning:`")
    sections.setdefault("promotion", {}).setdefault("name", path.stem)
    refuse_secrets(put_in(sections, settings))
    return sections


def refuse_secrets(sections: Mapping[str, Any]) -> None:
    """Raises InputError where a setting holds a password or a key: Prefect keeps settings, and shows them."""
    waiting: list[tuple[str, Any]] = list(sections.items())
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(f"{place}.{name}", inner) for name, inner in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(place, inner) for inner in value]
        elif isinstance(value, str) and holds_secret(value):
            raise InputError(f"{place}: {value} {HOW}.")


def put_in(sections: dict[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """The sections with `section.field=value` settings put in; raises InputError where one is no assignment."""
    for setting in sorted(settings, key=lambda setting: ".kind=" not in setting):
        dotted, equals, text = setting.partition("=")
        if not equals:
            raise InputError(
                f"--set {setting!r} sets nothing: write section.field=value, such as model.depth=4"
            )
        *parents, last = dotted.strip().split(".")
        place = sections
        for step in parents:
            inner = place.setdefault(step, {})
            if not isinstance(inner, dict):
                raise InputError(f"--set {setting!r}: {step} is a single value, it has no fields")
            place = inner
        if isinstance(place.get(last), dict) and last == "kind":
            raise InputError(f"--set {setting!r}: {last} is a section")
        if last == "kind" and place.get("kind") != _value(text):
            place.clear()
        place[last] = _value(text)
    return sections


def _value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def check_budgets(budgets: Sequence[str]) -> None:
    """Raises InputError for what is no budget, for fewer than two, the same twice, or amounts of different units."""
    try:
        amounts = [parse_budget(budget) for budget in budgets]
    except ValueError as problem:
        raise InputError(f"--budgets: {problem}; put commas between several: 1m,2m,4m") from None
    if len(set(amounts)) < len(amounts) or len(amounts) < 2:
        raise InputError(f"--budgets {','.join(budgets)}: give two or more that differ, such as 1m,2m,4m")
    if len({amount.unit for amount in amounts}) > 1:
        raise InputError(f"--budgets {','.join(budgets)}: give times only, or amounts of one unit only")


def check_files(sections: Mapping[str, Any]) -> None:
    """Raises InputError where files or their columns are not there; bad values are left to `check_parameters`."""
    _check_source(sections, "source")
    _check_source(sections, "seen")
    _check_steps(sections)


def _check_steps(sections: Mapping[str, Any]) -> None:
    """The files that steps of the cleaning read."""
    cleaning = sections.get("cleaning")
    also = cleaning.get("also") if isinstance(cleaning, Mapping) else None
    if not isinstance(also, list):
        return
    from tasks.steps import AnyStep
    from tasks.text import ReadsFiles

    known: TypeAdapter[Any] = TypeAdapter(AnyStep)
    for one in also:
        with suppress(ValidationError):
            step = known.validate_python(one)
            if isinstance(step, ReadsFiles):
                step.check()


def _check_source(sections: Mapping[str, Any], name: str) -> None:
    """The files of the source, and of what is `seen` where there is reason to train again."""
    from tasks.source import Files

    objective = sections.get("objective")
    kind = objective.get("kind") if isinstance(objective, Mapping) else objective
    try:
        files = Files.model_validate(sections.get(name))
    except ValidationError:  # or another kind of source
        return
    try:
        files.check(labelled=name == "source" and kind == "sequence_classification")
    except InputError as problem:
        raise InputError(str(problem).replace("source.paths", f"{name}.paths", 1)) from None


def check_parameters(flow: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The flow's parameters, validated; sections left out take their defaults.

    Raises InputError naming the nearest section or field where one is misspelt, and every bad value.
    """
    hints = get_type_hints(flow, include_extras=True)
    signature = inspect.signature(flow).parameters
    fields: dict[str, Any] = {name: (hints[name], parameter.default) for name, parameter in signature.items()}
    form: type[BaseModel] = create_model("Recipe", __config__=ConfigDict(extra="forbid"), **fields)
    filled = {name: _with_kind(value, signature.get(name)) for name, value in values.items()}
    try:
        checked = form.model_validate(filled)
    except ValidationError as problem:
        raise InputError("\n".join(_explain(error, form) for error in problem.errors())) from None
    return {name: getattr(checked, name) for name in fields}


def check_together(
    source: "Source",
    objective: "Objective",
    model: "Model",
    learning: "Learning",
    compute: "Compute",
    search: "Search",
) -> None:
    """Looks whether the sections fit each other, the data's columns and the machine.

    Raises InputError, naming what fits.
    """
    from tasks.space import check_search
    from training.blueprint import Blueprint

    _check_data_and_machine(source, objective, model, learning, compute)
    check_search(search, Blueprint(model=model, objective=objective, learning=learning, vocabulary=512))


@lru_cache(maxsize=1)  # the command line asks before the flow does
def _check_data_and_machine(
    source: "Source", objective: "Objective", model: "Model", learning: "Learning", compute: "Compute"
) -> None:
    from training.architectures import check_head, check_packing
    from training.augmentation import check_augmentation
    from training.model import Pretrained, Shape
    from training.pretrained import folder_of, read_config

    try:
        if isinstance(model, Pretrained):
            config = read_config(folder_of(model.name, model.revision))
            check_head(config.model_type, objective.head)
        else:
            tiny = Shape(head=objective.head, vocabulary=512, context=64, labels=("a", "b"))
            config = model.with_depth(model.settled_depth() or 1).config(tiny)
    except ValueError as problem:
        raise InputError(f"objective {objective.kind} and model: {problem}") from None
    source.check(labelled=objective.head == "classification")
    try:
        planned = isinstance(model, Pretrained) or model.settled_depth() is not None
        learning.strategy.check(compute.count(), config if planned else None)
        check_packing(config.model_type, learning.packing)
        check_augmentation(learning.augmentation, objective.head)
    except ValueError as problem:
        raise InputError(str(problem)) from None
    if learning.precision == "fp16" and not compute.on_gpu():
        raise InputError("learning.precision is fp16, which is slow on a CPU: use auto, or a GPU")


def _with_kind(value: Any, parameter: inspect.Parameter | None) -> Any:
    """A choice that names no kind is of the default's kind; so are the choices inside a section."""
    default = parameter.default if parameter is not None else None
    return _fill(value, default)


def _fill(value: Any, default: Any) -> Any:
    if not isinstance(value, dict) or not isinstance(default, BaseModel):
        return value
    known = type(default).model_fields
    kind = {"kind": default.model_dump()["kind"]} if "kind" in known and "kind" not in value else {}
    inner = {name: _fill(entry, getattr(default, name, None)) for name, entry in value.items()}
    return {**kind, **inner}


def _explain(error: Any, form: type[BaseModel]) -> str:
    """One line for one mistake: where, what, and what to do."""
    path = [str(step) for step in error["loc"]]
    where = ".".join(path)
    if error["type"] != "extra_forbidden":
        given = "" if isinstance(error["input"], dict) else f" (given: {error['input']!r})"
        return f"{where}: {error['msg'].removeprefix('Value error, ')}{given}"
    siblings = sorted(_names(form, path[:-1]))
    near = difflib.get_close_matches(path[-1], siblings, n=1)
    what = "section" if len(path) == 1 else "field"
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(siblings)}"
    return f"{where}: there is no such {what}; {hint}"


def _names(form: type[BaseModel], path: list[str]) -> set[str]:
    """The fields that may stand at a place; steps that name the kind of a choice select it."""
    candidates: list[type[BaseModel]] = [form]
    for step in path:
        deeper: list[type[BaseModel]] = []
        for model in candidates:
            if step in model.model_fields:
                deeper += _sections_in(model.model_fields[step].annotation)
            elif step.isdigit() or (
                "kind" in model.model_fields and model.model_fields["kind"].default == step
            ):
                deeper.append(model)  # of a list, or the choice
        candidates = deeper
    return {name for model in candidates for name in model.model_fields}


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a value of this type may be, or hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections_in(part)]
