"""Mined ids joined with their texts, ready to be laid out as training rows."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from stx_core.mining import columns
from stx_core.mining.coded import ranges


@dataclass(frozen=True)
class Texts:
    """The texts of queries and documents.

    Attributes:
        queries: query_id and text, each id once.
        documents: doc_id, text and, where there is one, title, each id once.
    """

    queries: pa.Table
    documents: pa.Table


@dataclass(frozen=True)
class Mined:
    """Q queries with P positives and N negatives, both in the order of queries.

    Attributes:
        query: (Q,) texts.
        document: texts, that of row i of `positive` and `negative`.
        positive: (P,) int64 rows of `document`; score_P their scores, float32.
        negative: (N,) int64 rows of `document`; score_N their scores, float32.
        n_positive: (Q,) int64, positives of each query.
        n_negative: (Q,) int64, negatives of each query.
    """

    query: pa.ChunkedArray
    document: pa.ChunkedArray
    positive: np.ndarray
    score_P: np.ndarray
    negative: np.ndarray
    score_N: np.ndarray
    n_positive: np.ndarray
    n_negative: np.ndarray

    @property
    def query_P(self) -> np.ndarray:  # noqa: N802  (shape suffix)
        """The query of each positive: (P,) int64."""
        return np.repeat(np.arange(len(self.n_positive)), self.n_positive)

    @property
    def negatives_P(self) -> np.ndarray:  # noqa: N802
        """Number of negatives that each positive meets: (P,) int64."""
        return np.asarray(self.n_negative[self.query_P])

    def meet(self, positives: np.ndarray) -> np.ndarray:
        """The negatives of the query of each of these positives, one after the other."""
        starts = np.cumsum(self.n_negative) - self.n_negative
        query = self.query_P[positives]
        return ranges(starts[query], self.n_negative[query])


def join(negatives: pa.Table, texts: Texts) -> Mined:
    """Look up the texts of what `hard_negatives` gave.

    Raises:
        InputError: a text is missing or no text, or an id stands twice.
    """
    queries, documents = texts.queries, texts.documents
    query_rows = columns.rows_of(
        columns.ids_of(negatives, "negatives", "query_id"),
        columns.unique_ids(queries, "queries", "query_id"),
        "query_id",
    )
    n_positive, positive_ids = flat(negatives["positive_ids"])
    n_negative, negative_ids = flat(negatives["negative_ids"])
    chunks = [*positive_ids.chunks, *negative_ids.chunks]
    both = pa.table({"doc_id": pa.chunked_array(chunks, type=positive_ids.type)})
    rows = columns.rows_of(
        columns.ids_of(both, "negatives", "doc_id"),
        columns.unique_ids(documents, "documents", "doc_id"),
        "doc_id",
    )
    return Mined(
        query=columns.texts_of(queries, "queries").take(pa.array(query_rows)),
        document=columns.texts_of(documents, "documents"),
        positive=rows[: len(positive_ids)],
        score_P=flat(negatives["positive_scores"])[1].to_numpy(),
        negative=rows[len(positive_ids) :],
        score_N=flat(negatives["negative_scores"])[1].to_numpy(),
        n_positive=n_positive,
        n_negative=n_negative,
    )


def flat(lists: pa.ChunkedArray) -> tuple[np.ndarray, pa.ChunkedArray]:
    """Lengths (N,) int64 and values, one after the other, of a column of lists."""
    values = [chunk.flatten() for chunk in lists.chunks]
    lengths = [np.diff(chunk.offsets.to_numpy()) for chunk in lists.chunks]
    kind = lists.type.value_type
    return (
        np.concatenate([np.zeros(0, np.int64), *lengths]).astype(np.int64),
        pa.chunked_array(values, type=kind),
    )
