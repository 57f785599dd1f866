"""Weighted mean of the backbone's layers."""

from typing import ClassVar

import torch
from torch import nn

from stx_core.errors import ModelError
from stx_core.models.modules.module import Features, Module
from stx_core.models.older_names import older_names


class WeightedLayerPooling(Module):
    """Averages the token embeddings of the upper layers with one learned weight per layer.

    Args:
        embedding_dimension: width of the token embeddings.
        num_hidden_layers: layers of the backbone, the embedding layer not counted.
        layer_start: first layer that counts; 0 is the embedding layer.
        layer_weights: one for each layer that counts, to start from; default: ones.
    """

    config_keys: ClassVar[tuple[str, ...]] = (
        "embedding_dimension",
        "layer_start",
        "num_hidden_layers",
    )
    # The name before 5.4.
    config_key_renames: ClassVar[dict[str, str]] = {
        "word_embedding_dimension": "embedding_dimension"
    }

    @older_names(word_embedding_dimension="embedding_dimension")
    def __init__(
        self,
        embedding_dimension: int,
        num_hidden_layers: int = 12,
        layer_start: int = 4,
        layer_weights: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.embedding_dimension = embedding_dimension
        self._layer_start = layer_start
        n_layers = num_hidden_layers + 1 - layer_start
        given = torch.ones(n_layers) if layer_weights is None else layer_weights.detach().clone()
        if given.shape != (n_layers,):
            raise ValueError(f"layer_weights must be {n_layers} numbers, got {tuple(given.shape)}")
        self.layer_weights = nn.Parameter(given.float())

    @property
    def num_hidden_layers(self) -> int:
        """Layers of the backbone, the embedding layer not counted."""
        return len(self.layer_weights) - 1 + self._layer_start

    @property
    def layer_start(self) -> int:
        """First layer that counts. Layers keep their weights when it changes, new ones have 1."""
        return self._layer_start

    @layer_start.setter
    def layer_start(self, value: int) -> None:
        if not 0 <= value <= self.num_hidden_layers:
            raise ValueError(f"layer_start must be in 0 to {self.num_hidden_layers}, got {value}")
        weights = self.layer_weights.detach()
        added = weights.new_ones(max(0, self._layer_start - value))
        remaining = weights[max(0, value - self._layer_start) :]
        trained = self.layer_weights.requires_grad
        self.layer_weights = nn.Parameter(torch.cat([added, remaining]), requires_grad=trained)
        self._layer_start = value

    def get_embedding_dimension(self) -> int:
        """Width of the token embeddings."""
        return self.embedding_dimension

    def forward(self, features: Features) -> Features:
        """Replace ``token_embeddings`` (B, L, D) by the mean over ``all_layer_embeddings``.

        Raises:
            ModelError: the backbone gave no hidden states. The reference then leaves this module
                out without a word.
        """
        layers = features.get("all_layer_embeddings")
        if layers is None:
            raise ModelError(
                "WeightedLayerPooling needs the hidden states of all layers: "
                'load the model with config_kwargs={"output_hidden_states": True}'
            )
        # K layers that count, B inputs, L tokens, D width
        stacked_KBLD = torch.stack(list(layers)[self.layer_start :])
        weights_K = self.layer_weights / self.layer_weights.sum()
        features["token_embeddings"] = torch.einsum("kbld,k->bld", stacked_KBLD, weights_K)
        return features
