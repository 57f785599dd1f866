"""Similarity of embeddings: cosine, dot product, and negative Euclidean or Manhattan distance.

Shapes: N and M rows, D width. Inputs may be (nested) lists, numpy arrays, torch tensors dense or
sparse, or lists of one-dimensional arrays or tensors. Results are dense torch tensors. Higher means
more alike, always: distances are negated.
"""

import warnings
from collections.abc import Callable, Sequence
from enum import Enum
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Embeddings = Sequence[Any] | np.ndarray | Tensor
Array = TypeVar("Array", np.ndarray, Tensor)

# Norms below this count as this, so that a zero vector stays zero; torch's own value.
_SMALLEST_NORM = 1e-12


def cos_sim(a: Embeddings, b: Embeddings) -> Tensor:
    """Cosine of every row of `a` (N, D) with every row of `b` (M, D): (N, M). Zero rows give 0."""
    return dot_score(normalize_embeddings(as_matrix(a)), normalize_embeddings(as_matrix(b)))


def dot_score(a: Embeddings, b: Embeddings) -> Tensor:
    """Dot product of every row of `a` (N, D) with every row of `b` (M, D): (N, M)."""
    x, y = as_matrices(a, b)
    if x.is_sparse and y.is_sparse:
        _hear_beta_warning()
    return torch.mm(x, y.t()).to_dense()


def euclidean_sim(a: Embeddings, b: Embeddings) -> Tensor:
    """Negative Euclidean distance of every row of `a` to every row of `b`: (N, M), at most 0."""
    return -torch.cdist(*_as_dense_matrices(a, b), p=2.0)


def manhattan_sim(a: Embeddings, b: Embeddings) -> Tensor:
    """Negative sum of absolute differences, every row of `a` to every row of `b`: (N, M)."""
    return -torch.cdist(*_as_dense_matrices(a, b), p=1.0)


def pairwise_cos_sim(a: Embeddings, b: Embeddings) -> Tensor:
    """Cosine of row i of `a` with row i of `b`: (N,)."""
    x, y = _as_pairs(a, b)
    return pairwise_dot_score(normalize_embeddings(x), normalize_embeddings(y))


def pairwise_dot_score(a: Embeddings, b: Embeddings) -> Tensor:
    """Dot product of row i of `a` with row i of `b`: (N,)."""
    x, y = _as_pairs(a, b)
    return (x * y).sum(dim=-1).to_dense()


def pairwise_euclidean_sim(a: Embeddings, b: Embeddings) -> Tensor:
    """Negative Euclidean distance of row i of `a` to row i of `b`: (N,)."""
    x, y = _as_pairs(a, b)
    return -(x - y).square().sum(dim=-1).to_dense().sqrt()


def pairwise_manhattan_sim(a: Embeddings, b: Embeddings) -> Tensor:
    """Negative sum of absolute differences of row i of `a` and row i of `b`: (N,)."""
    x, y = _as_pairs(a, b)
    return -(x - y).abs().sum(dim=-1).to_dense()


def normalize_embeddings(embeddings: Array) -> Array:
    """Scale rows to unit L2 length over the last axis; zero rows stay zero.

    Shape, type and layout stay, except that sparse tensors come back as coalesced COO.

    Args:
        embeddings: (N, D) or (D,) floats; a torch tensor may be sparse.
    """
    if isinstance(embeddings, np.ndarray):
        return normalize_embeddings(torch.tensor(embeddings)).numpy()
    if embeddings.layout != torch.strided:
        return _normalize_sparse(embeddings)
    return torch.nn.functional.normalize(embeddings, p=2, dim=-1, eps=_SMALLEST_NORM)


def truncate_embeddings(embeddings: Array, truncate_dim: int | None) -> Array:
    """The first `truncate_dim` values of each row, not normalised again; all of them for None."""
    return embeddings[..., :truncate_dim]


class SimilarityFunction(Enum):
    """The similarity functions a model folder can name."""

    COSINE = "cosine"
    DOT_PRODUCT = "dot"
    DOT = "dot"  # both names lead to one member
    EUCLIDEAN = "euclidean"
    MANHATTAN = "manhattan"

    @staticmethod
    def possible_values() -> list[str]:
        """The names, as they stand in a model folder."""
        return [member.value for member in SimilarityFunction]

    @staticmethod
    def to_similarity_fn(
        similarity_function: "str | SimilarityFunction",
    ) -> Callable[[Embeddings, Embeddings], Tensor]:
        """The function that compares every row of one side with every row of the other.

        Raises:
            ValueError: there is no such similarity.
        """
        return _FUNCTIONS[named_similarity(similarity_function)][0]

    @staticmethod
    def to_similarity_pairwise_fn(
        similarity_function: "str | SimilarityFunction",
    ) -> Callable[[Embeddings, Embeddings], Tensor]:
        """The function that compares row i of one side with row i of the other.

        Raises:
            ValueError: there is no such similarity.
        """
        return _FUNCTIONS[named_similarity(similarity_function)][1]


_FUNCTIONS = {
    SimilarityFunction.COSINE: (cos_sim, pairwise_cos_sim),
    SimilarityFunction.DOT_PRODUCT: (dot_score, pairwise_dot_score),
    SimilarityFunction.EUCLIDEAN: (euclidean_sim, pairwise_euclidean_sim),
    SimilarityFunction.MANHATTAN: (manhattan_sim, pairwise_manhattan_sim),
}


def named_similarity(name: str | SimilarityFunction) -> SimilarityFunction:
    """The similarity of that name.

    Raises:
        ValueError: there is none; it names those there are.
    """
    try:
        return SimilarityFunction(name)
    except ValueError:
        names = ", ".join(SimilarityFunction.possible_values())
        raise ValueError(
            f"no similarity function is called {name!r}; choose one of {names}"
        ) from None


def _as_tensor(embeddings: Embeddings) -> Tensor:
    """A floating tensor of at least single precision, sparse ones as coalesced COO.

    Half precision would round scores of near neighbours to ties, and integers would wrap around.
    """
    if isinstance(embeddings, Tensor):
        tensor = embeddings
    elif len(embeddings) and isinstance(embeddings[0], Tensor):
        tensor = torch.stack(list(embeddings))
    else:
        # Through numpy: torch reads a list of arrays one element at a time. It views the array's
        # memory where it can, and refuses read-only or reversed memory.
        of_arrays = len(embeddings) > 0 and isinstance(embeddings[0], np.ndarray)
        kept_dtype = isinstance(embeddings, np.ndarray) or of_arrays
        array = np.asarray(embeddings, None if kept_dtype else np.float32)
        tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    if tensor.layout != torch.strided:
        tensor = tensor.to_sparse().coalesce()
    if not tensor.is_floating_point() or torch.finfo(tensor.dtype).bits < 32:
        tensor = tensor.to(torch.float32)
    return tensor


@cache
def _hear_beta_warning() -> None:
    """Spend, unseen, the warning that torch gives once per process: its CSR tensors are beta.

    The product of two sparse matrices makes such tensors inside; users can do nothing about it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.eye(1).to_sparse_csr()


def as_matrix(embeddings: Embeddings) -> Tensor:
    """A floating (N, D), N = 1 for one row alone: dense or coalesced COO, no half precision.

    What embedding no texts gives, of shape (0,), is (0, 0): no rows.

    Raises:
        ValueError: there are more than two axes, or none.
    """
    tensor = _as_tensor(embeddings)
    if tensor.dim() not in (1, 2):
        raise ValueError(
            f"embeddings must be a matrix, one row each, or one vector; got shape "
            f"{tuple(tensor.shape)}"
        )
    if tensor.dim() == 2:
        return tensor
    if tensor.numel() == 0 and not tensor.is_sparse:
        return tensor.unsqueeze(0)[:0]
    if tensor.numel() == 0:
        empty = torch.zeros((0, tensor.shape[-1]), dtype=tensor.dtype, device=tensor.device)
        return empty.to_sparse().coalesce()
    matrix = tensor.unsqueeze(0)
    return matrix.coalesce() if matrix.is_sparse else matrix


def as_matrices(a: Embeddings, b: Embeddings) -> tuple[Tensor, Tensor]:
    """(N, D) and (M, D) of one dtype; a side without rows has the width of the other."""
    x, y = as_matrix(a), as_matrix(b)
    if len(x) == 0 and x.shape[1] == 0:
        x = x.to_dense().new_zeros((0, y.shape[1]))
    if len(y) == 0 and y.shape[1] == 0:
        y = y.to_dense().new_zeros((0, x.shape[1]))
    dtype = torch.promote_types(x.dtype, y.dtype)
    return x.to(dtype), y.to(dtype)


def _as_dense_matrices(a: Embeddings, b: Embeddings) -> tuple[Tensor, Tensor]:
    """Dense (N, C), (M, C). Of sparse inputs only the C columns that either side uses."""
    x, y = as_matrices(a, b)
    if not (x.is_sparse and y.is_sparse):
        return x.to_dense(), y.to_dense()
    columns = torch.unique(torch.cat([x.indices()[1], y.indices()[1]]))
    sides = []
    for matrix in (x, y):
        rows, used = matrix.indices()
        dense = matrix.values().new_zeros(matrix.shape[0], len(columns))
        dense[rows, torch.searchsorted(columns, used)] = matrix.values()
        sides.append(dense)
    return sides[0], sides[1]


def _as_pairs(a: Embeddings, b: Embeddings) -> tuple[Tensor, Tensor]:
    x, y = _as_tensor(a), _as_tensor(b)
    if x.shape != y.shape:
        raise ValueError(
            f"pairwise similarity needs equal shapes, got {tuple(x.shape)} and "
            f"{tuple(y.shape)}; compare all with all by the function without 'pairwise_'"
        )
    if x.dim() == 1 and x.numel() == 0:
        return as_matrices(x.to_dense(), y.to_dense())
    if x.is_sparse != y.is_sparse:
        return x.to_dense(), y.to_dense()
    return x, y


def _normalize_sparse(embeddings: Tensor) -> Tensor:
    matrix = embeddings.to_sparse().coalesce()
    values = matrix.values().float()
    # A sparse vector has one row; of a matrix all axes but the last say which row.
    row_shape = matrix.shape[:-1]
    rows = torch.zeros_like(matrix.indices()[0])
    for axis, size in enumerate(row_shape):
        rows = rows * size + matrix.indices()[axis]
    squares = values.new_zeros(row_shape.numel()).index_add(0, rows, values.square())
    scaled = values / squares.sqrt().clamp_min(_SMALLEST_NORM)[rows]
    return torch.sparse_coo_tensor(
        matrix.indices(),
        scaled.to(matrix.dtype),
        matrix.shape,
        is_coalesced=True,
        check_invariants=False,  # the indices are those of a valid tensor
    )
