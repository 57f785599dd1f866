"""Names that users of Sentence Transformers import from its `util`; they live elsewhere."""

from typing import TYPE_CHECKING, Any

import torch

from stx_core.clustering import community_detection
from stx_core.fusion import reciprocal_rank_fusion, weighted_fusion
from stx_core.mining.hard_negatives import mine_hard_negatives
from stx_core.models.device import default_device
from stx_core.quantization import quantize_embeddings
from stx_core.search.bitext import bitext_mining
from stx_core.search.paraphrases import paraphrase_mining, paraphrase_mining_embeddings
from stx_core.search.semantic import semantic_search
from stx_core.search.sparse_rows import select_max_active_dims
from stx_core.similarity import (
    SimilarityFunction,
    cos_sim,
    dot_score,
    euclidean_sim,
    manhattan_sim,
    normalize_embeddings,
    pairwise_cos_sim,
    pairwise_dot_score,
    pairwise_euclidean_sim,
    pairwise_manhattan_sim,
    truncate_embeddings,
)

if TYPE_CHECKING:
    from scipy.sparse import coo_matrix

pytorch_cos_sim = cos_sim
information_retrieval = semantic_search

__all__ = [
    "SimilarityFunction",
    "batch_to_device",
    "bitext_mining",
    "community_detection",
    "cos_sim",
    "dot_score",
    "euclidean_sim",
    "get_device_name",
    "information_retrieval",
    "manhattan_sim",
    "mine_hard_negatives",
    "normalize_embeddings",
    "pairwise_cos_sim",
    "pairwise_dot_score",
    "pairwise_euclidean_sim",
    "pairwise_manhattan_sim",
    "paraphrase_mining",
    "paraphrase_mining_embeddings",
    "pytorch_cos_sim",
    "quantize_embeddings",
    "reciprocal_rank_fusion",
    "select_max_active_dims",
    "semantic_search",
    "to_scipy_coo",
    "truncate_embeddings",
    "weighted_fusion",
]


def batch_to_device(batch: dict[str, Any], target_device: torch.device | str) -> dict[str, Any]:
    """Move the tensors of a features dict to a device, in place; other values stay."""
    for name, value in batch.items():
        if isinstance(value, torch.Tensor):
            batch[name] = value.to(target_device)
    return batch


def get_device_name() -> str:
    """Name of the device that models run on by default, such as "cuda:0"."""
    return str(default_device())


def to_scipy_coo(x: torch.Tensor) -> "coo_matrix":
    """A sparse matrix of scipy, (N, V), of a COO tensor; bfloat16 becomes float32."""
    from scipy.sparse import coo_matrix

    tensor = x.coalesce().cpu()
    values = tensor.values().float() if x.dtype == torch.bfloat16 else tensor.values()
    rows, columns = tensor.indices().numpy()
    return coo_matrix((values.numpy(), (rows, columns)), shape=tuple(x.shape))
