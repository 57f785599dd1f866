"""The rows of highest proxy for each query, kept while blocks of a corpus pass.

Once k rows of a query are known, few others can still be among its best. So a block is not sorted:
the maxima of small groups of its columns tell which groups hold a proxy that is high enough, only
these are read again, and only what is high enough is merged.

Q queries, B queries and C corpus rows of a block, W rows kept of each query.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# Strided groups: neighbours, which are often alike, fall into different groups.
_GROUP = 16
# Times W: with more proxies of a query that are high enough, a block is sorted after all.
_MANY = 2

Bound = Callable[[Tensor], Tensor]


class Selection:
    """The W best proxies of each query so far.

    Attributes:
        values: (Q, W) proxies, descending, -inf where there are fewer.
        rows: (Q, W) int32 or int64 rows of the corpus, -1 there.
    """

    def __init__(
        self, n_queries: int, width: int, n_rows: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        kind = torch.int32 if n_rows < 2**31 else torch.int64
        self.values = torch.full((n_queries, width), -torch.inf, dtype=dtype, device=device)
        self.rows = torch.full((n_queries, width), -1, dtype=kind, device=device)

    def add(self, some: slice, proxies_BC: Tensor, first_row: int, k: int, bound: Bound) -> None:
        """Look at a block for some of the queries.

        Args:
            some: B queries.
            proxies_BC: their proxies; -inf for pairs that may not be found.
            first_row: the corpus row of the first column.
            k: how many rows are wanted in the end.
            bound: from a proxy (B,) that k rows reach to the lowest (B,) that is of interest.
        """
        width = self.values.shape[1]
        reach = _rounded_down(bound(self.values[some, k - 1]), self.values.dtype)
        # What does not exceed the last one kept has no place.
        last = self.values[some, -1]
        reach = torch.maximum(reach, torch.nextafter(last, torch.full_like(last, torch.inf)))
        if proxies_BC.shape[1] < 2 * _GROUP * k:
            found = None
        else:
            found = _reaching(proxies_BC, reach, k, bound, _MANY * width)
        if found is None:
            n_new = min(width, proxies_BC.shape[1])
            new, columns = proxies_BC.topk(n_new, dim=1, sorted=False)
        else:
            new, columns = found
        if new.shape[1] == 0:
            return
        both = torch.cat([self.values[some], new], dim=1)
        rows = torch.cat([self.rows[some], columns.to(self.rows.dtype) + first_row], dim=1)
        self.values[some], order = both.topk(width, dim=1)
        self.rows[some] = rows.gather(1, order)


def _reaching(
    proxies_BC: Tensor, reach: Tensor, k: int, bound: Bound, most: int
) -> tuple[Tensor, Tensor] | None:
    """All proxies that reach a bound and their columns, (B, n) each, filled up with -inf.

    The bound is raised to that of the k-th highest maximum first, which k proxies reach. None if a
    query has more than `most`.
    """
    n_queries, n_columns = proxies_BC.shape
    n_groups = n_columns // _GROUP
    grouped = proxies_BC[:, : n_groups * _GROUP].view(n_queries, _GROUP, n_groups)
    maxima = _quick_maxima(grouped)
    if bool((reach <= torch.finfo(reach.dtype).min).any()):
        kth = maxima.topk(k, dim=1).values[:, -1]
        reach = torch.maximum(reach, _rounded_down(bound(kth), reach.dtype))
    if bool((reach < 0).any()):
        maxima = grouped.amax(dim=1)
    queries, groups = (maxima >= reach[:, None]).nonzero(as_tuple=True)
    if len(queries) > n_queries * most:
        return None
    members = torch.arange(0, n_groups * _GROUP, n_groups, device=groups.device)
    columns = groups[:, None] + members
    # `take` counts all elements, in rows of C.
    values = proxies_BC.take(queries[:, None] * n_columns + columns)
    hit, member = (values >= reach[queries][:, None]).nonzero(as_tuple=True)
    found = queries[hit], columns[hit, member], values[hit, member]
    rest = proxies_BC[:, n_groups * _GROUP :]
    late, column = (rest >= reach[:, None]).nonzero(as_tuple=True)
    if len(late):
        more = late, column + n_groups * _GROUP, rest[late, column]
        order = torch.cat([found[0], late]).argsort(stable=True)
        found = tuple(torch.cat(two)[order] for two in zip(found, more, strict=True))  # type: ignore[assignment]
    return _side_by_side(*found, n_queries, most)


def _quick_maxima(grouped: Tensor) -> Tensor:
    """(B, G) of (B, group, G): the highest value, or any value where all of a group are negative.

    As 16 bit integers bfloat16 numbers compare several times faster; negative ones in reverse.
    """
    if grouped.dtype != torch.bfloat16 or grouped.device.type != "cpu":
        return grouped.amax(dim=1)
    return grouped.view(torch.int16).amax(dim=1).view(torch.bfloat16)


def _side_by_side(
    queries: Tensor, columns: Tensor, values: Tensor, n_queries: int, most: int
) -> tuple[Tensor, Tensor] | None:
    """Values and columns of ascending queries as (B, n), filled with -inf; None beyond `most`."""
    counts = torch.bincount(queries, minlength=n_queries)
    width = int(counts.max())
    if width > most:
        return None
    place = torch.arange(len(queries), device=queries.device)
    place -= (counts.cumsum(0) - counts)[queries]
    new = values.new_full((n_queries, width), -torch.inf)
    at = torch.full((n_queries, width), -1, dtype=columns.dtype, device=columns.device)
    new[queries, place], at[queries, place] = values, columns
    return new, at


def _rounded_down(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The next value of this type that is not above."""
    near = values.to(dtype)
    lower = torch.nextafter(near, torch.full_like(near, -torch.inf))
    return torch.where(near > values, lower, near)
