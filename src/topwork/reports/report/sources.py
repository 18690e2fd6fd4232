"""The images that kept answers are of, found again in the data."""

from __future__ import annotations

from dataclasses import replace

from topwork.core.errors import ImageError
from topwork.core.parallel import in_threads
from topwork.data.dataset import Dataset
from topwork.images.decode import Source
from topwork.images.verify import read_unchanged
from topwork.models.predictions import LabeledPredictions


def find_sources(predictions: LabeledPredictions, dataset: Dataset) -> LabeledPredictions:
    """Returns answers with the images that they are of.

    An image is found by its name, and taken only if its bytes are what they were.

    Args:
        predictions: as they were kept with a model.
        dataset: the images that the model was made of, or some of them.
    """
    known = dataset.sources_by_name

    def find(pair: tuple[str, str]) -> Source | None:
        name, wanted = pair
        source = known.get(name)
        if source is None:
            return None
        try:
            read_unchanged(source, wanted)
        except ImageError:
            return None
        return source

    pairs = zip(predictions.names, predictions.hashes, strict=True)
    return replace(predictions, sources=tuple(in_threads(find, pairs)))
