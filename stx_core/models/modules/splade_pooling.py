"""SPLADE pooling: vocabulary logits of all tokens to one weight per vocabulary entry."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import torch

from stx_core.errors import ModelError
from stx_core.inference.linear import max_outputs, project
from stx_core.models.modules.module import Features, Module
from stx_core.models.modules.segments import Segments, segment_max, segments
from stx_core.models.older_names import older_names

# B inputs, L tokens of the longest, K tokens that count, H width, V vocabulary entries
Strategy = Literal["max", "sum"]
Activation = Literal["relu", "log1p_relu"]


# Vocabulary entries at a time: wide enough for matrix kernels, and their logits never take much
# memory, also for the many tokens of a GPU's batch.
_VOCABULARY_CHUNK = {"cpu": 4096, "cuda": 1024}


class SpladePooling(Module):
    """Pools log(1 + relu(logit)) over the tokens, [CLS] and [SEP] included, padding left out.

    Source: SPLADE (arXiv 2107.05720: sum), SPLADE v2 (2109.10086: max); ``log1p_relu`` takes the
    logarithm twice (OpenSearch, 2504.14839).

    Args:
        pooling_strategy: over the tokens.
        activation_function: of each logit.
        embedding_dimension: V; None until the first forward pass where a folder does not say.
        chunk_size: of the reference: tokens of each sequence to pool at a time. It changes neither
            result nor memory here, where the vocabulary is pooled in parts. Never saved.
    """

    SPLADE_POOLING_MODES: ClassVar[tuple[str, ...]] = get_args(Strategy)
    SPLADE_ACTIVATION: ClassVar[tuple[str, ...]] = get_args(Activation)

    config_keys: ClassVar[tuple[str, ...]] = (
        "pooling_strategy",
        "activation_function",
        "embedding_dimension",
    )
    # The name before 5.4.
    config_key_renames: ClassVar[dict[str, str]] = {
        "word_embedding_dimension": "embedding_dimension"
    }

    @older_names(word_embedding_dimension="embedding_dimension")
    def __init__(
        self,
        pooling_strategy: Strategy = "max",
        activation_function: Activation = "relu",
        embedding_dimension: int | None = None,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        self.pooling_strategy = pooling_strategy
        self.activation_function = activation_function
        self.embedding_dimension = embedding_dimension
        self.chunk_size = chunk_size

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401
        choices = {"pooling_strategy": Strategy, "activation_function": Activation}.get(name)
        if choices is not None and value not in get_args(choices):
            raise ModelError(
                f"SpladePooling: {name} is {value!r}, must be one of {get_args(choices)}"
            )
        super().__setattr__(name, value)

    def get_embedding_dimension(self) -> int | None:
        """V, or None when neither the folder nor a forward pass has told it yet."""
        return self.embedding_dimension

    def forward(self, features: Features) -> Features:
        """Add ``sentence_embedding`` (B, V).

        From logits in ``token_embeddings``, (B, L, V) or packed (T, V); or from ``head_inputs``,
        (T, H), and ``head``, the linear layer to the vocabulary: then no logits of the whole
        vocabulary are made.
        """
        where, head = segments(features), features.get("head")
        if head is None:
            tokens = features["token_embeddings"].flatten(0, -2)
            width = tokens.shape[1]
            weights = self._pool_in_parts(lambda a, b: tokens[where.index, a:b], width, where)
        else:
            states = features["head_inputs"].flatten(0, -2)
            states = states if len(states) == len(where.index) else states[where.index]
            logits_max = None
            if self.pooling_strategy == "max":
                logits_max = max_outputs(states, head.weight, head.bias, counts=where.counts)
            if logits_max is None:
                logits = partial(project, states, head.weight, head.bias)
                weights = self._pool_in_parts(logits, head.out_features, where)
            else:
                weights = self._activate(logits_max)
        self.embedding_dimension = weights.shape[1]
        features["sentence_embedding"] = weights
        return features

    def _pool_in_parts(
        self, logits: Callable[[int, int], torch.Tensor], width: int, where: Segments
    ) -> torch.Tensor:
        """(B, V), from a function of first and end vocabulary entry to their logits, (K, V)."""
        chunk = _VOCABULARY_CHUNK.get(where.index.device.type, _VOCABULARY_CHUNK["cpu"])
        parts = []
        for first in range(0, width, chunk):
            logits_KV = logits(first, min(first + chunk, width))
            if self.pooling_strategy == "max":
                # The activation never falls, so it may follow the maximum: on (B, V), not (K, V).
                parts.append(self._activate(segment_max(logits_KV, where, -math.inf)))
            else:
                weights_KV = self._activate(logits_KV)
                sum_BV = weights_KV.new_zeros((len(where.counts), weights_KV.shape[1]))
                parts.append(sum_BV.index_add_(0, where.owner, weights_KV))
        return torch.cat(parts, dim=1)

    def _activate(self, logits: torch.Tensor) -> torch.Tensor:
        weights = logits.relu().log1p()
        return weights.log1p() if self.activation_function == "log1p_relu" else weights
