"""Pooling: from token embeddings to one embedding per text.

Shapes: B inputs, L tokens of the longest, N tokens, K of them that count, D width, M modes.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch

from stx_core.models.modules.module import Features, Module
from stx_core.models.modules.segments import Segments, segment_max, segment_sum, segments
from stx_core.models.older_names import older_names
from stx_core.models.settings import check_settings

# Spelling up to 5.3, in the order in which several modes are concatenated.
_OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def _with_mode(config: dict[str, Any]) -> dict[str, Any]:
    """Settings in which flags of the older spelling have become modes."""
    flags = {key: config.pop(key) for key in _OLD_MODES if key in config}
    if flags and "pooling_mode" not in config:
        active = [mode for key, mode in _OLD_MODES.items() if flags.get(key)]
        config["pooling_mode"] = active or "mean"
    return config


def _with_older_flags(init: Callable[..., None]) -> Callable[..., None]:
    """Lets a constructor take ``pooling_mode_mean_tokens=True`` and its like."""

    @wraps(init)
    def taking_flags(self: "Pooling", *args: Any, **settings: Any) -> None:  # noqa: ANN401
        init(self, *args, **_with_mode(settings))

    names = {*_OLD_MODES, "word_embedding_dimension"}
    taking_flags.older_names = names  # type: ignore[attr-defined]
    return taking_flags


class Pooling(Module):
    """Reduces token embeddings, (B, L, D) or packed, to (B, M x D), one D per mode.

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
    config_key_renames: ClassVar[dict[str, str]] = {
        "word_embedding_dimension": "embedding_dimension"
    }

    POOLING_MODES: ClassVar[tuple[str, ...]] = tuple(_OLD_MODES.values())

    @_with_older_flags
    @older_names(word_embedding_dimension="embedding_dimension")
    def __init__(
        self,
        embedding_dimension: int,
        pooling_mode: str | Sequence[str] = "mean",
        include_prompt: bool = True,
    ) -> None:
        super().__init__()
        self.embedding_dimension = embedding_dimension
        self.pooling_mode = pooling_mode
        self.include_prompt = include_prompt

    @property
    def pooling_mode(self) -> str | Sequence[str]:
        """The mode, or the modes in the order of their parts.

        Raises:
            ValueError: it is set to what is no mode.
        """
        return self._modes[0] if len(self._modes) == 1 else self._modes

    @pooling_mode.setter
    def pooling_mode(self, value: str | Sequence[str]) -> None:
        modes = (value,) if isinstance(value, str) else tuple(value)
        if not modes or any(mode not in self.POOLING_MODES for mode in modes):
            raise ValueError(
                f"pooling_mode {value!r} is unknown; modes are {list(self.POOLING_MODES)}"
            )
        self._modes = modes

    @classmethod
    def read_config(cls, folder: Path) -> dict[str, Any]:
        """Settings of both generations; the older one has a flag per mode, and none means mean."""
        config = super().read_config(folder)
        flags = dict.fromkeys(_OLD_MODES.keys() & config.keys(), bool | None)
        given = {key: config[key] for key in flags}
        check_settings(given, flags, folder / cls.config_file_name)
        return _with_mode(config)

    def get_embedding_dimension(self) -> int:
        """Width of the sentence embedding."""
        return len(self._modes) * self.embedding_dimension

    pooling_output_dimension = property(get_embedding_dimension)
    """Width of the sentence embedding."""

    def forward(self, features: Features) -> Features:
        """Add ``sentence_embedding``, (B, M x D), in the dtype of the token embeddings."""
        prompt = 0 if self.include_prompt else features.get("prompt_length", 0)
        skip = int(prompt.flatten()[0]) if isinstance(prompt, torch.Tensor) else prompt
        batch = _Batch(
            features["token_embeddings"].flatten(0, -2),
            segments(features, skip),
            features.get("token_weights_sum"),
        )
        cls = features.get("cls_token_embeddings")
        pooled = [
            _pool(mode, batch) if cls is None or mode != "cls" else cls for mode in self._modes
        ]
        features["sentence_embedding"] = torch.cat(pooled, dim=-1)
        return features


class _Batch(NamedTuple):
    """Tokens (N, D), those that count, and their sums of weights (B,) where WordWeights has any."""

    tokens: torch.Tensor
    where: Segments
    weight_sum: torch.Tensor | None


def _pool(mode: str, batch: _Batch) -> torch.Tensor:
    """(B, D), what one mode makes of each text's tokens."""
    where = batch.where
    if mode == "cls":
        return _pick(batch, where.starts)
    if mode == "lasttoken":
        last_BD = _pick(batch, where.starts + where.counts - 1)
        # A text whose tokens are all left out (it is all prompt) is zero, as in the reference.
        return last_BD.masked_fill((where.counts == 0)[:, None], 0)
    if mode == "max":
        return segment_max(batch.tokens[where.index], where, float("-inf"))
    weights_K = where.place + 1 if mode == "weightedmean" else torch.ones_like(where.index)
    sum_BD = segment_sum(batch.tokens, where, weights_K)
    weights_B = batch.weight_sum
    if weights_B is None:
        weights_B = torch.zeros_like(where.counts).scatter_add_(0, where.owner, weights_K)
    weights_B = weights_B.to(sum_BD.dtype).clamp(min=1e-9)
    divisor_B = weights_B.sqrt() if mode == "mean_sqrt_len_tokens" else weights_B
    return (sum_BD / divisor_B[:, None]).to(batch.tokens.dtype)


def _pick(batch: _Batch, number_B: torch.Tensor) -> torch.Tensor:
    """(B, D), of each text one of the tokens that count, or its first one where none does.

    Zero for a text without tokens.
    """
    where = batch.where
    chosen_B = where.first
    if len(where.index):
        counted_B = where.index[number_B.clamp(0, len(where.index) - 1)]
        chosen_B = torch.where(where.counts > 0, counted_B, where.first)
    return batch.tokens[chosen_B].masked_fill(where.empty[:, None], 0)
