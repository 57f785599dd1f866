import torch

import stx_core
from stx_core import similarity, util


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
