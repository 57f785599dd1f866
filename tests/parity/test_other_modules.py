"""Every module beside Transformer, Pooling, Dense, Normalize and Router against the reference."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer as ReferenceModel
from sentence_transformers.base.modules import Dense as ReferenceDense
from sentence_transformers.base.modules import Transformer as ReferenceTransformer
from sentence_transformers.sentence_transformer import modules as reference
from sentence_transformers.sentence_transformer.modules.tokenizer import (
    PhraseTokenizer as ReferencePhraseTokenizer,
)
from sentence_transformers.sentence_transformer.modules.tokenizer import (
    WhitespaceTokenizer as ReferenceWhitespaceTokenizer,
)
from sentence_transformers.sparse_encoder import modules as sparse_reference
from tokenizers import Tokenizer
from transformers import AutoTokenizer, BertConfig, BertModel

from stx_core.models.modules.bow import BoW
from stx_core.models.modules.cnn import CNN
from stx_core.models.modules.dense import Dense
from stx_core.models.modules.dropout import Dropout
from stx_core.models.modules.layer_norm import LayerNorm
from stx_core.models.modules.lstm import LSTM
from stx_core.models.modules.module import LoadOptions, Module
from stx_core.models.modules.sparse_auto_encoder import SparseAutoEncoder
from stx_core.models.modules.sparse_static_embedding import SparseStaticEmbedding
from stx_core.models.modules.splade_pooling import SpladePooling
from stx_core.models.modules.static_embedding import StaticEmbedding
from stx_core.models.modules.weighted_layer_pooling import WeightedLayerPooling
from stx_core.models.modules.word_embeddings import WordEmbeddings
from stx_core.models.modules.word_weights import WordWeights
from stx_core.models.sentence_transformer import SentenceTransformer

TEXTS = [
    "The weather is lovely today.",
    "It's so sunny outside!",
    "",
    "He drove to the stadium. New York -- THE New York -- was sunny, sunny...",
]
VOCAB = ["PADDING_TOKEN", "weather", "Lovely", "today", "the", "sunny", "drove", "new_york", "York"]
D = 8


def token_features() -> dict:
    """What a backbone gives, made fresh for each call: modules change it."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    layers = tuple(torch.randn(2, 4, D, generator=generator) for _ in range(4))
    return {
        "input_ids": torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]]),
        "attention_mask": mask,
        "sentence_lengths": mask.sum(1),
        "token_embeddings": torch.randn(2, 4, D, generator=generator) * 2,
        "all_layer_embeddings": layers,
        "sentence_embedding": torch.randn(2, D, generator=generator),
    }


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module.eval()


# Reference module, our class, and key of the older config generation -> key of today's.
MIDDLE_MODULES = {
    "cnn": (
        lambda: reference.CNN(D, 3, [1, 3]),
        CNN,
        {"in_word_embedding_dimension": "in_embedding_dimension"},
    ),
    "lstm": (
        lambda: reference.LSTM(D, 3, num_layers=2),
        LSTM,
        {"word_embedding_dimension": "embedding_dimension"},
    ),
    "layer_norm": (lambda: reference.LayerNorm(D), LayerNorm, {}),
    "dropout": (lambda: reference.Dropout(0.3), Dropout, {}),
    "weighted_layer_pooling": (
        lambda: reference.WeightedLayerPooling(D, num_hidden_layers=3, layer_start=1),
        WeightedLayerPooling,
        {"word_embedding_dimension": "embedding_dimension"},
    ),
    "splade_max": (
        lambda: sparse_reference.SpladePooling("max", embedding_dimension=D),
        SpladePooling,
        {"word_embedding_dimension": "embedding_dimension"},
    ),
    "splade_sum_log1p_relu": (
        lambda: sparse_reference.SpladePooling("sum", "log1p_relu"),
        SpladePooling,
        {"word_embedding_dimension": "embedding_dimension"},
    ),
    "sae": (lambda: sparse_reference.SparseAutoEncoder(D, 32, k=4), SparseAutoEncoder, {}),
    "sae_normalised": (
        lambda: sparse_reference.SparseAutoEncoder(D, 32, k=4, normalize=True),
        SparseAutoEncoder,
        {},
    ),
    "word_weights": (
        lambda: reference.WordWeights(VOCAB, {"weather": 3.0, "lovely": 0.5}, 0.1),
        WordWeights,
        {},
    ),
}


def outputs(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        features = module.eval()(token_features())
    return {key: value for key, value in features.items() if isinstance(value, torch.Tensor)}


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() <= theirs.keys()
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], atol=1e-5, rtol=0)


@pytest.mark.parametrize("generation", ["new", "old"])
@pytest.mark.parametrize("name", MIDDLE_MODULES)
def test_a_module_saved_by_the_reference_gives_the_same_features(tmp_path, name, generation):
    make, ours, old_keys = MIDDLE_MODULES[name]
    theirs = make() if name == "word_weights" else randomised(make())
    theirs.save(str(tmp_path))
    if generation == "old":
        path = tmp_path / ours.config_file_name
        config = json.loads(path.read_text())
        for old, new in old_keys.items():
            config[old] = config.pop(new)
        path.write_text(json.dumps(config))

    loaded = ours.from_folder(tmp_path, LoadOptions())

    assert_same(outputs(loaded), outputs(theirs))


@pytest.mark.parametrize("name", MIDDLE_MODULES)
def test_the_reference_reads_what_we_save(tmp_path, name):
    make, ours, _ = MIDDLE_MODULES[name]
    theirs = make() if name == "word_weights" else randomised(make())
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    theirs.save(str(first))

    ours.from_folder(first, LoadOptions()).save(second)
    again = type(theirs).load(str(second))

    assert_same(outputs(ours.from_folder(first, LoadOptions())), outputs(again))


def sentence_embeddings(module: Module, texts: list[str], prompt: str = "") -> np.ndarray:
    tokens = module.to_tokens(texts, prompt=prompt)
    with torch.inference_mode():
        together = module(module.collate(tokens, np.arange(len(texts))))["sentence_embedding"]
    return together.to_dense().numpy()


@pytest.fixture
def wordpiece(minilm) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    tokenizer.no_truncation()
    return tokenizer


@pytest.mark.parametrize("limit", [None, 3])
def test_static_embedding_saved_by_the_reference(tmp_path, wordpiece, limit):
    if limit is not None:
        wordpiece.enable_truncation(limit)
    torch.manual_seed(0)
    theirs = reference.StaticEmbedding(wordpiece, embedding_dim=D)
    theirs.save(str(tmp_path))

    ours = StaticEmbedding.from_folder(tmp_path, LoadOptions())

    expected = ReferenceModel(modules=[theirs], device="cpu").encode(TEXTS, prompt="query: ")
    np.testing.assert_allclose(
        sentence_embeddings(ours, TEXTS, "query: "), expected, atol=1e-5, rtol=0
    )


def test_the_reference_reads_the_static_embedding_that_we_save(tmp_path, wordpiece):
    ours = StaticEmbedding(wordpiece, embedding_dim=D)

    ours.save(tmp_path)
    theirs = ReferenceModel(
        modules=[reference.StaticEmbedding.load(str(tmp_path))], device="cpu"
    ).encode(TEXTS)

    np.testing.assert_allclose(sentence_embeddings(ours, TEXTS), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("parts", [["mapping"], ["weights"], ["mapping", "weights"]])
def test_static_embedding_in_model2vec_spelling(tmp_path, wordpiece, parts):
    generator = torch.Generator().manual_seed(0)
    size = wordpiece.get_vocab_size()
    rows = 100 if "mapping" in parts else size
    tensors = {
        "embeddings": torch.randn(rows, D, generator=generator),
        "mapping": torch.randint(rows, (size,), generator=generator),
        "weights": torch.rand(size, generator=generator, dtype=torch.float64),
    }
    kept = {key: value for key, value in tensors.items() if key in ["embeddings", *parts]}
    save_file(kept, tmp_path / "model.safetensors")
    wordpiece.save(str(tmp_path / "tokenizer.json"))

    theirs = reference.StaticEmbedding.load(str(tmp_path))
    ours = StaticEmbedding.from_folder(tmp_path, LoadOptions())

    expected = ReferenceModel(modules=[theirs], device="cpu").encode(TEXTS)
    np.testing.assert_allclose(sentence_embeddings(ours, TEXTS), expected, atol=1e-5, rtol=0)


def test_the_published_int8_model2vec_folder(shared_data):
    folder = shared_data / "models/model2vec_semhash_test"
    # The reference cannot load int8 rows, so it is given the same rows as floats.
    rows = load_file(folder / "model.safetensors")["embeddings"].float()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs = reference.StaticEmbedding(tokenizer, rows)

    ours = StaticEmbedding.from_folder(folder, LoadOptions())

    expected = ReferenceModel(modules=[theirs], device="cpu").encode(TEXTS)
    np.testing.assert_allclose(sentence_embeddings(ours, TEXTS), expected, atol=1e-5, rtol=0)


def whitespace_tokenizer() -> ReferenceWhitespaceTokenizer:
    return ReferenceWhitespaceTokenizer(VOCAB, stop_words=["the", "It's"])


def phrase_tokenizer() -> ReferencePhraseTokenizer:
    return ReferencePhraseTokenizer(VOCAB, stop_words=["the"])


OLD_CLASS = "sentence_transformers.models.tokenizer.{0}.{0}"


@pytest.mark.parametrize("generation", ["new", "old"])
@pytest.mark.parametrize("make", [whitespace_tokenizer, phrase_tokenizer])
def test_word_embeddings_saved_by_the_reference(tmp_path, make, generation):
    table = np.random.default_rng(0).normal(size=(len(VOCAB), D))
    theirs = reference.WordEmbeddings(make(), table, max_seq_length=5)
    theirs.save(str(tmp_path))
    if generation == "old":
        path = tmp_path / "wordembedding_config.json"
        config = json.loads(path.read_text())
        config["tokenizer_class"] = OLD_CLASS.format(type(theirs.tokenizer).__name__)
        path.write_text(json.dumps(config))

    ours = WordEmbeddings.from_folder(tmp_path, LoadOptions())

    expected = theirs(theirs.preprocess(TEXTS))
    tokens = ours.to_tokens(TEXTS)
    features = ours(ours.collate(tokens, np.arange(len(TEXTS))))
    assert torch.equal(features["input_ids"], expected["input_ids"])
    assert torch.equal(features["attention_mask"], expected["attention_mask"])
    torch.testing.assert_close(features["token_embeddings"], expected["token_embeddings"])


def test_the_reference_reads_the_word_embeddings_that_we_save(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    table = np.random.default_rng(0).normal(size=(len(VOCAB), D))
    reference.WordEmbeddings(whitespace_tokenizer(), table).save(str(first))

    WordEmbeddings.from_folder(first, LoadOptions()).save(second)
    before = reference.WordEmbeddings.load(str(first))
    after = reference.WordEmbeddings.load(str(second))

    assert torch.equal(after.emb_layer.weight, before.emb_layer.weight)
    assert torch.equal(after.preprocess(TEXTS)["input_ids"], before.preprocess(TEXTS)["input_ids"])


@pytest.mark.parametrize("cumulative", [True, False])
def test_bow_saved_by_the_reference(tmp_path, cumulative):
    theirs = reference.BoW(VOCAB, {"sunny": 2.5}, 0.5, cumulative)
    theirs.save(str(tmp_path))

    ours = BoW.from_folder(tmp_path, LoadOptions())

    expected = ReferenceModel(modules=[theirs], device="cpu").encode(TEXTS)
    np.testing.assert_allclose(sentence_embeddings(ours, TEXTS), expected, atol=1e-5, rtol=0)


@pytest.fixture
def bert_tokenizer(minilm):
    return AutoTokenizer.from_pretrained(minilm)


def test_sparse_static_embedding_saved_by_the_reference(tmp_path, bert_tokenizer):
    torch.manual_seed(0)
    weight = torch.rand(len(bert_tokenizer))
    theirs = sparse_reference.SparseStaticEmbedding(bert_tokenizer, weight, frozen=True)
    theirs.save(str(tmp_path))
    with torch.inference_mode():
        expected = theirs(theirs.preprocess(TEXTS))["sentence_embedding"].numpy()

    ours = SparseStaticEmbedding.from_folder(tmp_path, LoadOptions())

    np.testing.assert_allclose(sentence_embeddings(ours, TEXTS), expected, atol=1e-5, rtol=0)


def test_sparse_static_embedding_from_the_published_idf_table(shared_data, bert_tokenizer):
    path = shared_data / "models/opensearch_idf/idf.zhichao.json"
    theirs = sparse_reference.SparseStaticEmbedding.from_json(str(path), bert_tokenizer)
    with torch.inference_mode():
        expected = theirs(theirs.preprocess(TEXTS))["sentence_embedding"].numpy()

    ours = SparseStaticEmbedding.from_json(path, bert_tokenizer)

    np.testing.assert_allclose(sentence_embeddings(ours, TEXTS), expected, atol=1e-5, rtol=0)


def test_sparse_static_embedding_behind_another_module(bert_tokenizer):
    torch.manual_seed(0)
    weight = torch.rand(len(bert_tokenizer))
    features = dict(bert_tokenizer(TEXTS[:2], padding=True, return_tensors="pt"))
    features["sentence_embedding"] = torch.rand(2, len(bert_tokenizer))

    theirs = sparse_reference.SparseStaticEmbedding(bert_tokenizer, weight)(dict(features))
    ours = SparseStaticEmbedding(bert_tokenizer, weight)(dict(features))

    torch.testing.assert_close(ours["sentence_embedding"], theirs["sentence_embedding"])


def test_the_reference_reads_the_sparse_static_embedding_that_we_save(tmp_path, bert_tokenizer):
    ours = SparseStaticEmbedding(bert_tokenizer, torch.rand(len(bert_tokenizer)))

    ours.save(tmp_path)
    theirs = sparse_reference.SparseStaticEmbedding.load(str(tmp_path))

    with torch.inference_mode():
        expected = theirs(theirs.preprocess(TEXTS))["sentence_embedding"].numpy()
    np.testing.assert_allclose(sentence_embeddings(ours, TEXTS), expected, atol=1e-5, rtol=0)


def test_the_reference_saves_the_tied_matrix_once(tmp_path):
    randomised(sparse_reference.SparseAutoEncoder(D, 32, k=4)).save(str(tmp_path))

    keys = set(load_file(Path(tmp_path) / "model.safetensors"))

    assert len(keys & {"encoder.weight", "decoder.linear.weight"}) == 1


def word_model(*between: torch.nn.Module, width: int = D) -> list[torch.nn.Module]:
    """GloVe-like: word embeddings, something between, mean pooling."""
    table = np.random.default_rng(0).normal(size=(len(VOCAB), D))
    words = reference.WordEmbeddings(whitespace_tokenizer(), table)
    return [words, *(randomised(module) for module in between), reference.Pooling(width, "mean")]


WHOLE_MODELS = {
    "words": word_model,
    "words_cnn": lambda: word_model(reference.CNN(D, 3, [1, 3]), width=6),
    "words_lstm": lambda: word_model(reference.LSTM(D, 3), width=6),
    "words_norm": lambda: [*word_model(), reference.Dropout(), randomised(reference.LayerNorm(D))],
    "bow": lambda: [reference.BoW(VOCAB, {"sunny": 2.5}), reference.Dense(len(VOCAB), 4)],
}


@pytest.mark.parametrize("generation", ["new", "old"])
@pytest.mark.parametrize("name", WHOLE_MODELS)
def test_whole_models_in_both_spellings(tmp_path, name, generation):
    theirs = ReferenceModel(modules=WHOLE_MODELS[name](), device="cpu").eval()
    theirs.save_pretrained(str(tmp_path))
    if generation == "old":
        modules = json.loads((tmp_path / "modules.json").read_text())
        for module in modules:
            module["type"] = f"sentence_transformers.models.{module['type'].rpartition('.')[2]}"
        (tmp_path / "modules.json").write_text(json.dumps(modules))

    ours = SentenceTransformer(tmp_path, device="cpu")

    np.testing.assert_allclose(ours.encode(TEXTS), theirs.encode(TEXTS), atol=1e-5, rtol=0)
    assert ours.get_embedding_dimension() == theirs.get_embedding_dimension()


def test_word_weights_decide_the_mean(tmp_path):
    words = word_model()
    weights = reference.WordWeights(VOCAB, {"weather": 3.0, "sunny": 0.5}, 0.1)
    theirs = ReferenceModel(modules=[words[0], weights, words[-1]], device="cpu")
    theirs.save_pretrained(str(tmp_path))

    ours = SentenceTransformer(tmp_path, device="cpu")

    np.testing.assert_allclose(ours.encode(TEXTS), theirs.encode(TEXTS), atol=1e-5, rtol=0)


def test_the_published_static_model_with_its_normalisation(shared_data, tmp_path):
    ours = SentenceTransformer(shared_data / "models/model2vec_semhash_test", device="cpu")
    ours.save_pretrained(tmp_path)  # float rows, which the reference can load

    theirs = ReferenceModel(str(tmp_path), device="cpu")

    np.testing.assert_allclose(ours.encode(TEXTS), theirs.encode(TEXTS), atol=1e-5, rtol=0)
    np.testing.assert_allclose(np.linalg.norm(ours.encode(TEXTS), axis=1), [1, 1, 0, 1], atol=1e-5)


def test_layers_are_weighted_when_the_backbone_gives_them(tmp_path, minilm):
    config = BertConfig(
        vocab_size=30522,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,
        output_hidden_states=True,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(tmp_path / "plain")
    AutoTokenizer.from_pretrained(minilm, model_max_length=64).save_pretrained(tmp_path / "plain")
    layers = reference.WeightedLayerPooling(16, num_hidden_layers=3, layer_start=1)
    with torch.no_grad():
        layers.layer_weights.copy_(torch.tensor([1.0, 2.0, 4.0]))
    theirs = ReferenceModel(
        modules=[
            ReferenceTransformer(str(tmp_path / "plain")),
            layers,
            reference.Pooling(16, "mean"),
        ],
        device="cpu",
    )
    theirs.save_pretrained(str(tmp_path / "model"))

    ours = SentenceTransformer(tmp_path / "model", device="cpu")

    np.testing.assert_allclose(ours.encode(TEXTS), theirs.encode(TEXTS), atol=1e-5, rtol=0)


def test_an_activation_with_arguments_is_a_folder_that_the_reference_loads(tmp_path):
    ours = Dense(4, 4, activation_function=torch.nn.LeakyReLU(0.3))
    ours.save(tmp_path)

    theirs = ReferenceDense.load(str(tmp_path))

    assert isinstance(theirs.activation_function, torch.nn.LeakyReLU)
    torch.testing.assert_close(theirs.linear.weight, ours.linear.weight)
