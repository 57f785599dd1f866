"""The scored pairs of a unit as the rows of its outputs: rankings, and scores of positives."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.encoding.results import quarantine_rows, rejected_of
from stx.pipelines.engine.unit_files import IdSet, UnitResult
from stx.pipelines.reranking.pairs import IS_CANDIDATE, IS_POSITIVE
from stx.pipelines.retrieval.rankings import codes, ranks
from stx.pipelines.running import unit_table
from stx_core.store.corpus.units import Unit


def ranking_result(
    unit: Unit, table: pa.Table, reranker: str, *, empty: UnitResult, top_k: int | None
) -> UnitResult:
    """The ranking of a unit.

    Args:
        unit: that was read.
        table: its pairs, scored.
        reranker: by which.
        empty: see `RerankUnits.results`.
        top_k: candidates of each query; None for all.
    """
    rejected = rejected_of(table, reranker)
    good, is_candidate = rejected.is_null(), table[IS_CANDIDATE]
    bad = pc.and_(is_candidate, rejected.is_valid()).combine_chunks()
    bad_rows = table.filter(bad)
    bad_ids = IdSet.of(bad_rows[unit_table.ID])
    scored = table.filter(good)
    # The best candidates of each query, best first; of equal scores the lower id first.
    ranking = table.filter(pc.and_(is_candidate, good))
    ranking = ranking.append_column("_place", pa.array(codes(ranking["query_id"])))
    order = [("_place", "ascending"), (f"{reranker}.score", "descending"), ("doc_id", "ascending")]
    keys = ranking.select([column for column, _ in order])
    ranking = ranking.take(pc.sort_indices(keys, order))
    if top_k is not None:
        ranking = ranking.filter(pa.array(ranks(ranking["_place"].to_numpy()) <= top_k))
    return replace(
        empty,
        rows=_as_output(ranking, reranker, empty.rows.schema),
        ids_out=empty.ids_in.without(bad_ids),
        ids_quarantined=bad_ids,
        quarantined=quarantine_rows(unit, empty.key, bad_rows, rejected.filter(bad)),
        n_tokens=pc.sum(scored[f"{reranker}.n_tokens"]).as_py() or 0,
        n_truncated=pc.sum(scored[f"{reranker}.truncated"]).as_py() or 0,
    )


def positives_result(table: pa.Table, reranker: str, *, empty: UnitResult) -> UnitResult:
    """Scores of the positives of a unit; its bad rows are in the quarantine of the ranking."""
    good = rejected_of(table, reranker).is_null()
    rows = table.filter(pc.and_(table[IS_POSITIVE], good))
    return replace(empty, rows=_as_output(rows, reranker, empty.rows.schema))


def _as_output(table: pa.Table, name: str, schema: pa.Schema) -> pa.Table:
    columns = {
        "query_id": table["query_id"],
        "doc_id": table["doc_id"],
        "rank": pa.array(ranks(codes(table["query_id"]))),
        "score": table[f"{name}.score"],
        "before_rank": table["rank"],
        "before_score": table["score"],
    }
    return pa.table([columns[field.name] for field in schema], schema=schema)
