"""Several retrievers' rankings as one table of candidates."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from stx_core.errors import InputError
from stx_core.mining import columns
from stx_core.mining.coded import pair_keys, positions_in_group

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
    for name, own in zip(rankings, keys, strict=True):
        repeated = columns.first_repeated(own)
        if repeated is not None:
            raise InputError(f"{name} row {repeated}: this (query_id, doc_id) stands twice")
    # U pairs of the union, in the order of first appearance.
    union, first_U = np.unique(np.concatenate(keys), return_index=True)
    ranks = np.zeros((len(tables), len(union)), np.int32)
    scores = np.zeros((len(tables), len(union)), np.float32)
    for i, (name, table) in enumerate(tables):
        row = np.searchsorted(union, keys[i])
        ranks[i, row] = columns.ranks_of(table, name)
        scores[i, row] = columns.scores_of(table, name)
    fused_U = np.where(ranks > 0, 1 / (RRF_CONSTANT + ranks.astype(np.float64)), 0).sum(axis=0)
    order = np.lexsort((first_U, -fused_U, union // max(len(document_ids), 1)))
    query_U, document_U = np.divmod(union[order], max(len(document_ids), 1))
    ranks, scores = ranks[:, order], scores[:, order]
    # The retrievers that gave each row.
    _, source = np.nonzero(ranks.T)
    offsets = np.concatenate([[0], np.cumsum((ranks > 0).sum(axis=0))]).astype(np.int32)
    own_columns = {}
    for i, (name, _) in enumerate(tables):
        own_columns[f"{name}_rank"] = pa.array(ranks[i], mask=ranks[i] == 0)
        own_columns[f"{name}_score"] = pa.array(scores[i], mask=ranks[i] == 0)
    return pa.table(
        {
            "query_id": query_ids.take(query_U),
            "doc_id": document_ids.take(document_U),
            "rank": (positions_in_group(query_U) + 1).astype(np.int32),
            "score": fused_U[order].astype(np.float32),
            "source": pa.ListArray.from_arrays(offsets, pa.array(list(rankings)).take(source)),
            **own_columns,
        }
    )
