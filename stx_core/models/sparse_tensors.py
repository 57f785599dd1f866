"""Looking into sparse embeddings: how sparse, which tokens, what two of them share."""

from collections.abc import Callable

import torch
from torch import Tensor

# N embeddings, V dimensions; each tensor may be dense or COO


def sparsity(embeddings: Tensor) -> dict[str, float]:
    """Number and share of active dimensions, for one embedding (V,) or as a mean over (N, V).

    Returns:
        ``active_dims`` and ``sparsity_ratio`` (the share of zeros), 0 and 1 for no embeddings. The
        same numbers under the names of pre-releases: ``row_non_zero_mean``, ``row_sparsity_mean``.
    """
    matrix = _as_matrix(embeddings, "embeddings")
    n_rows, width = matrix.shape
    active = _non_zero(matrix)[1].numel() / n_rows if n_rows and width else 0.0
    ratio = 1.0 - active / width if n_rows and width else 1.0
    return {
        "active_dims": active,
        "sparsity_ratio": ratio,
        "row_non_zero_mean": active,
        "row_sparsity_mean": ratio,
    }


def decode(
    embeddings: Tensor, to_tokens: Callable[[list[int]], list[str]], top_k: int | None
) -> list[list[tuple[str, float]]]:
    """Active dimensions as (token, weight), heaviest first, per row of (N, V) or for one (V,).

    Args:
        embeddings: sparse embeddings over a vocabulary.
        to_tokens: turns vocabulary ids into tokens.
        top_k: tokens per row at most; None for all.
    """
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    matrix = _as_matrix(embeddings, "embeddings")
    if embeddings.numel() == 0:
        return [[] for _ in range(len(matrix))]
    (rows, columns), values = _non_zero(matrix)
    counts = torch.bincount(rows, minlength=len(matrix)).tolist()
    decoded = []
    for ids, weights in zip(torch.split(columns, counts), torch.split(values, counts), strict=True):
        order = weights.argsort(descending=True, stable=True)[:top_k]
        tokens = to_tokens(ids[order].tolist())
        decoded.append(list(zip(tokens, weights[order].tolist(), strict=True)))
    return decoded


def intersection(embeddings_1: Tensor, embeddings_2: Tensor) -> Tensor:
    """Products of the dimensions in which both embeddings are active, where positive.

    Args:
        embeddings_1: (V,).
        embeddings_2: (V,) or (N, V); of shape (0,), as of no texts, there is nothing in common.

    Returns:
        COO, coalesced, of the shape of `embeddings_2`.
    """
    if embeddings_1.ndim != 1:
        raise ValueError(
            f"the first embedding must have one axis, got shape {tuple(embeddings_1.shape)}"
        )
    matrix = _as_matrix(embeddings_2, "the second embeddings")
    if embeddings_2.numel() == 0:
        return embeddings_2.to_sparse().coalesce()
    if matrix.shape[1] != embeddings_1.shape[0]:
        raise ValueError(
            f"the embeddings have {embeddings_1.shape[0]} and {matrix.shape[1]} dimensions: "
            f"they must come from the same model"
        )
    indices, values = _non_zero(matrix)
    products = values * embeddings_1.to_dense()[indices[1]]
    positive = products > 0
    return torch.sparse_coo_tensor(
        indices[matrix.ndim - embeddings_2.ndim :, positive],
        products[positive],
        embeddings_2.shape,
        is_coalesced=True,
        check_invariants=False,
    )


def _as_matrix(embeddings: Tensor, name: str) -> Tensor:
    if not isinstance(embeddings, Tensor):
        raise TypeError(f"{name} must be a torch tensor, got {type(embeddings).__name__}")
    if embeddings.ndim not in (1, 2):
        raise ValueError(f"{name} must have one or two axes, got shape {tuple(embeddings.shape)}")
    return embeddings if embeddings.ndim == 2 else embeddings.unsqueeze(0)


def _non_zero(matrix_NV: Tensor) -> tuple[Tensor, Tensor]:
    """Indices (2, Z) in row order, and values (Z,), none of them zero."""
    sparse = (matrix_NV if matrix_NV.is_sparse else matrix_NV.to_sparse()).coalesce()
    non_zero = sparse.values() != 0
    return sparse.indices()[:, non_zero], sparse.values()[non_zero]
