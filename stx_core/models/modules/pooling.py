"""Pooling: from token embeddings to one embedding per text.

Shapes: B inputs, L tokens of the longest, D width, M modes.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch

from stx_core.models.modules.module import Features, Module

# Spelling up to 5.3, in the order in which several modes are concatenated.
_OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


class Pooling(Module):
    """Reduces (B, L, D) token embeddings to (B, M x D), one D per mode.

    Args:
        embedding_dimension: width of the token embeddings.
        pooling_mode: a mode, or several that are concatenated in this order: ``cls`` (first real
            token), ``max``, ``mean``, ``mean_sqrt_len_tokens``, ``weightedmean`` (weights 1, 2, ...
            from the first real token on), ``lasttoken`` (last real token).
        include_prompt: whether the prompt's tokens take part. Attention sees them in any case.
    """

    config_keys: ClassVar[tuple[str, ...]] = (
        "embedding_dimension",
        "pooling_mode",
        "include_prompt",
    )
    config_renames: ClassVar[dict[str, str]] = {"word_embedding_dimension": "embedding_dimension"}

    def __init__(
        self,
        embedding_dimension: int,
        pooling_mode: str | Sequence[str] = "mean",
        include_prompt: bool = True,
    ) -> None:
        super().__init__()
        modes = [pooling_mode] if isinstance(pooling_mode, str) else list(pooling_mode)
        if not modes or any(mode not in _POOL for mode in modes):
            raise ValueError(f"pooling_mode {pooling_mode!r} is unknown; modes are {list(_POOL)}")
        self.embedding_dimension = embedding_dimension
        self.pooling_mode: str | list[str] = modes[0] if len(modes) == 1 else modes
        self.include_prompt = include_prompt
        self._modes = modes

    @classmethod
    def read_config(cls, folder: Path) -> dict[str, Any]:
        """Settings of both generations; the older one has a flag per mode, and none means mean."""
        config = super().read_config(folder)
        flags = {key: config.pop(key) for key in _OLD_MODES if key in config}
        if flags and "pooling_mode" not in config:
            active = [mode for key, mode in _OLD_MODES.items() if flags.get(key)]
            config["pooling_mode"] = active or "mean"
        return config

    def get_embedding_dimension(self) -> int:
        """Width of the sentence embedding."""
        return len(self._modes) * self.embedding_dimension

    def forward(self, features: Features) -> Features:
        """Add ``sentence_embedding``, (B, M x D), in the dtype of the token embeddings."""
        tokens_BLD = features["token_embeddings"]
        real_BL = features["attention_mask"].bool()
        start_B = real_BL.int().argmax(1)  # padding on the left, 0 where it is on the right
        counted_BL = real_BL
        if not self.include_prompt and (prompt_length := features.get("prompt_length", 0)):
            positions_L = torch.arange(real_BL.shape[1], device=real_BL.device)
            counted_BL = real_BL & (positions_L >= (start_B + prompt_length)[:, None])
        batch = _Batch(tokens_BLD, counted_BL, start_B, features.get("token_weights_sum"))
        pooled = [_POOL[mode](batch) for mode in self._modes]
        features["sentence_embedding"] = torch.cat(pooled, dim=-1)
        return features


class _Batch(NamedTuple):
    """tokens (B, L, D); counted (B, L) bool; start (B,), first real token; weight_sum (B,)."""

    tokens: torch.Tensor
    counted: torch.Tensor
    start: torch.Tensor
    weight_sum: torch.Tensor | None


def _cls(batch: _Batch) -> torch.Tensor:
    return _pick(batch.tokens, batch.counted.int().argmax(1))


def _last(batch: _Batch) -> torch.Tensor:
    from_end_B = batch.counted.int().flip(1).argmax(1)
    picked_BD = _pick(batch.tokens, batch.counted.shape[1] - 1 - from_end_B)
    # A text whose tokens are all left out (it is all prompt) is zero, as in the reference.
    return picked_BD.masked_fill(~batch.counted.any(1)[:, None], 0)


def _max(batch: _Batch) -> torch.Tensor:
    return batch.tokens.masked_fill(~batch.counted[..., None], float("-inf")).amax(1)


def _mean(batch: _Batch) -> torch.Tensor:
    divisor_B1 = _divisor(batch, batch.counted)
    return (_sum(batch.tokens, batch.counted) / divisor_B1).to(batch.tokens.dtype)


def _mean_sqrt_len(batch: _Batch) -> torch.Tensor:
    divisor_B1 = _divisor(batch, batch.counted).sqrt()
    return (_sum(batch.tokens, batch.counted) / divisor_B1).to(batch.tokens.dtype)


def _weighted_mean(batch: _Batch) -> torch.Tensor:
    positions_L = torch.arange(1, batch.counted.shape[1] + 1, device=batch.counted.device)
    weights_BL = (positions_L - batch.start[:, None]) * batch.counted
    return (_sum(batch.tokens, weights_BL) / _divisor(batch, weights_BL)).to(batch.tokens.dtype)


def _pick(tokens_BLD: torch.Tensor, index_B: torch.Tensor) -> torch.Tensor:
    return tokens_BLD[torch.arange(len(index_B), device=index_B.device), index_B]


def _sum(tokens_BLD: torch.Tensor, weights_BL: torch.Tensor) -> torch.Tensor:
    """Weighted sum over tokens, (B, D), accumulated in float32 at least."""
    dtype = _accumulator(tokens_BLD)
    return (tokens_BLD.to(dtype) * weights_BL[..., None].to(dtype)).sum(1)


def _divisor(batch: _Batch, weights_BL: torch.Tensor) -> torch.Tensor:
    """(B, 1) sum of weights, kept from zero; WordWeights brings a sum of its own."""
    total_B = weights_BL.sum(1) if batch.weight_sum is None else batch.weight_sum
    return total_B.to(_accumulator(batch.tokens)).clamp(min=1e-9)[:, None]


def _accumulator(tokens_BLD: torch.Tensor) -> torch.dtype:
    return torch.promote_types(tokens_BLD.dtype, torch.float32)


_POOL: dict[str, Callable[[_Batch], torch.Tensor]] = {
    "cls": _cls,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
