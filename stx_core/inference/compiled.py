"""Modules that torch.compile has taken."""

import sys

from torch import nn

from stx_core.inference.walk import all_modules


def is_compiled(model: nn.Module) -> bool:
    """Tell whether torch.compile has taken a module, or one inside of it."""
    return any(
        getattr(module, "_compiled_call_impl", None) is not None or original(module) is not module
        for module in all_modules(model)
    )


def original(model: nn.Module) -> nn.Module:
    """The module that torch.compile has wrapped; others as they are."""
    compiler = sys.modules.get("torch._dynamo.eval_frame")  # of seconds, where nobody compiles
    if compiler is not None and isinstance(model, compiler.OptimizedModule):
        inner: nn.Module = model._orig_mod
        return inner
    return model
