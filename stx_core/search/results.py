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
    best = empty_top_k(len(rows), k)
    if rows.max(initial=0) < 2**32 - 1 and not np.isnan(scores).any():
        best_rows, best_scores = _best_by_key(rows, scores, k)
        width = best_rows.shape[1]
        best.rows[:, :width], best.scores[:, :width] = best_rows, best_scores
        return best
    # Minus is exact, so ascending by it is descending by score; unused slots come after all rows.
    unused = rows == NO_ROW
    order = np.lexsort((rows, -scores, unused), axis=1)[:, :k]
    width = order.shape[1]
    best.rows[:, :width] = np.take_along_axis(rows, order, axis=1)
    best.scores[:, :width] = np.take_along_axis(scores, order, axis=1)
    best.scores[best.rows == NO_ROW] = -np.inf
    return best


# A score and its row as one number, ascending from the best: numpy sorts these far quicker.
_LOW = np.uint64(0xFFFFFFFF)
_UNUSED = np.uint64(2**64 - 1)


def _best_by_key(rows: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and scores of the best k of (Q, C) candidates, or of all, by sorting keys."""
    flip = np.uint32(2**31 - 1)
    # Adding 0 makes a plain zero of the negative one, which is equal and differs in its bits.
    bits = (scores.astype(np.float32) + np.float32(0)).view(np.int32)
    # Descending: flipping all but the sign turns positive numbers round, negative ones are so.
    falling = np.where(bits < 0, bits.view(np.uint32), bits.view(np.uint32) ^ flip)
    keys = (falling.astype(np.uint64) << np.uint64(32)) | rows.astype(np.uint64) & _LOW
    keys[rows == NO_ROW] = _UNUSED
    keys = np.sort(keys, axis=1)[:, :k]
    falling = (keys >> np.uint64(32)).astype(np.uint32)
    best = np.where(falling >= np.uint32(2**31), falling, falling ^ flip).view(np.float32)
    best_rows = (keys & _LOW).astype(np.int64)
    unused = keys == _UNUSED
    best_rows[unused], best[unused] = NO_ROW, -np.inf
    return best_rows, best


def add_pairs(best: TopK, queries: np.ndarray, rows: np.ndarray, scores: np.ndarray) -> None:
    """Put P new pairs among the best, in place.

    Args:
        best: results of Q queries; rows that a query has are not among its new ones.
        queries: (P,) the number of the query.
        rows: (P,) int64.
        scores: (P,) float32.
    """
    changed, queries = np.unique(queries, return_inverse=True)
    earlier = best.rows[changed] != NO_ROW
    queries = np.concatenate([earlier.nonzero()[0], queries])
    rows = np.concatenate([best.rows[changed][earlier], rows])
    scores = np.concatenate([best.scores[changed][earlier], scores])
    order = np.lexsort((rows, -scores, queries))
    queries, rows, scores = queries[order], rows[order], scores[order]
    rank = np.arange(len(queries)) - np.searchsorted(queries, np.arange(len(changed)))[queries]
    in_top_k = rank < best.rows.shape[1]
    where = changed[queries[in_top_k]], rank[in_top_k]
    best.rows[where], best.scores[where] = rows[in_top_k], scores[in_top_k]
