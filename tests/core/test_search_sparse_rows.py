import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stx_core.search.sparse_rows import compress, in_order, keep_top, to_coo

DENSE = torch.tensor([[0.0, 2.0, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0], [3.0, 0.0, 0.0, 4.0]])


@pytest.mark.parametrize("sparse", [False, True])
def test_compressed_rows_hold_the_non_zero_values_in_ascending_order(sparse):
    rows = compress(DENSE.to_sparse().coalesce() if sparse else DENSE)

    assert rows.offsets.tolist() == [0, 2, 2, 4]
    assert rows.indices.tolist() == [1, 3, 0, 3]
    assert rows.values.tolist() == [2, -1, 3, 4]
    assert (rows.offsets.dtype, rows.indices.dtype, rows.values.dtype) == (
        np.int64,
        np.int32,
        np.float32,
    )


def test_zeros_that_a_sparse_tensor_stores_are_dropped():
    stored = torch.sparse_coo_tensor(
        torch.tensor([[0, 0], [1, 2]]),
        torch.tensor([0.0, 5.0]),
        (1, 4),
        is_coalesced=True,
        check_invariants=False,
    )

    rows = compress(stored)

    assert (rows.indices.tolist(), rows.values.tolist()) == ([2], [5.0])


def test_half_precision_becomes_float32_without_loss():
    embeddings = torch.tensor([[0.1, 0.0]], dtype=torch.bfloat16)

    rows = compress(embeddings)

    assert rows.values[0] == embeddings[0, 0].float().item()


@settings(deadline=None)  # the first call starts torch's threads
@given(st.integers(0, 12), st.integers(1, 5), st.randoms(use_true_random=False))
def test_batches_in_any_order_come_back_in_input_order(n_rows, batch, random):
    matrix = torch.tensor(
        [[random.choice([0.0, 1.5, -2.5]) for _ in range(6)] for _ in range(n_rows)]
    ).reshape(n_rows, 6)
    order = np.array(random.sample(range(n_rows), n_rows), np.int64)
    batches = [order[start : start + batch] for start in range(0, n_rows, batch)]

    rows = in_order([(part, compress(matrix[part])) for part in batches], n_rows)

    assert torch.equal(to_coo(rows, 6, torch.float32).to_dense(), matrix)


def test_rows_that_no_batch_names_stay_empty():
    rows = in_order([(np.array([2]), compress(DENSE[2:]))], 4)

    assert rows.offsets.tolist() == [0, 0, 0, 2, 2]


def test_a_coo_tensor_is_coalesced_and_of_the_wanted_format():
    tensor = to_coo(compress(DENSE), 4, torch.bfloat16)

    assert tensor.is_coalesced()
    assert tensor.dtype == torch.bfloat16
    assert torch.equal(tensor.to_dense().float(), DENSE)


@pytest.mark.parametrize("sparse", [False, True])
def test_the_largest_in_absolute_terms_stay_with_their_sign(sparse):
    embeddings = torch.tensor([[1.0, -3.0, 2.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    before = embeddings.clone()

    kept = keep_top(embeddings.to_sparse().coalesce() if sparse else embeddings, 2)

    assert kept.tolist() == [[0, -3, 2, 0], [0, 0, 0, 1]]
    assert torch.equal(embeddings, before), "the input must stay as it was"


def test_more_dimensions_than_there_are_keep_all():
    assert torch.equal(keep_top(DENSE, 99), DENSE)
