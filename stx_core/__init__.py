"""Models and algorithms of stx. A name is imported on first use, so importing stx_core is quick."""

from importlib import import_module
from typing import Any

_HOME = {
    "SentenceTransformer": "stx_core.models.sentence_transformer",
    "SparseEncoder": "stx_core.models.sparse_encoder",
    "CrossEncoder": "stx_core.models.cross_encoder",
    "as_sentence_transformers": "stx_core.sentence_transformers",
    "SimilarityFunction": "stx_core.similarity",
    "cos_sim": "stx_core.similarity",
    "dot_score": "stx_core.similarity",
    "euclidean_sim": "stx_core.similarity",
    "manhattan_sim": "stx_core.similarity",
    "pairwise_cos_sim": "stx_core.similarity",
    "pairwise_dot_score": "stx_core.similarity",
    "pairwise_euclidean_sim": "stx_core.similarity",
    "pairwise_manhattan_sim": "stx_core.similarity",
    "normalize_embeddings": "stx_core.similarity",
    "truncate_embeddings": "stx_core.similarity",
    "quantize_embeddings": "stx_core.quantization",
    "dense_top_k": "stx_core.search.dense",
    "sparse_top_k": "stx_core.search.sparse",
    "merge_top_k": "stx_core.search.results",
    "semantic_search": "stx_core.search.semantic",
    "paraphrase_mining": "stx_core.search.paraphrases",
    "paraphrase_mining_embeddings": "stx_core.search.paraphrases",
    "bitext_mining": "stx_core.search.bitext",
    "community_detection": "stx_core.clustering",
    "reciprocal_rank_fusion": "stx_core.fusion",
    "weighted_fusion": "stx_core.fusion",
    "mine_hard_negatives": "stx_core.mining.hard_negatives",
    "MiningRules": "stx_core.mining.rules",
    "StxError": "stx_core.errors",
    "SpecError": "stx_core.errors",
    "InputError": "stx_core.errors",
    "ModelError": "stx_core.errors",
    "RunActive": "stx_core.errors",
    "Stopped": "stx_core.errors",
    "Pinned": "stx_core.errors",
    "QualityRefused": "stx_core.errors",
    "StoreError": "stx_core.errors",
    "CommitConflict": "stx_core.errors",
    "Fenced": "stx_core.errors",
    "DamagedFile": "stx_core.errors",
    "SnapshotExpired": "stx_core.errors",
}
_SUBMODULES = ("models", "util")

__all__ = [*_HOME, *_SUBMODULES]


def __getattr__(name: str) -> Any:  # noqa: ANN401  (PEP 562: any public name)
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
