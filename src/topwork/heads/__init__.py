"""The top of a network: what it is (`dense`), how it learns.

In epochs: `program`, with `losses`, `optimizers` and `weights`; to its optimum: `solved`.

Importing this package does not import JAX: a prediction needs only `dense`.
"""

from topwork.heads.dense import Dense, Floats, Head, decide, init_head, probabilities, score

__all__ = ["Dense", "Floats", "Head", "decide", "init_head", "probabilities", "score"]
