"""Similarity and quantisation against Sentence Transformers, on the same random embeddings."""

import numpy as np
import pytest
import torch
from sentence_transformers import util as reference

from stx_core import quantization, similarity

# The reference's sparse tensors, once per process.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly:UserWarning"),
]

rng = np.random.default_rng(7)
A = rng.normal(size=(40, 13)).astype(np.float32)
B = rng.normal(size=(30, 13)).astype(np.float32)
MATRIX = ["cos_sim", "dot_score", "euclidean_sim", "manhattan_sim"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", MATRIX)
def test_similarity_equals_the_reference(name, dtype):
    a, b = torch.tensor(A).to(dtype), torch.tensor(B).to(dtype)

    ours = getattr(similarity, name)(a, b)

    torch.testing.assert_close(ours, getattr(reference, name)(a, b), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MATRIX)
def test_pairwise_similarity_equals_the_reference(name):
    a, b = torch.tensor(A[:30]), torch.tensor(B)

    ours = getattr(similarity, f"pairwise_{name}")(a, b)

    torch.testing.assert_close(ours, getattr(reference, f"pairwise_{name}")(a, b))


@pytest.mark.parametrize("prefix", ["", "pairwise_"])
@pytest.mark.parametrize("name", MATRIX)
def test_sparse_similarity_equals_the_reference(name, prefix):
    a, b = (torch.tensor(np.maximum(x[:30] - 1, 0)).to_sparse() for x in (A, B))

    ours = getattr(similarity, prefix + name)(a, b)

    expected = getattr(reference, prefix + name)(a, b)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_sparse_normalisation_equals_the_reference():
    sparse = torch.tensor(np.maximum(A, 0)).to_sparse()

    torch.testing.assert_close(
        similarity.normalize_embeddings(sparse).to_dense(),
        reference.normalize_embeddings(sparse).to_dense(),
    )


@pytest.mark.parametrize("scale", [1.0, 1e-3, 50.0])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])
def test_quantised_bytes_equal_the_reference(precision, dtype, scale):
    embeddings = (A * scale).astype(dtype)
    outside = (B * scale * 2).astype(dtype)

    pairs = [
        (module.quantize_embeddings(embeddings, precision=precision), module)
        for module in (quantization, reference)
    ]
    (ours, _), (theirs, _) = pairs
    ours_outside, theirs_outside = (
        module.quantize_embeddings(outside, precision=precision, calibration_embeddings=embeddings)
        for module in (quantization, reference)
    )

    assert ours.dtype == theirs.dtype
    assert np.array_equal(ours, theirs)
    assert np.array_equal(ours_outside, theirs_outside)


@pytest.mark.parametrize("precision", ["int8", "ubinary"])
def test_quantised_token_matrices_equal_the_reference(precision):
    matrices = [A[:1], A[1:1], A[1:25], A[25:]]

    ours = quantization.quantize_embeddings(matrices, precision)

    theirs = reference.quantize_embeddings(matrices, precision)
    assert all(np.array_equal(mine, other) for mine, other in zip(ours, theirs, strict=True))
