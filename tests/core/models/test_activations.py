import json
import re
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules import activation as torch_activations

from stx_core import CrossEncoder, ModelError
from stx_core.models import Dense
from stx_core.models.modules.activations import load_activation, saved_activation

VALUES = torch.linspace(-7, 7, 24).reshape(3, 8)

WITH_ARGUMENTS = [
    nn.LeakyReLU(0.3), nn.ELU(2), nn.CELU(0.5), nn.Hardtanh(-0.5, 0.25), nn.Softplus(2, 5),
    nn.GELU("tanh"), nn.Threshold(0.5, -3), nn.Softmax(-1), nn.LogSoftmax(1), nn.Softmin(1),
    nn.GLU(1), nn.Hardshrink(1.5), nn.Softshrink(0.75), nn.RReLU(0.2, 0.3), nn.PReLU(8),
]  # fmt: skip
NEEDS_ARGUMENTS = {"Threshold": (1, 2), "MultiheadAttention": None}
PLAIN = [
    getattr(torch_activations, name)()
    for name in torch_activations.__all__
    if name not in NEEDS_ARGUMENTS and not name.endswith(("max", "min", "max2d"))
]
FUNCTIONS = [
    torch.tanh, torch.sigmoid, torch.relu, functional.gelu, functional.leaky_relu, functional.glu,
    torch.Tensor.tanh, torch.special.expit, partial(torch.softmax, dim=-1),
    partial(functional.leaky_relu, negative_slope=0.3),
    partial(functional.gelu, approximate="tanh"),
]  # fmt: skip


def name(activation):
    """Without the address, which is another one in each process."""
    return re.sub(r" at 0x\w+", "", repr(activation))


@pytest.mark.parametrize("activation", [*PLAIN, *WITH_ARGUMENTS, *FUNCTIONS], ids=name)
def test_every_activation_of_torch_comes_back_from_a_folder(activation, tmp_path):
    if isinstance(activation, nn.Module):
        activation.eval()
    dense = Dense(8, 8, activation_function=activation).eval()
    dense.save(tmp_path)

    again = Dense.load(tmp_path).eval()

    features = {"sentence_embedding": VALUES}
    expected = dense(dict(features))["sentence_embedding"]
    torch.testing.assert_close(again(dict(features))["sentence_embedding"], expected)
    assert again.get_embedding_dimension() == expected.shape[1]


@pytest.mark.parametrize("activation", PLAIN, ids=repr)
def test_defaults_are_not_saved(activation, tmp_path):
    Dense(8, 8, activation_function=activation).save(tmp_path)

    assert "activation_arguments" not in json.loads((tmp_path / "config.json").read_text())


@pytest.mark.parametrize(
    "activation", [lambda x: x, nn.Linear(2, 2), nn.Sequential(nn.Tanh()), torch.exp, [], "tanh"]
)
def test_activation_outside_of_torch_nn_is_not_saved(activation):
    with pytest.raises(ModelError, match="cannot be saved: a folder names activations of torch.nn"):
        saved_activation(activation)


@pytest.mark.parametrize(
    "arguments",
    [{"slope": 1}, [0.3], "0.3", {"negative_slope": {"a": 1}}, {"negative_slope": [1]}, {1: 2}],
)
def test_arguments_that_do_not_fit_are_an_error_of_the_folder(arguments):
    with pytest.raises(ModelError, match="^config.json: arguments .*LeakyReLU"):
        load_activation("torch.nn.LeakyReLU", "config.json", arguments)


@pytest.mark.parametrize("name", [None, 3, ["torch.nn.Tanh"], {}, "torch.nn.MultiheadAttention"])
def test_a_name_of_another_kind_is_an_error_of_the_folder(name):
    with pytest.raises(ModelError, match="^config.json: activation .* is unknown"):
        load_activation(name, "config.json")


@pytest.mark.parametrize("activation", [nn.LeakyReLU(0.3), torch.tanh, nn.Softmax(-1), nn.PReLU()])
def test_the_activation_of_a_cross_encoder_comes_back(activation, tiny_bert, tmp_path):
    head = Dense(32, 3, activation_function=None, module_output_name="scores")
    from stx_core.models import Pooling, Transformer

    parts = [Transformer.load(tiny_bert), Pooling(32), head]
    model = CrossEncoder(modules=parts, device="cpu", activation_fn=activation)
    model.save(tmp_path)

    again = CrossEncoder(tmp_path, device="cpu").activation_fn

    torch.testing.assert_close(again(VALUES), activation(VALUES))
