"""Linear layers that compute in float32, whatever the rest of a model computes in."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from stx_core.errors import ModelError


class _Float32Linear(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.float()
        return functional.linear(input.float(), self.weight.float(), bias)


def keep_in_float32(model: nn.Module, names: Sequence[str]) -> None:
    """Let linear layers of a model compute and return float32; their weights stay as they are.

    Layers that did so before and are not named do so no longer.

    Args:
        model: the whole model.
        names: paths of plain linear layers in it, such as ``0.model.classifier``.

    Raises:
        ModelError: a path names no plain linear layer.
    """
    chosen = []
    for name in names:
        try:
            layer = model.get_submodule(name)
        except AttributeError:
            layer = None
        if type(layer) not in (nn.Linear, _Float32Linear):
            raise ModelError(
                f"keep_in_fp32_modules: {name!r} is "
                f"{'not there' if layer is None else 'a ' + type(layer).__name__}, no linear layer"
            )
        chosen.append(layer)
    before: list[nn.Module] = [part for part in model.modules() if type(part) is _Float32Linear]
    for part in before:
        part.__class__ = nn.Linear
    for layer in chosen:
        layer.__class__ = _Float32Linear
