"""Dropout of the sentence embedding: the identity, except in training."""

from typing import ClassVar

from torch import nn

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

    @property
    def dropout(self) -> float:
        """Share of dimensions."""
        return self.dropout_layer.p

    @dropout.setter
    def dropout(self, value: float) -> None:
        self.dropout_layer = nn.Dropout(value).train(self.training)

    def forward(self, features: Features) -> Features:
        """Replace ``sentence_embedding``, (B, D)."""
        features["sentence_embedding"] = self.dropout_layer(features["sentence_embedding"])
        return features
