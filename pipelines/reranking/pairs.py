"""The pairs of a unit of `rerank` as the unit's table: candidates, positives, and their texts."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.planning.snapshot_files import take_unit
from stx.pipelines.reranking.candidates import rows_to_score
from stx.pipelines.reranking.scorers import PAIR
from stx.pipelines.retrieval.rankings import QUERY, positives_of, read_judged
from stx.pipelines.retrieval.text_lookup import TextSource, fetch_texts, known_ids
from stx.pipelines.running import unit_table
from stx_core.store.corpus.units import Unit

IS_CANDIDATE = "is_candidate"
IS_POSITIVE = "is_positive"

_NO_ROW = -1


@dataclass(frozen=True)
class PairSource:
    """All that readers need; small and picklable.

    Attributes:
        columns: of the candidates.
        depth: candidates per query; None for all.
        positives: file with judged pairs; None for none.
        queries: their texts; None where the candidates have them.
        documents: likewise.
    """

    columns: tuple[str, ...]
    depth: int | None
    positives: str | None
    queries: TextSource | None
    documents: TextSource | None


def read_pairs(unit: Unit, source: PairSource) -> pa.Table:
    """Candidates of a unit, then the positives of its queries that are not among them.

    Returns:
        ``query_id``, ``doc_id``, ``rank`` and ``score`` of the candidates (null for others),
        ``is_candidate``, ``is_positive``, and the columns of `unit_table` that stages look at:
        `ROW` (-1 for pairs that are no candidates), `ID` (both ids, a tab between
        them), `TEXT` (see `scorers.PAIR`) and `REJECTED`.

    Raises:
        InputError: a shard of the texts changed, or the positives' ids are of another type.
    """
    rows = take_unit(unit, source.columns)
    chosen = rows_to_score(rows, source.depth)
    table = rows.take(pa.array(chosen)).combine_chunks()
    table = table.append_column(unit_table.ROW, pa.array(chosen + unit.start))
    table = table.append_column(IS_CANDIDATE, pa.array(np.ones(len(table), bool)))
    is_positive = np.zeros(len(table), bool)
    if source.positives:
        is_positive, further = _positives(table, source.positives)
        table = pa.concat_tables([table, further], promote_options="default").combine_chunks()
        is_positive = np.concatenate([is_positive, np.ones(len(further), bool)])
    table = table.append_column(IS_POSITIVE, pa.array(is_positive))
    ids = (table[name].combine_chunks().cast(pa.string()) for name in ("query_id", "doc_id"))
    table = table.append_column(unit_table.ID, pc.binary_join_element_wise(*ids, "\t"))
    return _with_texts(table, source)


def _positives(candidates: pa.Table, url: str) -> tuple[np.ndarray, pa.Table]:
    """A mask of the candidates that are positives, and the further positives of their queries."""
    queries = candidates["query_id"].combine_chunks().dictionary_encode()
    doc_type = candidates.schema.field("doc_id").type
    judged = positives_of(queries.dictionary, read_judged(url), doc_type)
    query_rows = judged[QUERY].to_numpy()
    documents = pa.chunked_array(
        [*candidates["doc_id"].chunks, *judged["doc_id"].chunks], doc_type
    ).combine_chunks().dictionary_encode()  # fmt: skip
    rows = np.concatenate([queries.indices.to_numpy(), query_rows]).astype(np.int64)
    pairs = rows * max(1, len(documents.dictionary)) + documents.indices.to_numpy()
    pairs, positives = pairs[: len(candidates)], pairs[len(candidates) :]
    _, first = np.unique(positives, return_index=True)
    new = np.sort(first[~np.isin(positives[first], pairs)])
    # The text of a query, where the candidates have it, is in each of its rows.
    of_query = np.unique(queries.indices.to_numpy(), return_index=True)[1][query_rows[new]]
    columns = [name for name in ("query_id", "query") if name in candidates.column_names]
    further = candidates.select(columns).take(pa.array(of_query))
    further = further.append_column("doc_id", judged["doc_id"].take(pa.array(new)))
    further = further.append_column(unit_table.ROW, pa.array(np.full(len(new), _NO_ROW)))
    further = further.append_column(IS_CANDIDATE, pa.array(np.zeros(len(new), bool)))
    return np.isin(pairs, positives), further


def _with_texts(table: pa.Table, source: PairSource) -> pa.Table:
    """Add `TEXT` and `REJECTED`; of several reasons the first of query, document, text."""
    checks: list[tuple[pa.Array, tuple[str, str, str]]] = []
    texts = []
    for side, texts_of, id_column in (
        ("query", source.queries, "query_id"),
        ("document", source.documents, "doc_id"),
    ):
        ids = table[id_column].combine_chunks()
        own = table[side].combine_chunks() if side in table.column_names else None
        column = own
        if texts_of is not None:
            fetched = fetch_texts(texts_of, ids)
            column = fetched if own is None else pc.coalesce(own, fetched)
            unknown = pc.and_(pc.is_null(column), pa.array(~known_ids(texts_of, ids)))
            checks.append((unknown, (f"unknown_{side}", id_column, f"no {side} has this id")))
        assert column is not None  # one of both is there: checked by the plan
        texts.append(column)
    for side, column in zip(("query", "document"), texts, strict=True):
        checks.append((pc.is_null(column), ("null_text", side, "has no text that can be read")))
    reasons: list[tuple[str, str, str] | None] = [None] * len(table)
    for mask, reason in reversed(checks):
        for row in pc.indices_nonzero(mask).to_pylist():
            reasons[row] = reason
    rejected = unit_table.rejections(reasons)
    pairs = pa.StructArray.from_arrays(texts, fields=list(PAIR), mask=rejected.is_valid())
    table = table.drop_columns([name for name in PAIR.names if name in table.column_names])
    return table.append_column(unit_table.TEXT, pairs).append_column(unit_table.REJECTED, rejected)
