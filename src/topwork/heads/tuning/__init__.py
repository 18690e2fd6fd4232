"""Vectors with labels → the way to train a head that does best, chosen on folds.

`search` tries ways stage by stage, `trials` writes down and judges each, `folds` are the occasions
on which they are tried, `trackers` tell MLflow or TensorBoard.
"""
