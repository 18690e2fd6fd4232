"""What scikit-learn asks of an estimator, answered without importing it until that is needed."""

from __future__ import annotations

import inspect
import sys
from collections import defaultdict
from functools import cache
from typing import Any, ClassVar, Self

WIDTH = 80
# What may be asked for before scikit-learn is imported, besides `set_fit_request` and its like.
_ASKED_FOR = frozenset({"_get_metadata_request", "_repr_html_", "_repr_mimebundle_"})


class SklearnProtocol:
    """An estimator in all but its base classes, whose import takes a second.

    Parameters are read, set and shown here, by scikit-learn's rules. The rest, such as routing of
    metadata and the diagrams of notebooks, is asked of `sklearn.base.BaseEstimator` when somebody
    asks for it. An instance is no instance of that class; `sklearn.base.is_classifier` and
    `is_regressor` know what it is.
    """

    # "classifier" or "regressor".
    _estimator_type: ClassVar[str]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Returns the arguments of the constructor by name, with their values.

        Args:
            deep: with those of values that are estimators, as `name__argument`.
        """
        found: dict[str, Any] = {}
        for name in sorted(_find_defaults(type(self))):
            value = getattr(self, name)
            if deep and hasattr(value, "get_params") and not isinstance(value, type):
                found |= {f"{name}__{key}": inner for key, inner in value.get_params().items()}
            found[name] = value
        return found

    def set_params(self, **params: Any) -> Self:
        """Sets arguments of the constructor, and those of values that are estimators.

        Returns:
            self.

        Raises:
            ValueError: there is no argument of such a name.
        """
        known = self.get_params()
        nested: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        for full_name, value in params.items():
            name, inner, inner_name = full_name.partition("__")
            if name not in known:
                names = sorted(_find_defaults(type(self)))
                raise ValueError(
                    f"Invalid parameter {name!r} for estimator {self}. "
                    f"Valid parameters are: {names!r}."
                )
            if inner:
                nested[name][inner_name] = value
            else:
                setattr(self, name, value)
                known[name] = value
        for name, values in nested.items():
            known[name].set_params(**values)
        return self

    def get_metadata_routing(self) -> Any:
        """Returns what metadata each method takes, as `set_fit_request` and its like say."""
        return self._get_metadata_request()

    def __sklearn_tags__(self) -> Any:
        from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

        mixin = ClassifierMixin if self._estimator_type == "classifier" else RegressorMixin
        return type(type(self).__name__, (mixin, BaseEstimator), {})().__sklearn_tags__()

    def __getattr__(self, name: str) -> Any:
        if _is_sklearns(name):
            mine: type = type(self)
            kind = _inherit_sklearn(mine)
            if hasattr(kind, name):
                found = inspect.getattr_static(kind, name)
                return found.__get__(self, mine) if hasattr(found, "__get__") else found
        # Says what is missing, also where that is another attribute, which a property needs.
        return super().__getattribute__(name)

    def __repr__(self) -> str:
        """Returns the call that makes it, as scikit-learn writes it."""
        values = self.get_params(deep=False)
        if _shows_changes_only():
            defaults = _find_defaults(type(self))
            values = {k: value for k, value in values.items() if repr(value) != repr(defaults[k])}
        return _write_call(type(self).__name__, [f"{k}={value!r}" for k, value in values.items()])


def _find_defaults(kind: type) -> dict[str, Any]:
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]  # type: ignore[misc]
    return {one.name: one.default for one in parameters if one.kind != one.VAR_KEYWORD}


def _is_sklearns(name: str) -> bool:
    """Returns whether an attribute may be one of scikit-learn's: its own helpers change."""
    if name in _ASKED_FOR or (name.startswith("set_") and name.endswith("_request")):
        return True
    return name.startswith("_") and not name.startswith("__") and "sklearn.base" in sys.modules


@cache
def _inherit_sklearn(kind: type) -> type:
    from sklearn.base import BaseEstimator

    return type(kind.__name__, (kind, BaseEstimator), {})


def _shows_changes_only() -> bool:
    if "sklearn" not in sys.modules:
        return True
    from sklearn import get_config

    return bool(get_config()["print_changed_only"])


def _write_call(name: str, arguments: list[str]) -> str:
    """Returns a call in lines of at most 80, where its arguments are no longer than that."""
    rows = []
    row = f"{name}({arguments[0] if arguments else ''}"
    for argument in arguments[1:]:
        if len(f"{row}, {argument},") > WIDTH:
            rows.append(row)
            row = " " * len(f"{name}(") + argument
        else:
            row += f", {argument}"
    return ",\n".join([*rows, row]) + ")"
