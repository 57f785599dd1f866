"""Top-k against brute force in float64, rounded to float32; equal scores by row."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stx_core.search import dense as dense_module
from stx_core.search import exact as exact_module
from stx_core.search import proxies as proxies_module
from stx_core.search.dense import dense_top_k
from stx_core.search.exact import pair_scores
from stx_core.search.results import TopK, merge_top_k

SIMILARITIES = ["dot", "cosine", "euclidean", "manhattan"]
rng = np.random.default_rng(3)


def brute_scores(queries, corpus, similarity):
    a, b = (np.asarray(x, np.float64) for x in (queries, corpus))
    if similarity == "euclidean":
        return -np.sqrt(((a[:, None] - b) ** 2).sum(-1)).astype(np.float32)
    if similarity == "manhattan":
        return -np.abs(a[:, None] - b).sum(-1).astype(np.float32)
    dots = (a[:, None] * b).sum(-1)
    if similarity == "dot":
        return dots.astype(np.float32)
    norms = np.sqrt((a**2).sum(1))[:, None] * np.sqrt((b**2).sum(1))
    return np.divide(dots, norms, where=norms > 0, out=np.zeros_like(dots)).astype(np.float32)


def brute_force(queries, corpus, k, similarity, excluded=None, labels=None):
    scores = brute_scores(queries, corpus, similarity)
    rows = np.full((len(queries), k), -1)
    best = np.full((len(queries), k), -np.inf, np.float32)
    for i, row_scores in enumerate(scores):
        allowed = np.ones(len(corpus), bool)
        if excluded is not None and excluded[i] >= 0:
            allowed[excluded[i]] = False
        if labels is not None:
            allowed &= labels[1] == labels[0][i]
        found = allowed.nonzero()[0]
        found = found[np.lexsort((found, -row_scores[found]))][:k]
        rows[i, : len(found)], best[i, : len(found)] = found, row_scores[found]
    return TopK(rows, best)


def assert_same(result, expected):
    np.testing.assert_array_equal(result.rows, expected.rows)
    np.testing.assert_array_equal(result.scores, expected.scores)
    assert (result.rows.dtype, result.scores.dtype) == (np.int64, np.float32)


def integers(n, width, seed=0):
    return np.random.default_rng(seed).integers(-2, 3, (n, width)).astype(np.float32)


def normals(n, width, seed=0):
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def repeated(n, width, seed=0):
    few = normals(3, width, seed)
    return few[np.random.default_rng(seed).integers(0, 3, n)]


VECTORS = {"integers": integers, "normals": normals, "repeated": repeated}


@pytest.mark.parametrize("block_rows", [1, 7, 64, 100_000])
@pytest.mark.parametrize("make", VECTORS.values(), ids=VECTORS)
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_top_k_is_brute_force_in_float64_for_every_block_size(similarity, make, block_rows):
    queries, corpus = make(5, 16, 1), make(300, 16, 2)

    result = dense_top_k(queries, corpus, 9, similarity, block_rows=block_rows)

    assert_same(result, brute_force(queries, corpus, 9, similarity))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_top_k_is_brute_force_for_any_input(data):
    n_queries, n_rows = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 400))
    width, k = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 40))
    make = data.draw(st.sampled_from(list(VECTORS.values())))
    dtype = data.draw(st.sampled_from([np.float32, np.float16, np.float64, np.int8]))
    similarity = data.draw(st.sampled_from(SIMILARITIES))
    queries = (make(n_queries, width, 1) * 3).astype(dtype)
    corpus = (make(n_rows, width, 2) * 3).astype(dtype)
    excluded = np.array(data.draw(st.lists(st.integers(-1, n_rows - 1), min_size=5, max_size=5)))
    excluded = data.draw(st.sampled_from([None, excluded[:n_queries]]))
    labels = (np.arange(n_queries) % 2, np.arange(n_rows) % 3)
    labels = data.draw(st.sampled_from([None, labels]))
    block_rows = data.draw(st.integers(1, 500))

    result = dense_top_k(
        queries, corpus, k, similarity, excluded=excluded, labels=labels, block_rows=block_rows
    )

    assert_same(result, brute_force(queries, corpus, k, similarity, excluded, labels))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_rows_below_a_lowest_score_are_not_found(data):
    make = data.draw(st.sampled_from(list(VECTORS.values())))
    similarity = data.draw(st.sampled_from(SIMILARITIES))
    n_rows, k = data.draw(st.integers(1, 2000)), data.draw(st.integers(1, 20))
    queries, corpus = make(4, 8, 1), make(n_rows, 8, 2)
    scores = brute_scores(queries, corpus, similarity)
    # Scores that rows have, too: those are found.
    lowest = np.quantile(scores, data.draw(st.floats(0, 1)), axis=1, method="nearest")
    lowest[0] = -np.inf

    result = dense_top_k(queries, corpus, k, similarity, min_scores=lowest)

    found = brute_force(queries, corpus, k, similarity)
    low = found.scores < lowest[:, None]
    found.rows[low], found.scores[low] = -1, -np.inf
    assert_same(result, found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [1.0, 0.01, 0.0])
def test_blocks_are_selected_from_as_if_they_were_sorted(monkeypatch, dtype, spread):
    # All scores are negative for some queries; without a spread too many are alike to be listed.
    queries = np.concatenate([normals(6, 32, 1), -np.ones((2, 32), np.float32)])
    corpus = (1 + spread * normals(40_001, 32, 2)).astype(np.float32)
    corpus[5] = -1
    monkeypatch.setattr(dense_module, "quickest_dtype", lambda *_: dtype)
    excluded = np.arange(8)

    result = dense_top_k(queries, corpus, 10, "dot", excluded=excluded)

    assert_same(result, brute_force(queries, corpus, 10, "dot", excluded))


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_parts_of_a_corpus_merge_to_the_result_over_all_of_it(similarity):
    queries, corpus = integers(4, 6, 1), integers(500, 6, 2)
    cuts = [0, 3, 120, 121, 400, 500]
    parts = [
        (dense_top_k(queries, corpus[a:b], 12, similarity), a)
        for a, b in zip(cuts, cuts[1:], strict=False)
    ]

    for order in (parts, parts[::-1]):
        assert_same(merge_top_k(order, 12), dense_top_k(queries, corpus, 12, similarity))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_every_precision_of_the_first_pass_gives_the_same_result(monkeypatch, similarity, dtype):
    # Rows within the error of bfloat16 of each other, more of them than there are candidates.
    queries = normals(20, 64)
    corpus = queries[rng.integers(0, 20, 3000)] + 0.003 * normals(3000, 64, 1)
    monkeypatch.setattr(dense_module, "quickest_dtype", lambda *_: dtype)

    result = dense_top_k(queries, corpus, 10, similarity)

    assert_same(result, brute_force(queries, corpus, 10, similarity))


def near(n, width, seed=0):
    # Rows that bfloat16 cannot tell apart, and some that nothing can.
    random = np.random.default_rng(seed)
    rows = normals(1, width) * (1 + 2.0**-11 * random.normal(size=(n, width)))
    rows[random.random(n) < 0.3] = rows[0]
    return rows.astype(np.float32)


def with_zeros(n, width, seed=0):
    rows = normals(n, width, seed)
    rows[np.random.default_rng(seed).random(n) < 0.5] = 0
    return rows


def of_many_lengths(n, width, seed=0):
    exponents = np.random.default_rng(seed).integers(-8, 9, (n, 1))
    return normals(n, width, seed) * (10.0**exponents).astype(np.float32)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_first_pass_misses_a_row_whatever_the_order_of_the_corpus(data):
    make = data.draw(st.sampled_from([integers, repeated, near, with_zeros, of_many_lengths]))
    similarity = data.draw(st.sampled_from(SIMILARITIES))
    dtypes = [torch.bfloat16, torch.float32, torch.float64]
    dtype = data.draw(st.sampled_from(dtypes[similarity in ("euclidean", "manhattan") :]))
    n_rows, width = data.draw(st.integers(1, 1000)), data.draw(st.integers(1, 40))
    k, slack = data.draw(st.integers(1, 30)), data.draw(st.integers(0, 8))
    queries, corpus = make(4, width, 1), make(n_rows, width, 2)
    if data.draw(st.booleans()):
        queries, corpus = -np.abs(queries), np.abs(corpus)
    # Ascending for the first query: each row that comes is better than those before.
    order = np.argsort(brute_scores(queries[:1], corpus, similarity)[0])
    corpus = corpus[data.draw(st.sampled_from([order, order[::-1], np.arange(n_rows)]))]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense_module, "quickest_dtype", lambda *_: dtype)
        patch.setattr(dense_module, "_SLACK", slack)
        patch.setattr(dense_module, "_CACHED_ROWS", data.draw(st.integers(1, 333)))
        patch.setattr(dense_module, "_BLOCK_PROXIES", 1000)
        result = dense_top_k(queries, corpus, k, similarity)

    assert_same(result, brute_force(queries, corpus, k, similarity))


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("make", [normals, integers, near, with_zeros, of_many_lengths])
def test_scores_equal_tree_sums_bit_for_bit(make, similarity):
    left, right = (torch.from_numpy(make(500, 48, seed)) for seed in (1, 2))
    rows = torch.from_numpy(rng.integers(0, 500, (2, 4000)))

    scores = exact_module.scores_of_rows(left, right, *rows, similarity)

    by_tree = exact_module._by_tree(left, right, *rows, similarity=similarity)
    np.testing.assert_array_equal(scores.numpy().view(np.int32), by_tree.numpy().view(np.int32))


@pytest.mark.parametrize("similarity", ["dot", "manhattan"])
def test_sums_near_a_rounding_border_are_computed_by_the_tree(similarity):
    # Half a step above 1 within the error of float64 sums: the order of adding decides.
    queries = np.ones((1, 40), np.float32)
    small = rng.normal(size=(4000, 38)).astype(np.float32) * np.float32(2.0**-52)
    corpus = np.concatenate(
        [np.full((4000, 1), 1 + 2.0**-23), np.full((4000, 1), 2.0**-24), small], 1
    )
    corpus = corpus.astype(np.float32)
    if similarity == "manhattan":
        queries = np.zeros_like(queries)
    pairs = torch.from_numpy(queries), torch.from_numpy(corpus)
    rows = torch.zeros(4000, dtype=torch.int64), torch.arange(4000)
    low, high = exact_module._bounds(*pairs, *rows, similarity=similarity)

    scores = exact_module.scores_of_rows(*pairs, *rows, similarity)

    assert (low != high).any()
    assert scores.equal(exact_module._by_tree(*pairs, *rows, similarity=similarity))


def test_bfloat16_is_chosen_by_the_processor_and_the_work(monkeypatch):
    queries = torch.zeros(1000, 64)
    monkeypatch.setattr(proxies_module, "cpu_class", lambda: "avx512-bf16")

    assert proxies_module.quickest_dtype(queries, 100_000, "dot") == torch.bfloat16
    assert proxies_module.quickest_dtype(queries, 1000, "dot") == torch.float32
    assert proxies_module.quickest_dtype(queries, 100_000, "manhattan") == torch.float32
    monkeypatch.setattr(proxies_module, "cpu_class", lambda: "other")
    assert proxies_module.quickest_dtype(queries, 100_000, "dot") == torch.float32


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_ties_at_rank_k_keep_the_lowest_rows(similarity):
    corpus = np.repeat(normals(2, 8, 1), 20_000, axis=0)[::-1]
    queries = normals(3, 8, 2)
    labels = (np.array([0, 1, 1]), np.arange(len(corpus)) % 2)
    excluded = np.array([0, 1, -1])

    result = dense_top_k(queries, corpus, 300, similarity, excluded=excluded, labels=labels)

    expected = brute_force(queries, corpus, 300, similarity, excluded, labels)
    assert_same(result, expected)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_the_users_matmul_precision_changes_nothing_and_stays(similarity):
    queries, corpus = normals(8, 256, 1), normals(2000, 256, 2)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        result = dense_top_k(queries, corpus, 50, similarity)
        after = torch.get_float32_matmul_precision()
    finally:
        torch.set_float32_matmul_precision(before)

    assert after == "medium"
    assert_same(result, brute_force(queries, corpus, 50, similarity))


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e25])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_lengths_far_from_one_are_handled(similarity, scale):
    # Mixed lengths too: every other row is scaled.
    queries, corpus = normals(4, 8, 1), normals(200, 8, 2)
    corpus[::2] *= np.float32(scale)

    with np.errstate(over="ignore"):
        expected = brute_force(queries, corpus, 20, similarity)

    assert_same(dense_top_k(queries, corpus, 20, similarity), expected)


def test_the_cosine_of_a_zero_vector_is_zero():
    result = dense_top_k(np.zeros((1, 2)), np.array([[1.0, 0], [0, 0]]), 2)

    assert_same(result, TopK(np.array([[0, 1]]), np.zeros((1, 2), np.float32)))


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_scores_are_those_of_pairs(similarity):
    queries, corpus = normals(7, 33, 1), normals(90, 33, 2)

    result = dense_top_k(queries, corpus, 90, similarity)

    pairs = queries.repeat(90, axis=0), corpus[result.rows.ravel()]
    np.testing.assert_array_equal(result.scores.ravel(), pair_scores(*pairs, similarity))


def test_memory_maps_tensors_and_other_layouts_are_read_alike(tmp_path):
    queries, corpus = normals(3, 5, 1), normals(40, 5, 2)
    np.save(tmp_path / "corpus.npy", corpus)
    expected = dense_top_k(queries, corpus, 4)

    for same in (
        np.load(tmp_path / "corpus.npy", mmap_mode="r"),
        torch.tensor(corpus),
        np.asfortranarray(corpus),
        corpus[::-1].copy()[::-1],
        corpus.astype(">f4"),
    ):
        assert_same(dense_top_k(queries, same, 4, block_rows=16), expected)


@pytest.mark.parametrize(("n_queries", "n_rows", "k"), [(0, 5, 2), (3, 0, 2), (3, 5, 0), (2, 3, 8)])
def test_missing_rows_are_padded(n_queries, n_rows, k):
    queries, corpus = normals(n_queries, 4, 1), normals(n_rows, 4, 2)

    assert_same(dense_top_k(queries, corpus, k), brute_force(queries, corpus, k, "cosine"))


def test_what_cannot_be_searched_is_refused_with_the_reason():
    good, bad = normals(3, 4), normals(9, 4)
    bad[7, 1] = np.nan

    with pytest.raises(ValueError, match="row 7 of the corpus holds NaN or infinity"):
        dense_top_k(good, bad, 2, block_rows=2)
    with pytest.raises(ValueError, match="row 7 of the queries"):
        dense_top_k(bad, good, 2)
    with pytest.raises(ValueError, match="queries are 4 wide and the corpus is 5 wide"):
        dense_top_k(good, normals(3, 5), 2)
    with pytest.raises(ValueError, match="choose one of dot, cosine"):
        dense_top_k(good, good, 2, "cos")
    with pytest.raises(ValueError, match="min_scores must hold one row each for 3 queries"):
        dense_top_k(good, good, 2, min_scores=np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="excluded must hold one row each for 3 queries"):
        dense_top_k(good, good, 2, excluded=np.zeros(2, np.int64))
    with pytest.raises(ValueError, match=r"got torch.float32 of shape \(4,\)"):
        dense_top_k(good[0], good, 2)
    with pytest.raises(ValueError, match="equal shapes"):
        pair_scores(good, bad, "dot")
    with pytest.raises(ValueError, match="same queries"):
        merge_top_k([(dense_top_k(good, good, 1), 0), (dense_top_k(good[:1], good, 1), 3)], 1)
