"""Linear layers on the CPU: weights in the order of the kernels, and what follows in fewer passes.

GELU is computed where a linear layer writes, and LayerNorm where its input is summed.

Nothing here outlives a call of a model: weights are ordered for a call, and what follows a layer is
not guessed but waited for.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm, linear
from torch.overrides import TorchFunctionMode

from stx_core.inference import native
from stx_core.machine import cpu_class

WORTH_ORDERING = 1024
"""Tokens of a call from which on ordered weights save more than it costs to order them."""

# Rows of the input that the order of a weight is made for; others run with it too.
_TYPICAL_ROWS = 4096

# M rows of the input, K numbers in, N numbers out


@dataclass
class _Ordered:
    """A weight (N, K) in the kernels' order, whole or in parts.

    Attributes:
        weight: what it was made of.
        source: address and version of its memory.
        parts: (first row, end) to the part in order.
    """

    weight: torch.Tensor
    source: tuple[int, int]
    parts: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)


@dataclass(eq=False)
class OrderedWeights:
    """Ordered copies of the weights that one call of a model uses, made at their first use.

    Of no use for the next call: who changes a weight through ``.data`` or numpy leaves no trace.
    """

    _by_id: dict[int, _Ordered] = field(default_factory=dict, init=False)

    def part(self, weight: torch.Tensor, first: int, end: int) -> torch.Tensor:
        """Some rows of a weight, as `native.linear` takes them, or oneDNN's layers."""
        source = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        entry = self._by_id.get(id(weight))
        if entry is None or entry.source != source:
            entry = self._by_id[id(weight)] = _Ordered(weight, source)
        if (first, end) not in entry.parts:
            rows = weight.detach()[first:end].contiguous()
            entry.parts[first, end] = (
                native.order_weight(rows)
                if native.has_linear(weight)
                else torch.ops.mkldnn._reorder_linear_weight(rows, _TYPICAL_ROWS)
            )
        return entry.parts[first, end]


_weights: ContextVar[OrderedWeights | None] = ContextVar("weights", default=None)


def has_fast_linear(dtype: torch.dtype | None, device: torch.device) -> bool:
    """Tell whether `fast_linear` does anything for a model with such weights."""
    usable = {torch.float32: True, torch.bfloat16: cpu_class() != "other"}
    on_cpu = device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return on_cpu and dtype is not None and usable.get(dtype, False)


def project(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, first: int, end: int
) -> torch.Tensor:
    """Some outputs of a linear layer: x (M, K), weight (N, K), bias (N,) to (M, end - first)."""
    bias = None if bias is None else bias[first:end]
    weights = _weights.get()
    if weights is None or not _fits(x, weight, bias):
        return linear(x, weight[first:end], bias)
    ordered = weights.part(weight, first, end)
    return _ordered_linear(x, ordered, end - first, bias=bias)


def max_outputs(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, counts: torch.Tensor
) -> torch.Tensor | None:
    """Maximum of each output of a linear layer over rows, without making the outputs.

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
    ordered = (_weights.get() or OrderedWeights()).part(weight, 0, len(weight))
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return native.linear_max(x, ordered, len(weight), bias, offsets)


@contextmanager
def fast_linear(
    dtype: torch.dtype | None, device: torch.device, weights: OrderedWeights | None
) -> Iterator[None]:
    """Within this context, linear layers of a model with such weights run on ordered copies.

    GELU of what a layer gives is computed by the layer, and LayerNorm of a sum with the sum: both
    are computed when it is known what follows them, and before anything else looks at them.

    Args:
        dtype: of the model's weights.
        device: where they are.
        weights: ordered copies of the same call; None: as if there were no such context.
    """
    if weights is None or not has_fast_linear(dtype, device):
        yield
        return
    token = _weights.set(weights)
    try:
        mode = _FastLinear(weights)
        with mode:
            yield
        mode.finish()
    finally:
        _weights.reset(token)


@dataclass
class _Waiting:
    """A result that is given out before it is computed.

    Attributes:
        output: what the caller got: shape and dtype are right, the numbers are not there.
        compute: gives the numbers.
        arguments: of the linear layer, or of the sum.
    """

    output: torch.Tensor
    compute: Callable[[], torch.Tensor]
    arguments: tuple[Any, ...]


class _FastLinear(TorchFunctionMode):
    def __init__(self, weights: OrderedWeights) -> None:
        super().__init__()
        self._weights = weights
        # The last thing done, when it was a linear layer, or a sum.
        self._linear_waits: _Waiting | None = None
        self._sum_waits: _Waiting | None = None
        # A layer whose GELU was computed: its own output is only computed if somebody has kept it.
        self._passed: tuple[weakref.ref[torch.Tensor], Callable[[], torch.Tensor]] | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        more = dict(kwargs or {})
        self._finish_passed()
        if func is gelu and len(args) == 1 and more.get("approximate", "none") == "none":
            waits = self._linear_waits
            if waits is not None and args[0] is waits.output:
                self._linear_waits = None
                self._passed = weakref.ref(waits.output), waits.compute
                (compute,) = waits.arguments
                return compute(fused=True)
        if func is layer_norm and self._sum_waits is not None:
            normalised = self._layer_norm(self._sum_waits, *args, **more)
            if normalised is not None:
                return normalised
        self.finish()
        if func is linear:
            return self._linear(*args, **more)
        if func in _ADD and len(args) == 2 and not more and all(map(_is_plain, args)):
            a, b = args
            if native.has_add_norm(a, b):
                output = a.new_empty(()).expand(a.shape)
                self._sum_waits = _Waiting(output, lambda: torch.add(a, b), (a, b))
                return output
        return func(*args, **more)

    def finish(self) -> None:
        """Compute what was given out."""
        self._finish_passed()
        for waits in (self._linear_waits, self._sum_waits):
            if waits is not None:
                self._linear_waits = self._sum_waits = None
                waits.output.set_(waits.compute())  # type: ignore[call-overload]

    def _finish_passed(self) -> None:
        if self._passed is not None:
            (output_ref, compute), self._passed = self._passed, None
            output = output_ref()
            if output is not None:
                output.set_(compute())  # type: ignore[call-overload]

    def _linear(
        self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        # Weights that are computed anew each time are not worth ordering.
        if not isinstance(weight, nn.Parameter) or not _fits(input, weight, bias):
            return linear(input, weight, bias)
        outputs = len(weight)
        ordered = self._weights.part(weight, 0, outputs)
        compute = partial(_ordered_linear, input, ordered, outputs, bias=bias)
        output = input.new_empty(()).expand(*input.shape[:-1], outputs)
        self._linear_waits = _Waiting(output, compute, (compute,))
        return output

    def _layer_norm(
        self,
        waits: _Waiting,
        input: torch.Tensor,
        normalized_shape: Sequence[int],
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        eps: float = 1e-5,
    ) -> torch.Tensor | None:
        """LayerNorm of the sum that waits, computed with it; None where it is of something else."""
        if input is not waits.output or not (_is_plain(weight) and _is_plain(bias)):
            return None
        a, b = waits.arguments
        if tuple(normalized_shape) != weight.shape or not native.has_add_norm(a, b, weight, bias):
            return None
        self._sum_waits = None
        total, normalised = native.add_norm(a, b, weight, bias, eps)
        waits.output.set_(total)  # type: ignore[call-overload]
        return normalised


_ADD = (torch.Tensor.add, torch.Tensor.__add__, torch.add)


def _is_plain(tensor: object) -> TypeGuard[torch.Tensor]:
    """Numbers in memory: no subclass, and no stand-in of a transform such as vmap."""
    if type(tensor) not in (torch.Tensor, nn.Parameter):
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(tensor)  # type: ignore[arg-type]


def _fits(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Tell whether a linear layer of these can run on an ordered weight."""
    tensors = [x, weight] if bias is None else [x, weight, bias]
    if not all(map(_is_plain, tensors)) or torch.is_grad_enabled():
        return False
    same = len({(tensor.dtype, tensor.device) for tensor in tensors}) == 1
    strided = all(tensor.layout == torch.strided for tensor in tensors)
    shaped = weight.ndim == 2 and x.ndim > 0 and x.shape[-1] == weight.shape[1] and x.numel() > 0
    return same and strided and shaped and has_fast_linear(weight.dtype, weight.device)


def _ordered_linear(
    x: torch.Tensor,
    ordered: torch.Tensor,
    outputs: int,
    *,
    bias: torch.Tensor | None,
    fused: bool = False,
) -> torch.Tensor:
    """Outputs of a linear layer, with GELU when it is fused."""
    if ordered.layout == torch.strided:
        return native.linear(x, ordered, outputs, bias, gelu=fused)
    name, algorithm = ("gelu", "none") if fused else ("none", "")
    arguments: tuple[Any, ...] = (x, ordered, bias, name, [], algorithm)
    output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(*arguments)
    return output
