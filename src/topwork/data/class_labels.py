"""The labels of classes as Python was given them, beside the names that a model has for them.

A model calls its classes by texts. Whoever trained it with whole numbers, flags, or texts whose
accents are encoded in another way gets answers of that kind, also from the saved model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

from topwork.data.listing import make_writable

# Kinds of NumPy's dtypes: flags, whole numbers, numbers, texts, and Python objects of these.
KINDS = "biufUTO"


class ClassLabels(BaseModel):
    """The labels of C classes, all different.

    Attributes:
        dtype: NumPy's, as it writes it; `U` for texts of any length, `O` for Python objects.
        values: C flags, numbers or texts, in the order of the names.
    """

    model_config = ConfigDict(frozen=True)

    dtype: str
    values: tuple[StrictBool | StrictInt | StrictFloat | StrictStr, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            found = self.to_array()
            several = len(np.unique(found)) == len(self.values)
        except (TypeError, OverflowError) as error:
            raise ValueError(f"they are not of the dtype {self.dtype}: {error}") from None
        if found.dtype.kind not in KINDS or not several:
            raise ValueError(f"they must be flags, numbers or texts, all different: {self.values}")
        return self

    def to_array(self) -> NDArray[Any]:
        """Returns the labels (C,) in the order of the names."""
        return np.array(self.values, np.dtype(self.dtype))

    @classmethod
    def from_values(
        cls, values: NDArray[Any], names: Sequence[str], classes: Sequence[str]
    ) -> ClassLabels | None:
        """Returns the labels of classes; None where they are their names, as texts.

        A class that was written in several ways is called by its name. So is one whose label a
        file cannot hold.

        Args:
            values: (M,) labels, all different.
            names: of the class of each, M of them.
            classes: the C different names, in the order of the classes.
        """
        label_of: dict[str, Any] = {}
        for value, name in zip(values.tolist(), names, strict=True):
            plain = name not in label_of and _is_writable(value)
            label_of[name] = _to_python(value) if plain else name
        kind = values.dtype.kind
        if kind == "U" and all(label == name for name, label in label_of.items()):
            return None
        return cls(
            dtype=kind if kind in "UTO" else values.dtype.str,
            values=tuple(label_of[name] for name in classes),
        )


def _is_writable(value: Any) -> bool:
    return not isinstance(value, str) or make_writable(value) == value


def _to_python(value: Any) -> bool | int | float | str:
    """Returns a label without NumPy's own types."""
    if isinstance(value, np.generic):
        value = value.item()
    for kind in (bool, int, str):
        if isinstance(value, kind):
            return kind(value)
    return float(value)
