"""Which candidates are hard negatives, and why the others are not."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import xxhash

from stx_core.errors import InputError
from stx_core.mining.coded import Coded, encode, is_positive, places
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
    contents = _contents(coded, rules, documents, queries)
    return _with_verdict(candidates, reasons(coded, rules, contents))


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
        left_C = contents.near_duplicates(coded, reason_C < 0, rules.near_duplicate)
        _reject(reason_C, "near_duplicate", left_C)
    order = np.lexsort((coded.rank_C, -coded.score_C, coded.query_C))
    if contents is not None and rules.same_content:
        _reject(reason_C, "repeated_content", contents.repeated(coded, reason_C < 0, order))
    _choose(coded, rules, reason_C, order)
    return reason_C


def _contents(
    coded: Coded, rules: MiningRules, documents: pa.Table | None, queries: pa.Table | None
) -> Contents | None:
    if not rules.needs_texts:
        return None
    if documents is None:
        raise InputError("same_content and near_duplicate need documents: doc_id with text")
    return Contents.of(documents, queries, coded.document_ids, coded.query_ids)


def _score_rules(
    coded: Coded, rules: MiningRules, contents: Contents | None
) -> Iterator[tuple[str, np.ndarray]]:
    """Each rule that looks at one candidate alone, with those that it rejects, (C,) bool."""
    if not rules.include_positives:
        yield "positive", is_positive(coded)
    if rules.same_id:
        yield "same_id", _same_ids(coded)
    if contents is not None and rules.same_content:
        same_C = contents.same(coded)
        # A positive that may pass has its own text.
        yield "same_content", same_C & ~is_positive(coded) if rules.include_positives else same_C
    yield from _margin_rules(coded, rules)
    if rules.max_score is not None:
        yield "max_score", coded.score_C > np.float32(rules.max_score)
    if rules.min_score is not None:
        yield "min_score", coded.score_C < np.float32(rules.min_score)


def _margin_rules(coded: Coded, rules: MiningRules) -> Iterator[tuple[str, np.ndarray]]:
    """In float32 throughout, as scores come from models: equality then means equality."""
    if rules.absolute_margin is rules.relative_margin is rules.positive_share is None:
        return
    bar_C = _positive_scores(coded, rules.margin_against)[coded.query_C]
    if rules.absolute_margin is not None:
        yield "absolute_margin", coded.score_C + np.float32(rules.absolute_margin) > bar_C
    if rules.relative_margin is not None:
        yield "relative_margin", coded.score_C > _below(bar_C, rules.relative_margin)
    if rules.positive_share is not None:
        yield "positive_share", coded.score_C > _below(bar_C, 1 - rules.positive_share)


def _below(score: np.ndarray, share: float) -> np.ndarray:
    """The score less a share of its size: lower for scores of either sign."""
    return np.asarray(score - np.abs(score) * np.float32(share))


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


def _same_ids(coded: Coded) -> np.ndarray:
    query_ids = coded.query_ids.cast(pa.large_string()).to_pylist()
    rows = {
        id_: row for row, id_ in enumerate(coded.document_ids.cast(pa.large_string()).to_pylist())
    }
    own_Q = np.array([rows.get(id_, -1) for id_ in query_ids], np.int64)
    return np.asarray(own_Q[coded.query_C] == coded.document_C)


def _reject(reason_C: np.ndarray, reason: str, rejected_C: np.ndarray) -> None:
    reason_C[(reason_C < 0) & rejected_C] = REASONS.index(reason)


def _choose(coded: Coded, rules: MiningRules, reason_C: np.ndarray, order: np.ndarray) -> None:
    """Cut the range out of what is left, best first, and sample from it."""
    left = order[reason_C[order] < 0]
    place = places(coded.query_C[left])
    reason_C[left[place < rules.range_min]] = REASONS.index("before_range")
    if rules.range_max is not None:
        reason_C[left[place >= rules.range_max]] = REASONS.index("after_range")
    left = left[reason_C[left] < 0]
    if rules.sampling_strategy == "random":
        lots = _lots(coded, left, rules.seed)
        left = left[np.lexsort((lots, coded.query_C[left]))]
    reason_C[left[places(coded.query_C[left]) >= rules.num_negatives]] = REASONS.index(
        "not_sampled"
    )


def _lots(coded: Coded, rows: np.ndarray, seed: int) -> np.ndarray:
    """A random number for each row, from the seed, its query's id and its place: (N,) uint64."""
    query_ids = coded.query_ids.cast(pa.large_string()).to_pylist()
    own_Q = np.array(
        [xxhash.xxh3_64_intdigest(id_.encode(), seed % 2**64) for id_ in query_ids], np.uint64
    )
    query = coded.query_C[rows]
    return mix(own_Q[query] + places(query).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def _with_verdict(candidates: pa.Table, reason_C: np.ndarray) -> pa.Table:
    chosen_C = reason_C < 0
    coded = pa.DictionaryArray.from_arrays(
        pa.array(np.maximum(reason_C, 0), mask=chosen_C), pa.array(REASONS)
    )
    kept = candidates.drop_columns(
        [name for name in ("reason", "negative") if name in candidates.column_names]
    )
    return kept.append_column("reason", coded.cast(pa.string())).append_column(
        "negative", pa.array(chosen_C)
    )
