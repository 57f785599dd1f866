import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification, BertModel

from stx_core.errors import ModelError
from stx_core.models.modules.backbone import (
    folder_arguments,
    load_backbone,
    load_tokenizer,
    parse_dtype,
)
from stx_core.models.modules.module import LoadOptions


@pytest.fixture
def folder(tiny_bert, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(tiny_bert, tmp_path / "model")
    return tmp_path / "model"


def change(path: Path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_pooler_that_is_never_read_may_be_missing(tiny_bert):
    assert load_backbone(tiny_bert, "feature-extraction", LoadOptions()).config.hidden_size == 32


def test_a_pooler_that_is_read_may_not_be_missing(tiny_bert):
    with pytest.raises(ModelError, match=r"lacks 2 weights .*pooler\.dense\.bias"):
        load_backbone(tiny_bert, "feature-extraction", LoadOptions(), needs_pooler=True)


def test_any_other_missing_weight_is_an_error_that_names_it(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ModelError, match=r"partly untrained: encoder\.layer\.1\.output\.dense"):
        load_backbone(folder, "feature-extraction", LoadOptions())


@pytest.mark.parametrize("task", ["sequence-classification", "fill-mask", "text-generation"])
def test_a_head_that_the_checkpoint_lacks_is_an_error(task, tiny_bert):
    with pytest.raises(ModelError, match="would be partly untrained"):
        load_backbone(tiny_bert, task, LoadOptions())


def test_a_head_of_another_shape_is_an_error(tmp_path):
    small = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertForSequenceClassification(BertConfig(**small, num_labels=3)).save_pretrained(tmp_path)
    options = LoadOptions(
        config_kwargs={"num_labels": 2}, model_kwargs={"ignore_mismatched_sizes": True}
    )

    with pytest.raises(ModelError, match="classifier"):
        load_backbone(tmp_path, "sequence-classification", options)


def test_an_unknown_task_is_refused(tiny_bert):
    with pytest.raises(ModelError, match="transformer_task 'any-to-any' is unknown"):
        load_backbone(tiny_bert, "any-to-any", LoadOptions())


def test_code_that_a_config_names_is_refused_even_where_the_model_type_is_known(folder):
    change(folder / "config.json", auto_map={"AutoModel": "modeling.Evil"})

    with pytest.raises(ModelError, match=r"modeling\.Evil.*which is not run"):
        load_backbone(folder, "feature-extraction", LoadOptions())


def test_tokenizer_code_that_a_folder_names_is_refused(folder):
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tok.Evil", None]})

    with pytest.raises(ModelError, match="tokenizer code of its own"):
        load_tokenizer(folder, LoadOptions())


@pytest.mark.parametrize("key", ["_attn_implementation", "_attn_implementation_internal"])
def test_attention_code_from_the_hub_that_a_config_names_is_refused(key, folder):
    change(folder / "config.json", **{key: "evil/kernel"})

    with pytest.raises(ModelError, match="names foreign code"):
        load_backbone(folder, "feature-extraction", LoadOptions())


def test_pickled_weights_need_the_option_by_name(folder):
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    expected = load_backbone(folder, "feature-extraction", LoadOptions()).state_dict()
    (folder / "model.safetensors").unlink()

    with pytest.raises(ModelError, match="allow_pickle=True"):
        load_backbone(folder, "feature-extraction", LoadOptions())
    model = load_backbone(folder, "feature-extraction", LoadOptions(allow_pickle=True))
    assert all(
        torch.equal(value, model.state_dict()[key])
        for key, value in expected.items()
        if "pooler" not in key
    )


def test_a_folder_without_weights_is_named(folder):
    (folder / "model.safetensors").unlink()

    with pytest.raises(ModelError, match=r"model\.safetensors is missing"):
        load_backbone(folder, "feature-extraction", LoadOptions(allow_pickle=True))


def test_a_model_type_that_transformers_does_not_know_is_an_error(folder):
    change(folder / "config.json", model_type="no_such_model")

    with pytest.raises(ModelError, match=r"config\.json: transformers cannot read"):
        load_backbone(folder, "feature-extraction", LoadOptions())


def test_the_key_value_cache_is_off_unless_it_is_asked_for(tiny_bert):
    off = load_backbone(tiny_bert, "feature-extraction", LoadOptions())
    on = load_backbone(
        tiny_bert, "feature-extraction", LoadOptions(config_kwargs={"use_cache": True})
    )

    assert (off.config.use_cache, on.config.use_cache) == (False, True)


def test_an_adapter_without_peft_names_the_package(folder, monkeypatch):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "x/y"}')
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(ModelError, match="pip install peft"):
        load_backbone(folder, "feature-extraction", LoadOptions())


# --- Arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("float16", torch.float16),
        ("torch.bfloat16", torch.bfloat16),
        (torch.float32, torch.float32),
        ("auto", "auto"),
        (None, None),
    ],
)
def test_number_formats_may_be_given_by_name(value, expected):
    assert parse_dtype(value) == expected


@pytest.mark.parametrize("value", ["int8", "load", "bf16"])
def test_dtype_that_is_not_floating_point_is_refused(value):
    with pytest.raises(ModelError, match="is unknown"):
        parse_dtype(value)


def test_a_folder_cannot_declare_itself_trusted():
    config = {"model_args": {"trust_remote_code": True, "dtype": "float16"}, "other": 1}

    arguments = folder_arguments(config, "model_kwargs", "model_args", Path("x.json"))

    assert arguments == {"dtype": "float16"}


@pytest.mark.parametrize(
    "group",
    [
        {"code_revision": "main"},
        {"subfolder": ".."},
        {"use_safetensors": False},
        {"attn_implementation": "evil/kernel"},
        {"attn_implementation": {"": "evil/kernel"}},
    ],
)
def test_a_folder_cannot_choose_code_or_files(group):
    with pytest.raises(ModelError):
        folder_arguments({"model_kwargs": group}, "model_kwargs", "model_args", Path("x.json"))


def test_the_new_group_name_wins_over_the_old_one():
    config = {"config_kwargs": {"num_labels": 1}, "config_args": {"num_labels": 2}}

    arguments = folder_arguments(config, "config_kwargs", "config_args", Path("x"))

    assert arguments == {"num_labels": 1}


def test_a_complete_checkpoint_is_loaded_without_complaint(tmp_path, caplog):
    small = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(**small)).save_pretrained(tmp_path)

    with caplog.at_level(logging.WARNING):
        load_backbone(tmp_path, "feature-extraction", LoadOptions(), needs_pooler=True)

    assert caplog.text == ""


def test_cut_weights_are_an_error_of_the_model(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-40])

    with pytest.raises(ModelError, match="cannot load it"):
        load_backbone(folder, "feature-extraction", LoadOptions())
