"""Numbers in the order of the scores, quick to compute for all pairs, with a bound of their error.

    dot        q.d
    cosine     q.d of rows scaled to length 1
    euclidean  2 q.d - |d|^2, which is |q|^2 - |q - d|^2
    manhattan  -|q - d|_1

The bound is the usual one for sums in any order, with fused operations or without: a sum of D
products is off by at most about D u times the sum of their sizes, u the unit roundoff (Higham 2002,
chapter 3), here with room for the scaling, doubled. It needs numbers far from overflow and from
numbers so small that hardware rounds them to 0; where lengths of rows are extreme, `bounded` says
so, and float64 takes over.

Q queries, D width, B queries and C corpus rows of a block.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from stx_core.search.exact import check_finite

_ROUNDOFF = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}
# With lengths in this range products neither overflow nor vanish before they matter.
_SAFE_LENGTH = 2.0**30


class Proxies:
    """Proxies of some queries with one block after the other.

    Attributes:
        dtype: what they are computed in.
        bounded: whether `error` holds for all blocks so far.
        largest: length of the longest corpus row so far; L1 for manhattan, else L2.
    """

    def __init__(self, queries: Tensor, similarity: str, dtype: torch.dtype) -> None:
        check_finite(queries, 0, "queries")
        self._similarity = similarity
        if queries.dtype == torch.float64:
            dtype = torch.float64
        self.dtype = dtype
        self._width = queries.shape[1]
        self._queries = queries.to(dtype)
        self._lengths = self._lengths_of(queries.double())
        self.largest = 0.0
        self.bounded = self._is_safe(self._lengths)
        if similarity == "cosine":
            self._queries = _scaled(self._queries, self._lengths.to(dtype))

    def of_block(self, block: Tensor, first_row: int) -> tuple[Tensor, Tensor]:
        """A block (C, D) as `between` wants it, and the lengths of its rows (C,).

        Raises:
            ValueError: a value is not finite; it names the row, counted from `first_row`.
        """
        rows = block.to(self.dtype)
        lengths = self._lengths_of(rows)
        if not lengths.isfinite().all():
            check_finite(block, first_row, "corpus")
        if block.dtype == torch.float64 and self.dtype != torch.float64:
            self.bounded = False  # its values were rounded
        self.bounded = self.bounded and self._is_safe(lengths)
        self.largest = max(self.largest, float(lengths.max()))
        if self._similarity == "cosine":
            rows = _scaled(rows, lengths)
        return rows, lengths

    def between(self, some: slice, block: tuple[Tensor, Tensor], buffer: Tensor) -> Tensor:
        """Proxies (B, C) of some queries with a block, in the buffer where possible."""
        queries = self._queries[some]
        rows, lengths = block
        if self._similarity == "manhattan":
            return torch.cdist(queries, rows, p=1.0).neg_()
        out = buffer[: len(queries) * len(rows)].view(len(queries), len(rows))
        if self._similarity == "euclidean":
            return torch.addmm(-lengths.square(), queries, rows.T, alpha=2, out=out)
        return torch.mm(queries, rows.T, out=out)

    def error(self) -> Tensor:
        """(Q,) float64: how far a proxy may be off, with room for rounding the score to float32."""
        sizes = {
            "dot": self._lengths * self.largest,
            "cosine": torch.ones_like(self._lengths),
            "euclidean": (self._lengths + self.largest).square(),
            "manhattan": self._lengths + self.largest,
        }[self._similarity]
        return 2 * (2 * self._width + 16) * _ROUNDOFF[self.dtype] * sizes + _float32_step(sizes)

    def floors(self, scores: Tensor) -> Tensor:
        """(Q,) the lowest proxy that a row may have whose exact score is at least this one.

        Args:
            scores: (Q,) float32.
        """
        # What rounds to a score is no lower than the float32 below it.
        lowest = torch.nextafter(scores, torch.full_like(scores, -torch.inf)).double()
        if self._similarity == "euclidean":
            lowest = self._lengths.square() - lowest.square()
        return lowest - self.error()

    def _lengths_of(self, rows: Tensor) -> Tensor:
        order = 1 if self._similarity == "manhattan" else 2
        return torch.linalg.vector_norm(rows, ord=order, dim=1)

    def _is_safe(self, lengths: Tensor) -> bool:
        if self.dtype == torch.float64 or not len(lengths):
            return True
        some = lengths[lengths > 0]
        return not len(some) or bool(
            (some.min() >= 1 / _SAFE_LENGTH) & (some.max() <= _SAFE_LENGTH)
        )


def _scaled(rows: Tensor, lengths: Tensor) -> Tensor:
    return rows / torch.where(lengths > 0, lengths, 1.0)[:, None]


def _float32_step(sizes: Tensor) -> Tensor:
    """How much rounding to float32 may move numbers of these sizes."""
    return sizes * 2.0**-22


@contextmanager
def full_precision() -> Iterator[None]:
    """Products of float32 numbers as such: users may have allowed torch to shorten them."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
