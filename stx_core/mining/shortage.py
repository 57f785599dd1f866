"""Queries with fewer negatives than asked for, and the rules that rejected the others."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx_core.errors import InputError
from stx_core.mining import columns
from stx_core.mining.rules import REASONS


def shortfall(judged: pa.Table, positives: pa.Table, num_negatives: int) -> pa.Table:
    """The queries with fewer negatives than wanted, and what became of their candidates.

    Returns:
        query_id, wanted, found, candidates, and one column per reason with the number of
        candidates that it rejected: all int64. Queries without any candidate are there too.

    Raises:
        InputError: a column is missing, null or of a wrong type.
    """
    (query_P, query_C), query_ids = columns.id_codes(
        columns.ids_of(positives, "positives", "query_id"),
        columns.ids_of(judged, "judged", "query_id"),
        what="query_ids of positives and judged candidates",
    )
    width = len(REASONS) + 1
    cells = query_C * width + reason_codes(judged) + 1
    counts = np.bincount(cells, minlength=len(query_ids) * width).reshape(-1, width)
    short = np.flatnonzero(counts[:, 0] < num_negatives)
    return pa.table(
        {
            "query_id": query_ids.cast(positives["query_id"].type).take(pa.array(short)),
            "wanted": np.full(len(short), num_negatives),
            "found": counts[short, 0],
            "candidates": counts[short].sum(axis=1),
            **{reason: counts[short, i] for i, reason in enumerate(REASONS, start=1)},
        }
    )


def reason_codes(judged: pa.Table) -> np.ndarray:
    """Place of each row's reason in `REASONS`, -1 where chosen: (C,) int64.

    Raises:
        InputError: a reason that no rule gives.
    """
    codes = pc.index_in(judged["reason"], value_set=pa.array(REASONS))
    unknown = pc.and_(pc.is_null(codes), pc.is_valid(judged["reason"]))
    if pc.any(unknown).as_py():
        raise InputError(f"judged: unknown reason {judged['reason'].filter(unknown)[0].as_py()!r}")
    return np.asarray(pc.fill_null(codes, -1).to_numpy().astype(np.int64))
