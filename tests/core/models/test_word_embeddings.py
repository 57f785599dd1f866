import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stx_core.errors import ModelError
from stx_core.models.modules.module import LoadOptions
from stx_core.models.modules.word_embeddings import WordEmbeddings
from stx_core.models.modules.word_tokenizers import WordTokenizer

VOCAB = ["PADDING_TOKEN", "sun", "rain", "sea"]
TABLE = torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


@pytest.fixture
def module() -> WordEmbeddings:
    return WordEmbeddings(WordTokenizer(VOCAB, ["the"]), TABLE)


def run(module: WordEmbeddings, texts: list[str]) -> dict[str, torch.Tensor]:
    return module(module.collate(module.to_tokens(texts), np.arange(len(texts))))


def test_known_words_are_looked_up_and_padding_is_masked(module):
    features = run(module, ["the sun, sea", "rain"])

    assert features["token_embeddings"].tolist() == [[[1, 2], [5, 6]], [[3, 4], [0, 0]]]
    assert features["attention_mask"].tolist() == [[1, 1], [1, 0]]


def test_texts_without_a_known_word_keep_one_masked_column(module):
    features = run(module, ["", "the moon"])

    assert features["token_embeddings"].shape == (2, 1, 2)
    assert features["attention_mask"].tolist() == [[0], [0]]


def test_words_beyond_the_limit_are_cut_and_reported(module):
    module.max_seq_length = 1

    tokens = module.to_tokens(["sun rain", "the sun"])

    assert tokens.ids.tolist() == [1, 1]
    assert tokens.truncated.tolist() == [True, False]


def test_saving_and_loading_gives_the_same_vectors(module, tmp_path):
    module.save(tmp_path)
    again = WordEmbeddings.from_folder(tmp_path, LoadOptions())

    assert again.get_config_dict() == module.get_config_dict()
    assert torch.equal(
        run(again, ["sun moon sea"])["token_embeddings"],
        run(module, ["sun moon sea"])["token_embeddings"],
    )


def test_a_weights_file_of_another_kind_is_refused_with_its_keys(module, tmp_path):
    module.save(tmp_path)
    save_file({"weight": TABLE}, tmp_path / "model.safetensors")

    with pytest.raises(ModelError, match=r"emb_layer\.weight.*\['weight'\]"):
        WordEmbeddings.from_folder(tmp_path, LoadOptions())


def test_a_tokenizer_class_of_the_folder_is_never_imported(module, tmp_path):
    module.save(tmp_path)
    path = tmp_path / "wordembedding_config.json"
    config = json.loads(path.read_text()) | {"tokenizer_class": "custom.Tokenizer"}
    path.write_text(json.dumps(config))

    with pytest.raises(ModelError, match=r"'custom\.Tokenizer' is unknown"):
        WordEmbeddings.from_folder(tmp_path, LoadOptions())
