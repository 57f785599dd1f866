"""Convolutions of several widths over the token embeddings."""

from typing import ClassVar

import torch
from torch import nn

from stx_core.models.alias import Alias
from stx_core.models.modules.module import Features, Module
from stx_core.models.older_names import older_names


class CNN(Module):
    """One 1-D convolution per kernel size; their outputs lie side by side.

    Args:
        in_embedding_dimension: width of the incoming token embeddings.
        out_channels: channels of each convolution.
        kernel_sizes: tokens that each convolution sees; odd sizes keep the length.
        stride_sizes: stride of each convolution, 1 by default.
    """

    config_file_name: ClassVar[str] = "cnn_config.json"
    config_keys: ClassVar[tuple[str, ...]] = (
        "in_embedding_dimension",
        "out_channels",
        "kernel_sizes",
        "stride_sizes",
    )
    # The name before 5.4.
    config_key_renames: ClassVar[dict[str, str]] = {
        "in_word_embedding_dimension": "in_embedding_dimension"
    }

    @older_names(in_word_embedding_dimension="in_embedding_dimension")
    def __init__(
        self,
        in_embedding_dimension: int,
        out_channels: int = 256,
        kernel_sizes: tuple[int, ...] | list[int] = (1, 3, 5),
        stride_sizes: list[int] | None = None,
    ) -> None:
        super().__init__()
        strides = stride_sizes or [1] * len(kernel_sizes)
        self.convs = nn.ModuleList(
            nn.Conv1d(in_embedding_dimension, out_channels, size, stride, padding=(size - 1) // 2)
            for size, stride in zip(kernel_sizes, strides, strict=True)
        )

    in_embedding_dimension = Alias[int]("convs.0.in_channels")
    """Width of the incoming token embeddings."""

    out_channels = Alias[int]("convs.0.out_channels")
    """Channels of each convolution."""

    @property
    def kernel_sizes(self) -> list[int]:
        """Tokens that each convolution sees."""
        return [layer.kernel_size[0] for layer in self.convs if isinstance(layer, nn.Conv1d)]

    @property
    def stride_sizes(self) -> list[int]:
        """Stride of each convolution."""
        return [layer.stride[0] for layer in self.convs if isinstance(layer, nn.Conv1d)]

    def get_embedding_dimension(self) -> int:
        """Width of the outgoing token embeddings."""
        return self.out_channels * len(self.kernel_sizes)

    def forward(self, features: Features) -> Features:
        """Replace ``token_embeddings``: (B, L, D) to (B, L, channels x kernels)."""
        tokens_BDL = features["token_embeddings"].transpose(1, 2)
        channels_BCL = torch.cat([conv(tokens_BDL) for conv in self.convs], dim=1)
        features["token_embeddings"] = channels_BCL.transpose(1, 2)
        return features
