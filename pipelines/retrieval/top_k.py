"""The actor of `retrieve`: a part of the corpus in memory, and the best of it for each query."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.models.loading import limit_threads
from stx.pipelines.retrieval.rankings import QUERY, hits_schema
from stx.pipelines.running import unit_table
from stx.pipelines.spec.retrieval import Similarity
from stx_core import failpoints
from stx_core.search.results import TopK
from stx_core.search.sparse_rows import SparseRows
from stx_core.store.data_file import read_columns
from stx_core.store.files.parallel import parallel
from stx_core.store.schema import dense_matrix, sparse_csr

if TYPE_CHECKING:
    from stx_core.search.approximate import RoughIndex

Vectors = np.ndarray | SparseRows

VECTOR = "_vector"
POSITIVES = "_positives"
HITS = "_hits"
FOUND = "_found_positives"


@dataclass(frozen=True)
class Search:
    """One retriever, as an actor needs it; small and picklable.

    Attributes:
        similarity: of a query and a document.
        column: of the vectors in the corpus's files.
        groups: files (URLs) of each part of the corpus.
        first_pass: "exact", or see `RoughIndex`.
        oversample: likewise.
    """

    similarity: Similarity
    column: str
    groups: Sequence[Sequence[str]]
    first_pass: str
    oversample: int


@dataclass(frozen=True)
class Group:
    """Rows of a part of the corpus, sorted by id: of equal scores the lower row is then first.

    Attributes:
        ids: (N,).
        vectors: (N, D) or sparse rows.
        same: (N,) columns that a query and its documents must agree in.
        index: of the vectors, where the first pass is not exact.
    """

    ids: pa.Array
    vectors: Any
    same: pa.Table
    index: "RoughIndex | None" = None


class TopKStage:
    """Adds the k best documents of one part of the corpus to each query of a unit.

    Args:
        searches: by retriever.
        k: documents per query.
        same: columns that must be equal.
        exclude_same_id: leave out the document with the query's id.
        threads: cores that this actor was given.
    """

    def __init__(
        self,
        searches: Mapping[str, Search],
        k: int,
        same: Sequence[str],
        exclude_same_id: bool,
        threads: int | None,
    ) -> None:
        from stx_core.models.device import default_device

        if threads is not None:
            limit_threads(threads)
        self.device = default_device()
        self.searches = searches
        self.k, self.same, self.exclude_same_id = k, list(same), exclude_same_id
        # Units come part by part: the last one is nearly always the next one too.
        self._group = lru_cache(maxsize=1)(self._load)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Replace the vectors by ``_hits`` and ``_found_positives``: lists of (doc_id, score)."""
        notes = unit_table.notes(table)
        search = self.searches[notes["leg"]]
        seconds = notes["seconds"]
        with unit_table.timed(seconds, "load"):
            group = self._group(notes["leg"], notes["group"])
        queries = vectors_of(table[VECTOR])
        failpoints.hit("search.mid")
        with unit_table.timed(seconds, "search"):
            best, recall = self._search(search, table, queries, group)
            positives = _positives(search, table, queries, group)
        table = table.drop_columns([VECTOR, POSITIVES, *self.same])
        used = best.rows >= 0
        hits = _lists(
            used.sum(axis=1), group.ids.take(pa.array(best.rows[used])), best.scores[used]
        )
        table = table.append_column(HITS, hits).append_column(FOUND, positives)
        return unit_table.with_notes(table, seconds=seconds, recall=recall)

    def _load(self, name: str, number: int) -> Group:
        search = self.searches[name]
        columns = ["id", search.column, *self.same]
        parts = parallel(lambda url: read_columns(url, columns), search.groups[number])
        # One type per column: files of one output have one schema.
        table = pa.concat_tables(parts).combine_chunks()
        order = pc.sort_indices(table["id"])
        in_order = pc.equal(order, pa.array(np.arange(len(order)), order.type))
        if not pc.all(in_order).as_py():
            table = table.take(order)
        vectors = vectors_of(table[search.column])
        index = None
        if search.first_pass != "exact":
            from stx_core.search.approximate import RoughIndex

            matrix = np.asarray(vectors, np.float32)
            index = RoughIndex(matrix, search.similarity, search.first_pass)
        return Group(table["id"].combine_chunks(), vectors, table.select(self.same), index)

    def _search(
        self, search: Search, table: pa.Table, queries: Vectors, group: Group
    ) -> tuple[TopK, float | None]:
        """The best rows, and what share of the exact best they are, where that is a question."""
        from stx_core.search.dense import dense_top_k
        from stx_core.search.sparse import sparse_top_k

        how: Any = search.similarity
        excluded = same = None
        if self.exclude_same_id:
            own = pc.index_in(table["_id"].cast(group.ids.type), value_set=group.ids)
            excluded = pc.fill_null(own, -1).to_numpy().astype(np.int64)
        if group.index is not None:
            vectors, oversample = np.asarray(queries, np.float32), search.oversample
            best = group.index.top_k(vectors, self.k, oversample=oversample, excluded=excluded)
            recall = group.index.recall(vectors, self.k, oversample=oversample, excluded=excluded)
            return best, recall
        if self.same:
            same = labels(table.select(self.same), group.same)
        if isinstance(queries, SparseRows):
            best = sparse_top_k(
                queries, group.vectors, self.k, similarity=how, excluded=excluded, labels=same
            )
        else:
            best = dense_top_k(
                queries, group.vectors, self.k,
                similarity=how, excluded=excluded, labels=same, device=self.device,
            )  # fmt: skip
        return best, None


def vectors_of(column: pa.ChunkedArray) -> Vectors:
    """A column of vectors as a matrix, or as sparse rows."""
    if pa.types.is_struct(column.type):
        return SparseRows(*sparse_csr(column))
    return dense_matrix(column)


def labels(queries: pa.Table, documents: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """One number for each distinct row of some columns, the same on both sides.

    Returns:
        (Q,) and (N,) int64; documents that agree with no query have -1.
    """
    of_queries = np.zeros(len(queries), np.int64)
    of_documents = np.zeros(len(documents), np.int64)
    for name in queries.column_names:
        # As text: a partition column may be a number on one side and a string on the other.
        values = queries[name].cast(pa.string()).combine_chunks()
        distinct = values.unique()
        none, width = len(distinct), len(distinct) + 1
        of_queries = of_queries * width + pc.index_in(values, value_set=distinct).to_numpy()
        codes = pc.index_in(documents[name].cast(pa.string()), value_set=distinct)
        codes = pc.fill_null(codes, none).to_numpy()
        differs = (of_documents < 0) | (codes == none)
        of_documents = np.where(differs, -1, of_documents * width + codes)
    return of_queries, of_documents


def _positives(search: Search, table: pa.Table, queries: Vectors, group: Group) -> pa.Array:
    """(Q,) lists of (doc_id, score) of the judged pairs whose document is in the group."""
    from stx_core.search.exact import pair_scores
    from stx_core.search.sparse import sparse_pair_scores

    judged = table[POSITIVES].combine_chunks()
    at = pc.list_parent_indices(judged).to_numpy()
    rows = pc.index_in(pc.list_flatten(judged), value_set=group.ids)
    here = rows.is_valid().to_numpy(zero_copy_only=False)
    at, rows = at[here], rows.drop_null().to_numpy().astype(np.int64)
    if isinstance(queries, SparseRows):
        scores = sparse_pair_scores(queries, at, group.vectors, rows, search.similarity)
    else:
        scores = pair_scores(queries[at], group.vectors[rows], search.similarity)
    counts = np.bincount(at, minlength=len(table))
    return _lists(counts, group.ids.take(pa.array(rows)), scores)


def _lists(counts: np.ndarray, ids: pa.Array, scores: np.ndarray) -> pa.Array:
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    pairs = pa.StructArray.from_arrays([ids, pa.array(scores, pa.float32())], ["doc_id", "score"])
    return pa.ListArray.from_arrays(offsets, pairs)


def to_hits(lists: pa.ChunkedArray, doc_type: pa.DataType) -> pa.Table:
    """Lists of (doc_id, score), one of each query, as rows; see `hits_schema`."""
    column = lists.combine_chunks()
    pairs = pc.list_flatten(column)
    values = {
        QUERY: pc.list_parent_indices(column).cast(pa.int32()),
        "doc_id": pairs.field("doc_id"),
        "score": pairs.field("score"),
    }
    schema = hits_schema(doc_type)
    return pa.table([values[field.name] for field in schema], schema=schema)
