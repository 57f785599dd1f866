"""Training rows in the layouts of `mine_hard_negatives` of Sentence Transformers 6.2.

Each takes the ids that `hard_negatives` gave and their texts. Columns, order of rows and types
are the reference's; scores are float64 there. A row's text column is called as the caller likes.
"""

import numpy as np
import pyarrow as pa

from stx_core.mining.texts import Texts, join


def triplets(
    negatives: pa.Table,
    texts: Texts,
    *,
    scores: bool = False,
    anchor: str = "query",
    positive: str = "positive",
) -> pa.Table:
    """One row per positive and negative: anchor, positive, negative [, scores].

    `scores` holds those of the positive and of the negative.
    """
    mined = join(negatives, texts)
    positive_rows = np.repeat(np.arange(len(mined.positive)), mined.negatives_P)
    negative_rows = mined.meet(np.arange(len(mined.positive)))
    rows = {
        anchor: strings(mined.query, mined.query_P[positive_rows]),
        positive: strings(mined.document, mined.positive[positive_rows]),
        "negative": strings(mined.document, mined.negative[negative_rows]),
    }
    if scores:
        pairs = np.stack([mined.score_P[positive_rows], mined.score_N[negative_rows]], axis=1)
        rows["scores"] = lists_of(pairs.reshape(-1), np.full(len(positive_rows), 2))
    return pa.table(rows)


def n_tuples(
    negatives: pa.Table,
    texts: Texts,
    num_negatives: int,
    *,
    scores: bool = False,
    anchor: str = "query",
    positive: str = "positive",
) -> pa.Table:
    """One row per positive: anchor, positive, negative_1 … negative_n [, scores].

    Queries with fewer than `num_negatives` negatives are left out: see `shortfall`.
    """
    mined = join(negatives, texts)
    complete = np.flatnonzero(mined.negatives_P >= num_negatives)
    starts = np.cumsum(mined.n_negative) - mined.n_negative
    met = starts[mined.query_P[complete]][:, None] + np.arange(num_negatives)
    rows = {
        anchor: strings(mined.query, mined.query_P[complete]),
        positive: strings(mined.document, mined.positive[complete]),
        **{
            f"negative_{i + 1}": strings(mined.document, mined.negative[met[:, i]])
            for i in range(num_negatives)
        },
    }
    if scores:
        table = np.column_stack([mined.score_P[complete], mined.score_N[met]])
        rows["scores"] = lists_of(table.reshape(-1), np.full(len(complete), num_negatives + 1))
    return pa.table(rows)


def labeled_pairs(
    negatives: pa.Table,
    texts: Texts,
    *,
    scores: bool = False,
    anchor: str = "query",
    positive: str = "positive",
) -> pa.Table:
    """One row per document: anchor, text and label 1 or 0; with `scores` the score instead.

    A query's positives come first, those of queries without negatives too.
    """
    mined = join(negatives, texts)
    query_N = np.repeat(np.arange(len(mined.n_negative)), mined.n_negative)
    query = np.concatenate([mined.query_P, query_N])
    order = np.argsort(query, kind="stable")
    query, document = query[order], np.concatenate([mined.positive, mined.negative])[order]
    last = {"label": (order < len(mined.positive)).astype(np.int64)}
    if scores:
        score = np.concatenate([mined.score_P, mined.score_N])[order]
        last = {"score": score.astype(np.float64)}
    return pa.table(
        {anchor: strings(mined.query, query), positive: strings(mined.document, document), **last}
    )


def labeled_lists(
    negatives: pa.Table,
    texts: Texts,
    *,
    scores: bool = False,
    anchor: str = "query",
    positive: str = "positive",
) -> pa.Table:
    """One row per positive: anchor, it and the negatives, labels 1, 0, 0 …; or the scores.

    Queries without negatives are left out.
    """
    mined = join(negatives, texts)
    rows_P = np.flatnonzero(mined.negatives_P > 0)
    lengths = mined.negatives_P[rows_P] + 1
    first = np.cumsum(lengths) - lengths
    is_first = np.zeros(int(lengths.sum()), bool)
    is_first[first] = True
    document = np.empty(len(is_first), np.int64)
    document[is_first], document[~is_first] = (
        mined.positive[rows_P],
        mined.negative[mined.meet(rows_P)],
    )
    score = np.empty(len(is_first), np.float32)
    score[is_first], score[~is_first] = mined.score_P[rows_P], mined.score_N[mined.meet(rows_P)]
    last = (
        {"scores": lists_of(score, lengths)} if scores else {"labels": lists_of(is_first, lengths)}
    )
    return pa.table(
        {
            anchor: strings(mined.query, mined.query_P[rows_P]),
            positive: in_lists(strings(mined.document, document), lengths),
            **last,
        }
    )


def strings(texts: pa.ChunkedArray, rows: np.ndarray) -> pa.ChunkedArray:
    """These texts as plain strings, in pieces that stay below Arrow's 2 GiB."""
    pieces = [
        texts.take(pa.array(rows[start : start + 2**16])).cast(pa.string())
        for start in range(0, len(rows), 2**16)
    ]
    return pa.chunked_array([c for piece in pieces for c in piece.chunks], type=pa.string())


def lists_of(values: np.ndarray, lengths: np.ndarray) -> pa.ListArray:
    """A column of number lists: of int64 for labels, of float64 for scores."""
    kind = np.int64 if values.dtype.kind in "bi" else np.float64
    return in_lists(pa.array(values.astype(kind)), lengths)


def in_lists(values: pa.Array | pa.ChunkedArray, lengths: np.ndarray) -> pa.ListArray:
    """Cut values into lists of these lengths."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    whole = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), whole)
