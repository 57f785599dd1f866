"""Verdicts on candidates: hard negatives, and reasons why the others are none."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import xxhash

from stx_core.errors import InputError
from stx_core.mining.coded import Coded, encode, is_positive, positions_in_group
from stx_core.mining.contents import Contents
from stx_core.mining.near_duplicates import mix
from stx_core.mining.rules import REASONS, MiningRules


def judge(
    candidates: pa.Table,
    positives: pa.Table,
    rules: MiningRules,
    *,
    documents: pa.Table | None = None,
    queries: pa.Table | None = None,
    score: str = "score",
) -> pa.Table:
    """Give each candidate the reason why it is no hard negative, or choose it.

    Every query is coded on its own: judging blocks of queries gives the same as judging all.
    Costs two sorts of the candidates; near duplicates cost more, see `near_duplicates`. Nothing
    is searched again, so other rules are another call on the same tables.

    Args:
        candidates: columns query_id, doc_id, rank (integer from 1, each once per query) and
            score, each (query, document) once; further columns are kept.
        positives: query_id, doc_id and score by the same judge; all queries of the candidates.
        rules: what a hard negative is.
        documents: doc_id and content_hash or text, of all candidates and positives; needed by
            the rules same_content and near_duplicate alone.
        queries: query_id and content_hash or text; with it these rules look at the query, too.
        score: the column of both tables that the rules look at, where there are several judges.

    Returns:
        The candidates in their order, with `reason` (string, null where chosen) and `negative`
        (bool).

    Raises:
        InputError: a column is missing, of a wrong type or null, a row stands twice, a candidate's
            query has no positive, or a text that a rule needs is not there.
    """
    coded = encode(candidates, positives, score)
    contents = None
    if rules.needs_texts:
        if documents is None:
            raise InputError("same_content and near_duplicate need documents: doc_id with text")
        contents = Contents.of(documents, queries, coded.document_ids, coded.query_ids)
    reason_C = reasons(coded, rules, contents)
    chosen_C = reason_C < 0
    names = pa.DictionaryArray.from_arrays(
        pa.array(np.maximum(reason_C, 0), mask=chosen_C), pa.array(REASONS)
    )
    earlier = [name for name in ("reason", "negative") if name in candidates.column_names]
    judged = candidates.drop_columns(earlier).append_column("reason", names.cast(pa.string()))
    return judged.append_column("negative", pa.array(chosen_C))


def reasons(coded: Coded, rules: MiningRules, contents: Contents | None = None) -> np.ndarray:
    """The place in `REASONS` of each candidate's reason, -1 where chosen: (C,) int8.

    Args:
        coded: candidates and positives.
        rules: what a hard negative is.
        contents: the texts, for the rules that look at them.

    Raises:
        InputError: a text that a rule needs is not there.
    """
    reason_C = np.full(len(coded.query_C), -1, np.int8)
    for reason, rejected_C in _score_rules(coded, rules, contents):
        _reject(reason_C, reason, rejected_C)
    if contents is not None and rules.near_duplicate is not None:
        near_C = contents.near_duplicates(coded, reason_C < 0, rules.near_duplicate)
        _reject(reason_C, "near_duplicate", near_C)
    order = np.lexsort((coded.rank_C, -coded.score_C, coded.query_C))
    if contents is not None and rules.same_content:
        _reject(reason_C, "repeated_content", contents.repeated(coded, reason_C < 0, order))
    _choose(coded, rules, reason_C, order)
    return reason_C


def _score_rules(
    coded: Coded, rules: MiningRules, contents: Contents | None
) -> Iterator[tuple[str, np.ndarray]]:
    """Each rule that looks at one candidate alone, with those that it rejects, (C,) bool."""
    if not rules.include_positives:
        yield "positive", is_positive(coded)
    if rules.same_id:
        query_ids, document_ids = (
            ids.cast(pa.large_string()).to_pylist() for ids in (coded.query_ids, coded.document_ids)
        )
        rows = {id_: row for row, id_ in enumerate(document_ids)}
        own_Q = np.array([rows.get(id_, -1) for id_ in query_ids], np.int64)
        yield "same_id", np.asarray(own_Q[coded.query_C] == coded.document_C)
    if contents is not None and rules.same_content:
        same_C = contents.same(coded)
        # A positive that may pass has its own text.
        yield "same_content", same_C & ~is_positive(coded) if rules.include_positives else same_C
    # In float32 throughout, as scores come from models: equality then means equality.
    margins = (rules.absolute_margin, rules.relative_margin, rules.positive_share)
    if any(margin is not None for margin in margins):
        bar_C = _positive_scores(coded, rules.margin_against)[coded.query_C]
        size_C = np.abs(bar_C)  # a share of it less is lower for scores of either sign
    if rules.absolute_margin is not None:
        yield "absolute_margin", coded.score_C + np.float32(rules.absolute_margin) > bar_C
    if rules.relative_margin is not None:
        yield "relative_margin", coded.score_C > bar_C - size_C * np.float32(rules.relative_margin)
    if rules.positive_share is not None:
        yield (
            "positive_share",
            coded.score_C > bar_C - size_C * np.float32(1 - rules.positive_share),
        )
    if rules.max_score is not None:
        yield "max_score", coded.score_C > np.float32(rules.max_score)
    if rules.min_score is not None:
        yield "min_score", coded.score_C < np.float32(rules.min_score)


def _positive_scores(coded: Coded, against: str) -> np.ndarray:
    """The lowest, mean or highest score of the positives of each query: (Q,) float32."""
    order = np.argsort(coded.query_P, kind="stable")
    starts = np.flatnonzero(np.diff(coded.query_P[order], prepend=-1))
    scores = coded.score_P[order]
    if not len(scores):
        return scores
    if against == "mean":
        counts = np.diff(np.append(starts, len(scores)))
        return np.asarray(np.add.reduceat(scores, starts, dtype=np.float64) / counts, np.float32)
    reduce = np.minimum if against == "min" else np.maximum
    return np.asarray(reduce.reduceat(scores, starts))


def _reject(reason_C: np.ndarray, reason: str, rejected_C: np.ndarray) -> None:
    reason_C[(reason_C < 0) & rejected_C] = REASONS.index(reason)


def _choose(coded: Coded, rules: MiningRules, reason_C: np.ndarray, order: np.ndarray) -> None:
    """Cut the range out of the candidates without a reason, best first, and sample from it."""
    rows = order[reason_C[order] < 0]
    position = positions_in_group(coded.query_C[rows])
    reason_C[rows[position < rules.range_min]] = REASONS.index("before_range")
    if rules.range_max is not None:
        reason_C[rows[position >= rules.range_max]] = REASONS.index("after_range")
    rows = rows[reason_C[rows] < 0]
    query = coded.query_C[rows]
    if rules.sampling_strategy == "random":
        # A random number for each row, from the seed, its query's id and its position.
        seed = rules.seed % 2**64
        query_ids = coded.query_ids.cast(pa.large_string()).to_pylist()
        hashes = [xxhash.xxh3_64_intdigest(id_.encode(), seed) for id_ in query_ids]
        steps = positions_in_group(query).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        lots = mix(np.array(hashes, np.uint64)[query] + steps)
        rows = rows[np.lexsort((lots, query))]
    late = positions_in_group(coded.query_C[rows]) >= rules.num_negatives
    reason_C[rows[late]] = REASONS.index("not_sampled")
