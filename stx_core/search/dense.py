"""The k best rows of a corpus of embeddings for each query, exactly, by blocks.

What is promised: rows are ordered by their score (float64, rounded to float32) descending, then by
row ascending, and none is missed. So a result depends on nothing but the vectors: not on block
size, threads, device or on how a corpus was cut (see `merge_top_k`).

How: a matrix product gives each pair a *proxy*, a number in the order of the scores that is off by
no more than a proved bound. The best `k + slack` rows by proxy are scored exactly. If even the
worst of them, given twice the bound, could not reach the k-th exact score, no row outside can, and
the query is done. The others (many rows of nearly equal score) are searched again with that score
as a floor, and every row whose proxy reaches the floor is scored exactly.

Q queries, N corpus rows, D width, B queries and C corpus rows of a block.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from stx_core.search.copies import surplus_copies
from stx_core.search.exact import Matrix, as_matrix, check_similarity, scores_of_rows
from stx_core.search.proxies import Proxies, full_precision, quickest_dtype
from stx_core.search.results import TopK, best_of, empty_top_k

BLOCK_ROWS = 1 << 16
# Proxies held at a time: 64 MB as float32.
_BLOCK_PROXIES = 1 << 24
# In the second pass each of them may become a pair of row numbers.
_BLOCK_PAIRS = 1 << 22
# Candidates beyond k: enough for all but clusters of equal scores, and cheap to score.
_SLACK = 128
# Times k: with more hits in a block it is worth looking for copies.
_MANY_HITS = 4
# Proxies whose maximum is looked at first. Strided groups: no copy, and neighbours, which are often
# alike, fall into different groups.
_GROUP = 16


@dataclass(frozen=True)
class _Search:
    """What to search: queries (Q, D) on the device, corpus (N, D) anywhere, and who may meet."""

    queries: Tensor
    corpus: Tensor
    k: int
    similarity: str
    block_rows: int
    excluded: Tensor | None
    query_labels: Tensor | None
    corpus_labels: Tensor | None

    def of_queries(self, rows: Tensor) -> "_Search":
        """The same search for some of its queries."""
        excluded, labels = self.excluded, self.query_labels
        return replace(
            self,
            queries=self.queries[rows],
            excluded=None if excluded is None else excluded[rows],
            query_labels=None if labels is None else labels[rows],
        )

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """First row and rows of each block of the corpus, on the device."""
        for start in range(0, len(self.corpus), self.block_rows):
            yield start, self.corpus[start : start + self.block_rows].to(self.queries.device)

    def surplus(self, block: Tensor, first_row: int) -> Tensor:
        """(C,) bool: copies of more than k earlier rows. They score the same, and those win."""
        labels = self.corpus_labels
        if labels is not None:
            labels = labels[first_row : first_row + len(block)]
        return surplus_copies(block, labels, self.k + 1)

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
        device: where to compute.
        block_rows: corpus rows to hold on the device; it does not change the result.

    Raises:
        ValueError: widths or lengths differ, a value is not finite, `k` is negative, or there is no
            such similarity.
    """
    search = _checked(queries, corpus, k, similarity, excluded, labels, device, block_rows)
    if not (k and len(search.queries) and len(search.corpus)):
        return empty_top_k(len(search.queries), k)
    with full_precision():
        dtype = quickest_dtype(search.queries, len(search.corpus), search.similarity)
        proxies = Proxies(search.queries, search.similarity, dtype)
        found = _first_pass(search, proxies)
        if not proxies.bounded:
            proxies = Proxies(search.queries, search.similarity, torch.float64)
            found = _first_pass(search, proxies)
        best, missed = _score_candidates(search, proxies, *found)
        if len(missed):
            some = missed.cpu().numpy()
            again = _second_pass(search.of_queries(missed), best.scores[some, -1], proxies.dtype)
            best.rows[some], best.scores[some] = again.rows, again.scores
    return best


def _checked(
    queries: Matrix,
    corpus: Matrix,
    k: int,
    similarity: str,
    excluded: np.ndarray | None,
    labels: tuple[np.ndarray, np.ndarray] | None,
    device: torch.device | str,
    block_rows: int,
) -> _Search:
    check_similarity(similarity)
    left, right = as_matrix(queries, "queries"), as_matrix(corpus, "corpus")
    if left.shape[1] != right.shape[1]:
        raise ValueError(
            f"queries are {left.shape[1]} wide and the corpus is {right.shape[1]} wide; both must "
            "come from the same model"
        )
    if k < 0 or block_rows < 1:
        raise ValueError(f"k must be 0 or more and block_rows 1 or more, got {k} and {block_rows}")
    ours, theirs = (None, None) if labels is None else labels
    return _Search(
        left.to(device),
        right,
        k,
        similarity,
        block_rows,
        _one_each(excluded, len(left), "excluded", "queries", device),
        _one_each(ours, len(left), "labels", "queries", device),
        _one_each(theirs, len(right), "labels", "rows of the corpus", device),
    )


def _one_each(
    values: np.ndarray | None, n_rows: int, name: str, what: str, device: torch.device | str
) -> Tensor | None:
    if values is None:
        return None
    if np.shape(values) != (n_rows,):
        raise ValueError(f"{name} must hold one row each for {n_rows} {what}, got {len(values)}")
    return torch.tensor(np.asarray(values, np.int64), device=device)


def _first_pass(search: _Search, proxies: Proxies) -> tuple[Tensor, Tensor]:
    """The rows of highest proxy for each query: proxies and rows, (Q, k + slack) or (Q, N)."""
    n_queries, width = len(search.queries), min(search.k + _SLACK, len(search.corpus))
    device = search.queries.device
    values = torch.full((n_queries, width), -torch.inf, dtype=proxies.dtype, device=device)
    rows = torch.full((n_queries, width), -1, device=device)
    block_rows = min(search.block_rows, len(search.corpus))
    step = max(1, min(n_queries, _BLOCK_PROXIES // block_rows))
    buffer = torch.empty(step * block_rows, dtype=proxies.dtype, device=device)
    for first_row, block in search.blocks():
        operand = proxies.of_block(block, first_row)
        known = torch.maximum(values.amin(dim=1), _out_of_reach(search, proxies, values))
        for start in range(0, n_queries, step):
            some = slice(start, min(start + step, n_queries))
            found = proxies.between(some, operand, buffer)
            search.hide(found, start, first_row)
            new, columns = _highest(found, width, known[some])
            both = torch.cat([values[some], new], dim=1)
            values[some], order = both.topk(width, dim=1, sorted=False)
            all_rows = torch.cat([rows[some], columns + first_row], dim=1)
            rows[some] = all_rows.gather(1, order)
    return values, rows


def _out_of_reach(search: _Search, proxies: Proxies, values: Tensor) -> Tensor:
    """(Q,) proxies below which no row can be among the best k; -inf where not k are known."""
    return proxies.margins(values.topk(min(search.k, values.shape[1]), dim=1).values[:, -1])


def _highest(proxies_BC: Tensor, count: int, known: Tensor) -> tuple[Tensor, Tensor]:
    """The highest `count` values above `known` (B,) of each row and their columns, in any order.

    Lower ones may be among them. They lie in the groups of highest maximum: `count` groups hold
    `count` maxima no smaller than the last of them, and no other group holds a larger value.
    """
    n_groups = proxies_BC.shape[1] // _GROUP
    if n_groups < 2 * count:
        return proxies_BC.topk(min(count, proxies_BC.shape[1]), dim=1, sorted=False)
    grouped = n_groups * _GROUP
    maxima = proxies_BC[:, :grouped].view(-1, _GROUP, n_groups).amax(dim=1)
    n_higher = int((maxima > known[:, None]).sum(dim=1).max())
    groups = maxima.topk(min(count, n_higher), dim=1, sorted=False).indices
    members = torch.arange(0, grouped, n_groups, device=groups.device)
    columns = (groups.unsqueeze(1) + members.view(1, -1, 1)).flatten(1)
    rest = torch.arange(grouped, proxies_BC.shape[1], device=groups.device)
    columns = torch.cat([columns, rest.expand(len(columns), -1)], dim=1)
    values = proxies_BC.gather(1, columns)
    values, order = values.topk(min(count, columns.shape[1]), dim=1, sorted=False)
    return values, columns.gather(1, order)


def _score_candidates(
    search: _Search, proxies: Proxies, values: Tensor, rows: Tensor
) -> tuple[TopK, Tensor]:
    """Exact scores of the candidates: the best k, and the queries that may miss better ones."""
    lowest = values.amin(dim=1)
    # Of the slack only those that the bound allows among the best k need a score.
    used = (values > -torch.inf) & (values >= _out_of_reach(search, proxies, values)[:, None])
    queries, columns = used.nonzero(as_tuple=True)
    scores = torch.full(values.shape, -torch.inf, dtype=torch.float32, device=values.device)
    scores[queries, columns] = scores_of_rows(
        search.queries, search.corpus, queries, rows[queries, columns], search.similarity
    )
    rows = torch.where(used, rows, -1)
    best = best_of(rows.cpu().numpy(), scores.cpu().numpy(), search.k)
    floors = proxies.floors(torch.from_numpy(best.scores[:, -1]).to(values.device))
    # -inf among the candidates: every row that may be found is one of them.
    complete = (lowest == -torch.inf) | (values.shape[1] == len(search.corpus))
    missed = ~(complete | (lowest < floors))
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
            some = slice(start, min(start + step, len(search.queries)))
            found = proxies.between(some, operand, buffer)
            search.hide(found, start, first_row)
            floors = proxies.floors(torch.from_numpy(reached).to(block.device))[some, None]
            hits = (found >= floors) & (found > -torch.inf)
            if int(hits.sum()) > _MANY_HITS * len(found) * search.k:
                surplus = search.surplus(block, first_row) if surplus is None else surplus
                hits &= ~surplus
            queries, columns = hits.nonzero(as_tuple=True)
            scores = scores_of_rows(
                search.queries[some], block, queries, columns, search.similarity
            )
            rows = columns + first_row
            _add(best, some, queries.cpu().numpy(), rows.cpu().numpy(), scores.cpu().numpy())
        reached = np.maximum(reached, best.scores[:, -1])
    return best


def _add(
    best: TopK, some: slice, queries: np.ndarray, rows: np.ndarray, scores: np.ndarray
) -> None:
    """Put found pairs among the best of some queries; `queries` counts from the first of them."""
    known = best.rows[some] >= 0
    queries = np.concatenate([known.nonzero()[0], queries])
    rows = np.concatenate([best.rows[some][known], rows])
    scores = np.concatenate([best.scores[some][known], scores])
    order = np.lexsort((rows, -scores, queries))
    queries, rows, scores = queries[order], rows[order], scores[order]
    firsts = np.searchsorted(queries, np.arange(len(known)))
    rank = np.arange(len(queries)) - firsts[queries]
    kept = rank < best.rows.shape[1]
    best.rows[some][queries[kept], rank[kept]] = rows[kept]
    best.scores[some][queries[kept], rank[kept]] = scores[kept]
