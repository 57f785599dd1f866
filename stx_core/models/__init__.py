"""Models and their modules; each name is imported on first use."""

from importlib import import_module
from typing import Any

_HOME = {
    "SentenceTransformer": "sentence_transformer",
    "SparseEncoder": "sparse_encoder",
    "CrossEncoder": "cross_encoder",
    "Transformer": "modules.transformer",
    "MLMTransformer": "modules.transformer",
    "Pooling": "modules.pooling",
    "Normalize": "modules.normalize",
    "Dense": "modules.dense",
    "Router": "modules.router",
    "Asym": "modules.router",
    "StaticEmbedding": "modules.static_embedding",
    "WordEmbeddings": "modules.word_embeddings",
    "WordWeights": "modules.word_weights",
    "BoW": "modules.bow",
    "CNN": "modules.cnn",
    "LSTM": "modules.lstm",
    "LayerNorm": "modules.layer_norm",
    "Dropout": "modules.dropout",
    "WeightedLayerPooling": "modules.weighted_layer_pooling",
    "SpladePooling": "modules.splade_pooling",
    "SparseAutoEncoder": "modules.sparse_auto_encoder",
    "SparseStaticEmbedding": "modules.sparse_static_embedding",
    "LogitScore": "modules.logit_score",
    "Module": "modules.module",
    "InputModule": "modules.module",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:  # noqa: ANN401  (PEP 562: any public name)
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
