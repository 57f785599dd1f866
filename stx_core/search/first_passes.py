"""The table of first passes: who proposes documents, which are then scored exactly."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from stx_core.plugins import Registry


class FirstPass(Protocol):
    """A part of a corpus, prepared. Made of the corpus, (N, D) float32, and a similarity's name."""

    def propose(self, queries: np.ndarray, count: int) -> np.ndarray:
        """(Q, `count`) int64 rows of the corpus for (Q, D) float32; -1 where there are fewer."""


FIRST_PASSES: Registry[Callable[[np.ndarray, str], FirstPass]] = Registry(
    "stx.retrievers",
    "first pass",
    {
        "int8": "stx_core.search.approximate:Bytes",
        "binary": "stx_core.search.approximate:Signs",
        "ivf": "stx_core.search.approximate:ivf",
        "hnsw": "stx_core.search.approximate:hnsw",
    },
    expected=Callable,
    reserved=("exact",),
)
"""By name: an index of a part of the corpus, of "cosine", "dot" or "euclidean"."""
