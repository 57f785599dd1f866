"""The k best rows of a corpus of embeddings for each query, exactly, by blocks.

What is promised: rows are ordered by their score (float64, rounded to float32) descending, then by
row ascending, and none is missed. So a result depends on nothing but the vectors: not on block
size, threads, device or on how a corpus was cut (see `merge_top_k`).

How: a matrix product gives each pair a *proxy*, a number in the order of the scores that is off by
no more than a proved bound. Rows whose proxy lies no more than twice the bound below the k-th best
are scored exactly: no other row can be among the best. Where there are too many of them to keep
(rows of nearly equal score), `k + slack` are, and if one that was dropped could reach the k-th
exact score, the query is searched again: with that score as a floor, and every row whose proxy
reaches the floor is scored exactly.

Q queries, N corpus rows, D width, B queries and C corpus rows of a block.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from stx_core.choices import check_choice
from stx_core.search.copies import surplus_copies
from stx_core.search.exact import SIMILARITIES, Matrix, of_one_width, scores_of_rows, viewed
from stx_core.search.proxies import Proxies, full_precision, quickest_dtype
from stx_core.search.results import NO_ROW, TopK, add_pairs, best_of, empty_top_k
from stx_core.search.selection import Selection, ranks

BLOCK_ROWS = 1 << 16
# Proxies held at a time: 32 MB as float32.
_BLOCK_PROXIES = 1 << 23
# In the second pass each of them may become a pair of row numbers.
_BLOCK_PAIRS = 1 << 22
# Candidates beyond k: enough for all but clusters of equal scores, and cheap to score.
_SLACK = 128
# Times k: with more hits in a block it is worth looking for copies.
_MANY_HITS = 4
# Rows that processors take at a time: proxies stay in the cache until they are looked at.
_CACHED_ROWS = 1 << 14
# Queries whose candidates are sorted at a time.
_SORTED_QUERIES = 1 << 12


@dataclass(frozen=True)
class _Search:
    """A search: queries (Q, D) on the device, corpus (N, D) anywhere, and who may meet."""

    queries: Tensor
    corpus: Tensor
    k: int
    similarity: str
    block_rows: int
    excluded: Tensor | None
    query_labels: Tensor | None
    corpus_labels: Tensor | None
    min_scores: Tensor | None

    def of_queries(self, rows: Tensor) -> "_Search":
        """The same search for some of its queries."""
        excluded, labels, lowest = self.excluded, self.query_labels, self.min_scores
        return replace(
            self,
            queries=self.queries[rows],
            excluded=None if excluded is None else excluded[rows],
            query_labels=None if labels is None else labels[rows],
            min_scores=None if lowest is None else lowest[rows],
        )

    def reached(self, scores: np.ndarray) -> Tensor:
        """(Q,) float32 scores, or the lowest allowed where that is higher, on the device."""
        given = torch.from_numpy(scores).to(self.queries.device)
        return given if self.min_scores is None else torch.maximum(given, self.min_scores)

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """First row and rows of each block of the corpus, on the device."""
        for start in range(0, len(self.corpus), self.block_rows):
            yield start, self.corpus[start : start + self.block_rows].to(self.queries.device)

    def hide(self, proxies_BC: Tensor, first_query: int, first_row: int) -> None:
        """Give pairs that may not meet the lowest proxy."""
        n_queries, n_rows = proxies_BC.shape
        queries = slice(first_query, first_query + n_queries)
        if self.query_labels is not None and self.corpus_labels is not None:
            labels = self.corpus_labels[first_row : first_row + n_rows]
            proxies_BC.masked_fill_(self.query_labels[queries, None] != labels, -torch.inf)
        if self.excluded is not None:
            columns = self.excluded[queries] - first_row
            hit = ((columns >= 0) & (columns < n_rows)).nonzero()[:, 0]
            proxies_BC[hit, columns[hit]] = -torch.inf


def dense_top_k(
    queries: Matrix,
    corpus: Matrix,
    k: int,
    similarity: str = "cosine",
    *,
    excluded: np.ndarray | None = None,
    labels: tuple[np.ndarray, np.ndarray] | None = None,
    min_scores: np.ndarray | None = None,
    device: torch.device | str = "cpu",
    block_rows: int = BLOCK_ROWS,
) -> TopK:
    """Find the k rows of the corpus that score highest for each query.

    Args:
        queries: (Q, D) floats or integers.
        corpus: (N, D), may be a memory map: it is read block by block, and rows that may be among
            the best once more.
        k: how many rows to find for each query.
        similarity: "dot", "cosine" (0 for zero vectors), "euclidean" or "manhattan" (negated
            distances).
        excluded: (Q,) int64, a row that may not be found for that query, -1 for none.
        labels: (Q,) and (N,) int64; only rows that carry the query's label may be found.
        min_scores: (Q,) float32; only rows that score at least this may be found. Where it is
            high, there is little to score: for later parts of a corpus.
        device: where to compute.
        block_rows: corpus rows to hold on the device; it does not change the result.

    Raises:
        ValueError: widths or lengths differ, a value is not finite, `k` is negative, or there is no
            such similarity.
    """
    check_choice("similarity", similarity, SIMILARITIES)
    queries, corpus = of_one_width(viewed(queries, "queries"), viewed(corpus, "corpus"))
    if queries.shape[1] != corpus.shape[1]:
        raise ValueError(
            f"queries are {queries.shape[1]} wide and the corpus is {corpus.shape[1]} wide; both "
            "must come from the same model"
        )
    if k < 0 or block_rows < 1:
        raise ValueError(f"k must be 0 or more and block_rows 1 or more, got {k} and {block_rows}")
    query_labels, corpus_labels = labels or (None, None)
    n_queries, n_rows = (len(queries), "queries"), (len(corpus), "rows of the corpus")
    search = _Search(
        queries.to(device),
        corpus,
        k,
        similarity=similarity,
        block_rows=block_rows,
        excluded=_one_each("excluded", excluded, n_queries, device),
        query_labels=_one_each("labels", query_labels, n_queries, device),
        corpus_labels=_one_each("labels", corpus_labels, n_rows, device),
        min_scores=_one_each("min_scores", min_scores, n_queries, device, kind=np.float32),
    )
    if not (k and len(search.queries) and len(search.corpus)):
        return empty_top_k(len(search.queries), k)
    with full_precision():
        dtype = quickest_dtype(search.queries, len(search.corpus), search.similarity)
        proxies = Proxies(search.queries, search.similarity, dtype)
        candidates = _first_pass(search, proxies)
        if not proxies.bounded:
            proxies = Proxies(search.queries, search.similarity, torch.float64)
            candidates = _first_pass(search, proxies)
        best, missed = _score_candidates(search, proxies, candidates)
        if len(missed):
            incomplete = missed.cpu().numpy()
            again = _second_pass(
                search.of_queries(missed), best.scores[incomplete, -1], proxies.dtype
            )
            best.rows[incomplete], best.scores[incomplete] = again.rows, again.scores
    return best


def _one_each(
    name: str,
    values: np.ndarray | None,
    expected: tuple[int, str],
    device: torch.device | str,
    *,
    kind: type = np.int64,
) -> Tensor | None:
    """An argument with a value for each row of one side, on the device."""
    n_rows, what = expected
    if values is None:
        return None
    if np.shape(values) != (n_rows,):
        raise ValueError(f"{name} must hold one row each for {n_rows} {what}, got {len(values)}")
    return torch.tensor(np.asarray(values, kind), device=device)


def _first_pass(search: _Search, proxies: Proxies) -> Selection:
    """The rows of each query that may be among its best; part of them if unbounded."""
    n_queries, n_rows = len(search.queries), len(search.corpus)
    device, k = search.queries.device, min(search.k, n_rows)
    best = Selection(
        n_queries,
        k,
        min(k + _SLACK, n_rows),
        n_rows=n_rows,
        dtype=proxies.dtype,
        device=device,
    )
    width = min(search.block_rows, n_rows)
    if device.type == "cpu":
        width = min(width, _CACHED_ROWS)
    step = max(1, min(n_queries, _BLOCK_PROXIES // width))
    buffer = torch.empty(step * width, dtype=proxies.dtype, device=device)
    for block_row, block in search.blocks():
        for first_row in range(0, len(block), width):
            row = block_row + first_row
            operand = proxies.of_block(block[first_row : first_row + width], row)
            if not proxies.bounded:
                return best
            for start in range(0, n_queries, step):
                batch = slice(start, min(start + step, n_queries))
                proxies_BC = proxies.between(batch, operand, buffer)
                search.hide(proxies_BC, start, row)
                best.add(batch, proxies_BC, row, partial(_out_of_reach, search, proxies, batch))
    return best


def _out_of_reach(search: _Search, proxies: Proxies, batch: slice, kth: Tensor) -> Tensor:
    """(B,) proxies below which no row can be among the best k; -inf where not k are known."""
    lowest = proxies.margins(kth, batch)
    if search.min_scores is None:
        return lowest
    return torch.maximum(lowest, proxies.floors(search.min_scores[batch], batch))


def _score_candidates(
    search: _Search, proxies: Proxies, candidates: Selection
) -> tuple[TopK, Tensor]:
    """Exact scores of the candidates: the best k, and the queries that may miss better ones."""
    values = candidates.values
    n_queries = len(values)
    # What was kept when less was known may be out of reach by now.
    lowest = _out_of_reach(search, proxies, slice(None), candidates.kth)
    used = (values > -torch.inf) & (values >= lowest[:, None])
    queries, columns = used.nonzero(as_tuple=True)
    rows = candidates.rows[queries, columns].long()
    scores = scores_of_rows(search.queries, search.corpus, queries, rows, search.similarity)
    best = empty_top_k(n_queries, search.k)
    counts, first = torch.bincount(queries, minlength=n_queries), 0
    place, counts = ranks(queries, counts).cpu(), counts.cpu()
    for start in range(0, n_queries, _SORTED_QUERIES):
        batch = slice(start, start + _SORTED_QUERIES)
        stop = first + int(counts[batch].sum())
        slots = queries[first:stop].cpu() - start, place[first:stop]
        shape = len(counts[batch]), max(1, int(counts[batch].max()))
        row = torch.full(shape, NO_ROW).index_put_(slots, rows[first:stop].cpu())
        score = torch.full(shape, -torch.inf).index_put_(slots, scores[first:stop].cpu())
        if search.min_scores is not None:
            row[score < search.min_scores[batch, None].cpu()] = NO_ROW
        part = best_of(row.numpy(), score.numpy(), search.k)
        best.rows[batch], best.scores[batch] = part.rows, part.scores
        first = stop
    floors = proxies.floors(search.reached(best.scores[:, -1]))
    missed = (candidates.lost > -torch.inf) & (candidates.lost >= floors)
    return best, missed.nonzero()[:, 0]


def _second_pass(search: _Search, reached: np.ndarray, dtype: torch.dtype) -> TopK:
    """The best k of queries with many rows at the border; `reached` is a k-th score they have."""
    proxies = Proxies(search.queries, search.similarity, dtype)
    best = empty_top_k(len(search.queries), search.k)
    block_rows = min(search.block_rows, len(search.corpus))
    step = max(1, min(len(search.queries), _BLOCK_PAIRS // block_rows))
    buffer = search.queries.new_empty(step * block_rows, dtype=proxies.dtype)
    for first_row, block in search.blocks():
        operand = proxies.of_block(block, first_row)
        surplus = None
        for start in range(0, len(search.queries), step):
            batch = slice(start, min(start + step, len(search.queries)))
            proxies_BC = proxies.between(batch, operand, buffer)
            search.hide(proxies_BC, start, first_row)
            floors = proxies.floors(search.reached(reached))[batch, None]
            hits = (proxies_BC >= floors) & (proxies_BC > -torch.inf)
            if int(hits.sum()) > _MANY_HITS * len(proxies_BC) * search.k:
                if surplus is None:
                    # Copies of more than k earlier rows: they score the same, and those win.
                    labels = search.corpus_labels
                    if labels is not None:
                        labels = labels[first_row : first_row + len(block)]
                    surplus = surplus_copies(block, labels, search.k + 1)
                hits &= ~surplus
            queries, columns = hits.nonzero(as_tuple=True)
            scores = scores_of_rows(
                search.queries[batch], block, queries, columns, search.similarity
            )
            if search.min_scores is not None:
                allowed = scores >= search.min_scores[batch][queries]
                queries, columns, scores = queries[allowed], columns[allowed], scores[allowed]
            rows, numbers = columns + first_row, queries + start
            add_pairs(best, *(x.cpu().numpy() for x in (numbers, rows, scores)))
        reached = np.maximum(reached, best.scores[:, -1])
    return best
