import pytest
import torch

from stx_core.models.sparse_tensors import decode, intersection, sparsity

DENSE = torch.tensor([[0.0, 2.0, 0.0, 3.0], [0.0, 0.0, 0.0, 0.0]])


def letters(ids: list[int]) -> list[str]:
    return ["abcd"[i] for i in ids]


@pytest.mark.parametrize("sparse", [False, True])
def test_sparsity_is_the_mean_over_rows_under_released_and_older_names(sparse):
    stats = sparsity(DENSE.to_sparse() if sparse else DENSE)

    assert stats == {
        "active_dims": 1.0,
        "sparsity_ratio": 0.75,
        "row_non_zero_mean": 1.0,
        "row_sparsity_mean": 0.75,
    }


def test_sparsity_of_one_embedding_and_of_none():
    assert sparsity(DENSE[0])["active_dims"] == 2.0
    assert sparsity(torch.zeros(0, 4))["sparsity_ratio"] == 1.0
    assert sparsity(torch.zeros(0))["active_dims"] == 0.0


def test_sparsity_wants_a_tensor_of_one_or_two_axes():
    with pytest.raises(TypeError, match="torch tensor, got list"):
        sparsity([[1.0]])
    with pytest.raises(ValueError, match=r"one or two axes, got shape \(1, 1, 1\)"):
        sparsity(torch.zeros(1, 1, 1))


@pytest.mark.parametrize("sparse", [False, True])
def test_decoding_gives_the_heaviest_tokens_first(sparse):
    rows = decode(DENSE.to_sparse() if sparse else DENSE, letters, None)

    assert rows == [[("d", 3.0), ("b", 2.0)], []]


def test_decoding_stops_after_the_first_tokens():
    assert decode(DENSE[0], letters, 1) == [[("d", 3.0)]]
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        decode(DENSE, letters, 0)


def test_an_intersection_keeps_positive_products_only():
    one = torch.tensor([1.0, 2.0, -1.0, 5.0])
    others = torch.tensor([[3.0, 4.0, 5.0, 0.0], [0.0, 0.0, 0.0, 1.0]])

    shared = intersection(one.to_sparse(), others)

    assert shared.is_coalesced()
    assert shared.to_dense().tolist() == [[3, 8, 0, 0], [0, 0, 0, 5]]
    assert intersection(one, others[0].to_sparse()).to_dense().tolist() == [3, 8, 0, 0]


def test_an_intersection_wants_embeddings_of_one_model():
    with pytest.raises(ValueError, match="4 and 3 dimensions"):
        intersection(torch.zeros(4), torch.zeros(3))
    with pytest.raises(ValueError, match=r"one axis, got shape \(2, 4\)"):
        intersection(DENSE, DENSE)
