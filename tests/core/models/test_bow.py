import numpy as np
import pytest
import torch

from stx_core.models.modules.bow import BoW
from stx_core.models.modules.module import LoadOptions


def encode(module: BoW, texts: list[str]) -> list[list[float]]:
    features = module(module.collate(module.to_tokens(texts), np.arange(len(texts))))
    return features["sentence_embedding"].tolist()


@pytest.mark.parametrize(("cumulative", "count"), [(True, 2), (False, 1)])
def test_a_repeated_word_counts_twice_only_when_cumulative(cumulative, count):
    module = BoW(["sun", "sea"], {"sun": 0.5}, 2, cumulative_term_frequency=cumulative)

    assert encode(module, ["sun sun sea", "", "moon"]) == [[0.5 * count, 2], [0, 0], [0, 0]]


def test_repeated_vocabulary_is_one_dimension():
    module = BoW(["sun", "sea", "sun"])

    assert module.get_embedding_dimension() == 2
    assert encode(module, ["sun"]) == [[1, 0]]


def test_saving_and_loading_gives_the_same_vectors(tmp_path):
    module = BoW(["sun", "sea"], {"sea": 3.0}, cumulative_term_frequency=False)

    module.save(tmp_path)
    again = BoW.from_folder(tmp_path, LoadOptions())

    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert again.get_config_dict() == module.get_config_dict()
    assert encode(again, ["sea sea sun"]) == [[1, 3]]
    assert again.weights.dtype == torch.float32
