import json

import pytest
import torch
from torch import nn

from stx_core.errors import ModelError
from stx_core.models.modules.dense import Dense
from stx_core.models.modules.module import LoadOptions


def saved(tmp_path, **changes):
    Dense(3, 2).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("torch.nn.modules.activation.Tanh", nn.Tanh),
        ("torch.nn.modules.linear.Identity", nn.Identity),
        ("torch.nn.Sigmoid", nn.Sigmoid),
    ],
)
def test_activations_of_torch_are_built_by_name(name, expected, tmp_path):
    module = Dense.from_folder(saved(tmp_path, activation_function=name), LoadOptions())

    assert type(module.activation_function) is expected


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "torch.load",
        "torch.nn.Linear",
        "torch.nn.MultiheadAttention",
        "torch.tanh",
        "torch.hub.load",
        "my_code.Swish",
        "",
    ],
)
def test_an_unknown_activation_is_an_error_and_never_tanh(name, tmp_path):
    with pytest.raises(ModelError, match=f"activation {name!r} is unknown"):
        Dense.from_folder(saved(tmp_path, activation_function=name), LoadOptions())


def test_a_head_writes_scores_and_keeps_what_it_read():
    dense = Dense(3, 2, activation_function=None, module_output_name="scores")
    embedding = torch.randn(4, 3)

    features = dense({"sentence_embedding": embedding})

    assert features["sentence_embedding"] is embedding
    torch.testing.assert_close(features["scores"], dense.linear(embedding))


def test_both_names_survive_saving(tmp_path):
    Dense(3, 2, module_input_name="a", module_output_name="b", use_residual=True).save(tmp_path)

    again = Dense.from_folder(tmp_path, LoadOptions())

    assert (again.module_input_name, again.module_output_name) == ("a", "b")
    assert again.use_residual


def test_weights_of_another_shape_are_an_error(tmp_path):
    with pytest.raises(ModelError, match="size mismatch"):
        Dense.from_folder(saved(tmp_path, out_features=5), LoadOptions())


def test_initial_weights_are_taken():
    dense = Dense(2, 2, None, None, torch.eye(2), torch.ones(2))  # no bias: its start is ignored

    assert dense.linear.bias is None
    assert torch.equal(dense.linear.weight, torch.eye(2))
