import pytest
import torch

import stx_core
from stx_core import similarity, util
from stx_core.models.device import default_device


def test_names_are_those_of_their_home():
    assert util.cos_sim is similarity.cos_sim
    assert util.pytorch_cos_sim is similarity.cos_sim
    assert util.quantize_embeddings is stx_core.quantize_embeddings


def test_every_similarity_is_reachable_through_util():
    names = {name for name in vars(similarity) if name.endswith(("_sim", "_score", "_embeddings"))}

    assert names - set(util.__all__) == set()


def test_only_tensors_of_a_batch_move():
    ids = torch.zeros(2, dtype=torch.int64)

    moved = util.batch_to_device({"input_ids": ids, "task": "query"}, "meta")

    assert moved["input_ids"].device.type == "meta"
    assert moved["task"] == "query"


@pytest.mark.parametrize("layout", [torch.Tensor.clone, torch.Tensor.to_sparse, torch.Tensor.numpy])
def test_the_largest_values_of_each_row_stay(layout):
    rows = torch.tensor([[1.0, -3, 2], [0, 0, 4]])

    kept = util.select_max_active_dims(layout(rows), 2)

    assert kept.tolist() == [[0, -3, 2], [0, 0, 4]]
    assert util.select_max_active_dims(layout(rows[0]), 1).tolist() == [0, -3, 0]
    given = layout(rows)
    assert util.select_max_active_dims(given, None) is given
    with pytest.raises(ValueError, match="max_active_dims must be at least 1, got 0"):
        util.select_max_active_dims(given, 0)


def test_a_sparse_tensor_becomes_a_matrix_of_scipy():
    rows = torch.tensor([[1.0, 0], [0, 2]], dtype=torch.bfloat16)

    matrix = util.to_scipy_coo(rows.to_sparse())

    assert matrix.toarray().tolist() == rows.tolist()
    assert util.information_retrieval is util.semantic_search
    assert torch.device(util.get_device_name()) == default_device()
