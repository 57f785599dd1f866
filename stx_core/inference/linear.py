"""Linear layers on the CPU: weights in the order of the kernels, and what follows in fewer passes.

GELU is computed where a linear layer writes, and LayerNorm where its output is added to another.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.nn.functional import gelu, layer_norm, linear
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from stx_core.inference import native
from stx_core.inference.machine import cpu_class

# Rows of the input that the order of a weight is made for; others run with it too.
_TYPICAL_ROWS = 4096

# M rows of the input, K numbers in, N numbers out


@dataclass
class _Ordered:
    """A weight (N, K) in the kernels' order, whole or in parts, as long as its memory is the same.

    Attributes:
        source: address and version of the memory that it was made of.
        parts: (first row, end) to the part in order.
        feeds_gelu: its output goes into GELU and nowhere else.
        norm: what LayerNorm was called with for a sum with its output.
    """

    source: tuple[int, int]
    parts: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)
    feeds_gelu: bool = False
    norm: "_Norm | None" = None


class _Norm(NamedTuple):
    """Arguments of LayerNorm over the last dimension."""

    weight: torch.Tensor
    bias: torch.Tensor
    epsilon: float

    def same_as(self, other: "_Norm | None") -> bool:
        if other is None or self.epsilon != other.epsilon:
            return False
        return self.weight is other.weight and self.bias is other.bias


class _Sum(NamedTuple):
    """A sum with the output of a linear layer, and its LayerNorm when that is known to follow."""

    tensor: torch.Tensor
    normalised: torch.Tensor | None
    layer: _Ordered


_ADD = (torch.Tensor.add, torch.Tensor.__add__, torch.add)

_ordered = WeakTensorKeyDictionary()


def has_fast_linear(dtype: torch.dtype | None, device: torch.device) -> bool:
    """Whether `fast_linear` does anything for a model with such weights."""
    usable = {torch.float32: True, torch.bfloat16: cpu_class() != "other"}
    on_cpu = device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return on_cpu and dtype is not None and usable.get(dtype, False)


def project(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, first: int, end: int
) -> torch.Tensor:
    """Some outputs of a linear layer: x (M, K), weight (N, K), bias (N,) to (M, end - first)."""
    bias = None if bias is None else bias[first:end]
    if not has_fast_linear(x.dtype, x.device) or weight.dtype != x.dtype:
        return linear(x, weight[first:end], bias)
    return _ordered_linear(x, weight, (first, end), bias, fused=False)


def highest_outputs(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, counts: torch.Tensor
) -> torch.Tensor | None:
    """The highest of each output of a linear layer over rows, without making the outputs.

    Args:
        x: (T, K).
        weight: (N, K).
        bias: (N,).
        counts: (B,) int64, rows of each segment, which follow each other.

    Returns:
        (B, N), -inf for a segment without rows; None where there is no kernel for it.
    """
    usable = has_fast_linear(x.dtype, x.device) and weight.dtype == x.dtype
    if not usable or not native.has_linear(weight):
        return None
    ordered = _part(weight, 0, len(weight))
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return native.linear_highest(x, ordered, len(weight), bias, offsets)


@contextmanager
def fast_linear(dtype: torch.dtype | None, device: torch.device) -> Iterator[None]:
    """Within this context, linear layers of a model with such weights run on ordered copies.

    The model is not changed. A copy is made at the first use, and again when the weight's memory
    is another. GELU is fused into a layer that was seen to feed it, LayerNorm into a sum with the
    output of a layer that was seen to go there.
    """
    with _FastLinear() if has_fast_linear(dtype, device) else nullcontext():
        yield


class _FastLinear(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self._output: torch.Tensor | None = None
        self._weight: torch.Tensor | None = None
        self._activated: torch.Tensor | None = None
        self._sum: _Sum | None = None  # nothing was done since

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        more = dict(kwargs or {})
        if func is linear:
            return self._linear(*args, **more)
        if func is gelu and more.get("approximate", "none") == "none" and len(args) == 1:
            return self._gelu(*args)
        last, self._sum = self._sum, None
        if func is layer_norm and last is not None:
            return self._layer_norm(last, *args, **more)
        if func in _ADD and len(args) == 2 and not more:
            return self._add(*args)
        return func(*args, **more)

    def _linear(
        self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        fits = input.dtype == weight.dtype and weight.ndim == 2 and input.numel() > 0
        if not fits or not has_fast_linear(weight.dtype, weight.device):
            return linear(input, weight, bias)
        fused = _entry(weight).feeds_gelu
        output = _ordered_linear(input, weight, (0, len(weight)), bias, fused)
        self._output, self._weight = (None, None) if fused else (output, weight)
        self._activated = output if fused else None
        return output

    def _gelu(self, input: torch.Tensor) -> torch.Tensor:
        if input is self._activated:
            return input
        if input is self._output and self._weight is not None:
            _entry(self._weight).feeds_gelu = True
        return gelu(input)

    def _add(self, one: Any, other: Any) -> Any:  # noqa: ANN401  (numbers, too)
        if self._weight is None or not (one is self._output or other is self._output):
            return torch.add(one, other)
        layer = _entry(self._weight)
        if layer.norm and native.has_add_norm(one, other, layer.norm.weight, layer.norm.bias):
            self._sum = _Sum(*native.add_norm(one, other, *layer.norm), layer)
        else:
            self._sum = _Sum(torch.add(one, other), None, layer)
        return self._sum.tensor

    def _layer_norm(
        self,
        last: _Sum,
        input: torch.Tensor,
        normalized_shape: Sequence[int],
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        eps: float = 1e-5,
    ) -> torch.Tensor:
        if input is last.tensor and weight is not None and bias is not None:
            norm = _Norm(weight, bias, eps)
            if last.normalised is not None and norm.same_as(last.layer.norm):
                return last.normalised
            last.layer.norm = norm
        return layer_norm(input, normalized_shape, weight, bias, eps)


def _entry(weight: torch.Tensor) -> _Ordered:
    source = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
    entry: _Ordered | None = _ordered.get(weight)  # type: ignore[no-untyped-call]
    if entry is None or entry.source != source:
        entry = _Ordered(source)
        _ordered[weight] = entry
    return entry


def _part(weight: torch.Tensor, first: int, end: int) -> torch.Tensor:
    """Some rows of a weight, as `native.linear` takes them, or oneDNN's layers."""
    parts = _entry(weight).parts
    if (first, end) not in parts:
        chosen = weight.detach()[first:end].contiguous()
        reorder = torch.ops.mkldnn._reorder_linear_weight
        ours = native.has_linear(weight)
        parts[first, end] = native.order_weight(chosen) if ours else reorder(chosen, _TYPICAL_ROWS)
    return parts[first, end]


def _ordered_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    part: tuple[int, int],
    bias: torch.Tensor | None,
    fused: bool,
) -> torch.Tensor:
    """Some outputs of a linear layer, with GELU when it is fused."""
    ordered = _part(weight, *part)
    if native.has_linear(weight):
        return native.linear(x, ordered, part[1] - part[0], bias, gelu=fused)
    name, algorithm = ("gelu", "none") if fused else ("none", "")
    output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, ordered, bias, name, [], algorithm)
    return output
