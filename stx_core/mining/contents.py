"""Guards against false negatives: the texts behind candidates, positives and queries."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx_core.errors import InputError
from stx_core.mining import columns
from stx_core.mining.coded import Coded, ranges
from stx_core.mining.near_duplicates import jaccard, normalize_texts


@dataclass(frozen=True)
class Contents:
    """Texts of documents (D) and queries (Q), in the order of their codes.

    Contents are int64 codes, equal where the texts are.
    """

    content_D: np.ndarray
    content_Q: np.ndarray | None
    text_D: pa.ChunkedArray | None
    text_Q: pa.ChunkedArray | None

    @classmethod
    def of(
        cls,
        documents: pa.Table,
        queries: pa.Table | None,
        document_ids: pa.Array,
        query_ids: pa.Array,
    ) -> Self:
        """Look up what is known of these ids.

        Raises:
            InputError: an id is not there, or the tables share neither content_hash nor text.
        """
        present = columns.unique_ids(documents, "documents", "doc_id")
        documents = documents.take(columns.rows_of(document_ids, present, "doc_id"))
        if queries is not None:
            present = columns.unique_ids(queries, "queries", "query_id")
            queries = queries.take(columns.rows_of(query_ids, present, "query_id"))
        tables = [table for table in (documents, queries) if table is not None]
        compared = _compared(tables)
        contents = [table[compared] for table in tables]
        if compared == "text":
            texts = (columns.texts_of(table, "documents or queries") for table in tables)
            contents = [normalize_texts(values) for values in texts]
        for values in contents:
            if values.null_count:
                row = pc.index(pc.is_null(values), True).as_py()
                raise InputError(
                    f"content_hash is null in row {row}; hash the text or drop the row"
                )
        (content_D, *content_Q), _ = columns.id_codes(*contents, what=f"{compared}s")
        return cls(
            content_D,
            content_Q[0] if content_Q else None,
            *(
                columns.texts_of(table, name)
                if table is not None and "text" in table.column_names
                else None
                for table, name in ((documents, "documents"), (queries, "queries"))
            ),
        )

    def same(self, coded: Coded) -> np.ndarray:
        """Find candidates with the text of a positive of their query, or of it: (C,) bool."""
        sides = [self.content_D] if self.content_Q is None else [self.content_D, self.content_Q]
        n = 1 + max(int(codes.max(initial=0)) for codes in sides)
        taken = coded.query_P * n + self.content_D[coded.document_P]
        if self.content_Q is not None:
            own = np.arange(len(self.content_Q)) * n + self.content_Q
            taken = np.concatenate([taken, own])
        return np.isin(coded.query_C * n + self.content_D[coded.document_C], taken)

    def repeated(self, coded: Coded, open_C: np.ndarray, order: np.ndarray) -> np.ndarray:
        """Find open candidates that repeat a text of one before them in the order: (C,) bool."""
        rows = order[open_C[order]]
        n = int(self.content_D.max(initial=0)) + 1
        keys = coded.query_C[rows] * n + self.content_D[coded.document_C[rows]]
        _, first = np.unique(keys, return_index=True)
        repeated_C = open_C.copy()
        repeated_C[rows[first]] = False
        return repeated_C

    def near_duplicates(self, coded: Coded, open_C: np.ndarray, threshold: float) -> np.ndarray:
        """Find open candidates that are nearly a positive of their query, or it: (C,) bool.

        Raises:
            InputError: the documents have no texts.
        """
        if self.text_D is None:
            raise InputError("near_duplicate compares texts: give documents a column 'text'")
        # Each of these candidates with each positive of its query.
        order = np.argsort(coded.query_P, kind="stable")
        counts_Q = np.bincount(coded.query_P, minlength=len(coded.query_ids))
        starts_Q = np.cumsum(counts_Q) - counts_Q
        rows = np.flatnonzero(open_C)
        query = coded.query_C[rows]
        rows = np.repeat(rows, counts_Q[query])
        document = coded.document_P[order[ranges(starts_Q[query], counts_Q[query])]]
        # A positive that may pass as a candidate is not compared with itself.
        distinct = coded.document_C[rows] != document
        rows, document = rows[distinct], document[distinct]
        near_C = np.zeros(len(open_C), bool)
        texts = self.text_D.take(coded.document_C[rows])
        near_C[rows[jaccard(texts, self.text_D.take(document)) >= threshold]] = True
        if self.text_Q is not None:
            rows = np.flatnonzero(open_C & ~near_C)
            texts = self.text_D.take(coded.document_C[rows])
            alike = jaccard(texts, self.text_Q.take(coded.query_C[rows]))
            near_C[rows[alike >= threshold]] = True
        return near_C


def _compared(tables: list[pa.Table]) -> str:
    """The column by which texts are compared: their hashes if of one kind, else the texts."""
    if all("content_hash" in table.column_names for table in tables):
        hashes = [table["content_hash"] for table in tables]
        kinds = [column.type for column in hashes]
        if not all(pa.types.is_string(kind) or pa.types.is_large_string(kind) for kind in kinds):
            return "content_hash"
        # Hashes of other lengths are of other functions: equal texts may have different ones.
        lengths = [set(pc.binary_length(column).unique().to_pylist()) for column in hashes]
        if len(set().union(*lengths) - {None}) <= 1:
            return "content_hash"
    if all("text" in table.column_names for table in tables):
        return "text"
    raise InputError(
        "same_content needs a column 'text', or 'content_hash' of one kind, in documents and in "
        "queries (stx wrote 32 digits until it wrote 64: encode the older again, or give texts)"
    )
