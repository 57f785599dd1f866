"""Candidates by dense search, while the embeddings of the documents pass block by block.

What is held is the queries, one block and the best of each query, however large the corpus is.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stx_core.mining.coded import ranges
from stx_core.mining.embed import Embeddings
from stx_core.mining.pairs import Pairs
from stx_core.mining.rules import MiningRules
from stx_core.search.dense import dense_top_k
from stx_core.search.exact import scores_of_rows, viewed
from stx_core.search.results import TopK, empty_top_k, merge_top_k

# A narrow search first pays where the whole window is at least so many times as wide.
_TIMES_NARROWER = 2


@dataclass(frozen=True)
class Candidates:
    """Candidates (C,), by query and rank, and scores of the positives (P,), as rows of `Pairs`.

    `query` and `document` int64, `rank` int32, scores float32.
    """

    query: np.ndarray
    document: np.ndarray
    rank: np.ndarray
    score: np.ndarray
    positive_score: np.ndarray


@dataclass(frozen=True)
class Space:
    """Settings by which embeddings are compared.

    Attributes:
        similarity: "dot", "cosine", "euclidean" or "manhattan".
        device: where to search.
        queries_at_once: how many queries to search at a time; it does not change the result.
    """

    similarity: str
    device: Any
    queries_at_once: int


def narrow_k(rules: MiningRules, k: int) -> int:
    """Number of rows that are likely to do, at most `k`, the window that the rules allow.

    Less than k only if the negatives of a query that finds enough among its first rows are the
    same in the whole window: rules then reject from the top, whatever follows.
    """
    looks_down = rules.min_score is not None or rules.sampling_strategy != "top"
    narrow = rules.range_min + 2 * rules.num_negatives + 1
    if looks_down or rules.needs_texts or narrow * _TIMES_NARROWER > k:
        return k
    return narrow


def search(
    queries: np.ndarray, documents: Embeddings, pairs: Pairs, space: Space, k: int
) -> tuple[TopK, np.ndarray]:
    """The best k documents of each query, and the scores of the positives, (P,) float32."""
    best = empty_top_k(len(queries), k)
    positive_score = np.empty(len(pairs.query_P), np.float32)
    for first, block in documents.blocks():
        _merge(best, queries, block, first, space)
        of_block = (pairs.document_P >= first) & (pairs.document_P < first + len(block))
        positive_score[of_block] = scores_of_rows(
            viewed(queries, "queries"),
            viewed(block, "documents"),
            torch.from_numpy(pairs.query_P[of_block]),
            torch.from_numpy(pairs.document_P[of_block] - first),
            space.similarity,
        ).numpy()
        del block  # see `Embeddings`
    return best, positive_score


def widened(
    narrow: Candidates,
    lacking: np.ndarray,
    queries: np.ndarray,
    *,
    documents: Embeddings,
    space: Space,
    k: int,
) -> Candidates:
    """Give the lacking queries (Q,) bool all of their k best documents."""
    rows = np.flatnonzero(lacking)
    best = empty_top_k(len(rows), k)
    for first, block in documents.blocks():
        _merge(best, queries[rows], block, first, space)
        del block
    wide = flat(best, narrow.positive_score)
    complete = ~lacking[narrow.query]
    query = np.concatenate([narrow.query[complete], rows[wide.query]])
    order = np.argsort(query, kind="stable")
    return Candidates(
        query=query[order],
        document=np.concatenate([narrow.document[complete], wide.document])[order],
        rank=np.concatenate([narrow.rank[complete], wide.rank])[order],
        score=np.concatenate([narrow.score[complete], wide.score])[order],
        positive_score=narrow.positive_score,
    )


def flat(best: TopK, positive_score: np.ndarray) -> Candidates:
    """Results of each query as candidates, one after the other."""
    used = best.rows >= 0
    counts = used.sum(axis=1)
    return Candidates(
        query=np.repeat(np.arange(len(counts)), counts),
        document=best.rows[used],
        rank=(ranges(np.zeros_like(counts), counts) + 1).astype(np.int32),
        score=best.scores[used],
        positive_score=positive_score,
    )


def _merge(best: TopK, queries: np.ndarray, block: np.ndarray, first: int, space: Space) -> None:
    """Put the rows of a block among the best, in place."""
    k = best.rows.shape[1]
    for start in range(0, len(queries), space.queries_at_once):
        batch = slice(start, start + space.queries_at_once)
        earlier = TopK(best.rows[batch], best.scores[batch])
        new = dense_top_k(
            queries[batch],
            block,
            min(k, len(block)),
            space.similarity,
            # Of later rows only a higher score counts.
            min_scores=earlier.scores[:, -1] if first else None,
            device=space.device,
        )
        merged = merge_top_k([(earlier, 0), (new, first)], k) if first else new
        best.rows[batch, : merged.rows.shape[1]] = merged.rows
        best.scores[batch, : merged.rows.shape[1]] = merged.scores
