"""Rough first passes: what is found is exact in score and order, and little is missed."""

import numpy as np
import pytest

from stx_core.errors import SpecError
from stx_core.search.approximate import RoughIndex
from stx_core.search.dense import dense_top_k
from stx_core.search.exact import pair_scores

KINDS = ["int8", "binary", "ivf", "hnsw"]


@pytest.fixture(scope="module")
def vectors():
    """2,000 rows around 20 centres, some of them equal, and 50 queries near to them."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((20, 64))
    corpus = centres[random.integers(0, 20, 2000)] + random.standard_normal((2000, 64))
    corpus[100:110] = corpus[:10]
    queries = corpus[::40] + 0.3 * random.standard_normal((50, 64))
    return queries.astype(np.float32), corpus.astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "similarity"),
    [(kind, similarity) for kind in KINDS for similarity in ("cosine", "dot", "euclidean")
     if kind != "binary" or similarity == "cosine"],
)  # fmt: skip
def test_scores_and_order_are_exact_and_most_is_found(vectors, kind, similarity):
    queries, corpus = vectors
    index = RoughIndex(corpus, similarity, kind)

    found = index.top_k(queries, 10, oversample=8)

    rows = np.repeat(np.arange(50), 10)
    flat = found.rows.ravel()
    assert (flat >= 0).all()
    again = pair_scores(queries[rows], corpus[flat], similarity)
    np.testing.assert_array_equal(found.scores.ravel(), again)
    order = np.lexsort((found.rows, -found.scores), axis=1)
    assert (order == np.arange(10)).all()
    exact = dense_top_k(queries, corpus, 10, similarity).rows
    shared = [len(np.intersect1d(a, b)) for a, b in zip(exact, found.rows, strict=True)]
    assert np.mean(shared) / 10 > (0.7 if kind == "ivf" else 0.9)
    assert index.recall(queries, 10, oversample=8) == pytest.approx(np.mean(shared) / 10, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_with_enough_candidates_nothing_is_missed(vectors, kind):
    queries, corpus = vectors
    index = RoughIndex(corpus, "cosine", kind)
    if kind == "ivf":
        faiss_index = index.first_pass.index
        faiss_index.nprobe = faiss_index.nlist

    found = index.top_k(queries, 5, oversample=400)

    if kind != "hnsw":  # a graph promises nothing
        np.testing.assert_array_equal(found.rows, dense_top_k(queries, corpus, 5, "cosine").rows)
    assert index.recall(queries, 5, oversample=400) > 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_excluded_rows_are_not_found_and_small_corpora_leave_slots_empty(vectors, kind):
    queries, corpus = vectors
    index = RoughIndex(corpus[:3], "cosine", kind)

    found = index.top_k(queries[:2], 5, excluded=np.array([1, -1]))

    assert set(found.rows[0]) <= {-1, 0, 2}
    assert (found.rows[:, 3:] == -1).all()
    assert np.isneginf(found.scores[found.rows == -1]).all()


@pytest.mark.parametrize(("kind", "similarity"), [("binary", "dot"), ("int8", "manhattan")])
def test_what_does_not_go_together_is_refused(vectors, kind, similarity):
    with pytest.raises(SpecError, match=f"{kind} does not go with {similarity}"):
        RoughIndex(vectors[1], similarity, kind)


def test_zero_vectors_and_constant_dimensions_are_no_trouble():
    corpus = np.zeros((5, 8), np.float32)
    corpus[1, 0] = 1
    found = RoughIndex(corpus, "cosine", "int8").top_k(corpus[1:2], 2)

    assert found.rows[0, 0] == 1
    assert found.scores[0].tolist() == [1.0, 0.0]
