"""Layer normalisation of the sentence embedding."""

from typing import ClassVar

from torch import nn

from stx_core.models.modules.module import Features, Module


class LayerNorm(Module):
    """Normalises over the embedding, with learned scale and shift.

    Args:
        dimension: width of the sentence embedding.
    """

    config_keys: ClassVar[tuple[str, ...]] = ("dimension",)

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dimension)

    def get_embedding_dimension(self) -> int:
        """Width of the sentence embedding."""
        return self.norm.normalized_shape[0]

    dimension = property(get_embedding_dimension)
    """Width of the sentence embedding."""

    def forward(self, features: Features) -> Features:
        """Replace ``sentence_embedding``, (B, D)."""
        features["sentence_embedding"] = self.norm(features["sentence_embedding"])
        return features
