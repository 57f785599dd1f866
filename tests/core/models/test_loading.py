import json
import logging
import shutil

import pytest
from torch import nn

from stx_core.errors import ModelError
from stx_core.models.loading import load_modules, read_model_config, save_model
from stx_core.models.modules import TYPES, module_class, saved_type
from stx_core.models.modules.module import LoadOptions
from stx_core.models.modules.normalize import Normalize
from stx_core.models.modules.pooling import Pooling
from stx_core.models.modules.transformer import MLMTransformer, Transformer
from stx_core.models.sentence_transformer import SentenceTransformer

NORMALIZE = "sentence_transformers.models.Normalize"


def entry(**changes):
    return {"idx": 0, "name": "0", "path": "0_Normalize", "type": NORMALIZE} | changes


def write(path, value):
    path.write_text(json.dumps(value))


def test_every_spelling_of_every_class_is_known():
    old, new = "sentence_transformers.models", "sentence_transformers.sentence_transformer.modules"
    base = "sentence_transformers.base.modules"
    snake = {
        "LayerNorm": "layer_norm", "Dropout": "dropout", "BoW": "bow", "CNN": "cnn", "LSTM": "lstm",
        "WordEmbeddings": "word_embeddings", "WordWeights": "word_weights",
        "WeightedLayerPooling": "weighted_layer_pooling", "StaticEmbedding": "static_embedding",
        "Pooling": "pooling",
    }  # fmt: skip
    expected = {f"{old}.{name}": name for name in snake}
    expected |= {f"{new}.{file}.{name}": name for name, file in snake.items()}
    for name in ("Transformer", "Normalize", "Dense", "Router"):
        expected |= {f"{old}.{name}": name, f"{base}.{name.lower()}.{name}": name}
    expected |= {f"{old}.Asym": "Router", f"{new}.normalize.Normalize": "Normalize"}
    sparse = "sentence_transformers.sparse_encoder"
    for name, file in {
        "MLMTransformer": "mlm_transformer", "SpladePooling": "splade_pooling",
        "SparseAutoEncoder": "sparse_auto_encoder",
        "SparseStaticEmbedding": "sparse_static_embedding",
    }.items():  # fmt: skip
        expected |= {f"{sparse}.models.{name}": name, f"{sparse}.modules.{file}.{name}": name}
    expected["sentence_transformers.cross_encoder.modules.logit_score.LogitScore"] = "LogitScore"

    for type_string, name in expected.items():
        assert module_class(type_string, "here").__name__ == name
    oldest = {"BERT", "RoBERTa", "XLNet", "ALBERT", "DistilBERT", "XLMRoBERTa", "CamemBERT", "T5"}
    assert set(TYPES) == set(expected) | {f"{old}.{name}" for name in oldest}


@pytest.mark.parametrize(
    "type_string",
    [
        "os.system",
        "custom_module.Class",
        "org/repo--file.Class",
        "sentence_transformers.models",
        "sentence_transformers.models.Normalize.forward",
        "sentence_transformers.models.CLIPModel",
        "torch.nn.modules.activation.Tanh",
    ],
)
def test_other_types_are_named_and_never_imported(type_string, tmp_path):
    write(tmp_path / "modules.json", [entry(type=type_string)])

    with pytest.raises(ModelError, match="code from model folders is not run") as caught:
        load_modules(tmp_path, LoadOptions(trust_remote_code=True))
    assert repr(type_string) in str(caught.value)


def test_a_normalize_folder_that_git_has_lost_is_no_error(tmp_path):
    write(tmp_path / "modules.json", [entry()])

    modules, _ = load_modules(tmp_path, LoadOptions())

    assert isinstance(modules["0"], Normalize)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "expected a list of modules"),
        ([], "expected a list of modules"),
        ([{"idx": 0}], "needs name, path and type"),
        (["text"], "needs name, path and type"),
        ([entry(), entry()], "appears twice"),
        ([entry(name="a.b")], "has a dot"),
        ([entry(path="../x")], "must be relative"),
        ([entry(path="/etc")], "must be relative"),
        ([entry(type="sentence_transformers.models.Pooling")], r"config\.json is missing"),
    ],
)
def test_a_malformed_list_of_modules_is_explained(entries, message, tmp_path):
    write(tmp_path / "modules.json", entries)

    with pytest.raises(ModelError, match=message):
        load_modules(tmp_path, LoadOptions())


def test_unknown_settings_of_a_module_are_an_error(tmp_path):
    (tmp_path / "1").mkdir()
    write(tmp_path / "1/config.json", {"embedding_dimension": 4, "pooling_mode": "median"})
    write(tmp_path / "modules.json", [entry(path="1", type="sentence_transformers.models.Pooling")])

    with pytest.raises(ModelError, match="'median' is unknown"):
        load_modules(tmp_path, LoadOptions())


def test_listed_forward_arguments_survive_loading_and_saving(tmp_path):
    write(tmp_path / "modules.json", [entry(kwargs=["task"])])
    modules, arguments = load_modules(tmp_path, LoadOptions())

    save_model(tmp_path / "again", modules, arguments, {})

    assert arguments == {"0": ["task"]}
    assert load_modules(tmp_path / "again", LoadOptions())[1] == arguments


def test_a_module_of_another_kind_cannot_be_saved(tmp_path):
    with pytest.raises(ModelError, match="cannot be saved"):
        save_model(tmp_path, {"0": nn.Linear(2, 2)}, {}, {})


def test_a_class_that_only_has_a_known_name_cannot_be_saved():
    class Pooling(Normalize):
        pass

    with pytest.raises(ModelError, match="not a known module"):
        saved_type(Pooling())


def test_a_masked_lm_backbone_is_saved_as_a_transformer():
    assert saved_type(object.__new__(MLMTransformer)) == saved_type(object.__new__(Transformer))
    assert saved_type(Pooling(4)).endswith(".pooling.Pooling")


# --- config_sentence_transformers.json -----------------------------------------------------------


@pytest.mark.parametrize("saved", ["SparseEncoder", "CrossEncoder", "MultiVectorEncoder"])
def test_a_model_of_another_type_is_refused_by_name(saved, tiny_bert, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    write(folder / "modules.json", [entry()])
    write(folder / "config_sentence_transformers.json", {"model_type": saved})

    with pytest.raises(ModelError, match=f"open it with {saved}"):
        SentenceTransformer(folder)


def test_a_folder_of_modules_without_a_type_is_a_dense_model(tmp_path):
    write(tmp_path / "modules.json", [entry()])

    assert read_model_config(tmp_path, "SentenceTransformer") == {}
    with pytest.raises(ModelError, match="open it with SentenceTransformer"):
        read_model_config(tmp_path, "SparseEncoder")


def test_a_plain_checkpoint_has_no_type(tmp_path):
    assert read_model_config(tmp_path, "CrossEncoder") == {}


@pytest.mark.parametrize(
    "requirements",
    [
        {"torch": ">=999"},
        {"pytorch": ">=999"},
        {"python": "<3"},
        {"surely-not-installed": ">=0"},
        {"torch": {"specifier": ">=999", "reason": "earlier ones give other vectors"}},
    ],
)
def test_unmet_requirements_of_the_authors_are_an_error(requirements, tmp_path):
    write(tmp_path / "config_sentence_transformers.json", {"requirements": requirements})

    with pytest.raises(ModelError, match=r"requires .*installed is"):
        read_model_config(tmp_path, "SentenceTransformer")


def test_met_requirements_are_fine_and_unreadable_ones_are_reported(tmp_path, caplog):
    requirements = {"torch": ">=1", "python": ">=3", "numpy": "a lot"}
    write(tmp_path / "config_sentence_transformers.json", {"requirements": requirements})

    with caplog.at_level(logging.WARNING):
        read_model_config(tmp_path, "SentenceTransformer")

    assert "numpy 'a lot' cannot be read" in caplog.text
