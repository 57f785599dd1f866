"""Rows of a block that equal earlier rows, so often that they cannot be among the best k."""

import torch
from torch import Tensor


def surplus_copies(block: Tensor, labels: Tensor | None, allowed: int) -> Tensor:
    """Find the rows that have at least `allowed` equal rows of the same label before them.

    Equal is meant bit for bit; rows are grouped by a hash and then compared.

    Args:
        block: (C, D).
        labels: (C,) int64, or None if all are the same.
        allowed: copies to keep of each vector.

    Returns:
        (C,) bool.
    """
    # Equal for equal rows: a wrapping sum of their bits by random odd weights.
    kinds = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = block.contiguous().view(kinds[block.element_size()])
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, (block.shape[1],), generator=generator) * 2 + 1
    keys = torch.zeros(len(block), dtype=torch.int64, device=block.device)
    for start in range(0, len(block), 1024):
        rows = slice(start, start + 1024)
        keys[rows] = (bits[rows].long() * weights.to(block.device)).sum(dim=1)
    if labels is not None:
        keys = keys * 31 + labels
    order = torch.argsort(keys, stable=True)
    _, group, sizes = torch.unique_consecutive(keys[order], return_inverse=True, return_counts=True)
    firsts = sizes.cumsum(0) - sizes
    rank = torch.arange(len(order), device=order.device) - firsts[group]
    late = (rank >= allowed).nonzero()[:, 0]
    surplus = torch.zeros(len(block), dtype=torch.bool, device=block.device)
    # Of different rows with equal hashes all are kept.
    row, leader = order[late], order[firsts[group[late]]]
    same = (block[row] == block[leader]).all(dim=1)
    if labels is not None:
        same &= labels[row] == labels[leader]
    surplus[row[same]] = True
    return surplus
