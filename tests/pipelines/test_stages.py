"""The encode stage: vectors that overflow a half format get a second chance in float32."""

import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoTokenizer, BertModel

from stx.pipelines.encoding.stages import Encoder, encode_texts
from stx.pipelines.models.settings import encoder_settings
from stx.pipelines.spec.parts import Model
from stx_core import SentenceTransformer

TEXTS = ["the weather is lovely", "so sunny outside", None, "he drove to the stadium", "so sunny"]
OVERFLOWS = [1, 4]


@pytest.fixture
def overflowing(tiny_bert, tmp_path):
    """A model in which one word is too large for float16, and in order in float32."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    model = BertModel.from_pretrained(folder, add_pooling_layer=False)
    word = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("sunny")
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[word] += 60_000
        model.embeddings.token_type_embeddings.weight[0] += 10_000
    model.save_pretrained(folder)
    return folder


def encoder(folder, dtype):
    return Encoder(encoder_settings(Model(model=str(folder), dtype=dtype)))


def dtypes(model):
    return [tensor.dtype for tensor in [*model.parameters(), *model.buffers()]]


def test_a_vector_that_overflows_float16_is_computed_again_in_float32(overflowing):
    half = encoder(overflowing, "float16")
    before, weights = dtypes(half.model), [p.clone() for p in half.model.parameters()]
    with np.errstate(all="ignore"):
        plain = half.embed([text or "" for text in TEXTS]).values
    assert not np.isfinite(plain[OVERFLOWS]).any()

    columns = encode_texts(half, pa.chunked_array([TEXTS]))

    vectors = np.stack([v if v is not None else plain[0] for v in columns["vector"].to_pylist()])
    full = (
        SentenceTransformer(str(overflowing), model_kwargs={"dtype": "float16"})
        .float()
        .encode([TEXTS[row] for row in OVERFLOWS])
    )
    np.testing.assert_allclose(vectors[OVERFLOWS], full, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(vectors[[0, 3]], plain[[0, 3]])
    assert columns["rejected"].null_count == len(TEXTS)
    assert dtypes(half.model) == before
    for weight, kept in zip(half.model.parameters(), weights, strict=True):
        assert torch.equal(weight, kept)


def test_a_vector_that_is_not_finite_in_float32_either_is_rejected(overflowing):
    model = encoder(overflowing, "bfloat16")
    with torch.no_grad():
        next(model.model.parameters())[:, 0] = torch.nan

    columns = encode_texts(model, pa.chunked_array([TEXTS]))

    reasons = columns["rejected"].field("reason").to_pylist()
    assert reasons == ["not_finite", "not_finite", None, "not_finite", "not_finite"]
