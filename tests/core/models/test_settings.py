"""A setting that is saved is used: at once when it is set, and the same after loading."""

import numpy as np
import pytest
import torch

from stx_core.models.modules.bow import BoW
from stx_core.models.modules.cnn import CNN
from stx_core.models.modules.dense import Dense
from stx_core.models.modules.dropout import Dropout
from stx_core.models.modules.layer_norm import LayerNorm
from stx_core.models.modules.lstm import LSTM
from stx_core.models.modules.module import LoadOptions
from stx_core.models.modules.normalize import Normalize
from stx_core.models.modules.pooling import Pooling
from stx_core.models.modules.router import Router
from stx_core.models.modules.sparse_auto_encoder import SparseAutoEncoder
from stx_core.models.modules.sparse_static_embedding import SparseStaticEmbedding
from stx_core.models.modules.splade_pooling import SpladePooling
from stx_core.models.modules.weighted_layer_pooling import WeightedLayerPooling
from stx_core.models.modules.word_weights import WordWeights
from stx_core.models.sentence_transformer import SentenceTransformer
from stx_core.models.sparse_encoder import SparseEncoder
from tests.core.models.small import assert_close, model_of, result, tokenizer

VOCAB = ["a", "b", "c", "d"]


def features():
    torch.manual_seed(0)
    tokens = torch.randn(2, 5, 4)
    return {
        "input_ids": torch.tensor([[0, 1, 2, 3, 1], [3, 2, 0, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]),
        "token_embeddings": tokens,
        "all_layer_embeddings": [tokens, 2 * tokens, tokens**2, tokens.tanh()],
        "sentence_embedding": tokens[:, 0],
        "prompt_length": 1,
    }


def outputs(module):
    with torch.inference_mode():
        given = module.eval()(features())
    return {
        name: given[name]
        for name in ("token_embeddings", "sentence_embedding", "e")
        if name in given
    }


CHANGES = [
    (lambda: Pooling(4), "pooling_mode", "cls"),
    (lambda: Pooling(4), "pooling_mode", ["max", "weightedmean"]),
    (lambda: Pooling(4, "mean"), "include_prompt", False),
    (Normalize, "module_input_name", "token_embeddings"),
    (Normalize, "module_output_name", "e"),
    (lambda: Dense(4, 3), "activation_function", torch.nn.ReLU()),
    (lambda: Dense(4, 3), "activation_function", None),
    (lambda: Dense(4, 3), "use_residual", True),
    (lambda: Dense(4, 3, use_residual=True), "use_residual", False),
    (lambda: Dense(4, 3), "linear", torch.nn.Linear(4, 7, bias=False)),
    (lambda: LayerNorm(4), "norm", torch.nn.LayerNorm(4, eps=1e-5)),
    (lambda: SpladePooling(), "pooling_strategy", "sum"),
    (lambda: SpladePooling(), "activation_function", "log1p_relu"),
    (lambda: SparseAutoEncoder(4, 8), "k", 2),
    (lambda: SparseAutoEncoder(4, 8), "normalize", True),
    (lambda: WordWeights(VOCAB, {"a": 2.0}), "word_weights", {"b": 3.0}),
    (lambda: WordWeights(VOCAB, {"a": 2.0}), "unknown_word_weight", 0.5),
    (lambda: WordWeights(VOCAB, {"a": 2.0}), "vocab", VOCAB[::-1]),
    (lambda: WeightedLayerPooling(4, 3, 1), "layer_start", 2),
    (lambda: WeightedLayerPooling(4, 3, 1), "layer_start", 0),
]  # fmt: skip


@pytest.mark.parametrize(("make", "name", "value"), CHANGES)
def test_a_setting_of_a_module_takes_effect_and_is_saved(make, name, value, tmp_path):
    torch.manual_seed(1)
    module = make()
    before = outputs(module)
    setattr(module, name, value)
    now = outputs(module)
    module.save(tmp_path)
    again = outputs(type(module).from_folder(tmp_path, LoadOptions()))

    torch.testing.assert_close(again, now)
    if name != "norm":
        same = before.keys() == now.keys() and all(
            before[key].shape == now[key].shape and torch.equal(before[key], now[key])
            for key in now
        )
        assert not same


def test_a_weight_that_is_changed_in_place_counts():
    module = WordWeights(VOCAB, {"a": 2.0})
    module(features())
    module.word_weights["a"] = 5.0

    torch.testing.assert_close(outputs(module), outputs(WordWeights(VOCAB, {"a": 5.0})))


def test_words_of_a_bag_take_effect():
    module = BoW(VOCAB)
    model = SentenceTransformer(modules=[module], device="cpu")
    model.encode(["a b"])
    module.vocab = ["b", "x"]
    module.word_weights = {"x": 3.0}
    module.unknown_word_weight = 2.0

    np.testing.assert_array_equal(model.encode(["a b x"]), [[2.0, 3.0]])


@pytest.mark.parametrize(
    ("module", "name"),
    [(Dense(4, 3), "out_features"), (LSTM(4, 3), "hidden_dim"), (CNN(4, 3), "out_channels"),
     (LayerNorm(4), "dimension"), (SparseAutoEncoder(4, 8), "hidden_dim")],
)  # fmt: skip
def test_sizes_are_those_of_the_weights(module, name):
    with pytest.raises(AttributeError):
        setattr(module, name, 17)
    assert module.get_config_dict()[name] != 17


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [(Pooling(4), "pooling_mode", "mena"), (Pooling(4), "pooling_mode", []),
     (SpladePooling(), "pooling_strategy", "mean"), (SpladePooling(), "activation_function", "x"),
     (WeightedLayerPooling(4, 3, 1), "layer_start", 5),
     (Router({"a": [Normalize()]}), "default_route", "b")],
)  # fmt: skip
def test_invalid_setting_is_refused_on_assignment(module, name, value):
    before = getattr(module, name)
    with pytest.raises(ValueError, match=name):
        setattr(module, name, value)
    assert getattr(module, name) == before


def test_dropout_is_saved_as_it_is_set():
    module = Dropout(0.1)
    module.dropout = 0.7

    assert module.get_config_dict() == {"dropout": 0.7}
    assert module.dropout_layer.p == 0.7


def test_the_default_route_can_be_another():
    doubled = Dense(4, 4, activation_function=None, bias=False, init_weight=2 * torch.eye(4))
    router = Router({"one": [Normalize()], "two": [doubled]})
    assert router.default_route == "one"
    router.default_route = "two"
    expected = 2 * features()["sentence_embedding"]
    torch.testing.assert_close(outputs(router)["sentence_embedding"], expected)
    router.default_route = None
    router.allow_empty_key = False
    assert router.get_config_dict()["default_route"] is None
    with pytest.raises(ValueError, match="no route"):
        router(features())


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [(0, "do_lower_case", True), (0, "max_seq_length", 4), (None, "max_seq_length", 5),
     (1, "pooling_mode", "cls"), (1, "include_prompt", False), (None, "truncate_dim", 3),
     (None, "prompts", {"p": "e "}), (None, "default_prompt_name", "p")],
)  # fmt: skip
def test_a_setting_of_a_model_takes_effect_and_is_saved(place, name, value, tmp_path):
    texts = ["A b C d e f g", "B"]
    model = model_of("dense")
    model.default_prompt_name = None if name == "default_prompt_name" else "p"
    before = result(model, texts)
    setattr(model if place is None else model[place], name, value)
    now = result(model, texts)
    model.save_pretrained(tmp_path)

    assert now.shape != before.shape or (now - before).abs().max() > 1e-3
    assert_close(result(SentenceTransformer(str(tmp_path), device="cpu"), texts), now)


def test_lower_casing_can_be_switched_off_again_and_leaves_the_tokenizer_alone():
    model = model_of("dense")
    before = result(model, ["A B"])
    normaliser = str(model.tokenizer.backend_tokenizer.normalizer)
    model[0].do_lower_case = True
    assert_close(result(model, ["A B"]), result(model, ["a b"]))
    assert str(model.tokenizer.backend_tokenizer.normalizer) == normaliser
    model[0].do_lower_case = False

    assert_close(result(model, ["A B"]), before)


def test_the_length_and_the_training_of_static_weights_are_saved(tmp_path):
    module = SparseStaticEmbedding(tokenizer())
    module.max_seq_length = 2
    module.frozen = True
    assert not module.weight.requires_grad
    assert module.to_tokens(["a b c"]).lengths.tolist() == [2]
    module.save(tmp_path)
    again = SparseStaticEmbedding.from_folder(tmp_path, LoadOptions())
    tokenizer().model_max_length = 60

    assert (again.max_seq_length, again.frozen) == (2, True)


def test_k_of_an_autoencoder_counts_unless_the_model_says_otherwise():
    dense = model_of("dense")
    modules = [dense[0], dense[1], SparseAutoEncoder(32, 64, k=5)]
    model = SparseEncoder(modules=modules, device="cpu")
    model[2].k = 3
    assert model.max_active_dims == 3
    assert (model.encode(["a b"], convert_to_sparse_tensor=False) != 0).sum() <= 3
    model.max_active_dims = 1

    assert (model.encode(["a b"], convert_to_sparse_tensor=False) != 0).sum() <= 1
