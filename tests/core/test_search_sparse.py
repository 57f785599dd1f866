"""Sparse top-k against brute force over dictionaries, in float64."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stx_core.search.results import merge_top_k
from stx_core.search.sparse import sparse_top_k


class Rows(NamedTuple):
    offsets: np.ndarray
    indices: np.ndarray
    values: np.ndarray


def compress(vectors):
    """Dictionaries of dimension to value."""
    pairs = [pair for vector in vectors for pair in sorted(vector.items())]
    offsets = np.cumsum([0, *map(len, vectors)])
    return Rows(
        offsets.astype(np.int64),
        np.array([i for i, _ in pairs], np.int32),
        np.array([v for _, v in pairs], np.float32),
    )


def brute_force(queries, corpus, k, similarity="dot", excluded=None, labels=None):
    rows, scores = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf, np.float32)
    for i, query in enumerate(queries):
        found = []
        for j, document in enumerate(corpus):
            if excluded is not None and excluded[i] == j:
                continue
            if labels is not None and labels[0][i] != labels[1][j]:
                continue
            score = sum(value * document.get(term, 0) for term, value in sorted(query.items()))
            if similarity == "cosine" and score:
                lengths = [
                    np.sqrt(sum(v * v for _, v in sorted(x.items()))) for x in (query, document)
                ]
                score = score / (lengths[0] * lengths[1])
            if score:
                found.append((-np.float32(score), j))
        for rank, (score, j) in enumerate(sorted(found)[:k]):
            rows[i, rank], scores[i, rank] = j, -score
    return rows, scores


def vectors(n, seed, width=12, terms=4):
    rng = np.random.default_rng(seed)
    return [
        {
            int(t): float(np.float32(v))
            for t, v in zip(rng.choice(width, terms, False), x, strict=True)
        }
        for x in rng.choice([0.5, 1, 2, -1, 0.1, 0.7], (n, terms))
    ]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_top_k_is_brute_force_for_any_input(data):
    queries = vectors(data.draw(st.integers(0, 6)), 1)
    corpus = vectors(data.draw(st.integers(0, 80)), 2) + data.draw(st.sampled_from([[], [{}, {}]]))
    k, similarity = data.draw(st.integers(0, 30)), data.draw(st.sampled_from(["dot", "cosine"]))
    excluded = data.draw(st.sampled_from([None, np.arange(len(queries)) - 1]))
    labels = (np.arange(len(queries)) % 2, np.arange(len(corpus)) % 2)
    labels = data.draw(st.sampled_from([None, labels]))
    block_rows = data.draw(st.integers(1, 100))

    result = sparse_top_k(
        compress(queries),
        compress(corpus),
        k,
        similarity=similarity,
        excluded=excluded,
        labels=labels,
        block_rows=block_rows,
    )

    rows, scores = brute_force(queries, corpus, k, similarity, excluded, labels)
    np.testing.assert_array_equal(result.rows, rows)
    np.testing.assert_array_equal(result.scores, scores)
    assert (result.rows.dtype, result.scores.dtype) == (np.int64, np.float32)


def test_parts_of_a_corpus_merge_to_the_result_over_all_of_it():
    queries, corpus = vectors(5, 1), vectors(200, 2)
    cuts = [0, 1, 90, 200]
    parts = [
        (sparse_top_k(compress(queries), compress(corpus[a:b]), 7), a)
        for a, b in zip(cuts, cuts[1:], strict=False)
    ]

    merged = merge_top_k(parts, 7)

    np.testing.assert_array_equal(merged.rows, brute_force(queries, corpus, 7)[0])


def test_vectors_without_a_common_dimension_are_not_found():
    result = sparse_top_k(compress([{1: 1.0}, {}]), compress([{2: 1.0}, {1: 2.0}]), 2)

    assert result.rows.tolist() == [[1, -1], [-1, -1]]
    assert result.scores.tolist() == [[2.0, -np.inf], [-np.inf, -np.inf]]


def test_what_cannot_be_searched_is_refused_with_the_reason():
    good, bad = compress([{0: 1.0}]), compress([{0: 1.0}, {}, {3: np.nan}])

    with pytest.raises(ValueError, match="row 2 of the corpus holds NaN or infinity"):
        sparse_top_k(good, bad, 1, block_rows=2)
    with pytest.raises(ValueError, match="dot or cosine, not by 'euclidean'"):
        sparse_top_k(good, good, 1, similarity="euclidean")
    with pytest.raises(ValueError, match="each of 1 rows, got 2"):
        sparse_top_k(good, good, 1, excluded=np.zeros(2, np.int64))
