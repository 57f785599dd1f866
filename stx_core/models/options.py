"""Keyword arguments that all models share, and settings that their folders keep."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

import torch
from torch import nn

from stx_core.models.model_card import ModelCardData
from stx_core.models.modules.activations import Plain


class ModelOptions(TypedDict, total=False):
    """Keyword arguments that every model takes; see `TextModel`."""

    modules: Sequence[nn.Module] | Mapping[str, nn.Module] | None
    device: str | torch.device | None
    prompts: Mapping[str, str] | None
    default_prompt_name: str | None
    cache_folder: str | None
    trust_remote_code: bool
    revision: str | None
    local_files_only: bool
    token: str | bool | None
    model_kwargs: Mapping[str, Any] | None
    processor_kwargs: Mapping[str, Any] | None
    tokenizer_kwargs: Mapping[str, Any] | None
    config_kwargs: Mapping[str, Any] | None
    allow_pickle: bool
    use_auth_token: str | bool | None
    model_card_data: ModelCardData | None
    backend: str


class RunOptions(TypedDict, total=False):
    """Keyword arguments of `TextModel.run`."""

    batch_size: int | None
    token_budget: int | None
    show_progress_bar: bool | None
    device: str | torch.device | None
    extra: Mapping[str, Any] | None
    arguments: Mapping[str, Any] | None
    packed: bool


ConfigKey = Literal["similarity_fn_name", "truncate_dim", "max_active_dims"]


class ModelSettings(TypedDict, total=False):
    """Settings of the whole model, in ``config_sentence_transformers.json``.

    Other keys change nothing in the reference either.
    """

    __version__: Mapping[str, str] | None
    activation_fn: str | None
    activation_fn_arguments: Mapping[str, Plain]
    default_prompt_name: str | None
    keep_in_fp32_modules: list[str] | None
    max_active_dims: int | None
    model_type: str
    prompts: Mapping[str, str | None] | None
    requirements: Mapping[str, str | Mapping[str, str | None]] | None
    similarity_fn_name: str | None
    truncate_dim: int | None
