"""Candidates and positives as numbers, which is what the rules work on."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from stx_core.errors import InputError
from stx_core.mining import columns

# C candidates, P positives. Queries and documents as numbers: row order of first appearance.


@dataclass(frozen=True)
class Coded:
    """Candidates (C,) and positives (P,): codes int64, ranks int64, scores float32."""

    query_C: np.ndarray
    document_C: np.ndarray
    rank_C: np.ndarray
    score_C: np.ndarray
    query_P: np.ndarray
    document_P: np.ndarray
    score_P: np.ndarray
    query_ids: pa.Array
    document_ids: pa.Array


def encode(candidates: pa.Table, positives: pa.Table, score: str) -> Coded:
    """Number the ids of both tables alike, and check what the rules rely on.

    Raises:
        InputError: see `judge`.
    """
    (query_P, query_C), query_ids = columns.id_codes(
        columns.ids_of(positives, "positives", "query_id"),
        columns.ids_of(candidates, "candidates", "query_id"),
        what="query_ids of positives and candidates",
    )
    (document_P, document_C), document_ids = columns.id_codes(
        columns.ids_of(positives, "positives", "doc_id"),
        columns.ids_of(candidates, "candidates", "doc_id"),
        what="doc_ids of positives and candidates",
    )
    coded = Coded(
        query_C=query_C,
        document_C=document_C,
        rank_C=columns.ranks_of(candidates, "candidates"),
        score_C=columns.scores_of(candidates, "candidates", score),
        query_P=query_P,
        document_P=document_P,
        score_P=columns.scores_of(positives, "positives", score),
        query_ids=query_ids,
        document_ids=document_ids,
    )
    _check_pairs(coded)
    return coded


def is_positive(coded: Coded) -> np.ndarray:
    """Tell of each candidate whether it is a known positive of its query: (C,) bool."""
    n = len(coded.document_ids)
    positives = pair_keys(coded.query_P, coded.document_P, n)
    return np.asarray(np.isin(pair_keys(coded.query_C, coded.document_C, n), positives))


def pair_keys(first: np.ndarray, second: np.ndarray, n_second: int) -> np.ndarray:
    """One int64 for each pair of codes; `second` lies below `n_second`."""
    return np.asarray(first * max(n_second, 1) + second)


def positions_in_group(groups: np.ndarray) -> np.ndarray:
    """Count the equal values before each one; equal values must stand together."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    counts = np.diff(np.append(starts, len(groups)))
    return np.arange(len(groups)) - np.repeat(starts, counts)


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The numbers start, start + 1, … of each range, one after the other: (sum,) int64."""
    ends = np.cumsum(counts)
    steps = np.arange(int(ends[-1]) if len(ends) else 0)
    return np.asarray(steps + np.repeat(starts - ends + counts, counts))


def _check_pairs(coded: Coded) -> None:
    n_with_positives = int(coded.query_P.max(initial=-1)) + 1
    lost = coded.query_C >= n_with_positives
    if lost.any():
        row = int(np.argmax(lost))
        query = coded.query_ids[coded.query_C[row]].as_py()
        raise InputError(
            f"candidates row {row}: query {query!r} has no positive "
            f"({len(coded.query_ids) - n_with_positives} such queries); add one or drop its rows"
        )
    n = len(coded.document_ids)
    n_ranks = int(coded.rank_C.max(initial=0)) + 1
    merge = "merge rankings with combine_rankings, or drop repeated rows"
    for what, keys in (
        ("candidates: a (query_id, doc_id)", pair_keys(coded.query_C, coded.document_C, n)),
        ("positives: a (query_id, doc_id)", pair_keys(coded.query_P, coded.document_P, n)),
        ("candidates: a rank of a query", pair_keys(coded.query_C, coded.rank_C, n_ranks)),
    ):
        repeated = columns.first_repeated(keys)
        if repeated is not None:
            raise InputError(f"{what} stands twice, the second time in row {repeated}; {merge}")
