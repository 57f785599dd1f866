"""Several retrievers' rankings as one table of candidates."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from stx_core.errors import InputError
from stx_core.mining import columns
from stx_core.mining.coded import pair_keys, places

# Cormack, Clarke and Büttcher 2009 fuse with 60: ranks of little difference count about the same.
RRF_CONSTANT = 60


def combine_rankings(rankings: Mapping[str, pa.Table]) -> pa.Table:
    """Unite rankings by (query, document), keeping what each of them said.

    Scores of different retrievers do not compare, so `score` is the reciprocal rank fusion: the
    sum of 1 / (60 + rank). Margins against positives need one judge's scores: rescore the result,
    or name one retriever's column in `judge(..., score="<name>_score")` if it scored all rows.

    Args:
        rankings: by the retriever's name, tables of query_id, doc_id, rank and score.

    Returns:
        query_id, doc_id, rank (int32, new: by fused score, then by the order of retrievers),
        score (float32), source (list of names) and `<name>_rank`, `<name>_score`, null where a
        retriever did not find the document. Queries in the order of first appearance, then by
        rank.

    Raises:
        InputError: no ranking, a column is missing or of a wrong type, or a retriever has a
            document twice for a query.
    """
    if not rankings:
        raise InputError("combine_rankings got no ranking; give at least one")
    tables = list(rankings.items())
    query_codes, query_ids = columns.id_codes(
        *(columns.ids_of(table, name, "query_id") for name, table in tables), what="query_ids"
    )
    document_codes, document_ids = columns.id_codes(
        *(columns.ids_of(table, name, "doc_id") for name, table in tables), what="doc_ids"
    )
    keys = [
        pair_keys(queries, documents, len(document_ids))
        for queries, documents in zip(query_codes, document_codes, strict=True)
    ]
    for (name, _), own in zip(tables, keys, strict=True):
        row = columns.first_repeated(own)
        if row is not None:
            raise InputError(f"{name} row {row}: this (query_id, doc_id) stands twice")
    # U pairs of the union, in the order of first appearance.
    union, first_U = np.unique(np.concatenate(keys), return_index=True)
    ranks = np.zeros((len(tables), len(union)), np.int32)
    scores = np.zeros((len(tables), len(union)), np.float32)
    for i, (name, table) in enumerate(tables):
        place = np.searchsorted(union, keys[i])
        ranks[i, place] = columns.ranks_of(table, name)
        scores[i, place] = columns.scores_of(table, name)
    fused_U = np.where(ranks > 0, 1 / (RRF_CONSTANT + ranks.astype(np.float64)), 0).sum(axis=0)
    order = np.lexsort((first_U, -fused_U, union // max(len(document_ids), 1)))
    query_U, document_U = np.divmod(union[order], max(len(document_ids), 1))
    names = [name for name, _ in tables]
    return pa.table(
        {
            "query_id": query_ids.take(query_U),
            "doc_id": document_ids.take(document_U),
            "rank": (places(query_U) + 1).astype(np.int32),
            "score": fused_U[order].astype(np.float32),
            "source": _sources(names, ranks[:, order] > 0),
            **_kept(names, ranks[:, order], scores[:, order]),
        }
    )


def _sources(names: list[str], found: np.ndarray) -> pa.ListArray:
    """The names of the retrievers that found each row; `found` is (retrievers, rows) bool."""
    offsets = np.concatenate([[0], np.cumsum(found.sum(axis=0))]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(names).take(np.nonzero(found.T)[1]))


def _kept(names: list[str], ranks: np.ndarray, scores: np.ndarray) -> dict[str, pa.Array]:
    kept = {}
    for i, name in enumerate(names):
        missing = ranks[i] == 0
        kept[f"{name}_rank"] = pa.array(ranks[i], mask=missing)
        kept[f"{name}_score"] = pa.array(scores[i], mask=missing)
    return kept
