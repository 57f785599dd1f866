import numpy as np
import pytest
import torch

from stx_core import clustering
from stx_core.clustering import community_detection


def blobs(sizes, width=16, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.eye(width)[: len(sizes)]
    rows = np.repeat(centres, sizes, axis=0)
    return (rows + 0.05 * rng.normal(size=rows.shape)).astype(np.float32)


def test_communities_are_the_planted_ones_largest_first():
    embeddings = blobs([5, 30, 3, 12])

    found = community_detection(embeddings, threshold=0.75, min_community_size=4)

    assert [sorted(rows) for rows in found] == [
        list(range(5, 35)),
        list(range(38, 50)),
        list(range(5)),
    ]


def test_the_centre_comes_first_and_then_the_nearest():
    line = np.array([[np.cos(a), np.sin(a)] for a in np.radians([0, 20, 30, 45, 170])])

    found = community_detection(line, threshold=np.cos(np.radians(31)), min_community_size=3)

    # Row 1 and row 2 have four near rows each, so the lower one is the centre.
    assert found == [[1, 2, 0, 3]]


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
@pytest.mark.parametrize("members", [1, 20, 1 << 23])
def test_batches_and_bounds_change_nothing(monkeypatch, batch_size, members):
    embeddings = np.random.default_rng(1).normal(size=(300, 6)).astype(np.float32)
    expected = community_detection(embeddings, threshold=0.7, min_community_size=5)
    monkeypatch.setattr(clustering, "_MEMBERS", members)
    monkeypatch.setattr(clustering, "_COLUMNS", 50)

    found = community_detection(embeddings, 0.7, 5, batch_size=batch_size)

    assert len(found) > 5
    assert found == expected


def test_no_row_is_in_two_communities():
    embeddings = np.random.default_rng(2).normal(size=(500, 4)).astype(np.float32)

    rows = [row for community in community_detection(embeddings, 0.8, 3) for row in community]

    assert len(rows) == len(set(rows))


def test_too_few_rows_have_no_community():
    assert community_detection(np.zeros((0, 4), np.float32)) == []
    assert community_detection(blobs([3]), min_community_size=4) == []


def test_no_embeddings_have_no_community():
    for nothing in (
        np.array([]),
        torch.tensor([]),
        torch.zeros(0).to_sparse(),
        [],
        np.empty((0, 4)),
    ):
        assert community_detection(nothing) == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_refused_by_number(value):
    rows = np.eye(4, dtype=np.float32)
    rows[2, 0] = value

    for given in (rows, torch.from_numpy(rows).to_sparse()):
        with pytest.raises(ValueError, match="row 2 of the embeddings holds NaN or infinity"):
            community_detection(given, min_community_size=1)


@pytest.mark.parametrize("name", ["min_community_size", "batch_size"])
@pytest.mark.parametrize("value", [0, -2])
def test_sizes_below_one_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got {value}"):
        community_detection(np.eye(4), **{name: value})


def test_a_threshold_of_nan_is_refused():
    with pytest.raises(ValueError, match="threshold is NaN"):
        community_detection(np.eye(4), threshold=float("nan"))
