"""Settings that a folder gives are used, as Sentence Transformers uses them, or refused by name."""

import json
import shutil

import numpy as np
import pytest
import sentence_transformers
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    CanineConfig,
    CanineModel,
    CanineTokenizer,
)

from stx_core import CrossEncoder, SentenceTransformer
from stx_core.errors import InputError, ModelError

TEXTS = ["the weather is lovely today it so sunny outside he drove to stadium", "long text", "a"]
PAIRS = [(TEXTS[0], TEXTS[1]), ("long", "weather")]


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def folder(tiny_bert, tmp_path):
    SentenceTransformer(str(tiny_bert), device="cpu").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.filterwarnings("ignore:`max_length` is ignored")  # of the reference
@pytest.mark.parametrize(
    "options",
    [
        {"text": {"max_length": 5}},
        {"common": {"max_length": 5}},
        {"text": {"max_length": 5, "truncation": "only_first"}},
        {"text": {"max_length": 5, "truncation": False}},
        {"text": {"add_special_tokens": False}},
        {"text": {"padding_side": "left"}},
        {"text": {"padding": "max_length", "max_length": 20}},
        {"text": {"return_token_type_ids": False}, "image": {"size": 3}},
    ],
)
def test_processing_kwargs_of_the_folder_decide_how_texts_are_tokenised(options, folder, tmp_path):
    change(folder / "sentence_bert_config.json", processing_kwargs=options)
    expected = sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(TEXTS)

    model = SentenceTransformer(str(folder), device="cpu")
    model.save_pretrained(tmp_path / "again")

    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=1e-5)
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu")
    np.testing.assert_allclose(again.encode(TEXTS), expected, atol=1e-5)


@pytest.mark.parametrize("key", ["truncation_side", "stride", "is_split_into_words", "surprise"])
def test_unsupported_settings_are_refused_by_name(key, folder):
    change(folder / "sentence_bert_config.json", processing_kwargs={"text": {key: "left"}})

    with pytest.raises(ModelError, match=key):
        SentenceTransformer(str(folder), device="cpu")


def test_a_dense_model_that_reads_chat_messages_is_refused_and_does_not_read_plain_texts(folder):
    call = {"method": "forward", "method_output_name": "last_hidden_state"}
    change(folder / "sentence_bert_config.json", modality_config={"text": call, "message": call})

    with pytest.raises(ModelError, match="reads chat messages"):
        SentenceTransformer(str(folder), device="cpu").encode(TEXTS)


def test_layers_that_a_cross_encoder_keeps_in_float32_compute_in_it(tiny_bert, tmp_path):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=256, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, num_labels=1, initializer_range=0.5,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(tmp_path / "plain")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_bert / name, tmp_path / "plain")
    CrossEncoder(str(tmp_path / "plain"), device="cpu").save_pretrained(tmp_path / "model")
    path = tmp_path / "model/config_sentence_transformers.json"
    half = {"device": "cpu", "model_kwargs": {"dtype": "bfloat16"}}
    without = CrossEncoder(str(tmp_path / "model"), **half).predict(PAIRS)
    change(path, keep_in_fp32_modules=["0.model.classifier"])
    reference = sentence_transformers.CrossEncoder(str(tmp_path / "model"), **half)

    model = CrossEncoder(str(tmp_path / "model"), **half)
    model.save_pretrained(tmp_path / "again")

    found = model.predict(PAIRS)
    np.testing.assert_allclose(found, reference.predict(PAIRS), atol=1e-2)
    assert not np.array_equal(found, without)
    again = CrossEncoder(str(tmp_path / "again"), **half)
    assert np.array_equal(again.predict(PAIRS), found)
    change(path, keep_in_fp32_modules=["0.model.bert"])
    with pytest.raises(ModelError, match=r"'0\.model\.bert' is a BertModel, no linear layer"):
        CrossEncoder(str(tmp_path / "model"), **half)


def test_canine_reads_characters(tmp_path):
    torch.manual_seed(0)
    config = CanineConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=128, num_hash_buckets=256, local_transformer_stride=8,
    )  # fmt: skip
    CanineModel(config).save_pretrained(tmp_path / "canine")
    CanineTokenizer(model_max_length=128).save_pretrained(tmp_path / "canine")
    reference = sentence_transformers.SentenceTransformer(str(tmp_path / "canine"), device="cpu")

    model = SentenceTransformer(str(tmp_path / "canine"), device="cpu")

    np.testing.assert_allclose(model.encode(TEXTS), reference.encode(TEXTS), atol=1e-5)
    assert "reads characters" in model.why_padded()


# --- Unclear errors ------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 1, -3])
def test_a_length_that_no_text_fits_into_is_refused_where_it_is_set(value, tiny_bert):
    model = SentenceTransformer(str(tiny_bert), device="cpu")

    with pytest.raises(ValueError, match="leaves no room beside 2 special tokens"):
        model.max_seq_length = value


def test_no_limit_means_as_many_tokens_as_there_are_positions(tiny_bert):
    model = SentenceTransformer(str(tiny_bert), device="cpu")

    model.max_seq_length = None

    assert model.max_seq_length == 64
    assert model.encode(["long text " * 500]).shape == (1, 32)


def test_lone_surrogate_error_names_its_row(tiny_bert):
    model = SentenceTransformer(str(tiny_bert), device="cpu")

    with pytest.raises(InputError, match=r"row 2: .*lone surrogate"):
        model.encode(["a", "b", "c\ud800d", "\ud800"])


def test_a_model_without_pooling_says_what_it_lacks(tiny_bert):
    backbone = SentenceTransformer(str(tiny_bert), device="cpu")[0]
    model = SentenceTransformer(modules=[backbone], device="cpu")

    with pytest.raises(ModelError, match=r"none of its modules \(Transformer\) gives sentence_emb"):
        model.encode(TEXTS)
    assert [one.shape for one in model.encode(["a"], output_value="token_embeddings")] == [(3, 32)]
