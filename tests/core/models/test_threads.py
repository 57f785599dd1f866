"""One model, or models that share parts, called from many threads; calls that fail midway."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from stx_core.errors import ModelError
from stx_core.inference.tokens import tokenize
from stx_core.models.modules.pooling import Pooling
from stx_core.models.modules.transformer import Transformer
from stx_core.models.sentence_transformer import SentenceTransformer
from tests.core.models.small import (
    KINDS,
    TEXTS,
    assert_close,
    backbone,
    model_of,
    result,
    tokenizer,
)

CALLS = 24


def in_threads(calls):
    with ThreadPoolExecutor(8) as pool:
        return [done.result() for done in [pool.submit(call) for call in calls]]


@pytest.mark.parametrize("kind", KINDS)
def test_threads_get_what_one_thread_gets(kind):
    model = model_of(kind)
    attention = model.transformers_model.config._attn_implementation
    parts = [TEXTS[: 1 + number % 9] for number in range(CALLS)]
    expected = [result(model, part) for part in parts]

    found = in_threads([lambda part=part: result(model, part) for part in parts])

    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)
    assert model.transformers_model.config._attn_implementation == attention


def test_models_that_share_a_backbone_and_a_tokenizer_take_turns():
    shared, tokens = backbone("Bert"), copy.deepcopy(tokenizer())
    lower = Transformer(shared, tokens, do_lower_case=True)
    models = [
        SentenceTransformer(modules=[first, Pooling(32, mode)], device="cpu")
        for first, mode in ((Transformer(shared, tokens), "mean"), (lower, "cls"))
    ]
    models.append(copy.copy(models[0]))
    texts = ["A b C", "D", "a b c d e E E E"]
    expected = [result(model, texts) for model in models]

    found = in_threads([lambda model=model: result(model, texts) for model in models * 8])

    for number, one in enumerate(found):
        assert_close(one, expected[number % 3])


def test_forward_tokenize_encode_and_copies_go_on_beside_each_other():
    model = model_of("dense")
    features = model.tokenize(TEXTS)
    with torch.inference_mode():
        expected = model(dict(features))["sentence_embedding"]

    def forward():
        with torch.inference_mode():
            return model(dict(features))["sentence_embedding"]

    def tokenized():
        with torch.inference_mode():
            return model(model.tokenize(TEXTS))["sentence_embedding"]

    def of_a_copy():
        return result(copy.deepcopy(model))

    calls = [forward, tokenized, of_a_copy, lambda: result(model)]

    for found in in_threads(calls * 5):
        assert_close(found, expected)


def test_a_model_that_has_run_can_be_pickled_and_copied():
    model = model_of("dense")
    expected = result(model)

    pickled = pickle.dumps(model)

    for again in (pickle.loads(pickled), copy.deepcopy(model)):  # noqa: S301  (our own)
        assert_close(result(again), expected)


def state_of(model):
    rust = model.tokenizer.backend_tokenizer
    return {
        "attention": model[0].backbone.config._attn_implementation,
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        "own": [sorted(vars(m)) for m in model.modules()],
        "training": [m.training for m in model.modules()],
        "dtype": model.dtype,
        "truncation": rust.truncation,
        "padding": rust.padding,
        "normaliser": str(rust.normalizer),
        "grad": torch.is_grad_enabled(),
    }


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("place", ["tokenizer", "layer", "head", "hook", "collect"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_fails_leaves_the_model_as_it_was(kind, place, error, monkeypatch):
    model = model_of(kind)
    rust = model.tokenizer.backend_tokenizer
    rust.enable_truncation(11, stride=1)
    rust.enable_padding(length=12)
    expected = result(model)
    model.train()
    before = state_of(model)

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        if place == "tokenizer":
            patch.setattr("stx_core.inference.tokens._encode_fast", fail)
        elif place == "layer":
            last = model[0].backbone.base_model.encoder.layer[1]
            patch.setattr(type(last.output), "forward", fail)
        elif place == "head":
            patch.setattr(type(model[-1]), "forward", fail)
        elif place == "collect":
            patch.setattr("stx_core.models.batch_model.to_device", fail)
        else:
            model.register_forward_hook(fail)
        # Of a hook that fails in the trial of a model, too.
        with pytest.raises((type(error), ModelError)):
            result(model)
    model._forward_hooks.clear()

    assert state_of(model) == before
    assert_close(result(model), expected)
    assert tokenize(model.tokenizer, ["a b"], 60).lengths.tolist() == [4]
