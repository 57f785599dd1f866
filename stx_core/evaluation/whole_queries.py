"""Rankings table by table, cut so that no query is spread over two tables."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx_core.errors import InputError


def whole_queries(rankings: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Cut tables anew: each holds all rows of its queries, in the order in which they came.

    Holds one table and one query in memory, and the ids of all queries seen.

    Args:
        rankings: tables with a column query_id; the rows of a query follow each other, over as
            many tables as they like.

    Raises:
        InputError: rows of a query come after those of others.
    """
    seen: set[str] = set()
    pending: list[pa.Table] = []
    for table in rankings:
        if not len(table):
            continue
        if pending and pending[0]["query_id"][0] != table["query_id"][0]:
            yield _once(pending, seen)
            pending = []
        start = query_starts(table)[-1]
        if start:
            yield _once([*pending, table.slice(0, start)], seen)
            pending = []
        pending.append(table.slice(start))
    if pending:
        yield _once(pending, seen)


def query_starts(table: pa.Table) -> np.ndarray:
    """(Q,) int64, ascending: the rows of a table at which another query begins.

    Row 0 is the first; the table is not empty.
    """
    column = table["query_id"]
    changes = pc.not_equal(column.slice(1), column.slice(0, len(column) - 1))
    return np.concatenate([[0], 1 + np.flatnonzero(changes.to_numpy())])


def _once(tables: list[pa.Table], seen: set[str]) -> pa.Table:
    table = pa.concat_tables(tables)
    for query in table["query_id"].take(pa.array(query_starts(table))).to_pylist():
        if query in seen:
            raise InputError(
                f"query {query!r}: its rows do not stand together in the ranking; sort it by query"
            )
        seen.add(query)
    return table


def best_first(table: pa.Table) -> pa.Table:
    """Order the rows of each query by rank; equal ranks by score, equal scores by document id.

    Args:
        table: whole queries, with the columns of a ranking.

    Returns:
        The same rows; queries stay in their order.
    """
    n_rows = len(table)
    if not n_rows:
        return table
    starts = query_starts(table)
    query = np.repeat(np.arange(len(starts)), np.diff(starts, append=n_rows))
    rank = table["rank"].to_numpy()
    if np.all((np.diff(query) > 0) | (np.diff(rank) > 0)):
        return table
    order = pc.sort_indices(
        pa.table([query, *table.select(["rank", "score", "doc_id"])], list("qrsd")),
        [("q", "ascending"), ("r", "ascending"), ("s", "descending"), ("d", "ascending")],
    )
    return table.take(order)


def with_ranks(table: pa.Table) -> pa.Table:
    """Rank the rows of whole queries, which must stand best first, from 1; fills column rank."""
    starts = query_starts(table) if len(table) else np.zeros(0, np.int64)
    place = table.schema.get_field_index("rank")
    return table.set_column(place, "rank", pa.array(ranks_after(starts, len(table))))


def ranks_after(starts: np.ndarray, n_rows: int) -> np.ndarray:
    """(N,) int32 ranks from 1, for rows of which a query's begin at each of `starts`, ascending."""
    lengths = np.diff(starts, append=n_rows)
    ranks: np.ndarray = np.arange(1, n_rows + 1) - np.repeat(starts, lengths)
    return ranks.astype(np.int32)
