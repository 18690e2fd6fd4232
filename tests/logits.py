"""Logits of a head that knows how sure it may be."""

import numpy as np

from topwork.metrics.calibration import softmax


def make_logits(count, classes=5, temperature=1.0, seed=0):
    """Logits of a head that is right about itself, times a temperature, and labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, classes))
    labels = (softmax(logits).cumsum(axis=1) > rng.random((count, 1)) * 0.9999).argmax(axis=1)
    return (logits * temperature).astype(np.float32), labels
