"""The k best rows of a corpus of sparse vectors for each query, exactly, by blocks.

Each block of the corpus is turned into lists of its rows by dimension, and each query adds up the
lists of its own dimensions in float64, in their order; so a score depends on nothing but the two
vectors. It is rounded once, to float32.

Q queries, N corpus rows, V dimensions, Z non-zero values.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import sparse

from stx_core.choices import check_count
from stx_core.search.results import TopK, add_pairs, empty_top_k
from stx_core.search.sparse_rows import SparseRows

BLOCK_ROWS = 1 << 16
# Pairs that may have a score at a time: some 50 MB, were every query to meet every row.
_BLOCK_PAIRS = 1 << 22


@dataclass(frozen=True)
class _Search:
    k: int
    cosine: bool
    query_norms: np.ndarray
    excluded: np.ndarray | None
    labels: tuple[np.ndarray, np.ndarray] | None


def sparse_top_k(
    queries: SparseRows,
    corpus: SparseRows,
    k: int,
    *,
    similarity: Literal["dot", "cosine"] = "dot",
    excluded: np.ndarray | None = None,
    labels: tuple[np.ndarray, np.ndarray] | None = None,
    block_rows: int = BLOCK_ROWS,
) -> TopK:
    """Find the k rows of the corpus that score highest for each query.

    A score of 0, as of vectors without a common dimension, is no find: such slots stay empty.

    Args:
        queries: Q rows.
        corpus: N rows.
        k: how many rows to find for each query.
        similarity: "dot" or "cosine".
        excluded: (Q,) int64, a row that may not be found for that query, -1 for none.
        labels: (Q,) and (N,) int64; only rows that carry the query's label may be found.
        block_rows: corpus rows to take at a time; it does not change the result.

    Returns:
        Ordered by score descending, then by row ascending.

    Raises:
        ValueError: a value is not finite, lengths differ, a number is out of range, or there is no
            such similarity.
    """
    if similarity not in ("dot", "cosine"):
        raise ValueError(f"sparse vectors are compared by dot or cosine, not by {similarity!r}")
    check_count("k", k, least=0)
    check_count("block_rows", block_rows)
    n_queries, n_rows = len(queries.offsets) - 1, len(corpus.offsets) - 1
    lengths = {"excluded": (excluded, n_queries)} if excluded is not None else {}
    if labels is not None:
        lengths |= {"labels": (labels[0], n_queries), "labels of the corpus": (labels[1], n_rows)}
    for name, (values, count) in lengths.items():
        if len(values) != count:
            raise ValueError(
                f"{name} must hold one value for each of {count} rows, got {len(values)}"
            )
    width = 1 + max(
        (int(side.indices.max()) for side in (queries, corpus) if len(side.indices)), default=0
    )
    matrix = _matrix(queries, 0, n_queries, width, "queries")
    search = _Search(k, similarity == "cosine", _norms(matrix), excluded, labels)
    best = empty_top_k(n_queries, k)
    if k == 0:
        return best
    step = max(1, _BLOCK_PAIRS // max(1, min(block_rows, n_rows)))
    for first_row in range(0, n_rows, block_rows):
        block = _matrix(corpus, first_row, first_row + block_rows, width, "corpus")
        norms, by_dimension = _norms(block), block.T.tocsr()
        for start in range(0, n_queries, step):
            scores = matrix[start : start + step] @ by_dimension
            pairs = list(
                _best_pairs(search, best, scores, norms=norms, start=start, first_row=first_row)
            )
            add_pairs(best, *(np.concatenate(part) for part in zip(*pairs, strict=True)))
    return best


def sparse_pair_scores(
    queries: SparseRows,
    query_rows: np.ndarray,
    documents: SparseRows,
    document_rows: np.ndarray,
    similarity: str = "dot",
) -> np.ndarray:
    """Score chosen pairs: the same numbers that `sparse_top_k` gives them.

    Args:
        queries: rows to choose from.
        query_rows: (P,) row of the query of each pair.
        documents: rows to choose from.
        document_rows: (P,) row of the document of each pair.
        similarity: "dot" or "cosine" (0 for zero vectors).

    Returns:
        (P,) float32.

    Raises:
        ValueError: a value is not finite.
    """
    sides = (queries, documents)
    width = 1 + max((int(side.indices.max()) for side in sides if len(side.indices)), default=0)
    x, y = (
        _matrix(side, 0, len(side.offsets) - 1, width, what)[rows]
        for side, what, rows in (
            (queries, "queries", query_rows),
            (documents, "documents", document_rows),
        )
    )
    common = x.multiply(y).tocsr()
    common.sort_indices()
    pairs = np.repeat(np.arange(len(query_rows)), np.diff(common.indptr))
    scores = np.bincount(pairs, common.data, len(query_rows))
    if similarity == "cosine":
        lengths = _norms(x) * _norms(y)
        scores = np.divide(scores, lengths, out=np.zeros_like(scores), where=lengths > 0)
    return scores.astype(np.float32)


def _matrix(rows: SparseRows, start: int, stop: int, width: int, what: str) -> sparse.csr_array:
    """Some of the rows as float64 (n, V).

    Raises:
        ValueError: a value is not finite; it names the row.
    """
    offsets = np.asarray(rows.offsets[start : stop + 1], np.int64)
    entries = slice(offsets[0], offsets[-1])
    values = np.asarray(rows.values[entries], np.float64)
    offsets = offsets - offsets[0]
    if not np.isfinite(values).all():
        entry = int((~np.isfinite(values)).argmax())
        row = start + int(np.searchsorted(offsets, entry, side="right")) - 1
        raise ValueError(f"row {row} of the {what} holds NaN or infinity; embed its text again")
    return sparse.csr_array((values, rows.indices[entries], offsets), (len(offsets) - 1, width))


def _norms(matrix: sparse.csr_array) -> np.ndarray:
    """(n,) lengths, the squares added one after the other."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    return np.sqrt(np.bincount(rows, np.square(matrix.data), matrix.shape[0]))


def _best_pairs(
    search: _Search,
    best: TopK,
    scores: sparse.csr_array,
    *,
    norms: np.ndarray,
    start: int,
    first_row: int,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each query the pairs of one block that may be among its best k: query, row, score."""
    for query in range(start, start + scores.shape[0]):
        entries = slice(*scores.indptr[query - start : query - start + 2])
        columns, exact = scores.indices[entries], scores.data[entries]
        if search.cosine:
            exact = exact / (search.query_norms[query] * norms[columns])
        rows, rounded = columns.astype(np.int64) + first_row, exact.astype(np.float32)
        # Of equal scores those of earlier blocks win, so that of the k-th is not enough.
        allowed = (exact != 0) & (rounded > best.scores[query, -1])
        if search.excluded is not None:
            allowed &= rows != search.excluded[query]
        if search.labels is not None:
            allowed &= search.labels[1][rows] == search.labels[0][query]
        rows, rounded = rows[allowed], rounded[allowed]
        if len(rounded) > search.k:
            # The k highest, of equal ones the first, in any order.
            kth = np.partition(rounded, len(rounded) - search.k)[len(rounded) - search.k]
            above = rounded > kth
            ties = np.sort(rows[rounded == kth])[: search.k - int(above.sum())]
            rows = np.concatenate([rows[above], ties])
            rounded = np.concatenate([rounded[above], np.full(len(ties), kth)])
        yield np.full(len(rows), query), rows, rounded
