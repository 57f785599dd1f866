"""Rankings as tables: their schemas, and how results over parts of a corpus become one ranking."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx_core.errors import InputError
from stx_core.evaluation.qrels import read_qrels
from stx_core.evaluation.whole_queries import ranks_after

QUERY = "_query"
"""Column of hits: position of the query in its unit, int32."""


def ranking_schema(query_type: pa.DataType, doc_type: pa.DataType) -> pa.Schema:
    """A ranking: queries in their order, documents best first, ``rank`` from 1."""
    return pa.schema(
        [
            pa.field("query_id", query_type),
            pa.field("doc_id", doc_type),
            pa.field("rank", pa.int32()),
            pa.field("score", pa.float32()),
        ]
    )


def pairs_schema(query_type: pa.DataType, doc_type: pa.DataType) -> pa.Schema:
    """Scores of judged pairs, in no order that means anything."""
    return pa.schema(
        [
            pa.field("query_id", query_type),
            pa.field("doc_id", doc_type),
            pa.field("score", pa.float32()),
        ]
    )


def hits_schema(doc_type: pa.DataType) -> pa.Schema:
    """Hits: results of a search of a unit's queries in a part of the corpus."""
    return pa.schema(
        [
            pa.field(QUERY, pa.int32()),
            pa.field("doc_id", doc_type),
            pa.field("score", pa.float32()),
        ]
    )


def best_hits(parts: Sequence[pa.Table], k: int) -> pa.Table:
    """The k best hits of each query out of those of several parts, ordered, each document once.

    Args:
        parts: see `hits_schema`.
        k: hits of a query to keep.

    Returns:
        Sorted by query, score (descending) and document id, which decides between equal scores.
    """
    hits = pa.concat_tables(parts).sort_by(
        [(QUERY, "ascending"), ("score", "descending"), ("doc_id", "ascending")]
    )
    # The first of several hits of the same query and document: a corpus may have an id twice.
    queries = hits[QUERY].to_numpy().astype(np.int64)
    documents = hits["doc_id"].combine_chunks().dictionary_encode()
    pairs = queries * max(1, len(documents.dictionary)) + documents.indices.to_numpy()
    distinct, first = np.unique(pairs, return_index=True)
    if len(distinct) < len(pairs):
        hits = hits.take(pa.array(np.sort(first)))
    return hits.filter(pa.array(ranks(hits[QUERY].to_numpy()) <= k))


def ranks(queries: np.ndarray) -> np.ndarray:
    """(N,) int32 ranks from 1, for rows of which those of a query stand together.

    Args:
        queries: (N,) anything that differs between neighbours of different queries.
    """
    begins = np.ones(len(queries), bool)
    begins[1:] = queries[1:] != queries[:-1]
    return ranks_after(np.flatnonzero(begins), len(queries))


def codes(column: pa.ChunkedArray) -> np.ndarray:
    """(N,) int64, equal where the values are."""
    encoded = column.combine_chunks().dictionary_encode()
    values: np.ndarray = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return values


def to_ranking(hits: pa.Table, query_ids: pa.Array, schema: pa.Schema) -> pa.Table:
    """Hits in their final order as rows of a ranking, or of judged pairs.

    Args:
        hits: see `hits_schema`.
        query_ids: (Q,) ids of the unit's queries.
        schema: see `ranking_schema` and `pairs_schema`.
    """
    columns = {
        "query_id": query_ids.take(hits[QUERY].combine_chunks()),
        "doc_id": hits["doc_id"],
        "rank": pa.array(ranks(hits[QUERY].to_numpy())),
        "score": hits["score"],
    }
    return pa.table([columns[field.name] for field in schema], schema=schema)


@lru_cache(maxsize=1)
def read_judged(url: str) -> pa.Table:
    """Judged pairs, see `read_qrels`; once per process."""
    return read_qrels(url)


def positives_of(query_ids: pa.Array, judged: pa.Table, doc_type: pa.DataType) -> pa.Table:
    """Judged pairs of a unit's queries.

    Args:
        query_ids: (Q,) of the unit.
        judged: qrels: ``query_id``, ``doc_id`` and ``score``; those above 0 are positives.
        doc_type: of the corpus's ids.

    Returns:
        ``_query`` int32 and ``doc_id``, ordered by query.

    Raises:
        InputError: ids of the file are not of the type that the datasets have.
    """
    positives = judged.filter(pc.greater(judged["score"], 0))
    at = pc.index_in(_as(positives["query_id"], query_ids.type, "query_id"), value_set=query_ids)
    documents = _as(positives["doc_id"], doc_type, "doc_id")
    table = pa.table({QUERY: at, "doc_id": documents})
    return table.filter(pc.is_valid(table[QUERY])).sort_by(QUERY).combine_chunks()


def _as(column: pa.ChunkedArray, kind: pa.DataType, name: str) -> pa.ChunkedArray:
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(
            f"positives: column {name} is {column.type}, the dataset's ids are {kind} "
            f"({error}); give both the same ids"
        ) from error
