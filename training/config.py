"""The vocabulary of settings: sections, choices, and fields that a search may turn."""

from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


class Section(BaseModel):
    """Settings of one stage: frozen, and closed to unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Choice(Section):
    """One member of a family; its `kind` is its class name in snake case.

    A family is a union of choices on the last line of its file:
    `Family = Annotated[A | B, Field(discriminator="kind"), AnyOf()]`.
    """


class AnyOf:
    """Shows a discriminated union as `anyOf`, which the run form draws as tabs.

    Prefect's form draws `oneOf`, pydantic's own word for it, as a bare JSON editor.
    """

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core)
        schema.pop("discriminator", None)
        schema["anyOf"] = schema.pop("oneOf")
        return schema


class Tune(NamedTuple):
    """The range in which a search may turn a field: `Annotated[float, Tune(1e-3, 1e-1, log=True)]`.

    The best value goes with the model's width to the power of `width_power`.
    """

    low: float
    high: float
    log: bool = False
    width_power: float = 0.0


S = TypeVar("S", bound=Section)


def tunable_fields(section: Section, prefix: str = "") -> dict[str, Tune]:
    """Dotted names of the fields below `section` that carry `Tune`, following the choices made."""
    found: dict[str, Tune] = {}
    for name, field in type(section).model_fields.items():
        value: Any = getattr(section, name)
        if isinstance(value, Section):
            found |= tunable_fields(value, f"{prefix}{name}.")
        for note in field.metadata:
            if isinstance(note, Tune) and value:  # None or 0 is a technique that is off
                found[prefix + name] = note
    return found


def with_fields(section: S, values: dict[str, Any]) -> S:
    """A copy of `section` with the dotted fields in `values` replaced, and validated again.

    A `kind` that changes leaves nothing of the other choice. Raises KeyError where there is no such section.
    """
    dump = section.model_dump()
    for dotted, value in sorted(values.items(), key=lambda item: not item[0].endswith(".kind")):
        *path, last = dotted.split(".")
        place = dump
        for step in path:
            place = place[step]
        if last == "kind" and place["kind"] != value:
            place.clear()
        place[last] = value
    return type(section).model_validate(dump)
