"""The hard negatives of each query as ids: what every training format is made from."""

import numpy as np
import pyarrow as pa

from stx_core.mining import columns


def hard_negatives(judged: pa.Table, positives: pa.Table, *, score: str = "score") -> pa.Table:
    """Gather positives and chosen negatives of each query.

    Args:
        judged: what `judge` gave.
        positives: the same positives; their order is the order of queries and of positives.
        score: the column of both tables that goes along.

    Returns:
        One row per query, those without negatives included: query_id, positive_ids,
        positive_scores, negative_ids, negative_scores, negative_ranks (the rank among the
        candidates) and, where the candidates name their retrievers, negative_sources. Negatives
        from the highest score to the lowest.

    Raises:
        InputError: a column is missing, null or of a wrong type.
    """
    chosen = judged.filter(judged["negative"])
    (query_P, query_N), query_ids = columns.id_codes(
        columns.ids_of(positives, "positives", "query_id"),
        columns.ids_of(chosen, "judged", "query_id"),
        what="query_ids of positives and judged candidates",
    )
    order_P = np.argsort(query_P, kind="stable")
    scores_N = columns.scores_of(chosen, "judged", score)
    order_N = np.lexsort((columns.ranks_of(chosen, "judged"), -scores_N, query_N))
    ordered = positives.take(order_P)
    mined = chosen.take(order_N)
    offsets_P, offsets_N = (
        np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(query_ids)))])
        for codes in (query_P, query_N)
    )
    lists = {
        "positive_ids": _lists(offsets_P, ordered["doc_id"]),
        "positive_scores": _lists(offsets_P, ordered[score].cast(pa.float32())),
        "negative_ids": _lists(offsets_N, mined["doc_id"]),
        "negative_scores": _lists(offsets_N, mined[score].cast(pa.float32())),
        "negative_ranks": _lists(offsets_N, mined["rank"].cast(pa.int32())),
    }
    if "source" in mined.column_names:
        lists["negative_sources"] = _lists(offsets_N, mined["source"])
    return pa.table({"query_id": query_ids.cast(positives["query_id"].type), **lists})


def _lists(offsets: np.ndarray, values: pa.ChunkedArray) -> pa.LargeListArray:
    flat = values.combine_chunks()
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), flat).cast(
        pa.list_(flat.type)
    )
