"""The rows of highest proxy for each query, kept while blocks of a corpus pass.

Once k rows of a query are known, few others can still be among its best. So a block is not sorted:
the maxima of small groups of its columns tell which groups hold a proxy that is high enough, only
these are read again, and only what is high enough is kept.

Q queries, B queries and C corpus rows of a block, P pairs of a query and a row, W slots of a query.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# Strided groups: neighbours, which are often alike, fall into different groups.
_GROUP = 16

Bound = Callable[[Tensor], Tensor]
# Queries (P,), ascending, columns (P,) and proxies (P,).
Pairs = tuple[Tensor, Tensor, Tensor]


class Selection:
    """All proxies of each query that may be among its k best, as far as there is room.

    Args:
        n_queries: Q.
        k: how many rows are to be found in the end.
        capacity: how many stay where there are too many; half of W, at least k.
        n_rows: of the corpus.
        dtype: of proxies.
        device: where they are.

    Attributes:
        values: (Q, W) proxies in no order, -inf in slots that are free.
        rows: (Q, W) int32 or int64 rows of the corpus.
        kth: (Q,) a proxy that k rows reach, -inf while there are fewer.
        lost: (Q,) the highest proxy that may have had no room, -inf for none.
    """

    def __init__(
        self,
        n_queries: int,
        k: int,
        capacity: int,
        n_rows: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._k, self._capacity = k, capacity
        shape = n_queries, min(2 * capacity, n_rows)
        kind = torch.int32 if n_rows < 2**31 else torch.int64
        self.values = torch.full(shape, -torch.inf, dtype=dtype, device=device)
        self.rows = torch.zeros(shape, dtype=kind, device=device)
        self.kth = self.values.new_full((n_queries,), -torch.inf)
        self.lost = self.kth.clone()
        self._counts = torch.zeros(n_queries, dtype=torch.int64, device=device)

    def add(self, batch: slice, proxies_BC: Tensor, first_row: int, bound: Bound) -> None:
        """Look at a block for some of the queries.

        Args:
            batch: B queries.
            proxies_BC: their proxies; -inf for pairs that may not be found.
            first_row: the corpus row of the first column.
            bound: from a proxy (B,) that k rows reach to the lowest (B,) that is of interest.
        """
        # If what is lost is still of interest in the end, the query is searched again anyway.
        reach = _rounded_down(bound(self.kth[batch]), self.kth.dtype)
        reach = torch.maximum(reach, self.lost[batch])
        hits = _reaching(proxies_BC, reach, self._k, bound, self._capacity)
        queries, columns, values = hits or self._highest(batch, proxies_BC, reach)
        new = torch.bincount(queries, minlength=len(reach))
        if int((self._counts[batch] + new).max()) > self.values.shape[1]:
            self._make_room(batch)
        place = self._counts[batch][queries] + ranks(queries, new)
        self.values[batch][queries, place] = values
        self.rows[batch][queries, place] = (columns + first_row).to(self.rows.dtype)
        self._counts[batch] += new
        width = int(self._counts[batch].max())
        if width >= self._k:
            self.kth[batch] = _kth_highest(self.values[batch, :width], self._k)

    def _highest(self, batch: slice, proxies_BC: Tensor, reach: Tensor) -> Pairs:
        """The highest proxies of a block, for queries of which too many reach the bound."""
        n_new = min(self._capacity, proxies_BC.shape[1])
        values, columns = proxies_BC.topk(n_new, dim=1, sorted=False)
        if n_new < proxies_BC.shape[1]:
            self.lost[batch] = torch.maximum(self.lost[batch], values.amin(dim=1))
        queries, place = ((values >= reach[:, None]) & (values > -torch.inf)).nonzero(as_tuple=True)
        return queries, columns[queries, place], values[queries, place]

    def _make_room(self, batch: slice) -> None:
        """Keep the highest proxies only."""
        # In order: slots that are free come last.
        values, place = self.values[batch].topk(self._capacity, dim=1)
        full = self._counts[batch] > self._capacity
        lost = torch.where(full, values[:, -1], -torch.inf)
        self.lost[batch] = torch.maximum(self.lost[batch], lost)
        self.rows[batch, : self._capacity] = self.rows[batch].gather(1, place)
        self.values[batch, : self._capacity] = values
        self.values[batch, self._capacity :] = -torch.inf
        self._counts[batch] = self._counts[batch].clamp_max(self._capacity)


def _reaching(proxies_BC: Tensor, reach: Tensor, k: int, bound: Bound, most: int) -> Pairs | None:
    """All proxies above -inf that reach a bound; None if a query has more than `most`.

    The bound is raised to that of the k-th highest maximum first where nothing is known yet.
    """
    n_queries, n_columns = proxies_BC.shape
    n_groups = n_columns // _GROUP
    if n_groups == 0:
        return None
    # In groups without a value above 0 not the highest, but one of them.
    maxima = _grouped(_as_integers(proxies_BC)).amax(dim=1)
    lowest = torch.finfo(reach.dtype).min
    if bool((reach < lowest).any()):
        if n_groups < 2 * k:
            return None
        kth = _kth_highest(maxima.view(reach.dtype), k)
        reach = torch.maximum(reach, _rounded_down(bound(kth), reach.dtype)).clamp_min(lowest)
    if bool((reach > 0).all()):
        hits = _hits(_as_integers(proxies_BC), maxima, _as_integers(reach), most)
    else:
        hits = _hits(proxies_BC, _grouped(proxies_BC).amax(dim=1), reach, most)
    return hits and (*hits[:2], hits[2].view(reach.dtype))


def _hits(proxies_BC: Tensor, maxima: Tensor, reach: Tensor, most: int) -> Pairs | None:
    n_queries, n_groups = maxima.shape
    queries, groups = (maxima >= reach[:, None]).nonzero(as_tuple=True)
    if len(queries) > n_queries * most:
        return None
    members = _grouped(proxies_BC)[queries, :, groups]
    hit, member = (members >= reach[queries, None]).nonzero(as_tuple=True)
    hits = queries[hit], groups[hit] + member * n_groups, members[hit, member]
    rest = proxies_BC[:, n_groups * _GROUP :]
    late, column = (rest >= reach[:, None]).nonzero(as_tuple=True)
    if len(late):
        more = late, column + n_groups * _GROUP, rest[late, column]
        order = torch.cat([hits[0], late]).argsort(stable=True)
        hits = tuple(torch.cat(two)[order] for two in zip(hits, more, strict=True))  # type: ignore[assignment]
    return None if int(torch.bincount(hits[0], minlength=1).max()) > most else hits


def _grouped(proxies_BC: Tensor) -> Tensor:
    """(B, group, G), less the last columns."""
    n_groups = proxies_BC.shape[1] // _GROUP
    return proxies_BC[:, : n_groups * _GROUP].view(len(proxies_BC), _GROUP, n_groups)


def _as_integers(values: Tensor) -> Tensor:
    """The same bits: above 0 in the same order, all others below, and compared far more quickly."""
    return values.view(torch.int16) if values.dtype == torch.bfloat16 else values


def ranks(queries: Tensor, counts: Tensor) -> Tensor:
    """(P,) how many pairs of the same query stand before each.

    Args:
        queries: (P,) ascending.
        counts: (Q,) of pairs.
    """
    firsts = counts.cumsum(0) - counts
    return torch.arange(len(queries), device=queries.device) - firsts[queries]


def _kth_highest(values: Tensor, k: int) -> Tensor:
    """(B,) of (B, n)."""
    if values.device.type != "cpu":
        return values.topk(k, dim=1).values[:, -1]
    # numpy sorts short rows ten times as quickly as torch selects from them.
    exact = values.float() if values.dtype == torch.bfloat16 else values
    ascending = torch.from_numpy(np.sort(exact.numpy(), axis=1))
    return ascending[:, -k].to(values.dtype)


def _rounded_down(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The next value of this type that is not above."""
    near = values.to(dtype)
    lower = torch.nextafter(near, torch.full_like(near, -torch.inf))
    return torch.where(near > values, lower, near)
