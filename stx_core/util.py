"""Names that users of Sentence Transformers import from its `util`; they live elsewhere."""

from typing import Any

import torch

from stx_core.clustering import community_detection
from stx_core.fusion import reciprocal_rank_fusion, weighted_fusion
from stx_core.mining.hard_negatives import mine_hard_negatives
from stx_core.quantization import quantize_embeddings
from stx_core.search.bitext import bitext_mining
from stx_core.search.paraphrases import paraphrase_mining, paraphrase_mining_embeddings
from stx_core.search.semantic import semantic_search
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

pytorch_cos_sim = cos_sim

__all__ = [
    "SimilarityFunction",
    "batch_to_device",
    "bitext_mining",
    "community_detection",
    "cos_sim",
    "dot_score",
    "euclidean_sim",
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
    "semantic_search",
    "truncate_embeddings",
    "weighted_fusion",
]


def batch_to_device(batch: dict[str, Any], target_device: torch.device | str) -> dict[str, Any]:
    """Move the tensors of a features dict to a device, in place; other values stay."""
    for name, value in batch.items():
        if isinstance(value, torch.Tensor):
            batch[name] = value.to(target_device)
    return batch
