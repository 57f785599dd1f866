"""Sparse autoencoder: a dense embedding to a few active dimensions out of many."""

from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import nn
from torch.nn import functional

from stx_core.errors import ModelError
from stx_core.models.alias import Alias
from stx_core.models.folder import load_weights, save_weights, write_json
from stx_core.models.modules.module import Features, LoadOptions, Module

# The decoder is the encoder transposed: one matrix under two names. Files hold the second, or both.
_ENCODER, _TIED = "encoder.weight", "decoder.linear.weight"
_EPSILON = 1e-5


class SparseAutoEncoder(Module):
    """The encoding half of a sparse autoencoder (CSR, arXiv 2503.01776).

    relu(top-k(W (x - pre_bias) + latent_bias)). The training settings are kept for saving.

    Args:
        input_dim: width of the incoming embedding.
        hidden_dim: width of the sparse one.
        k: active dimensions at most.
        k_aux: active dimensions of the auxiliary loss.
        normalize: bring the input to mean 0 and standard deviation 1 first.
        dead_threshold: steps without activation after which training calls a dimension dead.
    """

    config_keys: ClassVar[tuple[str, ...]] = (
        "input_dim",
        "hidden_dim",
        "k",
        "k_aux",
        "normalize",
        "dead_threshold",
    )

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int = 512,
        k: int = 8,
        k_aux: int = 512,
        normalize: bool = False,
        dead_threshold: int = 30,
    ) -> None:
        super().__init__()
        self.k = k
        self.k_aux = k_aux
        self.normalize = normalize
        self.dead_threshold = dead_threshold
        self.encoder = nn.Linear(input_dim, hidden_dim, bias=False)
        self.pre_bias = nn.Parameter(torch.zeros(input_dim))
        self.latent_bias = nn.Parameter(torch.zeros(hidden_dim))
        self.register_buffer("stats_last_nonzero", torch.zeros(hidden_dim, dtype=torch.long))

    input_dim = Alias[int]("encoder.in_features")
    """Width of the incoming embedding."""

    hidden_dim = Alias[int]("encoder.out_features")
    """Width of the sparse one."""

    @classmethod
    def from_folder(cls, folder: Path, options: LoadOptions) -> Self:
        """Build from settings and weights, whichever of its two names the matrix has."""
        settings = cls.checked_config(folder)
        weights = load_weights(folder, allow_pickle=options.allow_pickle)
        tied = weights.pop(_TIED, None)
        encoder = weights.setdefault(_ENCODER, tied) if tied is not None else weights.get(_ENCODER)
        if encoder is None:
            raise ModelError(
                f"{folder}: expected a tensor {_TIED!r} or {_ENCODER!r}, "
                f"the file has {sorted(weights)}"
            )
        if tied is not None and not torch.equal(encoder, tied):
            raise ModelError(f"{folder}: {_ENCODER!r} and {_TIED!r} must be equal, and differ")
        return cls.of_weights(settings, weights, folder)

    def write_files(self, folder: Path) -> None:
        """Write settings and weights; the matrix once, under the name that the reference writes."""
        weights = self.state_dict()
        weights[_TIED] = weights.pop(_ENCODER)
        write_json(folder / self.config_file_name, self.get_config_dict())
        save_weights(folder, weights)

    def get_embedding_dimension(self) -> int:
        """Width of the sparse embedding."""
        return self.hidden_dim

    def forward(self, features: Features) -> Features:
        """Replace ``sentence_embedding``: (B, input_dim) to (B, hidden_dim).

        ``max_active_dims`` in the features, an int, goes before `k`.
        """
        k = min(features.get("max_active_dims") or self.k, self.encoder.out_features)
        dense_BD = features["sentence_embedding"]
        if self.normalize:
            # Unlike layer norm: the unbiased deviation, with epsilon outside of the root.
            dense_BD = dense_BD - dense_BD.mean(-1, keepdim=True)
            dense_BD = dense_BD / (dense_BD.std(-1, keepdim=True) + _EPSILON)
        latents_BH = functional.linear(
            dense_BD - self.pre_bias, self.encoder.weight, self.latent_bias
        )
        top = latents_BH.topk(k, dim=-1)
        features["sentence_embedding"] = torch.zeros_like(latents_BH).scatter_(
            -1, top.indices, top.values.relu()
        )
        return features
