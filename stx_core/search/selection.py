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
        k: how many rows are wanted in the end.
        kept: how many are kept where there are too many; half of W, at least k.
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
        kept: int,
        n_rows: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._k, self._kept = k, kept
        shape = n_queries, min(2 * kept, n_rows)
        kind = torch.int32 if n_rows < 2**31 else torch.int64
        self.values = torch.full(shape, -torch.inf, dtype=dtype, device=device)
        self.rows = torch.zeros(shape, dtype=kind, device=device)
        self.kth = self.values.new_full((n_queries,), -torch.inf)
        self.lost = self.kth.clone()
        self._counts = torch.zeros(n_queries, dtype=torch.int64, device=device)

    def add(self, some: slice, proxies_BC: Tensor, first_row: int, bound: Bound) -> None:
        """Look at a block for some of the queries.

        Args:
            some: B queries.
            proxies_BC: their proxies; -inf for pairs that may not be found.
            first_row: the corpus row of the first column.
            bound: from a proxy (B,) that k rows reach to the lowest (B,) that is of interest.
        """
        # If what is lost is still of interest in the end, the query is searched again anyway.
        reach = _rounded_down(bound(self.kth[some]), self.kth.dtype)
        reach = torch.maximum(reach, self.lost[some])
        found = _reaching(proxies_BC, reach, self._k, bound, self._kept)
        queries, columns, values = found or self._highest(some, proxies_BC, reach)
        new = torch.bincount(queries, minlength=len(reach))
        if int((self._counts[some] + new).max()) > self.values.shape[1]:
            self._make_room(some)
        place = self._counts[some][queries] + ranks(queries, new)
        self.values[some][queries, place] = values
        self.rows[some][queries, place] = (columns + first_row).to(self.rows.dtype)
        self._counts[some] += new
        width = int(self._counts[some].max())
        if width >= self._k:
            self.kth[some] = _kth_highest(self.values[some, :width], self._k)

    def _highest(self, some: slice, proxies_BC: Tensor, reach: Tensor) -> Pairs:
        """The highest proxies of a block, for queries of which too many reach the bound."""
        n_new = min(self._kept, proxies_BC.shape[1])
        values, columns = proxies_BC.topk(n_new, dim=1, sorted=False)
        if n_new < proxies_BC.shape[1]:
            self.lost[some] = torch.maximum(self.lost[some], values.amin(dim=1))
        queries, place = ((values >= reach[:, None]) & (values > -torch.inf)).nonzero(as_tuple=True)
        return queries, columns[queries, place], values[queries, place]

    def _make_room(self, some: slice) -> None:
        """Keep the highest proxies only."""
        # In order: slots that are free come last.
        values, place = self.values[some].topk(self._kept, dim=1)
        full = self._counts[some] > self._kept
        lost = torch.where(full, values[:, -1], -torch.inf)
        self.lost[some] = torch.maximum(self.lost[some], lost)
        self.rows[some, : self._kept] = self.rows[some].gather(1, place)
        self.values[some, : self._kept] = values
        self.values[some, self._kept :] = -torch.inf
        self._counts[some] = self._counts[some].clamp_max(self._kept)


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
    found = queries[hit], groups[hit] + member * n_groups, members[hit, member]
    rest = proxies_BC[:, n_groups * _GROUP :]
    late, column = (rest >= reach[:, None]).nonzero(as_tuple=True)
    if len(late):
        more = late, column + n_groups * _GROUP, rest[late, column]
        order = torch.cat([found[0], late]).argsort(stable=True)
        found = tuple(torch.cat(two)[order] for two in zip(found, more, strict=True))  # type: ignore[assignment]
    return None if int(torch.bincount(found[0], minlength=1).max()) > most else found


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
    known = values.float() if values.dtype == torch.bfloat16 else values
    ascending = torch.from_numpy(np.sort(known.numpy(), axis=1))
    return ascending[:, -k].to(values.dtype)


def _rounded_down(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The next value of this type that is not above."""
    near = values.to(dtype)
    lower = torch.nextafter(near, torch.full_like(near, -torch.inf))
    return torch.where(near > values, lower, near)
