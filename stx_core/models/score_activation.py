"""The activation that makes scores of logits: named by a folder, applied, saved."""

from typing import Any

import torch
from torch import nn

from stx_core.errors import ModelError
from stx_core.models.loading import CONFIG
from stx_core.models.modules.activations import Activation, load_activation, saved_activation
from stx_core.models.options import ModelSettings
from stx_core.models.settings import shown

# B pairs of a batch, K labels


def named_activation(saved_config: ModelSettings, backbone: Any) -> nn.Module | None:  # noqa: ANN401
    """The activation that a folder names, in the places of all ages, newest first.

    Args:
        saved_config: settings of the whole model.
        backbone: config of its backbone, of transformers; None for a model without one.

    Returns:
        None where the folder names none.

    Raises:
        ModelError: the name or its arguments are not of an activation of torch.nn.
    """
    block = getattr(backbone, "sentence_transformers", None) or {}
    if not isinstance(block, dict):
        raise ModelError(f"config.json: sentence_transformers is {shown(block)}, not an object")
    places = (
        (saved_config.get("activation_fn"), f"{CONFIG}: activation_fn"),
        (block.get("activation_fn"), "config.json: sentence_transformers.activation_fn"),
        (
            getattr(backbone, "sbert_ce_default_activation_function", None),
            "config.json: sbert_ce_default_activation_function",
        ),
    )
    arguments = saved_config.get("activation_fn_arguments")
    for path, where in places:
        if path is not None:
            return load_activation(path, where, arguments if where.startswith(CONFIG) else None)
    return None


def to_scores(
    logits_BK: torch.Tensor, activation: Activation, *, one_label: bool, apply_softmax: bool
) -> torch.Tensor:
    """Logits to scores (B, ...), (B,) for one label, at least single precision.

    Args:
        logits_BK: of a batch, in any floating-point format.
        activation: makes scores of them.
        one_label: the model has one; scores then have no last axis of length 1.
        apply_softmax: make the scores of several labels sum to 1, after the activation.

    Raises:
        ValueError: the activation does not give one result for each pair.
    """
    if torch.finfo(logits_BK.dtype).bits < 32:
        logits_BK = logits_BK.float()  # half precision would round good documents to ties
    scores = activation(logits_BK)
    if not isinstance(scores, torch.Tensor) or scores.shape[:1] != logits_BK.shape[:1]:
        shape = getattr(scores, "shape", None)
        result = type(scores) if shape is None else f"shape {tuple(shape)}"
        raise ValueError(
            f"activation_fn must make a tensor with one row for each pair of logits "
            f"{tuple(logits_BK.shape)}, got {result}"
        )
    if one_label and scores.ndim > 1 and scores.shape[-1] == 1:
        scores = scores.squeeze(-1)
    return scores.softmax(dim=1) if apply_softmax and scores.ndim > 1 else scores


def activation_settings(activation: Activation) -> ModelSettings:
    """The activation as settings of the model.

    Raises:
        ModelError: no folder could bring it back.
    """
    name, arguments = saved_activation(activation)
    if isinstance(activation, nn.PReLU) and not bool((activation.weight == activation.init).all()):
        raise ModelError(f"{activation!r} has weights of its own, which no folder of a model keeps")
    settings = ModelSettings(activation_fn=name)
    if arguments:
        settings["activation_fn_arguments"] = arguments
    return settings
