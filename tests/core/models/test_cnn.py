import json

import pytest
import torch

from stx_core.models.modules.cnn import CNN
from stx_core.models.modules.module import LoadOptions


def test_outputs_of_all_kernels_lie_side_by_side_and_keep_the_length():
    torch.manual_seed(0)
    module = CNN(4, out_channels=3, kernel_sizes=[1, 3])
    tokens = torch.randn(2, 5, 4)

    output = module({"token_embeddings": tokens})["token_embeddings"]

    first = module.convs[0]
    by_hand = tokens @ first.weight.squeeze(-1).T + first.bias
    assert output.shape == (2, 5, module.get_embedding_dimension()) == (2, 5, 6)
    torch.testing.assert_close(output[..., :3], by_hand)


@pytest.mark.parametrize("key", ["in_embedding_dimension", "in_word_embedding_dimension"])
def test_both_config_generations_load(tmp_path, key):
    module = CNN(4, 3)
    module.save(tmp_path)
    config = json.loads((tmp_path / "cnn_config.json").read_text())
    config[key] = config.pop("in_embedding_dimension")
    (tmp_path / "cnn_config.json").write_text(json.dumps(config))

    again = CNN.from_folder(tmp_path, LoadOptions())

    assert again.get_config_dict() == module.get_config_dict()
    assert torch.equal(again.convs[2].weight, module.convs[2].weight)
