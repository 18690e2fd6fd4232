"""Which pairs of images may show one picture, by their vectors."""

from __future__ import annotations

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
# Enough for copies that have the same size and are not mirrored, and five times as fast.
QUICK_COSINE = 0.9
# For what was cut or turned, the nearest of each image are compared too, above so low a cosine: of
# copies that were turned by 45 to 270 degrees 35 to 40 in 40 were among the nearest 10, by any
# other change all among the nearest 5.
NEAREST = 6
LEAST_NEAREST = 0.4


def pair_nearest(vectors: Rows) -> Indices:
    """Returns the pairs (P, 2) of each vector and those nearest to it, each once."""
    others, cosines = nearest(vectors, vectors, NEAREST, leave_out_self=True)
    first, rank = np.nonzero(cosines >= LEAST_NEAREST)
    pairs = np.sort(np.stack([first, others[first, rank]], axis=1), axis=1)
    return np.asarray(np.unique(pairs, axis=0), np.int64)


def choose_threshold(vectors: Rows, least: float = LEAST_COSINE) -> float:
    """Returns the cosine that leaves about `CANDIDATES` pairs per image."""
    count = len(vectors)
    sample = unit(vectors[:: -(-count // SAMPLE)])
    cosines = (sample @ sample.T)[np.triu_indices(len(sample), 1)]
    share = min(2 * CANDIDATES / count, 1.0)
    return float(np.clip(np.quantile(cosines, 1 - share), least, MOST_COSINE))
