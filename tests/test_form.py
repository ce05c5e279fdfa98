"""The run form: of every deployment, each field has a title, says what it is for, and is bounded."""

import json
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import yaml
from prefect.utilities.callables import parameter_schema

from tasks.form import explained
from tasks.processes import ROOT

DEPLOYMENTS = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())["deployments"]
ENTRYPOINTS = sorted({deployment["entrypoint"] for deployment in DEPLOYMENTS})
FIRST, LAST = ("budget", "budgets"), "promotion"
NUMBERS = ("integer", "number")


def schema_of(entrypoint: str) -> dict[str, Any]:
    """What the page draws the form from."""
    file, _, name = entrypoint.removesuffix(".py").partition(":")
    flow = getattr(import_module(file.removesuffix(".py").replace("/", ".")), name)
    found: dict[str, Any] = json.loads(parameter_schema(flow).model_dump_json())
    return found


def fields(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of the form by its place: the sections, and what is in them."""
    for name, field in schema["properties"].items():
        target = field.get("$ref", "").rpartition("/")[2]
        yield name, {**schema["definitions"].get(target, {}), **field}
    for section, described in schema["definitions"].items():
        yield section, described
        for name, field in described.get("properties", {}).items():
            yield f"{section}.{name}", field


def unbounded(field: dict[str, Any]) -> bool:
    """Whether a field takes numbers of any size."""
    for one in (field, *field.get("anyOf", ())):
        above = "maximum" in one or "exclusiveMaximum" in one
        below = "minimum" in one or "exclusiveMinimum" in one
        if one.get("type") in NUMBERS and "enum" not in one and not (above and below):
            return True
    return False


@pytest.mark.parametrize("entrypoint", ENTRYPOINTS)
def test_every_field_has_a_title_and_says_what_it_is_for(entrypoint: str) -> None:
    bare = [
        place
        for place, field in fields(schema_of(entrypoint))
        if "const" not in field and not (field.get("title") and field.get("description"))
    ]
    assert not bare


@pytest.mark.parametrize("entrypoint", ENTRYPOINTS)
def test_every_number_is_bounded_and_every_choice_has_tabs(entrypoint: str) -> None:
    schema = schema_of(entrypoint)
    assert not [place for place, field in fields(schema) if unbounded(field)]
    assert "oneOf" not in json.dumps(schema)


@pytest.mark.parametrize("entrypoint", ENTRYPOINTS)
def test_the_budget_comes_first_and_the_name_last(entrypoint: str) -> None:
    properties = schema_of(entrypoint)["properties"]
    order = sorted(properties, key=lambda name: int(properties[name]["position"]))
    assert order[0] in FIRST and order[-1] == LAST
    assert order.index("source") < order.index("model") < order.index("learning") < order.index("compute")


def test_a_parameter_that_does_not_say_what_it_is_for_is_refused() -> None:
    def bare(budget: str) -> None: ...

    with pytest.raises(TypeError, match="what budget is for"):
        explained(bare)
