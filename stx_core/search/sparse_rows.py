"""Sparse embeddings as compressed rows: batches in, one table in input order out.

To import this loads no torch: readers and writers of rankings know the rows, and no model.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from stx_core.choices import check_count

if TYPE_CHECKING:
    import torch

# B inputs of a batch, N of a call, V dimensions, Z non-zero values


class SparseRows(NamedTuple):
    """N sparse vectors, row after row (CSR), such as `SparseEncoder` gives.

    Attributes:
        offsets: (N + 1,) int64; row i owns entries ``offsets[i]:offsets[i + 1]``.
        indices: (Z,) int32, ascending within a row.
        values: (Z,) float32, none of them zero.
    """

    offsets: np.ndarray
    indices: np.ndarray
    values: np.ndarray


def keep_top(embeddings_BV: "torch.Tensor", k: int) -> "torch.Tensor":
    """Keep the k values of each row that are largest in absolute terms, zero elsewhere.

    Returns:
        (B, V) dense, a new tensor. Which of several equal values stay is not defined.
    """
    import torch

    dense_BV = embeddings_BV.to_dense() if embeddings_BV.is_sparse else embeddings_BV
    top = dense_BV.abs().topk(min(k, dense_BV.shape[1]), dim=1).indices
    return torch.zeros_like(dense_BV).scatter_(1, top, dense_BV.gather(1, top))


def compress(embeddings_BV: "torch.Tensor") -> SparseRows:
    """Non-zero values of a batch, (B, V) dense or coalesced COO, as float32 on the CPU."""
    import torch

    if embeddings_BV.is_sparse:
        values = embeddings_BV.values()
        non_zero = values != 0
        rows, columns = embeddings_BV.indices()[:, non_zero]
        values = values[non_zero]
    else:
        rows, columns = embeddings_BV.nonzero(as_tuple=True)
        values = embeddings_BV[rows, columns]
    counts = torch.bincount(rows, minlength=len(embeddings_BV)).cpu().numpy()
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return SparseRows(offsets, columns.int().cpu().numpy(), values.float().cpu().numpy())


def in_order(parts: Sequence[tuple[np.ndarray, SparseRows]], n_rows: int) -> SparseRows:
    """Put the rows of all batches where they belong.

    Args:
        parts: row numbers (B,) of a batch, and its rows.
        n_rows: N; rows that no batch names stay empty.
    """
    counts = np.zeros(n_rows, np.int64)
    for rows, part in parts:
        counts[rows] = np.diff(part.offsets)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    indices = np.empty(offsets[-1], np.int32)
    values = np.empty(offsets[-1], np.float32)
    for rows, part in parts:
        shifts = np.repeat(offsets[rows] - part.offsets[:-1], np.diff(part.offsets))
        where = shifts + np.arange(len(part.values))
        indices[where] = part.indices
        values[where] = part.values
    return SparseRows(offsets, indices, values)


def to_coo(rows: SparseRows, width: int, dtype: "torch.dtype") -> "torch.Tensor":
    """A coalesced COO tensor (N, width) on the CPU."""
    import torch

    n_rows = len(rows.offsets) - 1
    numbers = np.repeat(np.arange(n_rows), np.diff(rows.offsets))
    return torch.sparse_coo_tensor(
        torch.from_numpy(np.stack([numbers, rows.indices.astype(np.int64)])),
        torch.tensor(rows.values, dtype=dtype),
        (n_rows, width),
        is_coalesced=True,
        check_invariants=False,
    )


def select_max_active_dims(
    embeddings: "np.ndarray | torch.Tensor", max_active_dims: int | None
) -> "np.ndarray | torch.Tensor":
    """Keep the values of each row that are largest in absolute terms, zero elsewhere.

    Args:
        embeddings: (N, V) or (V,), dense or COO; they are not changed.
        max_active_dims: how many to keep; None keeps all.

    Returns:
        A new dense tensor of the same shape; for None the embeddings themselves. Which of several
        equal values stay is not defined.

    Raises:
        ValueError: `max_active_dims` is below 1.
    """
    if max_active_dims is None:
        return embeddings
    check_count("max_active_dims", max_active_dims)
    import torch

    tensor = torch.as_tensor(embeddings)
    if tensor.numel() == 0:
        return tensor.to_dense()
    return keep_top(tensor[None] if tensor.ndim == 1 else tensor, max_active_dims).view(
        tensor.shape
    )
