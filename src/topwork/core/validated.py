"""Makes settings of values; what pydantic refuses becomes a message that names the setting."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from topwork.core.errors import SettingsError

Created = TypeVar("Created", bound=BaseModel)


def create_validated(kind: type[Created], values: dict[str, Any]) -> Created:
    """Returns settings of a kind, with these values.

    Raises:
        SettingsError: a value is unknown, of the wrong type or out of range, or contradicts
            another; names all such.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(e, kind) for e in error.errors())) from None


def _explain(error: Any, kind: type[BaseModel]) -> str:
    name = str(error["loc"][0]) if error["loc"] else "settings"
    if error["type"] == "extra_forbidden":
        known = ", ".join(kind.model_fields)
        return f"unknown setting {name!r}; the settings are {known}"
    if error["type"] == "contradiction":
        return str(error["msg"])
    return f"{name}: {error['msg'][0].lower()}{error['msg'][1:]}, received {error['input']!r}"
