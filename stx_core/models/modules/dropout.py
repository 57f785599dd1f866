"""Dropout of the sentence embedding: the identity, except in training."""

from typing import ClassVar

from torch import nn

from stx_core.models.alias import Alias
from stx_core.models.modules.module import Features, Module


class Dropout(Module):
    """Zeroes random dimensions in training and does nothing at inference.

    Args:
        dropout: share of dimensions.
    """

    config_keys: ClassVar[tuple[str, ...]] = ("dropout",)

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.dropout_layer = nn.Dropout(dropout)

    dropout = Alias[float]("dropout_layer.p", settable=True)
    """Share of dimensions."""

    def forward(self, features: Features) -> Features:
        """Replace ``sentence_embedding``, (B, D)."""
        features["sentence_embedding"] = self.dropout_layer(features["sentence_embedding"])
        return features
