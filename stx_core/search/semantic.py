"""Search with the arguments and results that users of Sentence Transformers know."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stx_core.choices import check_count
from stx_core.search.dense import dense_top_k
from stx_core.search.exact import check_finite
from stx_core.search.results import TopK, best_of
from stx_core.similarity import (
    Embeddings,
    as_matrices,
    cos_sim,
    dot_score,
    euclidean_sim,
    manhattan_sim,
)

ScoreFunction = Callable[[Any, Any], Tensor]

_NAMES: dict[ScoreFunction, str] = {
    cos_sim: "cosine",
    dot_score: "dot",
    euclidean_sim: "euclidean",
    manhattan_sim: "manhattan",
}


def semantic_search(
    query_embeddings: Embeddings,
    corpus_embeddings: Embeddings,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = 500000,
    top_k: int = 10,
    score_function: ScoreFunction = cos_sim,
) -> list[list[dict[str, int | float]]]:
    """Find the corpus rows that score highest for each query, on the corpus' device.

    Args:
        query_embeddings: (Q, D), or (D,) for one query; dense or sparse COO.
        corpus_embeddings: (N, D); dense or sparse COO.
        query_chunk_size: queries per call of a score function that is not one of `similarity`'s.
        corpus_chunk_size: corpus rows per such call.
        top_k: how many rows to find; fewer where the corpus has fewer.
        score_function: what to rank by, from (B, D) and (C, D) to (B, C).

    Returns:
        For each query a list of {"corpus_id": row, "score": score}: best first, equal scores by
        row. Empty lists for a corpus of no rows, no lists for no queries.

    Raises:
        ValueError: a value is not finite, widths differ, a size is below 1, `top_k` is negative, or
            the score function is none.
    """
    queries, corpus = as_matrices(query_embeddings, corpus_embeddings)
    queries = queries.to(corpus.device)
    best = top_k_by(
        score_function,
        queries,
        corpus,
        k=top_k,
        query_chunk_size=query_chunk_size,
        corpus_chunk_size=corpus_chunk_size,
    )
    return [
        [
            {"corpus_id": row, "score": score}
            for row, score in zip(rows, scores, strict=True)
            if row >= 0
        ]
        for rows, scores in zip(best.rows.tolist(), best.scores.tolist(), strict=True)
    ]


def top_k_by(
    score_function: ScoreFunction,
    queries: Tensor,
    corpus: Tensor,
    k: int,
    query_chunk_size: int,
    corpus_chunk_size: int,
    excluded: np.ndarray | None = None,
) -> TopK:
    """Top-k for any score function; those of `similarity` on dense rows go the exact way.

    Args:
        score_function: from (B, D) and (C, D) to (B, C).
        queries: (Q, D), dense or COO.
        corpus: (N, D), dense or COO, on the same device.
        k: how many rows to find for each query.
        query_chunk_size: B, at most.
        corpus_chunk_size: C, at most.
        excluded: (Q,) int64, a row that may not be found for that query.

    Raises:
        ValueError: a value is not finite, a size is below 1, `k` is negative, or the score function
            is none.
    """
    check_count("top_k", k, least=0)
    check_count("query_chunk_size", query_chunk_size)
    check_count("corpus_chunk_size", corpus_chunk_size)
    if not callable(score_function):
        raise ValueError(
            f"score_function must be a function such as cos_sim, dot_score, euclidean_sim or "
            f"manhattan_sim, got {score_function!r}"
        )
    name = _NAMES.get(score_function)
    if name and not (queries.is_sparse or corpus.is_sparse):
        device = corpus.device
        return dense_top_k(queries, corpus, k, name, excluded=excluded, device=device)
    for matrix, what in ((queries, "queries"), (corpus, "corpus")):
        check_finite(matrix, 0, what)
    rows = np.full((len(queries), k), -1)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    for start in range(0, len(queries), query_chunk_size):
        chunk = slice(start, start + query_chunk_size)
        query_chunk = _rows(queries, start, query_chunk_size)
        for first_row in range(0, len(corpus), corpus_chunk_size):
            block = score_function(
                query_chunk, _rows(corpus, first_row, corpus_chunk_size)
            ).detach()
            # A stable sort, not topk: which of equal values that keeps is not defined.
            ordered = block.to_dense().float().sort(dim=1, descending=True, stable=True)
            new_rows = ordered.indices[:, : k + 1].cpu().numpy() + first_row
            if excluded is not None:
                new_rows = np.where(new_rows == excluded[chunk, None], -1, new_rows)
            new_scores = ordered.values[:, : k + 1].cpu().numpy()
            best = best_of(
                np.concatenate([rows[chunk], new_rows], 1),
                np.concatenate([scores[chunk], new_scores], 1),
                k,
            )
            rows[chunk], scores[chunk] = best.rows, best.scores
    return TopK(rows, scores)


def _rows(matrix: Tensor, start: int, count: int) -> Tensor:
    if not matrix.is_sparse:
        return matrix[start : start + count]
    stop = min(start + count, len(matrix))
    rows: Tensor = torch.index_select(matrix, 0, torch.arange(start, stop, device=matrix.device))
    return rows
