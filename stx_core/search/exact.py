"""The score of one pair of embeddings: computed in float64, rounded once to float32.

The same two vectors get the same bits everywhere: whatever else is scored along with them, on any
number of threads, on any device. Matrix products and library sums do not promise that; here each
step is an operation on single elements, and sums follow a fixed tree.

P pairs, Q queries, N corpus rows, D width.
"""

import warnings
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Similarity = Literal["dot", "cosine", "euclidean", "manhattan"]
SIMILARITIES: tuple[Similarity, ...] = ("dot", "cosine", "euclidean", "manhattan")
Matrix = np.ndarray | Tensor

# Elements of a block of pairs, as float64 some 2 MB: it stays in the cache between the steps.
_BLOCK_ELEMENTS = 1 << 18
# Sums of so few values each are added in columns.
_NARROW = 32


def pair_scores(queries: Matrix, documents: Matrix, similarity: str) -> np.ndarray:
    """Score row i of `queries` with row i of `documents`, bit for bit as top-k does.

    Args:
        queries: (P, D).
        documents: (P, D).
        similarity: "dot", "cosine" (0 for zero vectors), "euclidean" or "manhattan" (negated
            distances).

    Returns:
        (P,) float32.

    Raises:
        ValueError: shapes differ, a value is not finite, or there is no such similarity.
    """
    left, right = viewed(queries, "queries"), viewed(documents, "documents")
    if left.shape != right.shape:
        raise ValueError(
            f"pairs need equal shapes, got queries {tuple(left.shape)} and documents "
            f"{tuple(right.shape)}"
        )
    check_similarity(similarity)
    check_finite(left, 0, "queries")
    check_finite(right, 0, "documents")
    rows = torch.arange(len(left))
    return scores_of_rows(left, right, rows, rows, similarity).numpy()


def scores_of_rows(
    queries: Tensor, corpus: Tensor, query_rows: Tensor, corpus_rows: Tensor, similarity: str
) -> Tensor:
    """Scores of P pairs, named by their rows: (P,) float32 on the queries' device.

    Args:
        queries: (Q, D).
        corpus: (N, D), on any device.
        query_rows: (P,) int64.
        corpus_rows: (P,) int64.
        similarity: its name.
    """
    n_pairs, width = len(query_rows), queries.shape[1]
    scores = queries.new_empty(n_pairs, dtype=torch.float32)
    step = max(1, min(n_pairs, _BLOCK_ELEMENTS // max(1, width)))
    lefts, rights = _Picked(queries, step, scores.device), _Picked(corpus, step, scores.device)
    norms = None
    if similarity == "cosine":
        # Rows stand in many pairs: their lengths are computed once.
        norms = lefts.norms(query_rows), rights.norms(corpus_rows)
    for start in range(0, n_pairs, step):
        some = slice(start, min(start + step, n_pairs))
        left, right = lefts.rows(query_rows[some]), rights.rows(corpus_rows[some])
        if norms is None:
            scores[some] = _OF_PAIRS[similarity](left, right)
        else:
            dots = _dot(left, right)
            products = norms[0][some] * norms[1][some]
            scores[some] = torch.where(products > 0, dots / products, 0.0)
    return scores


class _Picked:
    """Rows of a matrix as float64, in the same memory for each block of them.

    Fresh pages would cost more than the arithmetic.
    """

    def __init__(self, matrix: Tensor, most: int, device: torch.device) -> None:
        width = matrix.shape[1]
        self._matrix, self._most = matrix, most
        self._as_given = matrix.new_empty(most, width)
        self._wide = torch.empty(most, width, dtype=torch.float64, device=device)

    def rows(self, numbers: Tensor) -> Tensor:
        """Those of these numbers, at most `most`: (n, D) float64, until the next call."""
        there = numbers.to(self._matrix.device)
        rows = torch.index_select(self._matrix, 0, there, out=self._as_given[: len(there)])
        return self._wide[: len(there)].copy_(rows)

    def norms(self, numbers: Tensor) -> Tensor:
        """(P,) float64 lengths of rows."""
        distinct, place = torch.unique(numbers, return_inverse=True)
        norms = self._wide.new_empty(len(distinct))
        for start in range(0, len(distinct), self._most):
            some = slice(start, start + self._most)
            norms[some] = _tree_sum(self.rows(distinct[some]).square_()).sqrt_()
        return norms[place]


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return _tree_sum(left.mul_(right))


def _euclidean(left: Tensor, right: Tensor) -> Tensor:
    return -_tree_sum(left.sub_(right).square_()).sqrt_()


def _manhattan(left: Tensor, right: Tensor) -> Tensor:
    return -_tree_sum(left.sub_(right).abs_())


# (P,) float64 of two (P, D) float64, the first of which they overwrite.
_OF_PAIRS = {"dot": _dot, "euclidean": _euclidean, "manhattan": _manhattan}


def _tree_sum(values: Tensor) -> Tensor:
    """Sum of each row of (P, D), which it overwrites: halves are added until one value is left."""
    rows = values.T
    width = len(rows)
    if width == 0:
        return values.new_zeros(len(values))
    while width > 1:
        if _NARROW // 2 < width <= _NARROW:
            # From here on sums run along pairs, which are many.
            rows = rows[:width].contiguous()
        half = width // 2
        rows[:half] += rows[width - half : width]
        width -= half
    return rows[0].clone()


def viewed(embeddings: Matrix, what: str) -> Tensor:
    """A tensor on the array's own memory, read only; a copy where torch cannot view it.

    Raises:
        ValueError: it is not a matrix of numbers.
    """
    if isinstance(embeddings, np.ndarray):
        if not embeddings.flags.writeable:
            _hear_read_only_warning()
        # torch knows neither reversed memory nor foreign byte order.
        native = embeddings.dtype.newbyteorder("=")
        if any(stride < 0 for stride in embeddings.strides) or native != embeddings.dtype:
            embeddings = np.ascontiguousarray(embeddings, native)
        tensor = torch.from_numpy(embeddings)
    else:
        tensor = embeddings.detach()
    if tensor.dim() != 2 or tensor.is_complex():
        raise ValueError(
            f"{what} must be a matrix of numbers, one row each, got {tensor.dtype} of shape "
            f"{tuple(tensor.shape)}"
        )
    return tensor


@cache
def _hear_read_only_warning() -> None:
    """Spend, unseen, torch's once-per-process warning about read-only memory: we never write."""
    array = np.zeros(1)
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.from_numpy(array)


def check_similarity(similarity: str) -> None:
    """Refuse names that are no similarity.

    Raises:
        ValueError: naming those there are.
    """
    if similarity not in SIMILARITIES:
        raise ValueError(
            f"no similarity is called {similarity!r}; choose one of {', '.join(SIMILARITIES)}"
        )


def check_finite(rows: Tensor, first_row: int, what: str) -> None:
    """Refuse NaN and infinity.

    Args:
        rows: (N, D).
        first_row: the row of the whole matrix that the first one is, for the message.
        what: what the matrix holds, for the message.

    Raises:
        ValueError: naming the first such row.
    """
    if not rows.is_floating_point() or rows.isfinite().all():
        return
    row = first_row + int((~rows.isfinite()).any(dim=1).nonzero()[0])
    raise ValueError(f"row {row} of the {what} holds NaN or infinity; embed its text again")
