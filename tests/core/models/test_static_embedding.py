import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from stx_core.errors import ModelError
from stx_core.models.modules.module import LoadOptions
from stx_core.models.modules.static_embedding import StaticEmbedding

WORDS = ["[UNK]", "[CLS]", "sun", "rain", "sea"]


@pytest.fixture
def tokenizer() -> Tokenizer:
    vocab = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 1)]
    )
    return tokenizer


@pytest.fixture
def table() -> torch.Tensor:
    return torch.arange(10, dtype=torch.float32).reshape(5, 2)


def encode(module: StaticEmbedding, texts: list[str], prompt: str = "") -> torch.Tensor:
    tokens = module.to_tokens(texts, prompt=prompt)
    return module(module.collate(tokens, np.arange(len(texts))))["sentence_embedding"]


def test_a_text_is_the_mean_of_its_token_rows_without_special_tokens(tokenizer, table):
    module = StaticEmbedding(tokenizer, table)

    embedding = encode(module, ["sun sea", "rain"])

    assert embedding.tolist() == [[6.0, 7.0], [6.0, 7.0]]


def test_an_empty_text_is_the_zero_vector(tokenizer, table):
    module = StaticEmbedding(tokenizer, table)

    embedding = encode(module, ["", "sun", ""])

    assert embedding.tolist() == [[0.0, 0.0], [4.0, 5.0], [0.0, 0.0]]


def test_the_prompt_counts(tokenizer, table):
    module = StaticEmbedding(tokenizer, table)

    assert torch.equal(encode(module, ["sea"], "sun "), encode(module, ["sun sea"]))


def test_there_is_no_limit_and_no_padding_by_default(tokenizer, table):
    tokenizer.enable_padding(length=7)
    module = StaticEmbedding(tokenizer, table)

    tokens = module.to_tokens(["sun " * 3000, "sun"])

    assert tokens.lengths.tolist() == [3000, 1]
    assert not tokens.truncated.any()
    assert module.max_seq_length is None


def test_truncation_baked_into_the_tokenizer_stays_in_force(tokenizer, table, tmp_path):
    tokenizer.enable_truncation(2)
    StaticEmbedding(tokenizer, table).save(tmp_path)

    module = StaticEmbedding.from_folder(tmp_path, LoadOptions())
    tokens = module.to_tokens(["sun rain sea", "sun rain"])

    assert module.max_seq_length == 2
    assert tokens.lengths.tolist() == [2, 2]
    assert tokens.truncated.tolist() == [True, False]


def test_the_limit_can_be_set_and_lifted(tokenizer, table):
    module = StaticEmbedding(tokenizer, table)

    module.max_seq_length = 1
    limited = module.to_tokens(["sun rain"])
    module.max_seq_length = None
    free = module.to_tokens(["sun rain"])

    assert (limited.lengths[0], limited.truncated[0]) == (1, True)
    assert (free.lengths[0], free.truncated[0]) == (2, False)


def test_saving_and_loading_gives_the_same_vectors(tokenizer, table, tmp_path):
    module = StaticEmbedding(tokenizer, table)

    module.save(tmp_path)
    again = StaticEmbedding.from_folder(tmp_path, LoadOptions())

    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model.safetensors",
        "tokenizer.json",
    ]
    assert torch.equal(encode(again, ["sun rain"]), encode(module, ["sun rain"]))


def test_model2vec_mapping_and_weights_are_worked_into_one_row_per_token(tokenizer, tmp_path):
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    mapping, weights = torch.tensor([0, 0, 1, 1, 0]), torch.tensor([1.0, 1.0, 2.0, 3.0, 4.0])
    save_file(
        {"embeddings": rows, "mapping": mapping, "weights": weights}, tmp_path / "model.safetensors"
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))

    module = StaticEmbedding.from_model2vec(tmp_path)

    assert module.embedding.weight.tolist() == [[1, 0], [1, 0], [0, 2], [0, 3], [4, 0]]


def test_a_weights_file_of_another_kind_is_refused_with_its_keys(tokenizer, tmp_path):
    save_file({"linear.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    tokenizer.save(str(tmp_path / "tokenizer.json"))

    with pytest.raises(ModelError, match=r"'embeddings'.*linear\.weight"):
        StaticEmbedding.from_folder(tmp_path, LoadOptions())


def test_a_folder_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        StaticEmbedding.from_folder(tmp_path, LoadOptions())


def test_a_random_table_has_a_row_per_token(tokenizer):
    module = StaticEmbedding(PreTrainedTokenizerFast(tokenizer_object=tokenizer), embedding_dim=3)

    assert module.embedding.weight.shape == (5, 3)
    assert module.get_embedding_dimension() == 3


def test_table_and_dimension_exclude_each_other(tokenizer, table):
    with pytest.raises(ValueError, match="either embedding_weights or embedding_dim"):
        StaticEmbedding(tokenizer, table, embedding_dim=2)


def test_a_slow_tokenizer_is_refused(table):
    with pytest.raises(TypeError, match=r"fast tokenizer.*got str"):
        StaticEmbedding("bert-base-uncased", table)


def test_a_real_int8_model2vec_folder_loads_as_float_means(shared_data):
    folder = shared_data / "models/model2vec_semhash_test"
    integers = load_file(folder / "model.safetensors")["embeddings"]

    module = StaticEmbedding.from_folder(folder, LoadOptions())
    tokens = module.to_tokens(["the sun is shining"])
    embedding = module(module.collate(tokens, np.array([0])))["sentence_embedding"]

    assert json.loads((folder / "config.json").read_text())["hidden_dim"] == embedding.shape[1]
    assert integers.dtype == torch.int8
    torch.testing.assert_close(embedding[0], integers[tokens.ids].float().mean(0))


def test_a_model_without_transformers_does_not_load_them(save_static_model, tmp_path):
    # They take three times as long to import as torch.
    folder = save_static_model(tmp_path, ["sand"], np.eye(2, dtype=np.float32))
    script = (
        "import sys; from stx_core import SentenceTransformer; "
        f"print(SentenceTransformer({str(folder)!r}).encode('sand').tolist(), "
        "'transformers' in sys.modules)"
    )

    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout

    assert printed.split("\n")[0] == "[0.0, 1.0] False"
