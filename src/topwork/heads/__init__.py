"""Vectors and what they should become → a head: the trained top of a network.

`dense` is what a head is and all that a prediction needs; `train` makes one or many, in `epochs`
(with `losses`, `optimizers` and `class_weights`) or to its optimum (`logistic`), from vectors in
memory or on disk; `tuning` chooses how. JAX is imported for training in epochs alone.
"""
