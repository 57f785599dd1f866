import torch

from stx_core.models.modules.module import LoadOptions
from stx_core.models.modules.word_weights import WordWeights


def test_a_weight_is_found_as_spelt_then_in_lower_case_then_unknown():
    weights = {"Sun": 2, "sun": 3, "sea": 4}
    module = WordWeights(["Sun", "SEA", "moon"], weights, unknown_word_weight=0.5)

    assert module.token_weights.tolist() == [2.0, 4.0, 0.5]


def test_token_embeddings_are_scaled_and_padding_weighs_nothing():
    module = WordWeights(["pad", "sun", "sea"], {"pad": 9, "sun": 2, "sea": 3})
    features = {
        "input_ids": torch.tensor([[1, 2], [2, 0]]),
        "attention_mask": torch.tensor([[1, 1], [1, 0]]),
        "token_embeddings": torch.ones(2, 2, 1),
    }

    module(features)

    assert features["token_embeddings"].squeeze(-1).tolist() == [[2, 3], [3, 0]]
    assert features["token_weights_sum"].tolist() == [5, 3]


def test_saving_and_loading_gives_the_same_weights(tmp_path):
    module = WordWeights(["sun", "sea"], {"sun": 2.5}, unknown_word_weight=0.25)

    module.save(tmp_path)
    again = WordWeights.from_folder(tmp_path, LoadOptions())

    assert again.token_weights.tolist() == [2.5, 0.25]
