"""Token counts to batches of bounded size: pure, no tensors."""

import numpy as np


def make_batches(
    lengths: np.ndarray, token_budget: int, max_rows: int | None = None
) -> list[np.ndarray]:
    """Group inputs of like length so that rows x longest stays within a token budget.

    Longest first, so that memory peaks in the first batch and a budget that is too large
    shows at once. Equal lengths keep their order: the same lengths always give the same batches.

    Args:
        lengths: (N,) integer, tokens per input.
        token_budget: tokens of one batch, padding counted. A longer input gets a batch of its own.
        max_rows: inputs of one batch, at most.

    Returns:
        Index arrays, int64; concatenated they are a permutation of ``range(N)``.
    """
    if token_budget < 1:
        raise ValueError(f"token_budget must be at least 1, got {token_budget}")
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"max_rows must be at least 1, got {max_rows}")
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    batches = []
    start = 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        rows = max(1, token_budget // longest)
        rows = rows if max_rows is None else min(rows, max_rows)
        batches.append(order[start : start + rows])
        start += rows
    return batches
