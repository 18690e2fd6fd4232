"""Transfer learning on images: a new classifier on a network pretrained on ImageNet.

    dataset = topwork.Dataset.from_folder("photos")
    classifier = topwork.Classifier().fit(dataset)
    classifier.history_.plot()
    classifier.save("photos.model")

Names are imported when they are first used: `import topwork` itself costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from topwork.core.config import Settings
    from topwork.core.errors import (
        DatasetError,
        ImageError,
        ModelError,
        NetworkError,
        SettingsError,
        StoreError,
        TopworkError,
        WeightsError,
    )
    from topwork.data.dataset import Dataset
    from topwork.metrics.history import History
    from topwork.recipes.classifier import Classifier, Regressor, load, tune

__all__ = [
    "Classifier",
    "Dataset",
    "DatasetError",
    "History",
    "ImageError",
    "ModelError",
    "NetworkError",
    "Regressor",
    "Settings",
    "SettingsError",
    "StoreError",
    "TopworkError",
    "WeightsError",
    "__version__",
    "load",
    "tune",
]

_MODULES = {
    "Classifier": "recipes.classifier",
    "Dataset": "data.dataset",
    "History": "metrics.history",
    "Regressor": "recipes.classifier",
    "Settings": "core.config",
    "load": "recipes.classifier",
    "tune": "recipes.classifier",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("topwork")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'core.errors')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
