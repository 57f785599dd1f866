"""A linear layer with an activation."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from stx_core.models.alias import Alias
from stx_core.models.folder import JsonObject, read_json
from stx_core.models.modules.activations import Activation, load_activation, saved_activation
from stx_core.models.modules.module import Features, Module

# Beside the name of the activation, where it has others than its defaults.
ARGUMENTS = "activation_arguments"


class Dense(Module):
    """``activation(x @ weight.T + bias)``, with an optional residual connection.

    Args:
        in_features: width of the feature that is read.
        out_features: width of the feature that is written.
        bias: whether the layer adds a bias.
        activation_function: None for none.
        init_weight: (out_features, in_features) weights to start from.
        init_bias: (out_features,) bias to start from.
        module_input_name: feature to read, (..., in_features).
        module_output_name: feature to write; default: the one that was read. ``scores`` makes the
            layer a cross-encoder's head.
        use_residual: add the input, projected where the widths differ.
    """

    config_keys: ClassVar[tuple[str, ...]] = (
        "in_features",
        "out_features",
        "bias",
        "module_input_name",
        "module_output_name",
    )

    residual: nn.Module

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation_function: Activation | None = nn.Tanh(),  # noqa: B008
        init_weight: torch.Tensor | None = None,
        init_bias: torch.Tensor | None = None,
        module_input_name: str = "sentence_embedding",
        module_output_name: str | None = None,
        use_residual: bool = False,
    ) -> None:
        super().__init__()
        self.activation_function = activation_function or nn.Identity()
        self.module_input_name = module_input_name
        self.module_output_name = module_output_name or module_input_name
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        self.use_residual = use_residual
        if init_weight is not None:
            self.linear.weight = nn.Parameter(init_weight)
        if init_bias is not None and bias:
            self.linear.bias = nn.Parameter(init_bias)

    in_features = Alias[int]("linear.in_features")
    """Width of the feature that is read."""

    out_features = Alias[int]("linear.out_features")
    """Width of the feature that is written."""

    @property
    def bias(self) -> bool:
        """True where the layer adds a bias."""
        return self.linear.bias is not None

    @property
    def use_residual(self) -> bool:
        """True where the input is added; switched on where widths differ, with a new projection."""
        return self._use_residual

    @use_residual.setter
    def use_residual(self, value: bool) -> None:
        self._use_residual = value
        projects = value and self.in_features != self.out_features
        if not projects and hasattr(self, "residual"):
            del self.residual
        if projects and not hasattr(self, "residual"):
            self.residual = nn.Linear(self.in_features, self.out_features, bias=False).to(
                self.linear.weight
            )

    @classmethod
    def read_config(cls, folder: Path) -> dict[str, Any]:
        """Settings, the activation built from its name."""
        path = folder / cls.config_file_name
        config = read_json(path)
        arguments = config.pop(ARGUMENTS, None)
        if "activation_function" in config:
            config["activation_function"] = load_activation(
                config["activation_function"], str(path), arguments
            )
        return config

    def get_config_dict(self) -> JsonObject:
        """Settings as they are saved; `use_residual` where it is on: it is unknown before 5.7.

        So are arguments of the activation, which the reference leaves out of account.

        Raises:
            ModelError: the activation is none that a folder can name.
        """
        name, arguments = saved_activation(self.activation_function or nn.Identity())
        config = super().get_config_dict() | {"activation_function": name}
        config |= {ARGUMENTS: arguments} if arguments else {}
        return config | ({"use_residual": True} if self.use_residual else {})

    def get_embedding_dimension(self) -> int:
        """Width of the output, half of `out_features` behind a gate."""
        gated = isinstance(self.activation_function, nn.GLU)
        return self.out_features // 2 if gated else self.out_features

    def forward(self, features: Features) -> Features:
        """Read (..., in_features), write (..., out_features)."""
        value = features[self.module_input_name]
        output = self.linear(value)
        if self.activation_function is not None:
            output = self.activation_function(output)
        if self.use_residual:
            same_width = self.linear.in_features == self.linear.out_features
            output = output + (value if same_width else self.residual(value))
        features[self.module_output_name] = output
        return features
