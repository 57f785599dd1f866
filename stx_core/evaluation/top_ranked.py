"""Rankings as MTEB keeps candidates for reranking: one row per query, its documents in a list."""

import numpy as np
import pyarrow as pa

from stx_core.evaluation.whole_queries import best_first, query_starts

TOP_RANKED = pa.schema([("query-id", pa.string()), ("corpus-ids", pa.list_(pa.string()))])


def top_ranked(table: pa.Table) -> pa.Table:
    """One row per query, documents best first; ranks and scores are lost.

    Args:
        table: whole queries, with the schema `store.schema.RANKING`; not empty.
    """
    table = best_first(table)
    starts = query_starts(table)
    ends = np.append(starts, len(table)).astype(np.int32)
    documents = pa.ListArray.from_arrays(ends, table["doc_id"].combine_chunks())
    queries = table["query_id"].take(pa.array(starts))
    return pa.table([queries, documents], schema=TOP_RANKED)
