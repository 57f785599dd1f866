import json

import pytest
import torch

from stx_core.models.modules.lstm import LSTM
from stx_core.models.modules.module import LoadOptions


@pytest.fixture
def module() -> LSTM:
    torch.manual_seed(0)
    return LSTM(4, 3).eval()


def test_padding_does_not_change_a_text_even_reading_backwards(module):
    tokens = torch.randn(1, 2, 4)
    padded = torch.cat([tokens, torch.full((1, 3, 4), 7.0)], dim=1)

    alone = module({"token_embeddings": tokens, "attention_mask": torch.ones(1, 2).long()})
    among = module({"token_embeddings": padded, "attention_mask": torch.tensor([[1, 1, 0, 0, 0]])})

    assert among["token_embeddings"].shape == (1, 5, module.get_embedding_dimension())
    torch.testing.assert_close(among["token_embeddings"][:, :2], alone["token_embeddings"])


def test_a_text_without_tokens_is_read_as_one_masked_position(module):
    features = {"token_embeddings": torch.zeros(1, 1, 4), "attention_mask": torch.zeros(1, 1)}

    assert module(features)["token_embeddings"].shape == (1, 1, 6)


@pytest.mark.parametrize("key", ["embedding_dimension", "word_embedding_dimension"])
def test_both_config_generations_load(module, tmp_path, key):
    module.save(tmp_path)
    config = json.loads((tmp_path / "lstm_config.json").read_text())
    config[key] = config.pop("embedding_dimension")
    (tmp_path / "lstm_config.json").write_text(json.dumps(config))

    again = LSTM.from_folder(tmp_path, LoadOptions())

    assert again.get_config_dict() == module.get_config_dict()
    assert torch.equal(again.encoder.weight_ih_l0, module.encoder.weight_ih_l0)
