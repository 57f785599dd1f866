import json

import pytest
import torch

from stx_core.errors import ModelError
from stx_core.models.modules.module import LoadOptions
from stx_core.models.modules.splade_pooling import SpladePooling


@pytest.fixture
def features() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    return {"token_embeddings": torch.randn(2, 5, 7) * 3, "attention_mask": mask}


def by_hand(features: dict, strategy: str, activation: str) -> torch.Tensor:
    """The formula as the papers have it, token by token."""
    rows = []
    for logits, mask in zip(features["token_embeddings"], features["attention_mask"], strict=True):
        weights = torch.log1p(torch.relu(logits[mask.bool()]))
        if activation == "log1p_relu":
            weights = torch.log1p(weights)
        rows.append(weights.max(0).values if strategy == "max" else weights.sum(0))
    return torch.stack(rows)


@pytest.mark.parametrize("chunk_size", [None, 1, 2, 5, 64])
@pytest.mark.parametrize("strategy", ["max", "sum"])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
def test_all_tokens_but_padding_are_pooled(features, strategy, activation, chunk_size):
    module = SpladePooling(strategy, activation, chunk_size=chunk_size)
    logits = features["token_embeddings"].clone()

    embedding = module(dict(features))["sentence_embedding"]

    torch.testing.assert_close(embedding, by_hand(features, strategy, activation))
    assert torch.equal(features["token_embeddings"], logits), "the logits must stay as they were"


def test_log1p_relu_takes_the_logarithm_twice():
    features = {
        "token_embeddings": torch.tensor([[[torch.e - 1]]]),
        "attention_mask": torch.ones(1, 1),
    }

    once = SpladePooling("max", "relu")(dict(features))["sentence_embedding"]
    twice = SpladePooling("max", "log1p_relu")(dict(features))["sentence_embedding"]

    assert once.item() == pytest.approx(1.0)
    assert twice.item() == pytest.approx(0.6931472)


def test_a_batch_without_tokens_is_zero():
    features = {"token_embeddings": torch.zeros(2, 0, 3), "attention_mask": torch.zeros(2, 0)}

    assert SpladePooling()(features)["sentence_embedding"].tolist() == [[0] * 3] * 2


def test_the_dimension_is_learnt_from_the_first_batch(features):
    module = SpladePooling()

    before = module.get_embedding_dimension()
    module(features)

    assert (before, module.get_embedding_dimension()) == (None, 7)


def test_the_chunk_size_is_never_saved(tmp_path):
    SpladePooling("sum", "log1p_relu", 7, chunk_size=3).save(tmp_path)

    again = SpladePooling.from_folder(tmp_path, LoadOptions())

    assert "chunk_size" not in json.loads((tmp_path / "config.json").read_text())
    assert again.chunk_size is None
    assert again.get_config_dict() == {
        "pooling_strategy": "sum",
        "activation_function": "log1p_relu",
        "embedding_dimension": 7,
    }


def test_the_old_name_of_the_dimension_loads(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"pooling_strategy": "max", "word_embedding_dimension": 9})
    )

    assert SpladePooling.from_folder(tmp_path, LoadOptions()).embedding_dimension == 9


def test_unknown_settings_are_refused_with_the_known_ones():
    with pytest.raises(ModelError, match=r"pooling_strategy is 'mean'.*'max', 'sum'"):
        SpladePooling("mean")


def test_a_setting_that_does_not_exist_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"strategy": "max"}))

    with pytest.raises(ModelError, match=r"settings do not fit SpladePooling.*'strategy'"):
        SpladePooling.from_folder(tmp_path, LoadOptions())


@pytest.mark.parametrize("strategy", SpladePooling.SPLADE_POOLING_MODES)
def test_flattened_inputs_are_pooled_as_padded_ones(strategy):
    rows = [torch.randn(length, 6) for length in (3, 1, 2)]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=9.0)
    mask = torch.arange(3) < torch.tensor([3, 1, 2])[:, None]
    module = SpladePooling(strategy, word_embedding_dimension=6)

    expected = module({"token_embeddings": padded, "attention_mask": mask})
    flattened = module(
        {
            "token_embeddings": torch.cat(rows)[None],
            "cu_seq_lens_q": torch.tensor([0, 3, 4, 6], dtype=torch.int32),
        }
    )

    torch.testing.assert_close(flattened["sentence_embedding"], expected["sentence_embedding"])
