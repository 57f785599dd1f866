"""Packed batches give what padded ones give: backbones, poolings, prompts, paddings, lengths."""

from functools import cache

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from stx_core.inference.packing import filled
from stx_core.inference.tokens import from_lists
from stx_core.models.cross_encoder import CrossEncoder
from stx_core.models.modules.logit_score import LogitScore
from stx_core.models.modules.pooling import Pooling
from stx_core.models.modules.splade_pooling import SpladePooling
from stx_core.models.modules.transformer import Transformer
from stx_core.models.sentence_transformer import SentenceTransformer
from stx_core.models.sparse_encoder import SparseEncoder

LONGEST = 60
SIZES = {
    "vocab_size": 256,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": LONGEST + 4,
    "initializer_range": 0.2,
}
ROTARY = {"num_key_value_heads": 1, "head_dim": 32}
DISTIL = {"dim": 64, "hidden_dim": 96, "n_layers": 2, "n_heads": 2}
# Windows far shorter than the inputs, so that they matter.
MODERN = {"local_attention": 8, "global_attn_every_n_layers": 2, "pad_token_id": 0}

PACKED = {
    "bert": ("Bert", {}),
    "electra": ("Electra", {"embedding_size": 64}),
    "roberta": ("Roberta", {"pad_token_id": 1}),
    "xlm-roberta": ("XLMRoberta", {"pad_token_id": 1}),
    "camembert": ("Camembert", {"pad_token_id": 1}),
    "distilbert": ("DistilBert", DISTIL),
    "mpnet": ("MPNet", {"pad_token_id": 1}),
    "albert": ("Albert", {"embedding_size": 32}),
    "modernbert": ("ModernBert", MODERN),
    "nomic_bert": ("NomicBert", {}),
    "eurobert": ("EuroBert", {"num_key_value_heads": 1, "pad_token_id": 0}),
    "llama": ("Llama", ROTARY),
    "mistral": ("Mistral", ROTARY | {"sliding_window": 7}),
    "qwen2": ("Qwen2", {"num_key_value_heads": 1}),
    "qwen3": ("Qwen3", ROTARY),
}
PADDED = {
    "deberta-v2": ("DebertaV2", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "mobilebert": ("MobileBert", {"embedding_size": 32, "intra_bottleneck_size": 64}),
    "convbert": ("ConvBert", {"embedding_size": 64}),
}


@cache
def backbone(name: str, head: str = "Model", dtype: torch.dtype = torch.float32):
    """A small backbone of a kind with random weights."""
    prefix, more = (PACKED | PADDED)[name]
    torch.manual_seed(1)
    config = getattr(transformers, f"{prefix}Config")(**(SIZES | more), num_labels=1)
    config.use_cache = False
    return getattr(transformers, f"{prefix}{head}")(config).to(dtype).eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer):
    return transformers.AutoTokenizer.from_pretrained(tiny_tokenizer)


def model_of(name, tokenizer, *, task="feature-extraction", dtype=torch.float32, **pooling):
    heads = {
        "feature-extraction": "Model",
        "fill-mask": "ForMaskedLM",
        "sequence-classification": "ForSequenceClassification",
        "text-generation": "ForCausalLM",
    }
    first = Transformer(backbone(name, heads[task], dtype), tokenizer, transformer_task=task)
    if task == "fill-mask":
        return SparseEncoder(modules=[first, SpladePooling(**pooling)], device="cpu")
    if task == "text-generation":
        return CrossEncoder(modules=[first, LogitScore(5, 6)], device="cpu")
    if task == "sequence-classification":
        return CrossEncoder(modules=[first], device="cpu", activation_fn=torch.nn.Identity())
    return SentenceTransformer(modules=[first, Pooling(64, **pooling)], device="cpu")


def tokens_of(lengths, seed=0, **more):
    rng = np.random.default_rng(seed)
    ids = [rng.integers(5, 256, length).tolist() for length in lengths]
    types = [rng.integers(0, 2, length).tolist() for length in lengths]
    tokens = from_lists(ids, type_ids=types)
    return type(tokens)(tokens.ids, tokens.offsets, tokens.truncated, tokens.type_ids, **more)


def results(model, tokens, feature, *, packed, budget=256):
    found = {}
    for rows, value in model.run(
        tokens, lambda features: features[feature].float(), token_budget=budget, packed=packed
    ):
        found |= dict(zip(rows.tolist(), value, strict=True))
    return torch.stack([found[row] for row in range(len(tokens))])


def assert_equal_both_ways(model, tokens, feature="sentence_embedding"):
    assert model.why_padded() is None
    packed = results(model, tokens, feature, packed=True)
    padded = results(model, tokens, feature, packed=False)
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=1e-5)


MIXED = [LONGEST, 1, 2, 3, 17, 17, 16, 31, 32, 33, 9, LONGEST, 9, 9, 48]


@pytest.mark.parametrize("name", PACKED)
def test_a_backbone_gives_the_same_packed_as_padded(name, tokenizer):
    model = model_of(name, tokenizer)

    assert_equal_both_ways(model, tokens_of(MIXED))


@given(
    lengths=st.lists(st.integers(1, LONGEST), min_size=1, max_size=30),
    name=st.sampled_from(["bert", "roberta", "mpnet", "modernbert", "qwen3", "mistral"]),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_any_lengths_give_the_same_packed_as_padded(lengths, name, seed, tiny_tokenizer):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_tokenizer)

    assert_equal_both_ways(model_of(name, tokenizer), tokens_of(lengths, seed))


@pytest.mark.parametrize("prompt_length", [0, 1, 3])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "mode", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
)
def test_poolings_with_prompts_give_the_same(mode, side, prompt_length, tiny_tokenizer):
    # Left padding with positions that are counted from the padding on is a model's own affair.
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_tokenizer, padding_side=side)
    name = "bert" if side == "right" else "qwen3"
    model = model_of(name, tokenizer, pooling_mode=mode, include_prompt=False)
    tokens = tokens_of([5, 4, 60, 31, 4, 4, 9], prompt_length=prompt_length)

    assert_equal_both_ways(model, tokens)


@pytest.mark.parametrize("strategy", ["max", "sum"])
@pytest.mark.parametrize(
    "name", ["bert", "roberta", "distilbert", "mpnet", "modernbert", "electra", "camembert"]
)
def test_splade_gives_the_same_without_logits_of_the_vocabulary(
    name, strategy, tokenizer, monkeypatch
):
    model = model_of(name, tokenizer, task="fill-mask", pooling_strategy=strategy)
    seen = []
    forward = SpladePooling.forward
    monkeypatch.setattr(
        SpladePooling,
        "forward",
        lambda self, features: seen.append(set(features)) or forward(self, features),
    )

    assert_equal_both_ways(model, tokens_of(MIXED))

    assert {"head", "head_inputs"} <= seen[-2] | seen[-1] | seen[0] | seen[1]


@pytest.mark.parametrize(
    "name",
    ["bert", "electra", "roberta", "xlm-roberta", "distilbert", "mpnet", "modernbert", "llama",
     "mistral", "qwen2", "qwen3"],
)  # fmt: skip
def test_classifiers_give_the_same_scores(name, tokenizer):
    if name in ("llama", "mistral", "qwen2", "qwen3"):
        backbone(name, "ForSequenceClassification").config.pad_token_id = 0
    model = model_of(name, tokenizer, task="sequence-classification")

    assert_equal_both_ways(model, tokens_of(MIXED), "scores")


@pytest.mark.parametrize("name", ["qwen3", "llama"])
def test_rerankers_that_read_logits_give_the_same_scores(name, tiny_tokenizer):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_tokenizer, padding_side="left")

    assert_equal_both_ways(
        model_of(name, tokenizer, task="text-generation"), tokens_of(MIXED), "scores"
    )


@pytest.mark.parametrize("name", PADDED)
def test_other_backbones_are_padded_and_say_why(name, tokenizer):
    model = model_of(name, tokenizer)

    assert model.why_padded()
    assert results(model, tokens_of(MIXED), "sentence_embedding", packed=True).isfinite().all()


def test_a_module_that_reads_padding_is_padded(tokenizer):
    first = Transformer(backbone("bert"), tokenizer)
    model = SentenceTransformer(modules=[first, _ByPlace(), Pooling(64)], device="cpu")

    assert "attention_mask" in model.why_padded()


class _ByPlace(torch.nn.Module):
    """Reads padded features, as WordWeights, LSTM and modules of users do."""

    def forward(self, features):
        features["token_embeddings"] = (
            features["token_embeddings"] * features["attention_mask"][..., None]
        )
        return features


class _MixesInputs(torch.nn.Module):
    def forward(self, features):
        tokens = features["token_embeddings"]
        features["token_embeddings"] = tokens + tokens.roll(1, dims=0)
        return features


def test_a_module_that_would_mix_inputs_is_found_out(tokenizer):
    # Padded it mixes inputs too, but other ones.
    first = Transformer(backbone("bert"), tokenizer)
    model = SentenceTransformer(modules=[first, _MixesInputs(), Pooling(64)], device="cpu")

    assert "results differ" in model.why_padded()


@pytest.mark.parametrize("name", ["bert", "mpnet", "modernbert", "mistral"])
def test_bfloat16_is_as_close_to_float32_packed_as_padded(name, tokenizer):
    exact = results(model_of(name, tokenizer), tokens_of(MIXED), "sentence_embedding", packed=False)
    # A copy: the cached backbone stays as it is.
    model = model_of(name, tokenizer, dtype=torch.bfloat16)
    assert model.why_padded() is None
    far = [
        (results(model, tokens_of(MIXED), "sentence_embedding", packed=packed) - exact).norm()
        for packed in (False, True)
    ]

    assert 0 < far[1] <= 1.5 * far[0]


def test_the_weights_of_a_model_are_not_changed_by_running_it(tokenizer):
    model = model_of("bert", tokenizer, dtype=torch.bfloat16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    results(model, tokens_of(MIXED), "sentence_embedding", packed=True)
    after = model.state_dict()

    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_changed_weights_are_used(dtype, tiny_bert):
    model = SentenceTransformer(tiny_bert, device="cpu", model_kwargs={"dtype": dtype})
    texts = ["a b c", "d"]
    before = model.encode(texts)
    with torch.no_grad():
        for layer in model[0].model.encoder.layer:
            layer.output.dense.weight.mul_(-2)
    after = model.encode(texts)
    tokens = model.to_tokens(texts)
    padded = results(model, tokens, "sentence_embedding", packed=False)

    np.testing.assert_allclose(after, padded, atol=1e-5 if dtype == torch.float32 else 0.02)
    assert np.abs(after - before).max() > 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["bert", "mpnet", "modernbert", "qwen3"])
def test_reproducible_numbers_do_not_depend_on_the_texts_beside(name, dtype, tokenizer):
    model = model_of(name, tokenizer, dtype=dtype)
    model.reproducible = True
    lengths = [60, 1, 17, 17, 33, 9, 48, 5, 5, 31, 60, 2] * 3
    together = tokens_of(lengths)
    starts = together.offsets
    whole = results(model, together, "sentence_embedding", packed=True)
    for row in (0, 3, 7, 20, 35):
        ids = together.ids[starts[row] : starts[row + 1]].tolist()
        types = together.type_ids[starts[row] : starts[row + 1]].tolist()
        alone = results(
            model, from_lists([ids], type_ids=[types]), "sentence_embedding", packed=True
        )

        assert torch.equal(alone[0], whole[row])


@given(st.integers(1, 10_000), st.integers(1, 70_000))
def test_batches_are_filled_up_to_few_different_sizes(n_tokens, budget):
    size = filled(n_tokens, budget)

    assert n_tokens <= size <= max(8, 2 * n_tokens, n_tokens + budget // 16)
    if n_tokens <= budget:
        assert len({filled(n, budget) for n in range(1, budget + 1, max(1, budget // 500))}) <= 40
