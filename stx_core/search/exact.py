"""The score of one pair of embeddings: computed in float64, rounded once to float32.

The same two vectors get the same bits everywhere: whatever else is scored along with them, on any
number of threads, on any device. Matrix products and library sums do not promise that; here each
step is an operation on single elements, and sums follow a fixed tree. Library sums are quicker, and
where they, give or take their error, round to one float32, the tree would too: it is left for the
few others.

P pairs, Q queries, N corpus rows, D width.
"""

import warnings
from collections.abc import Iterator
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from stx_core.choices import check_choice

Similarity = Literal["dot", "cosine", "euclidean", "manhattan"]
SIMILARITIES: tuple[Similarity, ...] = ("dot", "cosine", "euclidean", "manhattan")
Matrix = np.ndarray | Tensor

# Elements of a block of pairs, as float64 some 4 MB: it stays in the cache between the steps. With
# smaller ones threads wait for each other more often, which is dear on a busy machine.
_BLOCK_ELEMENTS = 1 << 19
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
    x, y = of_one_width(viewed(queries, "queries"), viewed(documents, "documents"))
    if x.shape != y.shape:
        raise ValueError(
            f"pairs need equal shapes, got queries {tuple(x.shape)} and documents {tuple(y.shape)}"
        )
    check_choice("similarity", similarity, SIMILARITIES)
    check_finite(x, 0, "queries")
    check_finite(y, 0, "documents")
    rows = torch.arange(len(x))
    return scores_of_rows(x, y, rows, rows, similarity).numpy()


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
    if torch.float64 in (queries.dtype, corpus.dtype):
        return _by_tree(queries, corpus, query_rows, corpus_rows, similarity=similarity)
    # Of all other numbers products neither overflow nor vanish in float64.
    low, scores = _bounds(queries, corpus, query_rows, corpus_rows, similarity=similarity)
    unsure = (low != scores).nonzero()[:, 0]
    unsure_rows = (rows[unsure.to(rows.device)] for rows in (query_rows, corpus_rows))
    scores[unsure] = _by_tree(queries, corpus, *unsure_rows, similarity=similarity)
    return scores


def _by_tree(
    queries: Tensor, corpus: Tensor, query_rows: Tensor, corpus_rows: Tensor, *, similarity: str
) -> Tensor:
    """Scores by definition, (P,) float32."""
    sums = torch.empty(len(query_rows), dtype=torch.float64, device=queries.device)
    lengths = torch.ones_like(sums)
    for block, x, y in _blocks(queries, corpus, query_rows, corpus_rows):
        if similarity == "cosine":
            lengths[block] = _tree_sum(x.square()).sqrt_() * _tree_sum(y.square()).sqrt_()
        sums[block] = _tree_sum(_terms(x, y, similarity))
    return _score_of_sum(sums, lengths, similarity)


def _bounds(
    queries: Tensor, corpus: Tensor, query_rows: Tensor, corpus_rows: Tensor, *, similarity: str
) -> tuple[Tensor, Tensor]:
    """Two (P,) float32 between which the scores lie, nearly always the same.

    Sums in any order differ by no more than 2 D u times the sum of the sizes, u the unit roundoff
    (Higham 2002, chapter 4). What follows the sum is monotonic; lengths are off by less than that.
    """
    sums = torch.empty(len(query_rows), dtype=torch.float64, device=queries.device)
    sizes, lengths = torch.empty_like(sums), torch.ones_like(sums)
    for block, x, y in _blocks(queries, corpus, query_rows, corpus_rows):
        if similarity == "cosine":
            torch.mul(
                *(torch.linalg.vector_norm(rows, dim=1) for rows in (x, y)), out=lengths[block]
            )
        terms = _terms(x, y, similarity)
        torch.sum(terms, dim=1, out=sums[block])
        torch.sum(terms.abs_(), dim=1, out=sizes[block])
    times = 2 if similarity == "cosine" else 1
    sizes *= times * (queries.shape[1] + 8) * torch.finfo(torch.float64).eps
    low, high = (_score_of_sum(s, lengths, similarity) for s in (sums - sizes, sums + sizes))
    return low, high


def _blocks(
    queries: Tensor, corpus: Tensor, query_rows: Tensor, corpus_rows: Tensor
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Blocks of pairs, and their rows as float64, (n, D) each: in the same memory for each block.

    Fresh pages would cost more than the arithmetic.
    """
    n_pairs, width = len(query_rows), queries.shape[1]
    step = max(1, min(n_pairs, _BLOCK_ELEMENTS // max(1, width)))
    sides = [(queries, query_rows), (corpus, corpus_rows)]
    given = [matrix.new_empty(step, width) for matrix, _ in sides]
    wide = [torch.empty(step, width, dtype=torch.float64, device=queries.device) for _ in sides]
    for start in range(0, n_pairs, step):
        block = slice(start, min(start + step, n_pairs))
        n = block.stop - start
        for (matrix, rows), rows_as_given, rows_wide in zip(sides, given, wide, strict=True):
            torch.index_select(matrix, 0, rows[block].to(matrix.device), out=rows_as_given[:n])
            rows_wide[:n] = rows_as_given[:n]
        yield block, wide[0][:n], wide[1][:n]


def _terms(x: Tensor, y: Tensor, similarity: str) -> Tensor:
    """Terms of the sum, (P, D), in the memory of the first."""
    if similarity == "euclidean":
        return x.sub_(y).square_()
    return x.sub_(y).abs_() if similarity == "manhattan" else x.mul_(y)


def _score_of_sum(sums: Tensor, lengths: Tensor, similarity: str) -> Tensor:
    """(P,) float32; 0 is always the positive one."""
    if similarity == "cosine":
        sums = torch.where(lengths > 0, sums / lengths, 0.0)
    elif similarity == "euclidean":
        sums = -sums.sqrt()
    elif similarity == "manhattan":
        sums = -sums
    return sums.float() + 0.0


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
    if tensor.dim() == 1 and tensor.numel() == 0:
        tensor = tensor.reshape(0, 0)  # what embedding no texts gives
    if tensor.dim() != 2 or tensor.is_complex():
        raise ValueError(
            f"{what} must be a matrix of numbers, one row each, got {tensor.dtype} of shape "
            f"{tuple(tensor.shape)}"
        )
    return tensor


def of_one_width(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Two matrices; one of no rows and no width gets the width of the other."""
    if x.shape == (0, 0):
        x = x.new_zeros((0, y.shape[1]))
    if y.shape == (0, 0):
        y = y.new_zeros((0, x.shape[1]))
    return x, y


@cache
def _hear_read_only_warning() -> None:
    """Spend, unseen, torch's once-per-process warning about read-only memory: we never write."""
    array = np.zeros(1)
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.from_numpy(array)


def check_finite(rows: Tensor, first_row: int, what: str) -> None:
    """Refuse NaN and infinity.

    Args:
        rows: (N, D), dense or sparse.
        first_row: the row of the whole matrix that the first one is, for the message.
        what: what the matrix holds, for the message.

    Raises:
        ValueError: naming the first such row.
    """
    values = rows.coalesce().values() if rows.is_sparse else rows
    if not values.is_floating_point() or values.isfinite().all():
        return
    if rows.is_sparse:
        row = first_row + int(rows.coalesce().indices()[0][~values.isfinite()].min())
    else:
        row = first_row + int((~values.isfinite()).any(dim=1).nonzero()[0])
    raise ValueError(f"row {row} of the {what} holds NaN or infinity; embed its text again")
