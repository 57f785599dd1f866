"""The scored pairs of a unit as the rows of its outputs: rankings, and scores of positives."""

from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.encoding.results import quarantine_rows, rejected_of
from pipelines.planning.work import Lost
from pipelines.reranking.pairs import IS_CANDIDATE, IS_POSITIVE
from pipelines.retrieval.rankings import codes, first_of_query, ranks
from pipelines.running import unit_table
from stx_core.store.corpus.units import Unit
from stx_core.store.schema import QUARANTINE


class OutputRows(NamedTuple):
    """What an output has of a unit.

    Attributes:
        rows: of its file.
        lost: what it does not have of the candidates.
        counts: ``n_tokens`` and ``n_truncated``.
    """

    rows: pa.Table
    lost: Lost
    counts: dict[str, int]


def ranking_rows(
    unit: Unit, key: str, table: pa.Table, name: str, schema: pa.Schema, top_k: int | None
) -> OutputRows:
    """The ranking of a unit.

    Args:
        unit: that was read.
        key: of the unit, for its quarantine.
        table: its pairs, scored.
        name: of the reranker.
        schema: of the output.
        top_k: candidates of each query; None for all.
    """
    rejected = rejected_of(table, name)
    good, is_candidate = rejected.is_null(), table[IS_CANDIDATE]
    bad = pc.and_(is_candidate, rejected.is_valid()).combine_chunks()
    bad_rows = table.filter(bad)
    lost = Lost(
        quarantine_rows(unit, key, bad_rows, rejected.filter(bad)),
        bad_rows[unit_table.ID].combine_chunks(),
        _n_filtered(unit, table),
    )
    ranking = _ranked(table.filter(pc.and_(is_candidate, good)), name, top_k)
    scored = table.filter(good)
    counts = {
        "n_tokens": pc.sum(scored[f"{name}.n_tokens"]).as_py() or 0,
        "n_truncated": pc.sum(scored[f"{name}.truncated"]).as_py() or 0,
    }
    return OutputRows(_as_output(ranking, name, schema), lost, counts)


def positives_rows(unit: Unit, table: pa.Table, name: str, schema: pa.Schema) -> OutputRows:
    """Scores of the positives of a unit; its bad rows are in the quarantine of the ranking."""
    good = rejected_of(table, name).is_null()
    rows = table.filter(pc.and_(table[IS_POSITIVE], good))
    lost = Lost(QUARANTINE.empty_table(), pa.array([], pa.string()), _n_filtered(unit, table))
    return OutputRows(_as_output(rows, name, schema), lost, {})


def _n_filtered(unit: Unit, table: pa.Table) -> int:
    """Candidates of a unit that are beyond the depth, or there twice."""
    return unit.n_rows - (pc.sum(table[IS_CANDIDATE]).as_py() or 0)


def _ranked(table: pa.Table, name: str, top_k: int | None) -> pa.Table:
    """The best candidates of each query, best first; of equal scores the lower id first."""
    table = table.append_column("_place", pa.array(codes(table["query_id"])))
    order = [("_place", "ascending"), (f"{name}.score", "descending"), ("doc_id", "ascending")]
    keys = table.select([column for column, _ in order])
    table = table.take(pc.sort_indices(keys, order))
    return table if top_k is None else first_of_query(table, "_place", top_k)


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
