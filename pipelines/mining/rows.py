"""Candidates and positives of one unit of `mine`, read from the files of their rankings."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.planning.snapshot_files import take_unit
from stx.pipelines.retrieval.query_spans import open_spans, rows_of_queries
from stx.pipelines.retrieval.rankings import QUERY, pairs_schema, positives_of, ranking_schema
from stx.pipelines.spec.retrieval import FUSION
from stx_core.evaluation.qrels import read_qrels
from stx_core.mining.combine import combine_rankings
from stx_core.store.corpus.units import Unit


@dataclass(frozen=True)
class Sources:
    """Places of the rows of units; small and picklable.

    Attributes:
        depths: by ranking, in their order: documents of a query that count, None for all.
        spans: by ranking, but for the first: URL of its published spans.
        scored: likewise, of the judge's scores of judged pairs; None where it has none.
        judge: name of a ranking, or ``fusion``.
        qrels: file with judged pairs.
        query_type: Arrow type of the queries' ids.
        doc_type: of the documents' ids.
    """

    depths: Mapping[str, int | None]
    spans: Mapping[str, str]
    scored: str | None
    judge: str
    qrels: str
    query_type: pa.DataType
    doc_type: pa.DataType


@dataclass(frozen=True)
class LeftOut:
    """Numbers of queries and judged pairs of a unit that no negatives are looked for.

    Attributes:
        queries_without_positive: that no judged pair names.
        queries_without_score: with positives, of which none has a score.
        positives_without_score: judged pairs.
    """

    queries_without_positive: int = 0
    queries_without_score: int = 0
    positives_without_score: int = 0


@dataclass(frozen=True)
class Rows:
    """Some queries, as the rules need them.

    Attributes:
        candidates: see `to_candidates`, of queries whose positives have scores.
        positives: query_id, doc_id and score, ordered by query.
        ids: query ids of all rows of the unit.
        left_out: counts.
    """

    candidates: pa.Table
    positives: pa.Table
    ids: pa.Array
    left_out: LeftOut


def read_rows(unit: Unit, sources: Sources) -> Rows:
    """Read a unit.

    Raises:
        InputError: a query has a document twice in a ranking, or the ids of the judged pairs are
            of another type.
        StoreError: a file cannot be read.
    """
    schema = ranking_schema(sources.query_type, sources.doc_type)
    rows = take_unit(unit, schema.names).cast(schema)
    ids = rows["query_id"].combine_chunks()
    queries = ids.unique()
    rankings = {}
    for number, (name, depth) in enumerate(sources.depths.items()):
        if number:
            rows = rows_of_queries(open_spans(sources.spans[name]), queries, schema)
        rankings[name] = rows if depth is None else rows.filter(pc.less_equal(rows["rank"], depth))
    candidates = to_candidates(rankings, sources.judge)
    pairs = positives_of(queries, positive_pairs(sources.qrels)[0], sources.doc_type)
    scored = [candidates.select(["query_id", "doc_id", "score"])]
    if sources.scored is not None:
        spans, kind = open_spans(sources.scored), pairs_schema(schema[0].type, schema[1].type)
        # First: a ranking's scores may differ from these in the last bits.
        scored.insert(0, rows_of_queries(spans, queries, kind))
    scores = _scores(pairs, queries, pa.concat_tables(scored))
    if sources.judge == FUSION:
        scores = pc.fill_null(scores, 0.0)  # the sum over no rankings
    query_ids = queries.take(pairs[QUERY].combine_chunks())
    columns = {"query_id": query_ids, "doc_id": pairs["doc_id"], "score": scores}
    positives = pa.table(columns).filter(scores.is_valid())
    mined = positives["query_id"].unique()
    n_judged = pc.count_distinct(pairs[QUERY]).as_py()
    left_out = LeftOut(
        queries_without_positive=len(queries) - n_judged,
        queries_without_score=n_judged - len(mined),
        positives_without_score=scores.null_count,
    )
    of_mined = candidates.filter(pc.is_in(candidates["query_id"], value_set=mined))
    return Rows(of_mined, positives, ids, left_out)


@lru_cache(maxsize=1)
def positive_pairs(url: str) -> tuple[pa.Table, int]:
    """Judged pairs above 0, each once, see `read_qrels`; and how many were there once more."""
    judged = read_qrels(url)
    pairs = judged.filter(pc.greater(judged["score"], 0))
    queries, documents = (
        pairs[name].combine_chunks().dictionary_encode() for name in ("query_id", "doc_id")
    )
    keys = queries.indices.to_numpy().astype(np.int64) * max(1, len(documents.dictionary))
    _, first = np.unique(keys + documents.indices.to_numpy(), return_index=True)
    return pairs.take(pa.array(np.sort(first))), len(pairs) - len(first)


def to_candidates(rankings: Mapping[str, pa.Table], judge: str) -> pa.Table:
    """Rankings as one table of candidates.

    Args:
        rankings: by name.
        judge: the name whose scores become `score`, or ``fusion``.

    Returns:
        query_id, doc_id, rank and score; of several rankings also what `combine_rankings` gives:
        `rank` is then by `fused`, its score, and `score` is null where the judge gave none.
    """
    if len(rankings) == 1 and judge != FUSION:
        return next(iter(rankings.values()))
    kinds = next(iter(rankings.values())).schema
    both = combine_rankings(rankings).rename_columns({"score": "fused"})
    scores = both["fused" if judge == FUSION else f"{judge}_score"]
    both = both.add_column(both.column_names.index("fused"), "score", scores)
    for position, name in enumerate(("query_id", "doc_id")):
        both = both.set_column(position, name, both[name].cast(kinds.field(name).type))
    return both.combine_chunks()


def _scores(pairs: pa.Table, queries: pa.Array, scored: pa.Table) -> pa.Array:
    """Score of each pair in a table of scores, the first where it stands twice; null where none."""
    scored = scored.filter(scored["score"].is_valid())
    documents = pairs["doc_id"].combine_chunks().unique()
    width = max(1, len(documents))

    def keys(query: Any, document: Any) -> np.ndarray:  # noqa: ANN401  (arrow arrays)
        rows = pc.fill_null(pc.index_in(document, value_set=documents), -1).to_numpy()
        places = query.to_numpy().astype(np.int64)
        return np.where(rows < 0, -1, places * width + rows)

    scored_keys, first = np.unique(
        keys(pc.index_in(scored["query_id"], value_set=queries), scored["doc_id"]),
        return_index=True,
    )
    pair_keys = keys(pairs[QUERY], pairs["doc_id"])
    if not len(scored_keys):
        return pa.nulls(len(pair_keys), pa.float32())
    at = np.minimum(np.searchsorted(scored_keys, pair_keys), len(scored_keys) - 1)
    scores = scored["score"].to_numpy()[first[at]]
    return pa.array(scores, pa.float32(), mask=scored_keys[at] != pair_keys)
