"""The arguments of an estimator: signature and documentation, from the fields of `Settings`."""

from __future__ import annotations

import re
import textwrap
from enum import StrEnum
from inspect import Parameter, Signature
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from topwork.core.config import AUTO, HeadSettings, Settings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

WIDTH = 100
# In the order in which a person asks about them; the others follow as `Settings` has them.
FIRST = (
    "base", "preset", "image_size", "views", "flip", *HeadSettings.model_fields,
    "seed", "validation_fraction",
)  # fmt: skip
FIELDS = {name: Settings.model_fields[name] for name in (*FIRST, *Settings.model_fields)}
# `Settings.create` takes more for it than a model keeps.
WIDER_TYPES = {"weights": "str | Path | None"}

Kind = TypeVar("Kind", bound=type)


def make_signature(**others: tuple[str, Any]) -> Signature:
    """Returns the signature of a constructor that takes every field of `Settings`.

    Enumerations become the texts that stand for them; only the base may go without its name.

    Args:
        others: type, as text, and default of each argument that comes after the fields.
    """
    arguments = {
        name: (WIDER_TYPES.get(name) or _say_type(field), _find_default(field))
        for name, field in FIELDS.items()
    }
    parameters = [Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)]
    for name, (kind, default) in (arguments | others).items():
        by_name = Parameter.KEYWORD_ONLY if name != "base" else Parameter.POSITIONAL_OR_KEYWORD
        parameters.append(Parameter(name, by_name, default=default, annotation=kind))
    return Signature(parameters, return_annotation="None")


def _find_default(field: FieldInfo) -> Any:
    return str(field.default) if isinstance(field.default, StrEnum) else field.default


def _list_types(field: FieldInfo) -> tuple[type, ...]:
    return get_args(field.annotation) or (field.annotation,)


def _say_type(field: FieldInfo) -> str:
    if type(field.default) is str and field.default == AUTO:
        return "float | str"
    return " | ".join(map(_name_type, _list_types(field)))


def _name_type(kind: type) -> str:
    if kind is NoneType:
        return "None"
    return "str" if issubclass(kind, StrEnum) else kind.__name__


def document_settings(kind: Kind) -> Kind:
    """Replaces the line `settings: ...` in a class's docstring by a line for each field."""
    assert kind.__doc__ is not None
    kind.__doc__ = re.sub(
        "^( *)settings: .*$", lambda found: _describe_fields(found[1]), kind.__doc__, flags=re.M
    )
    return kind


def _describe_fields(indent: str) -> str:
    wrapper = textwrap.TextWrapper(
        WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(wrapper.fill(f"{name}: {_describe(field)}") for name, field in FIELDS.items())


def _describe(field: FieldInfo) -> str:
    """Returns a field's description as a phrase, with the values that it may have."""
    text = (field.description or "").removesuffix(".")
    if text[1].islower():
        text = text[0].lower() + text[1:]
    values = [str(value) for value in _list_values(field)]
    if all(value in text for value in values):
        return f"{text}."
    return f"{text}; one of {', '.join(f'`{value}`' for value in values)}."


def _list_values(field: FieldInfo) -> list[StrEnum]:
    """Returns the values of an enumeration; none for other fields."""
    kinds = (kind for kind in _list_types(field) if isinstance(kind, type))
    return [value for kind in kinds if issubclass(kind, StrEnum) for value in kind]
