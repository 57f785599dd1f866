import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stx_core.errors import InputError
from stx_core.models.modules.module import LoadOptions
from stx_core.models.modules.normalize import Normalize
from stx_core.models.modules.pooling import Pooling
from stx_core.models.modules.transformer import Transformer
from stx_core.models.sentence_transformer import SentenceTransformer

TEXTS = ["the weather is lovely", "so", "", "long text " * 50, "so", "he drove to the stadium"]


@pytest.fixture(scope="module")
def model(tiny_bert):
    return SentenceTransformer(tiny_bert, device="cpu")


# --- Order and batches ---------------------------------------------------------------------------


def test_the_order_of_the_output_is_that_of_the_input(model):
    together = model.encode(TEXTS)

    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(together[row], model.encode(text), atol=1e-6)


@given(
    st.lists(st.text(max_size=40), max_size=12),
    st.none() | st.integers(1, 5),
    st.none() | st.integers(1, 300),
)
@settings(max_examples=20, deadline=None)
def test_batches_have_no_influence_beyond_the_last_digits(model, texts, rows, budget):
    expected = model.embed(texts).values

    actual = model.encode(texts, batch_size=rows, token_budget=budget)

    np.testing.assert_allclose(actual.reshape(expected.shape), expected, atol=1e-5)


def test_the_same_call_twice_gives_the_same_bits(model):
    np.testing.assert_array_equal(model.encode(TEXTS), model.encode(TEXTS))


# --- Arguments -----------------------------------------------------------------------------------


def test_the_older_name_of_the_first_argument_works(model):
    np.testing.assert_array_equal(model.encode(sentences=TEXTS), model.encode(TEXTS))


@pytest.mark.parametrize("inputs", [None, 3, [None], ["a", 2.0]])
def test_nulls_and_numbers_are_never_embedded(inputs, model):
    with pytest.raises(InputError):
        model.encode(inputs)


def test_an_empty_text_is_a_text(model):
    assert np.abs(model.encode("")).sum() > 0


def test_an_unknown_argument_is_refused_by_name(model):
    with pytest.raises(ValueError, match=r"encode does not know \['typo'\]"):
        model.encode("a", typo=1)


@pytest.mark.parametrize("arguments", [{"pool": {}}, {"device": ["cpu", "cpu"]}, {"chunk_size": 5}])
def test_several_devices_are_the_job_s_business(arguments, model):
    with pytest.raises(ValueError, match="use the job `stx encode`"):
        model.encode(["a"], **arguments)


@pytest.mark.parametrize("size", [0, -3])
def test_a_batch_size_below_one_is_refused(size, model):
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        model.encode(["a"], batch_size=size)


def test_a_precision_needs_sentence_embeddings(model):
    with pytest.raises(ValueError, match="needs output_value"):
        model.encode(["a"], precision="int8", output_value=None)


# --- Containers ----------------------------------------------------------------------------------


def test_no_texts_give_an_array_of_shape_zero(model):
    assert model.encode([]).shape == (0,)
    assert model.encode([], convert_to_tensor=True).shape == (0,)
    assert model.encode([], convert_to_numpy=False) == []


def test_tensors_win_over_numpy_and_neither_gives_a_list(model):
    assert isinstance(model.encode(["a"], convert_to_tensor=True), torch.Tensor)
    rows = model.encode(["a", "b"], convert_to_numpy=False)
    assert [row.shape for row in rows] == [(32,), (32,)]


def test_all_features_of_each_text_are_given_on_request(model):
    first, second = model.encode(["so sunny", "so"], output_value=None)

    assert first["token_embeddings"].shape == (4, 32)
    assert second["sentence_embedding"].shape == (32,)
    assert second["attention_mask"].tolist() == [1, 1, 1, 0]  # padded like its batch


def test_a_single_text_gives_its_own_token_embeddings(model):
    assert model.encode("so sunny", output_value="token_embeddings").shape == (4, 32)


# --- embed ---------------------------------------------------------------------------------------


def test_embed_gives_the_numbers_of_encode_with_counts(model):
    embedded = model.embed(TEXTS)

    np.testing.assert_array_equal(embedded.values, model.encode(TEXTS))
    assert embedded.values.dtype == np.float32
    assert embedded.n_tokens.tolist() == [6, 3, 2, 64, 3, 7]
    assert embedded.n_tokens.dtype == np.int32
    assert embedded.truncated.tolist() == [False, False, False, True, False, False]
    assert embedded.failed == {}


@pytest.mark.parametrize("task", ["query", "document"])
def test_embed_with_a_task_is_encode_query_or_encode_document(task, tiny_bert):
    model = SentenceTransformer(tiny_bert, prompts={"query": "to ", "document": "is "})

    expected = getattr(model, f"encode_{task}")(TEXTS)

    np.testing.assert_array_equal(model.embed(TEXTS, task=task).values, expected)


def test_embed_is_float32_for_a_half_precision_model(tiny_bert):
    model = SentenceTransformer(tiny_bert, model_kwargs={"dtype": torch.float16})

    assert model.embed(TEXTS).values.dtype == np.float32
    assert model.encode(TEXTS).dtype == np.float16


def test_embed_of_nothing_has_the_width_of_the_model(model):
    assert model.embed([]).values.shape == (0, 32)
    assert model.embed([], truncate_dim=5).values.shape == (0, 5)


def test_a_text_that_does_not_fit_into_memory_is_a_zero_row_with_a_reason(tiny_bert, monkeypatch):
    model = SentenceTransformer(tiny_bert, device="cpu")
    expected = model.embed(TEXTS).values
    pooling = model[1]
    pool = pooling.forward

    def forward(features):
        if features["input_ids"].shape[1] > 20:
            raise torch.OutOfMemoryError("too long")
        return pool(features)

    monkeypatch.setattr(pooling, "forward", forward)
    embedded = model.embed(TEXTS)

    assert list(embedded.failed) == [3]
    assert "64 tokens" in embedded.failed[3]
    assert not embedded.values[3].any()
    np.testing.assert_allclose(
        np.delete(embedded.values, 3, 0), np.delete(expected, 3, 0), atol=1e-6
    )
    with pytest.raises(InputError, match="input 3: a text of 64 tokens"):
        model.encode(TEXTS)


# --- Dimensions ----------------------------------------------------------------------------------


def test_truncated_embeddings_are_the_leading_dimensions(model):
    full = model.encode(TEXTS)

    np.testing.assert_array_equal(model.encode(TEXTS, truncate_dim=5), full[:, :5])
    unit = model.encode(TEXTS, truncate_dim=5, normalize_embeddings=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)


def test_a_call_s_dimension_wins_over_the_model_s(tiny_bert):
    model = SentenceTransformer(tiny_bert, truncate_dim=7)

    assert model.encode(TEXTS).shape[1] == model.get_embedding_dimension() == 7
    assert model.encode(TEXTS, truncate_dim=3).shape[1] == 3


def test_truncation_within_a_context_ends_with_it(model):
    for context in (model.truncate_embeddings, model.truncate_sentence_embeddings):
        with context(4):
            assert model.encode("a").shape == (4,)
        assert model.encode("a").shape == (32,)
    assert model.get_sentence_embedding_dimension() == 32


def test_a_truncation_below_one_dimension_is_refused(model):
    with pytest.raises(ValueError, match="truncate_dim must be at least 1"):
        model.encode("a", truncate_dim=0)


# --- Similarity and names ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarities_are_those_of_the_chosen_function(name, tiny_bert):
    model = SentenceTransformer(tiny_bert, similarity_fn_name=name)
    a, b = np.float32([[1, 2]]), np.float32([[3, -1]])
    expected = {
        "cosine": 1 / np.sqrt(5 * 10),
        "dot": 1,
        "euclidean": -np.sqrt(13),
        "manhattan": -5,
    }[name]

    assert model.similarity(a, b).item() == pytest.approx(expected, abs=1e-6)
    assert model.similarity_pairwise(a, b).tolist() == pytest.approx([expected], abs=1e-6)


def test_an_unknown_similarity_is_refused(tiny_bert):
    with pytest.raises(ValueError, match="maxsim"):
        SentenceTransformer(tiny_bert, similarity_fn_name="maxsim")


def instructor(tiny_bert, monkeypatch, name):
    from stx_core.models import text_model

    monkeypatch.setattr(text_model, "resolve_folder", lambda *args, **options: tiny_bert)
    return SentenceTransformer(name)


def test_the_published_instructors_do_not_pool_the_prompt(tiny_bert, monkeypatch):
    model = instructor(tiny_bert, monkeypatch, "hkunlp/instructor-base")

    assert not model[1].include_prompt


def test_other_instructors_only_get_a_warning(tiny_bert, monkeypatch, caplog):
    with caplog.at_level(logging.WARNING):
        model = instructor(tiny_bert, monkeypatch, "someone/my-Instructor")

    assert model[1].include_prompt
    assert "set_pooling_include_prompt(False)" in caplog.text


def test_pooling_of_the_prompt_can_be_switched_off(tiny_bert):
    modules = [Transformer.from_checkpoint(tiny_bert, LoadOptions()), Pooling(32)]
    model = SentenceTransformer(modules=modules)
    pooled = model.encode("so", prompt="the weather ")

    model.set_pooling_include_prompt(False)

    assert np.abs(model.encode("so", prompt="the weather ") - pooled).max() > 1e-4


# --- Unit length ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("by", ["argument", "last module"])
def test_normalised_vectors_have_unit_length_whatever_the_model_computes_in(tiny_bert, dtype, by):
    transformer = Transformer.from_checkpoint(tiny_bert, LoadOptions(model_kwargs={"dtype": dtype}))
    modules = [transformer, Pooling(32)] + [Normalize()] * (by == "last module")
    model = SentenceTransformer(modules=modules)

    values = model.embed(TEXTS, normalize_embeddings=by == "argument").values

    norms = np.linalg.norm(values.astype(np.float64), axis=1)
    np.testing.assert_allclose(norms, 1, rtol=0, atol=1e-6)


def test_normalised_tensors_keep_the_number_format_of_the_model(tiny_bert):
    model = SentenceTransformer(tiny_bert, model_kwargs={"dtype": "bfloat16"})

    result = model.encode(TEXTS, normalize_embeddings=True, convert_to_tensor=True)

    assert result.dtype == torch.bfloat16
