"""Subclasses and modules that users write, as they would for Sentence Transformers."""

import numpy as np
import pytest
import torch
from torch import nn

from stx_core import CrossEncoder, ModelError, SentenceTransformer, SparseEncoder
from stx_core.models import Pooling, Router, Transformer
from stx_core.models.modules.module import InputModule

TEXTS = ["the weather is lovely", "so", "he drove to the stadium"]


@pytest.fixture(scope="module")
def model(tiny_bert):
    return SentenceTransformer(tiny_bert, device="cpu")


def subclass_of(model, **methods):
    own = type("Own", (SentenceTransformer,), methods)
    return own(modules=list(model), device="cpu")


def shouting(self, inputs, prompt=None, **options):
    return SentenceTransformer.preprocess(
        self, [f"so {text}" for text in inputs], prompt=prompt, **options
    )


def older_shouting(self, texts, **options):
    return SentenceTransformer.tokenize(self, [f"so {text}" for text in texts], **options)


@pytest.mark.parametrize("methods", [{"preprocess": shouting}, {"tokenize": older_shouting}])
def test_encode_goes_through_the_preprocess_or_tokenize_of_a_subclass(model, methods):
    own = subclass_of(model, **methods)

    np.testing.assert_allclose(
        own.encode(TEXTS, batch_size=2), model.encode([f"so {text}" for text in TEXTS]), atol=1e-6
    )
    assert own.encode([]).shape == (0,)
    with pytest.raises(ModelError, match="use encode"):
        own.embed(TEXTS)


def test_a_subclass_gets_the_prompt_with_the_texts(model):
    own = subclass_of(model, preprocess=shouting)
    older = subclass_of(model, tokenize=lambda self, texts: model.tokenize(texts))

    np.testing.assert_allclose(
        own.encode(TEXTS, prompt="it "),
        model.encode([f"it so {text}" for text in TEXTS]),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        older.encode(TEXTS, prompt="it "), model.encode(TEXTS, prompt="it "), atol=1e-6
    )


def test_encode_goes_through_the_forward_of_a_subclass(model):
    def forward(self, input, **arguments):  # noqa: A002
        features = SentenceTransformer.forward(self, input, **arguments)
        return features | {"sentence_embedding": -features["sentence_embedding"]}

    np.testing.assert_allclose(
        subclass_of(model, forward=forward).encode(TEXTS), -model.encode(TEXTS), atol=1e-6
    )


def test_encode_query_goes_through_the_encode_of_a_subclass_by_keyword(model):
    seen = {}

    def encode(self, inputs, prompt_name=None, **options):
        seen.update(options, inputs=inputs, prompt_name=prompt_name)

    subclass_of(model, encode=encode).encode_query(["a"], batch_size=3)

    assert seen == {
        "inputs": ["a"],
        "prompt_name": "query",
        "prompt": None,
        "task": "query",
        "batch_size": 3,
    }


def test_a_preprocess_of_one_instance_is_used(model):
    own = SentenceTransformer(modules=list(model), device="cpu")
    own.preprocess = lambda inputs, **options: model.preprocess(["so"] * len(inputs))

    np.testing.assert_allclose(own.encode(TEXTS), model.encode(["so"] * 3), atol=1e-6)


class Letters(nn.Module):
    """A first module in the style of the reference's: texts to a features dict."""

    forward_kwargs = frozenset({"scale"})

    def tokenize(self, texts, padding=True):
        return {"lengths": torch.tensor([float(len(text)) for text in texts])}

    def forward(self, features, scale=1.0):
        lengths = features["lengths"] * scale
        return features | {"sentence_embedding": torch.stack([lengths, -lengths], 1)}


def test_a_first_module_of_the_user_s_own_needs_only_tokenize():
    model = SentenceTransformer(modules=[Letters()], device="cpu")

    assert model.encode(TEXTS)[:, 0].tolist() == [21, 2, 23]
    assert model.encode(TEXTS, prompt="123")[:, 0].tolist() == [24, 5, 26]
    assert model.get_model_kwargs() == ["scale"]
    assert model.encode(TEXTS, scale=2.0)[:, 0].tolist() == [42, 4, 46]
    assert model.max_seq_length is None
    with pytest.raises(ValueError, match=r"does not know \['scales'\]"):
        model.encode(TEXTS, scales=2.0)


def test_routes_may_start_with_modules_of_the_user_s_own():
    router = Router({"query": [Letters()], "document": [Letters(), Letters()]})
    model = SentenceTransformer(modules=[router], device="cpu")

    assert model.encode_query(TEXTS, scale=3.0)[:, 0].tolist() == [63, 6, 69]
    assert model.encode_document(TEXTS)[:, 0].tolist() == [21, 2, 23]


def test_a_subclass_of_our_transformer_may_tokenize_its_own_way(model, tiny_bert):
    class Short(Transformer):
        def tokenize(self, texts, **options):
            return super().tokenize([text[:2] for text in texts], **options)

    short = SentenceTransformer(modules=[Short.load(tiny_bert), Pooling(32)], device="cpu")

    np.testing.assert_allclose(
        short.encode(TEXTS), model.encode([text[:2] for text in TEXTS]), atol=1e-6
    )


def test_a_cross_encoder_reads_pairs_through_its_own_preprocess(tiny_bert):
    class Lengths(nn.Module):
        def preprocess(self, inputs, prompt=None, **options):
            return {"lengths": torch.tensor([[float(len(a) + len(b))] for a, b in inputs])}

        def forward(self, features):
            return features | {"scores": features["lengths"]}

        def get_embedding_dimension(self):
            return 1

    from stx_core.models import Dense

    head = Dense(1, 1, activation_function=None, module_input_name="scores", bias=False)
    nn.init.ones_(head.linear.weight)
    model = CrossEncoder(modules=[Lengths(), head], device="cpu", activation_fn=nn.Identity())

    assert model.predict([("ab", "c"), ("a", "")]).tolist() == [3.0, 1.0]
    assert [hit["corpus_id"] for hit in model.rank("a", ["b", "b c d"])] == [1, 0]


def test_a_sparse_encoder_with_a_first_module_of_the_user_s_own():
    model = SparseEncoder(modules=[Letters()], device="cpu")

    with pytest.raises(ModelError, match="knows the dimension"):
        model.encode(TEXTS)
    assert model.encode([]).shape == (0,)


def test_a_reader_without_a_method_says_what_is_missing():
    with pytest.raises(TypeError, match="does not define to_tokens"):
        SentenceTransformer(modules=[InputModule()], device="cpu").encode(["a"])
