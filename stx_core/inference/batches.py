"""Token counts to batches of bounded size: pure, no tensors."""

import numpy as np


def make_batches(
    lengths: np.ndarray, token_budget: int, max_rows: int | None = None, *, packed: bool = False
) -> list[np.ndarray]:
    """Group inputs of like length so that a batch stays within a token budget.

    Longest first, so that memory peaks in the first batch and a budget that is too large
    shows at once. Equal lengths keep their order: the same lengths always give the same batches.

    Args:
        lengths: (N,) integer, tokens per input.
        token_budget: tokens of one batch: rows x longest, or the sum when packed. A longer input
            gets a batch of its own.
        max_rows: inputs of one batch, at most.
        packed: batches have no padding.

    Returns:
        Index arrays, int64; concatenated they are a permutation of ``range(N)``.
    """
    if token_budget < 1:
        raise ValueError(f"token_budget must be at least 1, got {token_budget}")
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"max_rows must be at least 1, got {max_rows}")
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    ends = np.cumsum(np.maximum(lengths[order], 1))
    batches = []
    start = 0
    while start < len(order):
        if packed:
            before = ends[start - 1] if start else 0
            rows = int(np.searchsorted(ends, before + token_budget, side="right")) - start
        else:
            rows = token_budget // max(1, int(lengths[order[start]]))
        rows = max(1, rows if max_rows is None else min(rows, max_rows))
        batches.append(order[start : start + rows])
        start += rows
    return batches
