import json
import logging
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from stx_core.errors import ModelError
from stx_core.models.modules.module import LoadOptions
from stx_core.models.modules.transformer import MLMTransformer, Transformer

SMALL = {
    "vocab_size": 256,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}


@pytest.fixture
def folder(tiny_bert, tmp_path):
    shutil.copytree(tiny_bert, tmp_path / "model")
    return tmp_path / "model"


def load(folder, **settings):
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    return Transformer.from_folder(folder, LoadOptions())


def decoder_folder(tmp_path, tiny_tokenizer):
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SMALL)).save_pretrained(tmp_path)
    shutil.copytree(tiny_tokenizer, tmp_path, dirs_exist_ok=True)
    return tmp_path


def forward(module, texts):
    tokens = module.to_tokens(texts)
    with torch.inference_mode():
        return module.eval()(module.collate(tokens, np.arange(len(texts))))


# --- Length --------------------------------------------------------------------------------------


def test_the_folder_s_length_wins_over_truncation_and_padding_in_the_tokenizer(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.enable_truncation(5)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))

    tokens = load(folder, max_seq_length=20).to_tokens(["x " * 100, "so"])

    assert tokens.lengths.tolist() == [20, 3]
    assert tokens.truncated.tolist() == [True, False]


def test_in_later_folders_the_length_is_in_the_tokenizer(folder, tmp_path):
    module = load(folder, max_seq_length=20)

    (tmp_path / "again").mkdir()
    module.save(tmp_path / "again")

    saved = json.loads((tmp_path / "again/sentence_bert_config.json").read_text())
    assert "max_seq_length" not in saved
    assert Transformer.from_folder(tmp_path / "again", LoadOptions()).max_seq_length == 20


def test_truncation_and_padding_of_a_batch_are_not_saved(folder, tmp_path):
    module = load(folder, max_seq_length=20)
    module.to_tokens(["x " * 100])

    (tmp_path / "again").mkdir()
    module.save(tmp_path / "again")

    saved = json.loads((tmp_path / "again/tokenizer.json").read_text())
    assert saved["truncation"] is None


def test_without_a_length_positions_limit_the_input(folder):
    assert load(folder).max_seq_length == 64


def test_a_length_beyond_the_positions_is_cut_and_reported(folder, caplog):
    with caplog.at_level(logging.WARNING):
        assert load(folder, max_seq_length=100).max_seq_length == 64
    assert "cut to the 64 positions" in caplog.text


def test_a_length_beyond_the_positions_cannot_be_set(folder):
    with pytest.raises(ValueError, match="max_seq_length 65 is more than the 64 positions"):
        load(folder).max_seq_length = 65


def test_tokenizer_arguments_may_set_the_length(folder):
    options = LoadOptions(processor_kwargs={"model_max_length": 9})

    assert Transformer.from_folder(folder, options).max_seq_length == 9


def test_queries_and_documents_may_have_lengths_of_their_own(folder):
    module = load(folder, max_seq_length=30, query_length=5, document_length=12)

    lengths = [
        int(module.to_tokens(["x " * 99], task=t).lengths[0]) for t in ("query", "document", None)
    ]

    assert lengths == [5, 12, 30]


# --- Text ----------------------------------------------------------------------------------------


def test_lower_casing_is_added_once_and_survives_saving(folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(folder, do_lower_case=False)
    tokenizer.save_pretrained(folder)
    cased = load(folder)
    assert not np.array_equal(cased.to_tokens(["SO"]).ids, cased.to_tokens(["so"]).ids)

    lowered = load(folder, do_lower_case=True)
    (tmp_path / "again").mkdir()
    lowered.save(tmp_path / "again")
    again = Transformer.from_folder(tmp_path / "again", LoadOptions())

    for module in (lowered, again):
        np.testing.assert_array_equal(module.to_tokens(["SO"]).ids, cased.to_tokens(["so"]).ids)


def test_a_chat_template_is_not_used_for_texts(folder):
    plain = load(folder).to_tokens(["so sunny"]).ids
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{% for m in messages %}text {{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(folder)

    np.testing.assert_array_equal(load(folder).to_tokens(["so sunny"]).ids, plain)


def test_a_model_of_chat_messages_refuses_plain_texts(folder):
    call = {"method": "forward", "method_output_name": "last_hidden_state"}
    module = load(folder, modality_config={"message": call}, module_output_name="token_embeddings")

    with pytest.raises(ModelError, match=r"reads \['message'\], not plain texts"):
        module.to_tokens(["a"])


def test_a_prompt_goes_before_a_text_and_before_the_first_of_a_pair(folder):
    module = load(folder)

    single = module.to_tokens(["today"], prompt="lovely ")
    pair = module.to_tokens([("today", "so")], prompt="lovely ")

    np.testing.assert_array_equal(single.ids, module.to_tokens(["lovely today"]).ids)
    np.testing.assert_array_equal(pair.ids, module.to_tokens([("lovely today", "so")]).ids)


def test_the_length_of_a_prompt_leaves_out_the_special_token_at_its_end(folder):
    # [CLS] lovely weather [SEP]
    assert load(folder).to_tokens(["today"], prompt="lovely weather ").prompt_length == 3


# --- Outputs -------------------------------------------------------------------------------------


def test_masked_lm_logits_are_the_token_embeddings(tiny_tokenizer, tmp_path):
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(**SMALL)).save_pretrained(tmp_path)
    shutil.copytree(tiny_tokenizer, tmp_path, dirs_exist_ok=True)

    module = MLMTransformer.from_folder(tmp_path, LoadOptions())

    assert forward(module, ["so", "so sunny"])["token_embeddings"].shape == (2, 4, 256)
    assert module.get_embedding_dimension() == 256
    assert module.get_config_dict()["transformer_task"] == "fill-mask"


def test_a_causal_model_keeps_the_logits_of_the_last_token_only(tiny_tokenizer, tmp_path):
    folder = decoder_folder(tmp_path, tiny_tokenizer)
    module = Transformer.from_checkpoint(
        folder, LoadOptions(), {"transformer_task": "text-generation"}
    )

    logits = forward(module, ["so sunny outside", "so"])["causal_logits"]

    assert logits.shape == (2, 256)
    for row, text in enumerate(["so sunny outside", "so"]):
        ids = module.tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            expected = module.model(ids).logits[0, -1]
        torch.testing.assert_close(logits[row], expected, atol=1e-5, rtol=1e-5)


def test_a_decoder_without_padding_token_lends_its_end_token(tiny_tokenizer, tmp_path):
    folder = decoder_folder(tmp_path, tiny_tokenizer)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    tokenizer.save_pretrained(folder)
    module = Transformer.from_checkpoint(folder, LoadOptions())

    batched = forward(module, ["so sunny outside", "so"])["token_embeddings"][1, :3]

    assert module.pad_token_id == module.model.config.pad_token_id == 3
    torch.testing.assert_close(
        batched, forward(module, ["so"])["token_embeddings"][0], atol=1e-5, rtol=1e-5
    )


def test_features_that_the_backbone_does_not_declare_are_not_passed(folder, monkeypatch):
    module = load(folder)
    features = module.collate(module.to_tokens(["so"]), np.arange(1))
    backbone = module.model.forward

    def without_segments(input_ids, attention_mask, return_dict):
        return backbone(input_ids, attention_mask, return_dict=return_dict)

    monkeypatch.setattr(module.model, "forward", without_segments)
    output = module(features | {"task": "query", "prompt_length": 1})

    assert "token_type_ids" in features
    assert output["token_embeddings"].shape == (1, 3, 32)


def test_another_output_of_the_backbone_can_be_named(folder):
    call = {"method": "forward", "method_output_name": ["hidden_states", 0]}
    module = load(folder, modality_config={"text": call}, module_output_name="token_embeddings")

    expected = module.model.embeddings(
        module.collate(module.to_tokens(["so"]), np.arange(1))["input_ids"]
    )

    torch.testing.assert_close(forward(module, ["so"])["token_embeddings"], expected)


def test_hidden_states_are_given_when_the_config_asks_for_them(folder):
    module = load(folder, config_args={"output_hidden_states": True})

    assert len(forward(module, ["so"])["all_layer_embeddings"]) == 3


@pytest.mark.parametrize("method", ["save_pretrained", "push_to_hub", "__class__", None])
def test_a_folder_cannot_call_any_method_of_the_backbone(method, folder):
    call = {"method": method, "method_output_name": "x"}

    with pytest.raises(ModelError, match="allowed are forward"):
        load(folder, modality_config={"text": call}, module_output_name="token_embeddings")


def test_a_model_that_does_not_read_text_is_refused(folder):
    call = {"method": "forward", "method_output_name": "x"}

    with pytest.raises(ModelError, match=r"reads \['image'\], but not text"):
        load(folder, modality_config={"image": call})


def test_an_unknown_setting_is_an_error(folder):
    with pytest.raises(ModelError, match=r"a setting is unknown.*no_such_setting"):
        load(folder, no_such_setting=1)


def test_settings_of_the_library_s_kwargs_groups_reach_the_backbone(folder):
    module = load(folder, model_args={"dtype": "bfloat16"}, tokenizer_args={"padding_side": "left"})

    assert module.model.dtype == torch.bfloat16
    assert module.tokenizer.padding_side == "left"


def test_the_caller_s_arguments_win_over_those_of_the_folder(folder):
    (folder / "sentence_bert_config.json").write_text('{"model_args": {"dtype": "bfloat16"}}')

    module = Transformer.from_folder(folder, LoadOptions(model_kwargs={"dtype": "float16"}))

    assert module.model.dtype == torch.float16


# --- Made by hand --------------------------------------------------------------------------------


def test_a_checkpoint_is_loaded_by_its_name(folder, tmp_path):
    for name in (folder, str(folder)):
        module = Transformer(name, max_seq_length=9, do_lower_case=True)

        assert module.max_seq_length == 9
        assert module.auto_model is module.model
        assert module.config is module.model.config
        assert module.processor is module.tokenizer
        assert module.modalities == ["text"]
        assert module.to_tokens(["x " * 99]).lengths.tolist() == [9]
    module.save(str(tmp_path / "new" / "folder"))
    assert Transformer.load(str(tmp_path / "new" / "folder")).max_seq_length == 9


def test_arguments_of_backbone_tokenizer_and_config_have_older_names(folder):
    older = Transformer(
        str(folder),
        model_args={"dtype": "float64", "token": "t"},
        tokenizer_args={"model_max_length": 8},
        config_args={"hidden_dropout_prob": 0.5},
        cache_dir=None,
        unpad_inputs=False,
        backend="torch",
    )

    assert older.model.dtype == torch.float64
    assert older.max_seq_length == 8
    assert older.config.hidden_dropout_prob == 0.5


def test_a_backbone_without_tokenizer_is_refused(folder):
    with pytest.raises(ValueError, match="needs its tokenizer"):
        Transformer(Transformer(folder).model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"transformer_task": "embed"}, "no transformer_task is called 'embed'; choose one of"),
        ({"backend": "tf"}, "no backend is called 'tf'; choose one of torch, onnx, openvino"),
        ({"backend": "onnx"}, "backend 'onnx' is not built in"),
        ({"query_expansion": {}}, "multi-vector"),
    ],
)
def test_invalid_choices_are_refused(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        Transformer(folder, **arguments)


def test_inputs_are_not_packed_where_that_is_switched_off(folder):
    from stx_core import SentenceTransformer
    from stx_core.models import Pooling

    model = SentenceTransformer(modules=[Transformer(folder), Pooling(32)], device="cpu")
    assert model.why_padded() is None
    packed = model.encode(["so", "so sunny outside"])
    model[0].unpad_inputs = False

    assert model.why_padded() == "unpad_inputs is False"
    np.testing.assert_allclose(model.encode(["so", "so sunny outside"]), packed, atol=1e-5)


def test_modules_have_the_older_names_of_their_methods(folder):
    module = Transformer(folder)

    assert module.get_word_embedding_dimension() == module.get_sentence_embedding_dimension() == 32
    assert set(module.tokenize(["so"])) >= {"input_ids", "attention_mask"}
    assert module.preprocess(["so"], prompt="it ")["prompt_length"] == 2
    with pytest.raises(ValueError, match="pickles"):
        module.save("nowhere", safe_serialization=False)
