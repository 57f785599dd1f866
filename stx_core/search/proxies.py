"""Numbers in the order of the scores, quick to compute for all pairs, with a bound of their error.

    dot        q.d
    cosine     q.d of rows scaled to length 1
    euclidean  2 q.d - |d|^2, which is |q|^2 - |q - d|^2
    manhattan  -|q - d|_1

The bound is the usual one for sums in any order, with fused operations or without: a sum of D
products is off by at most about D u times the sum of their sizes, u the unit roundoff (Higham 2002,
chapter 3), doubled here, with room for the scaling. It needs numbers far from overflow and from
those that hardware rounds to 0; where lengths of rows are extreme, `bounded` says so, and float64
takes over.

bfloat16 shortens both factors to q' and d', each number by no more than 2^-9 of itself, which moves
a product by at most |q||d - d'| + |q - q'||d'|, and the sum in the end. (Measured, what is lost is
three quarters of that: not worth the time to measure it.)

Q queries, D width, B queries and C corpus rows of a block.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from stx_core.machine import cpu_class
from stx_core.search.exact import check_finite

# Of sums: bfloat16 products are summed in float32.
_ROUNDOFF = {torch.bfloat16: 2.0**-24, torch.float32: 2.0**-24, torch.float64: 2.0**-53}
# Of the result, which float32 and float64 sums do not round again; a little more than half a step.
_LAST_ROUNDING = {torch.bfloat16: 1.01 * 2.0**-9, torch.float32: 0.0, torch.float64: 0.0}
# Of both factors together, relative to the product of their lengths; a little more than twice 2^-9.
_SHORTENED = {torch.bfloat16: 1.01 * 2.0**-8, torch.float32: 0.0, torch.float64: 0.0}
# How much rounding the score to float32 may move its proxy, relative to the sizes.
_FLOAT32_STEP = 2.0**-22
# With lengths in this range products neither overflow nor vanish before they matter.
_SAFE_LENGTH = 2.0**30
# Below, a call takes milliseconds either way.
_MANY_PRODUCTS = 1 << 30
# Elements that are prepared at a time: they stay in the cache between the steps.
_CACHED_ELEMENTS = 1 << 20


class Proxies:
    """Proxies of some queries with one block after the other.

    Attributes:
        dtype: what they are computed in.
        bounded: `floors` and `margins` hold for all blocks so far.
    """

    def __init__(self, queries: Tensor, similarity: str, dtype: torch.dtype) -> None:
        check_finite(queries, 0, "queries")
        self.dtype = torch.float64 if queries.dtype == torch.float64 else dtype
        self._similarity = similarity
        self._order = 1 if similarity == "manhattan" else 2  # of the norm that is a row's length
        self._width = queries.shape[1]
        self._lengths = queries.new_empty(len(queries), dtype=torch.float64)
        self._queries = torch.empty_like(queries, dtype=self.dtype)
        self._prepare(queries, self._queries, self._lengths)
        self.bounded = self._is_safe(self._lengths, queries)
        self._longest = 0.0  # of the corpus rows so far
        self._scratch = queries.new_empty(0, dtype=self.dtype)

    def of_block(self, block: Tensor, first_row: int) -> tuple[Tensor, Tensor]:
        """A block (C, D) as `between` wants it, until the next one, and its rows' lengths (C,).

        Raises:
            ValueError: a value is not finite; it names the row, counted from `first_row`.
        """
        if block.dtype == torch.float64 and self.dtype != torch.float64:
            self.bounded = False  # its values are rounded here
        if block.dtype == self.dtype and self._similarity != "cosine":
            rows, lengths = block, torch.linalg.vector_norm(block, ord=self._order, dim=1)
        else:
            if self._scratch.numel() < block.numel():
                self._scratch = self._scratch.new_empty(block.numel())
            # The same memory for each block: fresh pages would cost more than the work.
            rows = self._scratch[: block.numel()].view(block.shape)
            full = torch.float32 if self.dtype == torch.bfloat16 else self.dtype
            lengths = block.new_empty(len(block), dtype=full)
            self._prepare(block, rows, lengths)
        if not lengths.isfinite().all():
            check_finite(block, first_row, "corpus")
        self.bounded = self.bounded and self._is_safe(lengths, block)
        self._longest = max(self._longest, float(lengths.max()))
        return rows, lengths

    def _prepare(self, matrix: Tensor, rows: Tensor, lengths: Tensor) -> None:
        """Write the rows of a matrix (C, D), scaled for cosine, and the lengths that they had.

        Lengths, and quotients by them, are computed in the number format of the lengths.
        """
        step = max(1, _CACHED_ELEMENTS // max(1, self._width))
        for start in range(0, len(matrix), step):
            batch = slice(start, start + step)
            part = matrix[batch].to(lengths.dtype)
            lengths[batch] = torch.linalg.vector_norm(part, ord=self._order, dim=1)
            if self._similarity == "cosine":
                part = part / torch.where(lengths[batch] > 0, lengths[batch], 1.0)[:, None]
            rows[batch] = part

    def between(self, batch: slice, block: tuple[Tensor, Tensor], buffer: Tensor) -> Tensor:
        """Proxies (B, C) of some queries with a block, in the buffer where possible."""
        queries = self._queries[batch]
        rows, lengths = block
        if self._similarity == "manhattan":
            return torch.cdist(queries, rows, p=1.0).neg_()
        out = buffer[: len(queries) * len(rows)].view(len(queries), len(rows))
        if self._similarity == "euclidean":
            return torch.addmm(-lengths.square(), queries, rows.T, alpha=2, out=out)
        return torch.mm(queries, rows.T, out=out)

    def floors(self, scores: Tensor, batch: slice = slice(None)) -> Tensor:
        """(B,) float64, the lowest proxy that a row may have whose exact score is at least this.

        Args:
            scores: (B,) float32.
            batch: whose scores; of all queries unless given.
        """
        # What rounds to a score is no lower than the float32 below it.
        lowest = torch.nextafter(scores, torch.full_like(scores, -torch.inf)).double()
        if self._similarity == "euclidean":
            lowest = self._lengths[batch].square() - lowest.square()
        return self._rounded_down(lowest - self._error(batch))

    def margins(self, kth: Tensor, batch: slice = slice(None)) -> Tensor:
        """(B,) float64, the lowest proxy that a row among the best k may have.

        Args:
            kth: (B,) a proxy that k rows reach.
            batch: of which queries; of all unless given.
        """
        return self._rounded_down(self._rounded_down(kth.double()) - 2 * self._error(batch))

    def _rounded_down(self, values: Tensor) -> Tensor:
        # Of -inf nothing is taken away: that would not be a number.
        sizes = values.abs().clamp_max(torch.finfo(torch.float64).max)
        return values - sizes * _LAST_ROUNDING[self.dtype]

    def _error(self, batch: slice) -> Tensor:
        """(B,) float64: how far proxies may be off, with room for rounding scores to float32."""
        lengths, longest = self._lengths[batch], self._longest
        if self._similarity == "cosine":
            lengths, longest = torch.ones_like(lengths), 1.0
        sizes = {
            "dot": lengths * longest,
            "cosine": lengths,
            "euclidean": (lengths + longest).square(),
            "manhattan": lengths + longest,
        }[self._similarity]
        relative = 2 * (2 * self._width + 16) * _ROUNDOFF[self.dtype] + _FLOAT32_STEP
        error: Tensor = (relative + _SHORTENED[self.dtype]) * sizes
        return error

    def _is_safe(self, lengths: Tensor, rows: Tensor) -> bool:
        if self.dtype == torch.float64:
            return True
        safe = (lengths >= 1 / _SAFE_LENGTH) & (lengths <= _SAFE_LENGTH)
        # A length of 0 may be that of numbers whose squares are too small.
        rest = rows[~safe]
        return not rest.any()


@contextmanager
def full_precision() -> Iterator[None]:
    """Products of float32 numbers as such: users may have allowed torch to shorten them."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def quickest_dtype(queries: Tensor, n_rows: int, similarity: str) -> torch.dtype:
    """bfloat16 where the processor multiplies it by itself and there is work for it."""
    products = len(queries) * n_rows * queries.shape[1]
    if similarity not in ("dot", "cosine") or products <= _MANY_PRODUCTS:
        return torch.float32
    # On CUDA, sums of bfloat16 products may be shortened on the way, which the bound leaves out.
    if queries.device.type != "cpu" or not torch._C._get_mkldnn_enabled():
        return torch.float32
    return torch.float32 if cpu_class() == "other" else torch.bfloat16
