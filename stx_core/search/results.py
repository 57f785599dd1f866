"""The best k rows of each query, and how results over parts of a corpus become one.

The order is the same everywhere: higher score first, and of equal scores the lower row first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NO_ROW = -1


@dataclass(frozen=True)
class TopK:
    """The best rows of a corpus for each query.

    Attributes:
        rows: (Q, K) int64 rows of the corpus, best first, -1 where there are fewer than K.
        scores: (Q, K) float32, -inf there.
    """

    rows: np.ndarray
    scores: np.ndarray


def empty_top_k(n_queries: int, k: int) -> TopK:
    """Results in which nothing was found yet."""
    return TopK(
        np.full((n_queries, k), NO_ROW, np.int64), np.full((n_queries, k), -np.inf, np.float32)
    )


def merge_top_k(parts: Sequence[tuple[TopK, int]], k: int) -> TopK:
    """One result out of results over disjoint row ranges: what one pass over all would give.

    Args:
        parts: results of the same Q queries, each with the first row of its range, which is added
            to its rows. Each must hold the best k of its range, or all of it.
        k: how many rows to keep of each query.

    Raises:
        ValueError: there is no part, or they differ in their number of queries.
    """
    sizes = {len(part.rows) for part, _ in parts}
    if len(sizes) != 1:
        raise ValueError(f"parts must be of the same queries, got parts of {sorted(sizes)} queries")
    rows = np.concatenate(
        [np.where(part.rows == NO_ROW, NO_ROW, part.rows + first) for part, first in parts], axis=1
    )
    return best_of(rows, np.concatenate([part.scores for part, _ in parts], axis=1), k)


def best_of(rows: np.ndarray, scores: np.ndarray, k: int) -> TopK:
    """The best k of (Q, C) candidates, none of them twice; unused slots hold row -1.

    Args:
        rows: (Q, C) int64.
        scores: (Q, C) float32; -inf (an overflow) is a score like any other.
        k: how many to keep of each query.
    """
    # Minus is exact, so ascending by it is descending by score; unused slots come after all rows.
    unused = rows == NO_ROW
    order = np.lexsort((rows, -scores, unused), axis=1)[:, :k]
    best = empty_top_k(len(rows), k)
    width = order.shape[1]
    best.rows[:, :width] = np.take_along_axis(rows, order, axis=1)
    best.scores[:, :width] = np.take_along_axis(scores, order, axis=1)
    best.scores[best.rows == NO_ROW] = -np.inf
    return best
