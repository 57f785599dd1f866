"""Models and algorithms of stx. A name is imported on first use, so importing stx_core is quick."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stx_core.clustering import community_detection as community_detection
    from stx_core.errors import CommitConflict as CommitConflict
    from stx_core.errors import DamagedFile as DamagedFile
    from stx_core.errors import Fenced as Fenced
    from stx_core.errors import InputError as InputError
    from stx_core.errors import ModelError as ModelError
    from stx_core.errors import Pinned as Pinned
    from stx_core.errors import QualityRefused as QualityRefused
    from stx_core.errors import RunActive as RunActive
    from stx_core.errors import SnapshotExpired as SnapshotExpired
    from stx_core.errors import SpecError as SpecError
    from stx_core.errors import Stopped as Stopped
    from stx_core.errors import StoreError as StoreError
    from stx_core.errors import StxError as StxError
    from stx_core.fusion import reciprocal_rank_fusion as reciprocal_rank_fusion
    from stx_core.fusion import weighted_fusion as weighted_fusion
    from stx_core.mining.hard_negatives import mine_hard_negatives as mine_hard_negatives
    from stx_core.mining.rules import MiningRules as MiningRules
    from stx_core.models.cross_encoder import CrossEncoder as CrossEncoder
    from stx_core.models.sentence_transformer import SentenceTransformer as SentenceTransformer
    from stx_core.models.sparse_encoder import SparseEncoder as SparseEncoder
    from stx_core.quantization import quantize_embeddings as quantize_embeddings
    from stx_core.search.bitext import bitext_mining as bitext_mining
    from stx_core.search.dense import dense_top_k as dense_top_k
    from stx_core.search.paraphrases import paraphrase_mining as paraphrase_mining
    from stx_core.search.paraphrases import (
        paraphrase_mining_embeddings as paraphrase_mining_embeddings,
    )
    from stx_core.search.results import merge_top_k as merge_top_k
    from stx_core.search.semantic import semantic_search as semantic_search
    from stx_core.search.sparse import sparse_top_k as sparse_top_k
    from stx_core.sentence_transformers import as_sentence_transformers as as_sentence_transformers
    from stx_core.similarity import SimilarityFunction as SimilarityFunction
    from stx_core.similarity import cos_sim as cos_sim
    from stx_core.similarity import dot_score as dot_score
    from stx_core.similarity import euclidean_sim as euclidean_sim
    from stx_core.similarity import manhattan_sim as manhattan_sim
    from stx_core.similarity import normalize_embeddings as normalize_embeddings
    from stx_core.similarity import pairwise_cos_sim as pairwise_cos_sim
    from stx_core.similarity import pairwise_dot_score as pairwise_dot_score
    from stx_core.similarity import pairwise_euclidean_sim as pairwise_euclidean_sim
    from stx_core.similarity import pairwise_manhattan_sim as pairwise_manhattan_sim
    from stx_core.similarity import truncate_embeddings as truncate_embeddings
    from stx_core.store.snapshot import open_snapshot as open_snapshot

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
    "open_snapshot": "stx_core.store.snapshot",
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
