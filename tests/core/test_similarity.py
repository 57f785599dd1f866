import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from stx_core.similarity import (
    SimilarityFunction,
    cos_sim,
    dot_score,
    euclidean_sim,
    manhattan_sim,
    normalize_embeddings,
    pairwise_cos_sim,
    pairwise_dot_score,
    pairwise_euclidean_sim,
    pairwise_manhattan_sim,
    truncate_embeddings,
)

A = np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0], [0.0, 0.0, 0.0]], np.float32)
B = np.array([[2.0, 1.0, 0.0], [0.0, -3.0, 4.0], [1.0, 0.0, 2.0]], np.float32)

# Each similarity of two vectors by its definition, in double precision.
DEFINITIONS = {
    "cosine": lambda x, y: x @ y / max(np.linalg.norm(x) * np.linalg.norm(y), 1e-12),
    "dot": lambda x, y: x @ y,
    "euclidean": lambda x, y: -np.sqrt(((x - y) ** 2).sum()),
    "manhattan": lambda x, y: -np.abs(x - y).sum(),
}
LAYOUTS = {
    "list": lambda array: array.tolist(),
    "numpy": lambda array: array,
    "read_only_numpy": lambda array: np.broadcast_to(array, array.shape),
    "reversed_numpy": lambda array: np.ascontiguousarray(array[:, ::-1])[:, ::-1],
    "list_of_arrays": list,
    "torch": torch.tensor,
    "list_of_tensors": lambda array: list(torch.tensor(array)),
    "coo": lambda array: torch.tensor(array).to_sparse(),
    "list_of_coo": lambda array: [torch.tensor(row).to_sparse() for row in array],
}


def by_definition(name, a, b):
    return [[DEFINITIONS[name](x, y) for y in b.astype(float)] for x in a.astype(float)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", DEFINITIONS)
def test_every_row_meets_every_row_in_every_layout(name, layout):
    function = SimilarityFunction.to_similarity_fn(name)

    scores = function(LAYOUTS[layout](A), LAYOUTS[layout](B))

    assert scores.layout == torch.strided
    np.testing.assert_allclose(scores, by_definition(name, A, B), atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", DEFINITIONS)
def test_pairwise_compares_row_with_row(name, layout):
    function = SimilarityFunction.to_similarity_pairwise_fn(name)

    scores = function(LAYOUTS[layout](A), LAYOUTS[layout](B))

    assert scores.layout == torch.strided
    np.testing.assert_allclose(scores, np.diag(by_definition(name, A, B)), atol=1e-6)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_sparse_and_dense_sides_mix(name):
    function = SimilarityFunction.to_similarity_fn(name)
    pairwise = SimilarityFunction.to_similarity_pairwise_fn(name)
    sparse = torch.tensor(B).to_sparse()

    expected = by_definition(name, A, B)

    np.testing.assert_allclose(function(A, sparse), expected, atol=1e-6)
    np.testing.assert_allclose(function(sparse, A), np.transpose(expected), atol=1e-6)
    np.testing.assert_allclose(pairwise(A, sparse), np.diag(expected), atol=1e-6)
    np.testing.assert_allclose(pairwise(sparse, A), np.diag(expected), atol=1e-6)


@pytest.mark.parametrize("function", [cos_sim, dot_score, euclidean_sim, manhattan_sim])
def test_a_single_vector_is_a_matrix_of_one_row(function):
    assert torch.equal(function(A[0], B), function(A[:1], B))


@pytest.mark.parametrize("function", [pairwise_cos_sim, pairwise_euclidean_sim])
def test_pairwise_of_two_vectors_is_one_number(function):
    assert function(A[0], B[0]).shape == ()


def test_multiplying_sparse_tensors_warns_of_nothing():
    script = (
        "import torch; from stx_core import cos_sim; a = torch.eye(2).to_sparse(); cos_sim(a, a)"
    )

    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stderr


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
def test_compressed_sparse_rows_are_accepted():
    assert torch.equal(dot_score(torch.tensor(A).to_sparse_csr(), B), dot_score(A, B))


def test_sparse_entries_that_come_twice_are_added_up():
    twice = torch.sparse_coo_tensor([[0, 0], [1, 1]], [1.0, 2.0], (1, 3), check_invariants=True)

    assert pairwise_dot_score(twice, [[0.0, 1.0, 0.0]]).tolist() == [3.0]
    assert normalize_embeddings(twice).to_dense().tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_in_single_precision(dtype):
    # 1000 and 1000.25 times 1 both round to 1000 in half precision: a tie that is none.
    query = torch.tensor([[1000.0, 0.25]], dtype=dtype)
    documents = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=dtype)

    scores = dot_score(query, documents)

    assert scores.dtype == torch.float32
    assert scores[0, 1] - scores[0, 0] == 0.25


def test_integers_do_not_wrap_around():
    rows = np.full((1, 4), 100, np.int8)

    assert dot_score(rows, rows).tolist() == [[40_000.0]]


def test_double_precision_stays():
    assert cos_sim(A.astype(np.float64), B.astype(np.float64)).dtype == torch.float64


def test_pairwise_refuses_unequal_shapes():
    with pytest.raises(ValueError, match=r"equal shapes, got \(3, 3\) and \(2, 3\)"):
        pairwise_manhattan_sim(A, B[:2])


def test_normalized_rows_have_length_one_and_zero_rows_stay_zero():
    expected = [[5**-0.5, 0, 2 * 5**-0.5], [0, 1, 0], [0, 0, 0]]

    dense = normalize_embeddings(A)

    assert isinstance(dense, np.ndarray)
    np.testing.assert_allclose(dense, expected, atol=1e-7)
    np.testing.assert_allclose(
        normalize_embeddings(torch.tensor(A).to_sparse()).to_dense(), expected, atol=1e-7
    )


def test_a_sparse_row_of_stored_zeros_stays_zero():
    stored = torch.sparse_coo_tensor([[0], [1]], [0.0], (1, 3), check_invariants=True)

    assert normalize_embeddings(stored).to_dense().tolist() == [[0.0, 0.0, 0.0]]


def test_a_sparse_vector_is_normalized_as_one_row():
    vector = normalize_embeddings(torch.tensor([3.0, 0.0, 4.0]).to_sparse())

    assert vector.shape == (3,)
    np.testing.assert_allclose(vector.to_dense(), [0.6, 0, 0.8])


def test_normalizing_keeps_the_type():
    assert normalize_embeddings(A.astype(np.float16)).dtype == np.float16
    assert normalize_embeddings(torch.tensor(A).bfloat16().to_sparse()).dtype == torch.bfloat16


def test_truncation_keeps_the_first_dimensions_and_does_not_normalize():
    assert truncate_embeddings(A, 2).tolist() == A[:, :2].tolist()
    assert truncate_embeddings(torch.tensor(A[0]), 1).tolist() == [1.0]
    assert truncate_embeddings(A, None) is not None
    assert truncate_embeddings(A, None).shape == A.shape


def test_similarity_functions_are_known_by_name_member_and_alias():
    assert SimilarityFunction.possible_values() == ["cosine", "dot", "euclidean", "manhattan"]
    assert SimilarityFunction.DOT is SimilarityFunction.DOT_PRODUCT
    assert SimilarityFunction.to_similarity_fn(SimilarityFunction.DOT) is dot_score
    assert SimilarityFunction.to_similarity_pairwise_fn("cosine") is pairwise_cos_sim


def test_an_unknown_similarity_lists_the_known_ones():
    with pytest.raises(ValueError, match="'angle'; choose one of cosine, dot"):
        SimilarityFunction.to_similarity_fn("angle")


# --- One vector, no vectors ----------------------------------------------------------------------

ALL_PAIRS = {
    "cosine": (cos_sim, pairwise_cos_sim),
    "dot": (dot_score, pairwise_dot_score),
    "euclidean": (euclidean_sim, pairwise_euclidean_sim),
    "manhattan": (manhattan_sim, pairwise_manhattan_sim),
}
VECTORS = {
    "dense": torch.tensor,
    "coo": lambda row: torch.tensor(row).to_sparse(),
    "uncoalesced": lambda row: torch.sparse_coo_tensor(
        torch.arange(len(row)).repeat(2)[None],
        torch.tensor(row).repeat(2) / 2,
        (len(row),),
        check_invariants=False,
    ),
    "half_coo": lambda row: torch.tensor(row).half().to_sparse(),
    "numpy": lambda row: row,
}


@pytest.mark.parametrize("right", VECTORS)
@pytest.mark.parametrize("left", VECTORS)
@pytest.mark.parametrize("name", ALL_PAIRS)
def test_single_vectors_of_any_layout_are_compared(name, left, right):
    every, pairwise = ALL_PAIRS[name]
    a, b = VECTORS[left](A[0]), VECTORS[right](B[1])
    wanted = DEFINITIONS[name](A[0].astype(float), B[1].astype(float))

    assert every(a, b).tolist() == [[pytest.approx(wanted, abs=1e-5)]]
    assert pairwise(a, b).item() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("name", ALL_PAIRS)
def test_embeddings_of_no_texts_have_no_scores(name):
    every, pairwise = ALL_PAIRS[name]
    for nothing in (np.array([]), [], torch.tensor([]), torch.tensor([]).to_sparse()):
        assert every(nothing, nothing).shape == (0, 0)
        assert every(nothing, A).shape == (0, 3)
        assert every(torch.tensor(A), nothing).shape == (3, 0)
        assert pairwise(nothing, nothing).shape == (0,)


def test_more_than_two_axes_are_refused():
    with pytest.raises(ValueError, match=r"must be a matrix.* got shape \(1, 2, 3\)"):
        cos_sim(np.zeros((1, 2, 3)), A)
