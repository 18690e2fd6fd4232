"""The top of a network: what it is (`dense`), how it learns (`losses`, `optimizers`, `program`).

Importing this package does not import JAX: a prediction needs only `dense`.
"""

from topwork.heads.dense import Dense, Floats, Head, decide, init_head, probabilities

__all__ = ["Dense", "Floats", "Head", "decide", "init_head", "probabilities"]
