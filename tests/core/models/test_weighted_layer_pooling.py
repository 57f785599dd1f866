import json

import pytest
import torch

from stx_core.errors import ModelError
from stx_core.models.modules.module import LoadOptions
from stx_core.models.modules.weighted_layer_pooling import WeightedLayerPooling


@pytest.fixture
def module() -> WeightedLayerPooling:
    module = WeightedLayerPooling(2, num_hidden_layers=3, layer_start=2)
    with torch.no_grad():
        module.layer_weights.copy_(torch.tensor([1.0, 3.0]))
    return module


def test_layers_from_the_first_that_counts_are_averaged_by_weight(module):
    layers = tuple(torch.full((1, 2, 2), value) for value in (100.0, 100.0, 4.0, 8.0))

    features = module({"all_layer_embeddings": layers})

    assert features["token_embeddings"].unique().tolist() == [7.0]


def test_missing_hidden_states_are_an_error_that_says_how_to_get_them(module):
    with pytest.raises(ModelError, match="output_hidden_states"):
        module({"token_embeddings": torch.zeros(1, 2, 2)})


@pytest.mark.parametrize("key", ["embedding_dimension", "word_embedding_dimension"])
def test_both_config_generations_load(module, tmp_path, key):
    module.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config[key] = config.pop("embedding_dimension")
    (tmp_path / "config.json").write_text(json.dumps(config))

    again = WeightedLayerPooling.from_folder(tmp_path, LoadOptions())

    assert again.get_config_dict() == module.get_config_dict()
    assert again.layer_weights.tolist() == [1.0, 3.0]
