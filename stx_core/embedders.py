"""Models as the plug-ins that topic and keyword programs ask for."""

from typing import Any

import numpy as np

from stx_core.models.text_encoder import TextEncoder


def bertopic_embedder(model: TextEncoder) -> Any:  # noqa: ANN401  (a class of BERTopic)
    """A model for ``BERTopic(embedding_model=...)``, whatever else is installed.

    Raises:
        ImportError: BERTopic is not installed.
    """
    from bertopic.backend import BaseEmbedder

    return _embedder(BaseEmbedder, model)


def keybert_embedder(model: TextEncoder) -> Any:  # noqa: ANN401  (a class of KeyBERT)
    """A model for ``KeyBERT(model=...)``, whatever else is installed.

    Raises:
        ImportError: KeyBERT is not installed.
    """
    from keybert.backend import BaseEmbedder

    return _embedder(BaseEmbedder, model)


def _embedder(base: Any, model: TextEncoder) -> Any:  # noqa: ANN401
    class Embedder(base):  # type: ignore[misc]
        def embed(self, documents: Any, verbose: bool = False) -> np.ndarray:  # noqa: ANN401
            """(N, D) float32; documents may come as any sequence, numpy arrays too."""
            values = self.embedding_model.encode(list(documents), show_progress_bar=verbose)
            return np.asarray(values, np.float32)

    return Embedder(embedding_model=model)
