"""The run form of a flow: every parameter says what it is for, in the words of its own type."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

F = TypeVar("F", bound=Callable[..., Any])

Seed = Annotated[
    int,
    Field(
        ge=0,
        le=2**31 - 1,
        description="What is left to chance. The same seed repeats a training; another shows how much was luck.",
    ),
]


def explained(function: F) -> F:
    """The function, with what each of its parameters is for at the end of its docstring.

    Prefect's form takes descriptions of parameters from there alone. Raises TypeError for a
    parameter whose type does not say what it is for.
    """
    hints = get_type_hints(function, include_extras=True)
    lines = [f"    {name}: {_purpose(name, hints[name])}" for name in inspect.signature(function).parameters]
    function.__doc__ = "\n".join([inspect.getdoc(function) or "", "", "Args:", *lines])
    return function


def _purpose(name: str, hint: Any) -> str:
    """What a parameter is for: its annotation's description, or the first paragraph of its section's docstring."""
    for note in get_args(hint)[1:] if get_origin(hint) is Annotated else ():
        if isinstance(note, FieldInfo) and note.description:
            return " ".join(note.description.split())
    if isinstance(hint, type) and issubclass(hint, BaseModel) and hint.__doc__:
        return " ".join((inspect.getdoc(hint) or "").split("\n\n")[0].split())
    raise TypeError(f"nothing says what {name} is for: give its type a description")
