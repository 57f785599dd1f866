"""Keyword arguments that all models share."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import torch
from torch import nn

from stx_core.models.model_card import ModelCardData


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
