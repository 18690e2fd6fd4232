"""Which pairs of images may show one picture, by their vectors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from topwork.core.arrays import Indices
from topwork.vectors.neighbors import nearest, unit
from topwork.vectors.on_disk import Rows

# Candidates are the pairs with the highest cosines, about so many per image, by a sample of the
# images: what a cosine means depends on the network, and unrelated pairs grow with the square of
# the images. Of copies by JPEG at quality 30 to 95 the lowest cosine was 0.91 with
# efficientnet-lite0, at half the size 0.83, at that and quality 30 0.73, mirrored and halved 0.79,
# with xception at 150 px mirrored 0.76; of unrelated pairs one in 100 has 0.69, one in 1000 0.79,
# one in 10,000 0.86.
CANDIDATES = 20
SAMPLE = 2000
LEAST_COSINE = 0.7
MOST_COSINE = 0.95
# For what was cut or turned, the nearest of each image are compared too, above so low a cosine: of
# copies that were turned by 45 to 270 degrees 35 to 40 in 40 were among the nearest 10, by any
# other change all among the nearest 5.
NEAREST = 6
LEAST_NEAREST = 0.4
# More images than this are not registered, unasked: six pairs of each are, in a thousandth of a
# second each.
MOST_REGISTERED = 20_000


class Effort(NamedTuple):
    """How many pairs are compared.

    Attributes:
        least_cosine: pairs whose vectors are less alike are not looked at.
        least_nearest: of the nearest of each image, those that are less alike are not laid over
            each other, which takes longest.
        nearest_per_image: about so many of these pairs at most, the most alike.
        most_registered: of more images than this none are.
    """

    least_cosine: float = LEAST_COSINE
    least_nearest: float = LEAST_NEAREST
    nearest_per_image: float = NEAREST
    most_registered: int = MOST_REGISTERED


# For a look at data that others divided: copies that have the same size and are not mirrored, and
# what was cut by little, or made grey, darker or brighter. Five times as fast.
QUICK = Effort(0.9, 0.9)
# To divide data: of 40 copies that were cut by a fifth 35 have so high a cosine, and nearly all
# that were cut by less, turned by up to 5 degrees, or made darker or brighter.
USUAL = Effort(nearest_per_image=0.5)
# To look for copies.
WHOLE = Effort()


def pair_nearest(vectors: Rows, effort: Effort = WHOLE) -> Indices:
    """Returns the pairs (P, 2) of each vector and those nearest to it, each once."""
    others, cosines = nearest(vectors, vectors, NEAREST, leave_out_self=True)
    least = effort.least_nearest
    if effort.nearest_per_image < NEAREST:
        least = choose_threshold(vectors, least, effort.nearest_per_image)
    first, rank = np.nonzero(cosines >= least)
    pairs = np.sort(np.stack([first, others[first, rank]], axis=1), axis=1)
    return np.asarray(np.unique(pairs, axis=0), np.int64)


def choose_threshold(
    vectors: Rows, least: float = LEAST_COSINE, per_image: float = CANDIDATES
) -> float:
    """Returns the cosine that leaves about so many pairs per image, `MOST_COSINE` at most."""
    count = len(vectors)
    sample = unit(vectors[:: -(-count // SAMPLE)])
    cosines = (sample @ sample.T)[np.triu_indices(len(sample), 1)]
    share = min(2 * per_image / count, 1.0)
    return float(np.clip(np.quantile(cosines, 1 - share), least, MOST_COSINE))
