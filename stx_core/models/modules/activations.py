"""Activations by name: which ones a model folder may name, and how those of a model are saved."""

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules import activation as torch_activations

from stx_core.errors import ModelError

Activation = Callable[[torch.Tensor], torch.Tensor]

Plain = bool | int | float | str | None
"""An argument of an activation."""

_CLASSES: tuple[type[nn.Module], ...] = (
    nn.Identity,
    *(
        getattr(torch_activations, name)
        for name in torch_activations.__all__
        if name != "MultiheadAttention"
    ),
)

_BY_NAME: dict[str, type[nn.Module]] = {
    name: activation
    for activation in _CLASSES
    for name in (
        f"{activation.__module__}.{activation.__name__}",
        f"torch.nn.{activation.__name__}",
        f"torch.nn.modules.{activation.__name__}",
    )
}
"""Dotted name in a model folder -> class. Nothing else is accepted."""

# Functions are saved as the module that computes the same; a folder names modules only.
_OF_FUNCTIONS: dict[Any, type[nn.Module]] = {
    function: activation
    for activation, functions in (
        (nn.Tanh, (torch.tanh, functional.tanh, torch.Tensor.tanh)),
        (
            nn.Sigmoid,
            (torch.sigmoid, functional.sigmoid, torch.Tensor.sigmoid, torch.special.expit),
        ),
        (nn.ReLU, (torch.relu, functional.relu, torch.Tensor.relu)),
        (nn.SELU, (torch.selu, functional.selu)),
        (nn.CELU, (torch.celu, functional.celu)),
        (nn.Softmax, (torch.softmax, functional.softmax)),
        (nn.LogSoftmax, (torch.log_softmax, functional.log_softmax)),
        (nn.Hardshrink, (torch.hardshrink, functional.hardshrink)),
        (nn.Threshold, (torch.threshold, functional.threshold)),
        (nn.ReLU6, (functional.relu6,)),
        (nn.LeakyReLU, (functional.leaky_relu,)),
        (nn.ELU, (functional.elu,)),
        (nn.GELU, (functional.gelu,)),
        (nn.GLU, (functional.glu,)),
        (nn.SiLU, (functional.silu,)),
        (nn.Mish, (functional.mish,)),
        (nn.Softplus, (functional.softplus,)),
        (nn.Softsign, (functional.softsign,)),
        (nn.Softmin, (functional.softmin,)),
        (nn.Softshrink, (functional.softshrink,)),
        (nn.Hardtanh, (functional.hardtanh,)),
        (nn.Hardsigmoid, (functional.hardsigmoid,)),
        (nn.Hardswish, (functional.hardswish,)),
        (nn.LogSigmoid, (functional.logsigmoid,)),
        (nn.Tanhshrink, (functional.tanhshrink,)),
    )
    for function in functions
}

# What a constructor takes beside numbers that change the result.
_WITHOUT_EFFECT = {"inplace", "device", "dtype"}


def load_activation(
    name: Any,  # noqa: ANN401  (from a file, checked here)
    where: str,
    arguments: Any = None,  # noqa: ANN401
) -> nn.Module:
    """Build the activation that a folder names.

    Args:
        name: dotted class, such as ``torch.nn.modules.activation.Tanh``.
        where: the file that names it, for the message.
        arguments: of its constructor, by name; None for its defaults.

    Raises:
        ModelError: the name is not one of an activation of torch.nn, or the arguments are not its
            own. It is never replaced by another one.
    """
    if not isinstance(name, str) or name not in _BY_NAME:
        raise ModelError(
            f"{where}: activation {name!r} is unknown; code from model folders is not run, known "
            f"are the activations of torch.nn: {sorted(cls.__name__ for cls in _CLASSES)}"
        )
    activation = _BY_NAME[name]
    given = {} if arguments is None else arguments
    if not isinstance(given, Mapping) or not all(isinstance(v, Plain) for v in given.values()):
        raise ModelError(f"{where}: arguments of {name} must be numbers by name, got {given!r}")
    try:
        return activation(**given)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{where}: arguments do not fit activation {name}: {error}") from error


def saved_activation(activation: Activation) -> tuple[str, dict[str, Plain]]:
    """An activation as a folder names it: dotted class, and arguments other than its defaults.

    Sentence Transformers loads the class, and knows no arguments: it takes the defaults.

    Raises:
        ModelError: it is neither an activation of torch.nn nor a function that one of them equals.
    """
    # A function counts as the module that computes the same, also with keywords bound to it.
    function, keywords = activation, {}
    if isinstance(activation, partial) and not activation.args:
        function, keywords = activation.func, activation.keywords
    module: Any = activation
    with suppress(TypeError):  # not hashable, or keywords that the module does not know
        if function in _OF_FUNCTIONS:
            module = _OF_FUNCTIONS[function](**keywords)
    if type(module) not in _CLASSES:
        raise ModelError(
            f"the activation {activation!r} cannot be saved: a folder names activations of "
            "torch.nn, with their arguments; use one of them"
        )
    takes = inspect.signature(type(module).__init__).parameters
    arguments = {
        name: getattr(module, name)
        for name, parameter in takes.items()
        if name not in _WITHOUT_EFFECT
        and hasattr(module, name)
        and getattr(module, name) != parameter.default
    }
    return f"{type(module).__module__}.{type(module).__name__}", arguments
