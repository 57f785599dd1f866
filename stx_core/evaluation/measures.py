"""Measures of a ranking against judgements, computed by ir_measures query by query."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx_core.errors import InputError, SpecError
from stx_core.evaluation.whole_queries import best_first, query_starts, whole_queries

DEFAULT_MEASURES = ("nDCG@10", "RR@10", "AP@100", "R@100", "P@10")

_Judgements = dict[str, dict[str, int]]
_Scores = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Evaluation:
    """Quality of a ranking by some judgements. Q judged queries, M measures.

    Attributes:
        measures: M names, as `ir_measures` writes them.
        query_ids: Q judged queries, in the order of the judgements.
        values: (Q, M) float64; 0 for queries that are not in the ranking.
        n_rows: rows of the ranking that belong to judged queries.
        n_not_ranked: judged queries that are not in the ranking; they count as 0.
        n_not_judged: queries of the ranking without judgements; they are left out.
        depth: most documents that the ranking has for a judged query.
        n_without_relevant: judged queries whose judgements are all 0; no ranking can do well on
            them, and they count as 0 too.
    """

    measures: tuple[str, ...]
    query_ids: tuple[str, ...]
    values: np.ndarray
    n_rows: int
    n_not_ranked: int
    n_not_judged: int
    n_without_relevant: int
    depth: int

    @property
    def means(self) -> dict[str, float]:
        """The mean over all judged queries, by measure."""
        return dict(zip(self.measures, self.values.mean(axis=0).tolist(), strict=True))


def evaluate(
    rankings: Iterable[pa.Table],
    qrels: pa.Table,
    measures: Sequence[str] = DEFAULT_MEASURES,
) -> Evaluation:
    """Compute measures per query, and their means over all judged queries.

    The order is that of the ranks; documents of equal rank are ordered by score, then by id. The
    scores themselves reach no measure: trec_eval orders by score and breaks ties by document id,
    so it is handed the number of documents at or below each place instead, which has no ties.

    Args:
        rankings: tables with the schema `store.schema.RANKING`. The rows of a query follow each
            other, over as many tables as they like. Memory is one table and one query.
        qrels: table with the schema `store.schema.QRELS`.
        measures: names of https://ir-measur.es: ``nDCG@10``, ``AP(rel=2)@100`` … Documents are
            relevant from score 1 on, if no ``rel`` is given.

    Raises:
        SpecError: a measure is unknown or is no mean; or ir_measures is not installed.
        InputError: a document is twice in the ranking of a query, or judged twice, differently;
            rows of a query do not stand together; no query of the ranking is judged.
    """
    pipeline, parsed = _parse(measures)
    judged = _by_query(qrels)
    judged_ids = pa.array(judged)
    row_of = {query: row for row, query in enumerate(judged)}
    column_of = {measure: column for column, measure in enumerate(parsed)}
    values = np.tile([float(measure.DEFAULT) for measure in parsed], (len(judged), 1))
    n_rows = n_ranked = n_not_judged = depth = 0
    for table in whole_queries(rankings):
        ranked = table.filter(pc.is_in(table["query_id"], judged_ids))
        scores = dict(_untied_scores(ranked))
        n_rows += len(ranked)
        n_ranked += len(scores)
        depth = max([depth, *map(len, scores.values())])
        n_not_judged += len(query_starts(table)) - len(scores)
        if scores:
            part = {query: judged[query] for query in scores}
            for metric in pipeline.iter_calc(parsed, part, scores):
                values[row_of[metric.query_id], column_of[metric.measure]] = metric.value
    if not n_ranked and not n_not_judged:
        raise InputError("the ranking holds no rows; nothing to evaluate")
    if not n_ranked:
        raise InputError(
            f"none of the {n_not_judged:,} queries of the ranking is judged; are these the "
            f"judgements for it? They are for queries like {next(iter(judged))!r}"
        )
    return Evaluation(
        measures=tuple(str(measure) for measure in parsed),
        query_ids=tuple(judged),
        values=values,
        n_rows=n_rows,
        n_not_ranked=len(judged) - n_ranked,
        n_not_judged=n_not_judged,
        n_without_relevant=sum(max(scores.values()) < 1 for scores in judged.values()),
        depth=depth,
    )


def _parse(names: Sequence[str]) -> tuple[Any, list[Any]]:
    """Parse names of measures: what computes them, and the measures, each once.

    Raises:
        SpecError: see `evaluate`.
    """
    try:
        import ir_measures
    except ImportError as error:
        raise SpecError("measures need ir_measures: pip install 'stx[eval]'") from error
    # Not its default: that would also start a Perl script, or wait for a compiler.
    pipeline = ir_measures.providers.FallbackProvider(
        [ir_measures.pytrec_eval, ir_measures.judged, ir_measures.msmarco, ir_measures.accuracy]
    )
    parsed = []
    for name in names:
        try:
            measure = ir_measures.parse_measure(name)
            supported = pipeline.supports(measure)
        except (NameError, ValueError, KeyError, TypeError, AssertionError):
            supported = False
        if not supported or not isinstance(measure.aggregator(), ir_measures.MeanAgg):
            raise SpecError(
                f"measure {name!r} is not known; write it like nDCG@10, RR@10, AP(rel=2)@100, "
                "R@100, P@10, Success@5, Bpref, Judged@10 (https://ir-measur.es)"
            )
        parsed.append(measure)
    if not parsed:
        raise SpecError("no measures; name at least one, like nDCG@10")
    return pipeline, list(dict.fromkeys(parsed))


def _by_query(qrels: pa.Table) -> _Judgements:
    judged: _Judgements = {}
    columns = (qrels[name].to_pylist() for name in ("query_id", "doc_id", "score"))
    for query, document, score in zip(*columns, strict=True):
        if judged.setdefault(query, {}).setdefault(document, score) != score:
            raise InputError(
                f"query {query!r}: document {document!r} is judged {judged[query][document]} and "
                f"{score}; keep one of these judgements"
            )
    if not judged:
        raise InputError("there are no judgements; nothing to evaluate by")
    return judged


def _untied_scores(table: pa.Table) -> Iterator[tuple[str, dict[str, float]]]:
    """Queries of a table of whole queries, each with a score by document: best n, last 1.

    trec_eval computes in float32, which is exact up to 16 million documents of one query.
    """
    if not len(table):
        return
    table = best_first(table)
    starts = query_starts(table)
    queries = table["query_id"].take(pa.array(starts)).to_pylist()
    documents = table["doc_id"].to_pylist()
    for query, start, stop in zip(queries, starts, [*starts[1:], len(table)], strict=True):
        n_documents = int(stop - start)
        descending = map(float, range(n_documents, 0, -1))
        scores = dict(zip(documents[start:stop], descending, strict=True))
        if len(scores) < n_documents:
            twice = next(doc for doc in scores if documents[start:stop].count(doc) > 1)
            raise InputError(
                f"query {query!r}: document {twice!r} is in its ranking more than once; keep the "
                "best place of each document"
            )
        yield query, scores
