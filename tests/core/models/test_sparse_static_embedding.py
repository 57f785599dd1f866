import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from stx_core.errors import ModelError
from stx_core.models.modules.module import LoadOptions
from stx_core.models.modules.sparse_static_embedding import SparseStaticEmbedding

WORDS = ["[PAD]", "[UNK]", "[CLS]", "sun", "rain", "sea"]
WEIGHT = torch.tensor([9.0, 1.0, 9.0, 2.0, 3.0, 4.0])


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    vocab = {word: index for index, word in enumerate(WORDS)}
    rust = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    rust.pre_tokenizer = pre_tokenizers.Whitespace()
    rust.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=rust, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]"
    )


@pytest.fixture
def module(tokenizer) -> SparseStaticEmbedding:
    return SparseStaticEmbedding(tokenizer, WEIGHT.clone())


def encode(module: SparseStaticEmbedding, texts: list[str], prompt: str = "") -> torch.Tensor:
    tokens = module.to_tokens(texts, prompt=prompt)
    return module(module.collate(tokens, np.arange(len(texts))))["sentence_embedding"]


def test_a_token_weighs_once_however_often_it_comes_and_special_tokens_do_not(module):
    embedding = encode(module, ["sea sun sea sea", "", "moon"])

    assert embedding.to_dense().tolist() == [
        [0, 0, 0, 2, 0, 4],
        [0, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
    ]


def test_the_result_is_sparse_with_indices_in_order(module):
    embedding = encode(module, ["sea rain sun"])

    assert embedding.is_coalesced()
    assert embedding.indices().tolist() == [[0, 0, 0], [3, 4, 5]]


def test_behind_another_module_the_weights_multiply_its_embedding(module):
    features = {
        "input_ids": torch.tensor([[3, 3, 0], [4, 5, 3]]),
        "attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]]),
        "sentence_embedding": torch.full((2, 6), 10.0),
    }

    embedding = module(features)["sentence_embedding"]

    assert embedding.tolist() == [[0, 0, 0, 20, 0, 0], [0, 0, 0, 20, 30, 40]]


def test_the_prompt_counts(module):
    assert torch.equal(
        encode(module, ["sea"], "sun ").to_dense(), encode(module, ["sun sea"]).to_dense()
    )


@pytest.mark.parametrize(("side", "kept"), [("right", [3, 4]), ("left", [4, 5])])
def test_the_limit_cuts_on_the_tokenizers_side(module, side, kept):
    module.tokenizer.truncation_side = side
    module.max_seq_length = 2

    tokens = module.to_tokens(["sun rain sea", "sun"])

    assert tokens.ids[:2].tolist() == kept
    assert tokens.truncated.tolist() == [True, False]


def test_no_texts_are_no_tokens(module):
    assert len(module.to_tokens([])) == 0


def test_saving_and_loading_gives_the_same_vectors(module, tmp_path):
    module.frozen = True
    module.save(tmp_path)

    again = SparseStaticEmbedding.from_folder(tmp_path, LoadOptions())

    assert again.frozen is True
    assert torch.equal(
        encode(again, ["sun sea"]).to_dense(), encode(module, ["sun sea"]).to_dense()
    )


def test_weights_may_come_from_a_json_table_beside_the_config(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"frozen": True, "path": "idf.json"}))
    (tmp_path / "idf.json").write_text(json.dumps({"sun": 1.5, "sea": 2}))

    module = SparseStaticEmbedding.from_folder(tmp_path, LoadOptions())

    assert module.weight.tolist() == [0, 0, 0, 1.5, 0, 2]
    assert module.frozen is True


@pytest.mark.parametrize("path", ["../idf.json", "/etc/idf.json"])
def test_a_table_outside_of_the_folder_is_refused(tokenizer, tmp_path, path):
    folder = tmp_path / "query"
    folder.mkdir()
    tokenizer.save_pretrained(folder)
    (tmp_path / "idf.json").write_text("{}")
    (folder / "config.json").write_text(json.dumps({"path": path}))

    with pytest.raises(ModelError, match=r"idf\.json"):
        SparseStaticEmbedding.from_folder(folder, LoadOptions())


def test_a_table_of_another_vocabulary_is_refused(tokenizer, tmp_path):
    (tmp_path / "idf.json").write_text(json.dumps({"sun": 1, "moon": 2}))

    with pytest.raises(ModelError, match=r"1 of 2 tokens.*moon"):
        SparseStaticEmbedding.from_json(tmp_path / "idf.json", tokenizer)


def test_the_published_opensearch_table_fits_the_bert_vocabulary(shared_data, minilm):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(minilm)
    table = shared_data / "models/opensearch_idf/idf.zhichao.json"

    module = SparseStaticEmbedding.from_json(table, tokenizer, frozen=True)
    embedding = encode(module, ["the weather is lovely"])

    words = [tokenizer.convert_ids_to_tokens(i) for i in embedding.indices()[1].tolist()]
    assert module.get_embedding_dimension() == 30522
    assert sorted(words) == ["is", "lovely", "the", "weather"]
    assert embedding.values().min() < 1 < embedding.values().max()
