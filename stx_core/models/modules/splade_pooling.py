"""SPLADE pooling: vocabulary logits of all tokens to one weight per vocabulary entry."""

from collections.abc import Iterator
from typing import ClassVar, Literal, get_args

import torch

from stx_core.errors import ModelError
from stx_core.models.modules.module import Features, Module

# B inputs, L tokens, V vocabulary entries
Strategy = Literal["max", "sum"]
Activation = Literal["relu", "log1p_relu"]


class SpladePooling(Module):
    """Pools log(1 + relu(logit)) over the tokens, [CLS] and [SEP] included, padding left out.

    Source: SPLADE (arXiv 2107.05720: sum), SPLADE v2 (2109.10086: max); ``log1p_relu`` takes the
    logarithm twice (OpenSearch, 2504.14839).

    Args:
        pooling_strategy: over the tokens.
        activation_function: of each logit.
        embedding_dimension: V; None until the first forward pass where a folder does not say.
        chunk_size: tokens of each sequence to pool at a time, None for all: smaller copies of the
            (B, L, V) logits. A runtime setting, never saved.
    """

    config_keys: ClassVar[tuple[str, ...]] = (
        "pooling_strategy",
        "activation_function",
        "embedding_dimension",
    )
    # The name before 5.4.
    config_renames: ClassVar[dict[str, str]] = {"word_embedding_dimension": "embedding_dimension"}

    def __init__(
        self,
        pooling_strategy: Strategy = "max",
        activation_function: Activation = "relu",
        embedding_dimension: int | None = None,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        _check("pooling_strategy", pooling_strategy, get_args(Strategy))
        _check("activation_function", activation_function, get_args(Activation))
        self.pooling_strategy = pooling_strategy
        self.activation_function = activation_function
        self.embedding_dimension = embedding_dimension
        self.chunk_size = chunk_size

    def get_embedding_dimension(self) -> int | None:
        """V, or None when neither the folder nor a forward pass has told it yet."""
        return self.embedding_dimension

    def forward(self, features: Features) -> Features:
        """Add ``sentence_embedding`` (B, V), from logits in ``token_embeddings`` (B, L, V)."""
        logits_BLV = features["token_embeddings"]
        padding_BL1 = (features["attention_mask"] == 0).unsqueeze(-1)
        pool = self._max if self.pooling_strategy == "max" else self._sum
        self.embedding_dimension = logits_BLV.shape[-1]
        features["sentence_embedding"] = pool(logits_BLV, padding_BL1)
        return features

    def _max(self, logits_BLV: torch.Tensor, padding_BL1: torch.Tensor) -> torch.Tensor:
        """The activation never falls, so it may follow the maximum: on (B, V), not (B, L, V)."""
        highest_BV = logits_BLV.new_zeros(logits_BLV.shape[0], logits_BLV.shape[2])
        for chunk, padding in self._chunks(logits_BLV, padding_BL1):
            # Zero is the least value behind the relu, so padding at zero never wins.
            highest_BV = torch.maximum(highest_BV, chunk.masked_fill(padding, 0).amax(1))
        return self._activate(highest_BV)

    def _sum(self, logits_BLV: torch.Tensor, padding_BL1: torch.Tensor) -> torch.Tensor:
        total_BV = logits_BLV.new_zeros(logits_BLV.shape[0], logits_BLV.shape[2])
        for chunk, padding in self._chunks(logits_BLV, padding_BL1):
            total_BV = total_BV + self._activate(chunk.masked_fill(padding, 0)).sum(1)
        return total_BV

    def _chunks(
        self, logits_BLV: torch.Tensor, padding_BL1: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        length = logits_BLV.shape[1]
        size = self.chunk_size or max(1, length)
        for start in range(0, length, size):
            yield logits_BLV[:, start : start + size], padding_BL1[:, start : start + size]

    def _activate(self, logits: torch.Tensor) -> torch.Tensor:
        weights = logits.relu().log1p()
        return weights.log1p() if self.activation_function == "log1p_relu" else weights


def _check(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ModelError(f"SpladePooling: {name} is {value!r}, must be one of {known}")
