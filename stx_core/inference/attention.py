"""Attention of packed inputs, as an attention function of transformers.

A backbone that asks transformers' attention interface for its attention runs on a packed batch
when it is given this function: each input attends to itself only.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from stx_core.errors import ModelError
from stx_core.inference import native
from stx_core.inference.packing import Layout

NAME = "stx_packed"

# What some backbones add to plain attention, which none of the kernels here does.
_UNKNOWN = ("softcap", "s_aux", "position_bias", "cache")

_layout: ContextVar[Layout] = ContextVar("layout")

# T tokens, B inputs, H heads, G heads of keys and values, D numbers per head


@contextmanager
def packed_attention(model: Any, layout: Layout) -> Iterator[None]:  # noqa: ANN401  (untyped)
    """Within this context a backbone takes its one row of tokens for the inputs of a layout."""
    before = list(_implementations(model.config))
    token = _layout.set(layout)
    try:
        model.config._attn_implementation = NAME  # of its parts, too
        yield
    finally:
        for config, name in before:
            config._attn_implementation_internal = name
        _layout.reset(token)


def _implementations(config: Any) -> Iterator[tuple[Any, str | None]]:  # noqa: ANN401
    yield config, config._attn_implementation
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if part is not None:
            yield from _implementations(part)


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **more: Any,  # noqa: ANN401  (what transformers passes on)
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it.

    Query (1, H, T, D), key and value (1, G, T, D) give (1, T, H, D).

    Raises:
        ModelError: the backbone wants something of its attention that is not known here.
    """
    if refused := [name for name in _UNKNOWN if more.get(name) is not None]:
        raise ModelError(f"attention with {', '.join(refused)} is not packed")
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    before = -1 if sliding_window is None else sliding_window - 1
    window = (before, 0 if is_causal else before)
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    rows = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return attend(*rows, scale=scale, window=window)[None], None


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scale: float,
    window: tuple[int, int] = (-1, -1),
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of each input of the context's layout to itself.

    Args:
        query: (T, H, D).
        key: (T, G, D).
        value: (T, G, D).
        scale: of the scores.
        window: tokens that are seen before and after the own one; -1 for all.
        bias: (H, L, L) added to the scaled scores; L is at least the longest input.

    Returns:
        (T, H, D); zero for tokens that fill up.
    """
    layout = _layout.get()
    used = int(layout.starts[-1])
    if native.has_attention(query, value):
        out = native.attend(
            query, key, value, offsets=layout.offsets, scale=scale, window=window, bias=bias
        )
    elif query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and bias is None:
        out = _on_cuda(query, key, value, layout=layout, scale=scale, window=window)
    else:
        out = _by_length(query, key, value, layout=layout, scale=scale, window=window, bias=bias)
    out[used:] = 0
    return out


def _on_cuda(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    layout: Layout,
    scale: float,
    window: tuple[int, int],
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    used = int(layout.starts[-1])
    out = query.new_empty((len(query), query.shape[1], value.shape[2]))
    q, k, v = (tensor[:used].contiguous() for tensor in (query, key, value))
    attended = varlen_attn(
        q,
        k,
        v,
        cu_seq_q=layout.offsets,
        cu_seq_k=layout.offsets,
        max_q=layout.longest,
        max_k=layout.longest,
        scale=scale,
        window_size=window,
        enable_gqa=key.shape[1] != query.shape[1],
    )
    assert isinstance(attended, torch.Tensor)
    out[:used] = attended
    return out


def _by_length(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    layout: Layout,
    scale: float,
    window: tuple[int, int],
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """Inputs of equal length together, without padding or mask.

    One by one on the CPU where there is a bias: with it, how torch's kernels round depends on how
    many inputs there are.
    """
    groups = layout.groups
    if bias is not None and query.device.type == "cpu":
        places = zip(layout.starts[:-1].tolist(), layout.lengths.tolist(), strict=True)
        groups = [(start, 1, length) for start, length in places if length]
    out = query.new_empty((len(query), query.shape[1], value.shape[2]))
    repeats = query.shape[1] // key.shape[1]
    for start, count, length in groups:
        part = slice(start, start + count * length)
        q, k, v = (
            tensor[part].reshape(count, length, *tensor.shape[1:]).transpose(1, 2)
            for tensor in (query, key, value)
        )
        if repeats > 1:
            k, v = (tensor.repeat_interleave(repeats, dim=1) for tensor in (k, v))
        causal = window == (-1, 0) and bias is None
        attended = scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if causal else _mask(length, window, bias, q),
            is_causal=causal,
            scale=scale,
        )
        out[part] = attended.transpose(1, 2).flatten(0, 1)
    return out


def _mask(
    length: int, window: tuple[int, int], bias: torch.Tensor | None, like: torch.Tensor
) -> torch.Tensor | None:
    """(L, L), or (H, L, L) with a bias, to add to scores; None where all is seen."""
    before, after = (length if side < 0 else side for side in window)
    if bias is None and min(before, after) >= length - 1:
        return None
    positions = torch.arange(length, device=like.device)
    ahead = positions - positions[:, None]
    mask = like.new_zeros((length, length))
    mask.masked_fill_((ahead > after) | (ahead < -before), -math.inf)
    return mask if bias is None else mask + bias[:, :length, :length].to(like.dtype)


AttentionInterface.register(NAME, attention_forward)
# What an input may see is in the layout.
AttentionMaskInterface.register(NAME, lambda *_, **__: None)
