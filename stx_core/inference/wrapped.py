"""Backbones inside of wrappers: adapters, compiled modules, data parallelism, modules of users."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from stx_core.inference.compiled import original

# What transformers takes for its models, whether their forward declares it or not.
_ALL_TAKE = {"return_dict", "output_hidden_states"}


def backbone_of(model: nn.Module) -> Any:  # noqa: ANN401  (transformers is untyped)
    """The outermost model of transformers inside a module; the module itself where there is none.

    Its config, embeddings and layers are those that matter; a call goes to the wrapper.
    """
    return next((m for m in model.modules() if isinstance(m, PreTrainedModel)), model)


def call(model: nn.Module, method: str, inputs: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Call a model with those of the inputs that it takes.

    A wrapper that takes any keyword passes it on, so what is inside says what is taken. A model of
    transformers takes what it declares: ``token_type_ids``, say, would be an error for some.

    Args:
        model: a backbone, or a wrapper around it.
        method: ``forward``, or a method of the backbone such as ``get_text_features``.
        inputs: by name.
    """
    if method == "forward":
        taken = _taken(model)
        function: Any = model  # hooks, and what was compiled, are behind the call
    else:
        function = getattr(model, method, None) or getattr(backbone_of(model), method)
        taken = set(inspect.signature(function).parameters)
    return function(**{k: v for k, v in inputs.items() if taken is None or k in taken})


def _taken(model: nn.Module) -> set[str] | None:
    """Names of the inputs that a module takes; None for all."""
    model = original(model)
    parameters = inspect.signature(model.forward).parameters.values()
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    passes_on = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if isinstance(model, PreTrainedModel) and names:
        return names | _ALL_TAKE
    if not passes_on:
        return names
    backbone = backbone_of(model)
    inner = next((c for c in model.children() if any(m is backbone for m in c.modules())), None)
    taken = None if inner is None else _taken(inner)
    return None if taken is None else names | taken


def field_of(output: Any, name: str | int) -> Any:  # noqa: ANN401
    """A part of what a backbone gave: by its name, or the first of a tuple, or the only tensor."""
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(name, str) and isinstance(output, tuple):
        return output[0]
    try:
        return output[name]
    except (KeyError, TypeError):
        return getattr(output, str(name))
