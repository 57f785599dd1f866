"""Modules that torch.compile has taken."""

import sys

from torch import nn


def original(model: nn.Module) -> nn.Module:
    """The module that torch.compile has wrapped; others as they are."""
    compiler = sys.modules.get("torch._dynamo.eval_frame")  # of seconds, where nobody compiles
    if compiler is not None and isinstance(model, compiler.OptimizedModule):
        inner: nn.Module = model._orig_mod
        return inner
    return model
