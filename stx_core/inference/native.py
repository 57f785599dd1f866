"""Kernels for CPUs with AVX-512 BF16, never required: torch's are used where they are missing.

All take bfloat16 and sum in float32.
"""

import ctypes
import logging
import subprocess
from functools import cache
from pathlib import Path

import torch

from stx_core.inference import kernel_library
from stx_core.machine import cpu_class

logger = logging.getLogger(__name__)

HEAD_SIZES = (32, 64, 128)

_PANEL = 64  # outputs that kernels/linear.cpp takes together

# The structs of kernels/arguments.h, which says what is in a field.


class _Heads(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("token_stride", ctypes.c_int64),
        ("head_stride", ctypes.c_int64),
    )


class _AttentionArguments(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_int64),
        ("query", _Heads),
        ("key", _Heads),
        ("value", _Heads),
        ("out", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("bias_head_stride", ctypes.c_int64),
        ("bias_key_stride", ctypes.c_int64),
        ("n_sequences", ctypes.c_int32),
        ("n_heads", ctypes.c_int32),
        ("n_key_heads", ctypes.c_int32),
        ("head_size", ctypes.c_int32),
        ("left", ctypes.c_int32),
        ("right", ctypes.c_int32),
        ("scale", ctypes.c_float),
    )


class _LinearArguments(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_int64),
        ("input", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
        ("n_rows", ctypes.c_int64),
        ("n_segments", ctypes.c_int64),
        ("n_inputs", ctypes.c_int64),
        ("n_outputs", ctypes.c_int64),
        ("gelu", ctypes.c_int32),
    )


class _AddNormArguments(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_int64),
        ("a", ctypes.c_void_p),
        ("b", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("sum", ctypes.c_void_p),
        ("norm", ctypes.c_void_p),
        ("n_rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("epsilon", ctypes.c_float),
    )


_ARGUMENTS = {
    "stx_attention": _AttentionArguments,
    "stx_linear": _LinearArguments,
    "stx_linear_max": _LinearArguments,
    "stx_add_norm": _AddNormArguments,
}
_OK, _OTHER_SIZE, _NO_MEMORY = range(3)  # what a kernel returns


def has_linear(weight: torch.Tensor) -> bool:
    """Tell whether `linear` is there, and the fastest, for a weight (N, K) on this machine.

    With AMX oneDNN's is, and for fewer outputs than fill a part of a panel.
    """
    outputs, inputs = weight.shape
    fits = weight.dtype == torch.bfloat16 and inputs % 2 == 0 and outputs >= _PANEL // 2
    return fits and cpu_class() == "avx512-bf16" and _library() is not None


def order_weight(weight: torch.Tensor) -> torch.Tensor:
    """A weight (N, K), as `linear` takes it: (panels, K / 2, 64, 2), filled up with zeros."""
    outputs, inputs = weight.shape
    panels = -(-outputs // _PANEL)
    padded = torch.nn.functional.pad(weight, (0, 0, 0, panels * _PANEL - outputs)).contiguous()
    # Pairs as one number each: a third of the time of moving them one by one.
    pairs = padded.view(torch.int32).view(panels, _PANEL, inputs // 2).transpose(1, 2)
    return pairs.contiguous().view(torch.bfloat16).view(panels, inputs // 2, _PANEL, 2)


def linear(
    x: torch.Tensor, ordered: torch.Tensor, outputs: int, bias: torch.Tensor | None, *, gelu: bool
) -> torch.Tensor:
    """Linear layer: x (..., K), a weight from `order_weight`, bias (N,) to (..., N).

    Each output is the same whatever rows are beside it. `gelu`: of what comes out.
    """
    inputs = x.shape[-1]
    rows = x.reshape(-1, inputs).contiguous()
    out = x.new_empty((len(rows), outputs))
    bias = None if bias is None else bias.to(x.dtype).contiguous()
    arguments = _LinearArguments(
        input=rows.data_ptr(),
        weight=ordered.data_ptr(),
        bias=None if bias is None else bias.data_ptr(),
        out=out.data_ptr(),
        n_rows=len(rows),
        n_inputs=inputs,
        n_outputs=outputs,
        gelu=gelu,
    )
    _call("stx_linear", arguments)
    return out.view(*x.shape[:-1], outputs)


def linear_max(
    x: torch.Tensor,
    ordered: torch.Tensor,
    outputs: int,
    bias: torch.Tensor | None,
    offsets: torch.Tensor,
) -> torch.Tensor:
    """Maximum of each output of a linear layer over the rows of a segment.

    Args:
        x: (T, K).
        ordered: from `order_weight`.
        outputs: N.
        bias: (N,).
        offsets: (B + 1,) int64; segment i has the rows ``offsets[i]:offsets[i + 1]``.

    Returns:
        (B, N); -inf for a segment without rows.
    """
    x, offsets = x.contiguous(), offsets.contiguous()
    out = x.new_empty((len(offsets) - 1, outputs))
    bias = None if bias is None else bias.to(x.dtype).contiguous()
    arguments = _LinearArguments(
        input=x.data_ptr(),
        weight=ordered.data_ptr(),
        bias=None if bias is None else bias.data_ptr(),
        out=out.data_ptr(),
        offsets=offsets.data_ptr(),
        n_rows=len(x),
        n_segments=len(out),
        n_inputs=x.shape[1],
        n_outputs=outputs,
    )
    _call("stx_linear_max", arguments)
    return out


def has_add_norm(a: torch.Tensor, b: torch.Tensor, *affine: torch.Tensor) -> bool:
    """Tell whether `add_norm` can be called with these on this machine.

    Args:
        a: a summand.
        b: the other one.
        *affine: weight and bias; without them, whether it can with some.
    """
    for tensor in (a, b, *affine):
        if tensor.dtype != torch.bfloat16 or tensor.device.type != "cpu":
            return False
        if tensor.layout != torch.strided or not tensor.is_contiguous():
            return False
    fits = a.shape == b.shape and a.ndim > 0 and a.shape[-1] % 16 == 0
    return fits and all(t.shape == a.shape[-1:] for t in affine) and _library() is not None


def add_norm(
    a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of two tensors (..., N), and its LayerNorm with weight and bias (N,)."""
    total, norm = torch.empty_like(a), torch.empty_like(a)
    arguments = _AddNormArguments(
        a=a.data_ptr(),
        b=b.data_ptr(),
        weight=weight.data_ptr(),
        bias=bias.data_ptr(),
        sum=total.data_ptr(),
        norm=norm.data_ptr(),
        n_rows=a.numel() // len(weight),
        width=len(weight),
        epsilon=epsilon,
    )
    _call("stx_add_norm", arguments)
    return total, norm


def has_attention(query: torch.Tensor, value: torch.Tensor) -> bool:
    """Tell whether `attend` can be called with such tensors on this machine."""
    fits = (
        query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and query.shape[-1] in HEAD_SIZES
        and value.shape[-1] == query.shape[-1]
    )
    return fits and _library() is not None


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    offsets: torch.Tensor,
    scale: float,
    window: tuple[int, int],
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of each sequence to itself.

    Args:
        query: (T, H, D) bfloat16, tokens of all sequences one after the other.
        key: (T, G, D), where G divides H.
        value: (T, G, D).
        offsets: (B + 1,) int32; sequence i has tokens ``offsets[i]:offsets[i + 1]``.
        scale: of the scores.
        window: tokens that are seen before and after the own one; -1 for all.
        bias: (H, L, L), added to the scaled scores of sequences of at most L tokens; not copied
            where it is float32 and ``bias.mT`` is contiguous.

    Returns:
        (T, H, D); tokens behind the last sequence are not set.

    Raises:
        MemoryError: there is none for the scores of the longest sequence.
    """
    out = torch.empty(query.shape, dtype=query.dtype)
    query, key, value = (t if t.stride(-1) == 1 else t.contiguous() for t in (query, key, value))
    arguments = _AttentionArguments(
        query=_Heads(query.data_ptr(), query.stride(0), query.stride(1)),
        key=_Heads(key.data_ptr(), key.stride(0), key.stride(1)),
        value=_Heads(value.data_ptr(), value.stride(0), value.stride(1)),
        out=out.data_ptr(),
        offsets=offsets.data_ptr(),
        n_sequences=len(offsets) - 1,
        n_heads=query.shape[1],
        n_key_heads=key.shape[1],
        head_size=query.shape[2],
        left=window[0],
        right=window[1],
        scale=scale,
    )
    by_key = None if bias is None else bias.mT.float().contiguous()
    if by_key is not None:
        arguments.bias = by_key.data_ptr()
        arguments.bias_head_stride, arguments.bias_key_stride = by_key.stride()[:2]
    _call("stx_attention", arguments)
    return out


def _call(name: str, arguments: ctypes.Structure) -> None:
    """Run a kernel.

    Raises:
        MemoryError: the kernel got no memory to work in.
        AssertionError: the library has another struct, or no kernel for these arguments.
    """
    library = _library()
    assert library is not None
    arguments.size = ctypes.sizeof(arguments)
    status = getattr(library, name)(ctypes.byref(arguments))
    if status == _NO_MEMORY:
        raise MemoryError(f"{name}: no memory to work in; use smaller batches or shorter texts")
    if status == _OTHER_SIZE:
        raise AssertionError(f"{name}: the library was built for other arguments than these")
    if status != _OK:
        raise AssertionError(f"{name}: no kernel for these arguments (status {status})")


@cache
def _library() -> ctypes.CDLL | None:
    """The kernels, or None where the CPU or the compiler for them is missing."""
    if cpu_class() == "other":
        return None
    try:
        return load(kernel_library.built())
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning(
            "bfloat16 runs at half of its speed, on torch's kernels: ours cannot be built (%s); "
            "install a C++ compiler, or build them for the image: python -m %s",
            kernel_library.reason(error),
            kernel_library.__name__,
        )
        return None


def load(path: Path) -> ctypes.CDLL:
    """Library of the kernels in a file; OSError where it is none."""
    library = ctypes.CDLL(str(path))
    for name, arguments in _ARGUMENTS.items():
        getattr(library, name).argtypes = (ctypes.POINTER(arguments),)
    return library
