"""Several rankings of the same queries become one.

A ranking is a table with the columns query_id, doc_id (of any type, the same in all rankings), rank
(int32, from 1) and score (float32). Scores are added up in float64, in the order of the rankings.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx_core.choices import check_count

_COLUMNS = ("query_id", "doc_id", "rank", "score")


def reciprocal_rank_fusion(
    rankings: Sequence[pa.Table],
    k: float = 60,
    weights: Sequence[float] | None = None,
    top_k: int | None = None,
) -> pa.Table:
    """Score each document by the sum of weight / (k + rank) over the rankings that hold it.

    Cormack, Clarke, Büttcher 2009, who found k = 60 on TREC data.

    Args:
        rankings: at least one.
        k: the higher, the less the first ranks count; above -1.
        weights: one for each ranking; None for 1 each.
        top_k: documents to keep of each query; None for all.

    Returns:
        A ranking by query_id, then rank; documents of equal score by doc_id.

    Raises:
        ValueError: there is no ranking, one lacks a column or holds a document twice for a query,
            or there are more or fewer weights than rankings.
    """
    if k <= -1:
        raise ValueError(f"k must be above -1, or a first rank would divide by 0; got {k}")
    parts = [1.0 / (k + _numbers(table, "rank", i)) for i, table in enumerate(rankings)]
    return _fused(rankings, parts, weights, top_k)


def weighted_fusion(
    rankings: Sequence[pa.Table],
    weights: Sequence[float],
    normalize: Literal["min_max", "none"] = "min_max",
    top_k: int | None = None,
) -> pa.Table:
    """Score each document by the weighted sum of its scores; a ranking without it adds 0.

    Args:
        rankings: at least one.
        weights: one for each ranking.
        normalize: "min_max" moves the scores of each query in each ranking to 0 … 1 first (1, if
            all are equal); "none" takes them as they are.
        top_k: documents to keep of each query; None for all.

    Returns:
        A ranking by query_id, then rank; documents of equal score by doc_id.

    Raises:
        ValueError: there is no ranking, one lacks a column or holds a document twice for a query,
            there are more or fewer weights than rankings, or `normalize` is unknown.
    """
    if normalize not in ("min_max", "none"):
        raise ValueError(f"normalize must be min_max or none, got {normalize!r}")
    parts = []
    for i, table in enumerate(rankings):
        scores = _numbers(table, "score", i)
        if normalize == "min_max" and len(scores):
            encoded = table["query_id"].combine_chunks().dictionary_encode()
            codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
            low, high = np.full(codes.max() + 1, np.inf), np.full(codes.max() + 1, -np.inf)
            np.minimum.at(low, codes, scores)
            np.maximum.at(high, codes, scores)
            spread = (high - low)[codes]
            moved = scores - low[codes]
            scores = np.divide(moved, spread, where=spread > 0, out=np.ones_like(moved))
        parts.append(scores)
    return _fused(rankings, parts, weights, top_k)


def _numbers(table: pa.Table, name: str, number: int) -> np.ndarray:
    """A column as (N,) float64.

    Raises:
        ValueError: the ranking lacks a column, or the values are null or no numbers.
    """
    missing = [column for column in _COLUMNS if column not in table.column_names]
    if missing:
        raise ValueError(
            f"ranking {number} lacks {', '.join(missing)}; it has {', '.join(table.column_names)}"
        )
    if table[name].null_count:
        raise ValueError(f"ranking {number}: {name} holds nulls")
    values: np.ndarray = table[name].cast(pa.float64()).to_numpy()
    if not np.isfinite(values).all():
        raise ValueError(f"ranking {number}: {name} holds NaN or infinity")
    return values


def _fused(
    rankings: Sequence[pa.Table],
    parts: Sequence[np.ndarray],
    weights: Sequence[float] | None,
    top_k: int | None,
) -> pa.Table:
    if not rankings:
        raise ValueError("there is no ranking to fuse")
    if weights is None:
        weights = [1.0] * len(rankings)
    if len(weights) != len(rankings):
        raise ValueError(
            f"each ranking needs a weight: got {len(weights)} for {len(rankings)} rankings"
        )
    check_count("top_k", top_k, least=0)
    ids = pa.concat_tables([table.select(["query_id", "doc_id"]) for table in rankings])
    queries, query_ids = _sorted_codes(ids["query_id"])
    documents, doc_ids = _sorted_codes(ids["doc_id"])
    keys = queries * max(1, len(doc_ids)) + documents
    start = 0
    for number, table in enumerate(rankings):
        own = np.sort(keys[start : start + len(table)])
        if repeated := int((own[1:] == own[:-1]).sum()):
            raise ValueError(
                f"ranking {number} holds {repeated} documents more than once for the same query"
            )
        start += len(table)
    shares = np.concatenate([part * weight for part, weight in zip(parts, weights, strict=True)])
    pairs, where = np.unique(keys, return_inverse=True)
    # bincount adds one after the other, so in the order of the rankings.
    scores = np.bincount(where, shares, len(pairs))
    queries, documents = np.divmod(pairs, max(1, len(doc_ids)))
    order = np.lexsort((documents, -scores, queries))
    queries, documents, scores = queries[order], documents[order], scores[order]
    ranks = np.arange(len(queries)) - np.searchsorted(queries, queries) + 1
    in_top_k = slice(None) if top_k is None else ranks <= top_k
    return pa.table(
        {
            "query_id": query_ids.take(pa.array(queries[in_top_k])),
            "doc_id": doc_ids.take(pa.array(documents[in_top_k])),
            "rank": pa.array(ranks[in_top_k].astype(np.int32)),
            "score": pa.array(scores[in_top_k].astype(np.float32)),
        }
    )


def _sorted_codes(ids: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """A number for each id, in the order of the ids, and the ids of the numbers."""
    if ids.null_count:
        raise ValueError("query_id and doc_id may not be null")
    encoded = ids.combine_chunks().dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    position = np.empty(len(order), np.int64)
    position[order] = np.arange(len(order))
    codes = position[encoded.indices.to_numpy(zero_copy_only=False)]
    return codes, encoded.dictionary.take(pa.array(order))
