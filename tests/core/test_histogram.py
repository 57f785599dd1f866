"""Counts that add up over units."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stx_core.histogram import Lengths, Norms, Scores

lengths = st.lists(st.integers(0, 100_000), min_size=1, max_size=50)
scores = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=50)
norms = st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=1, max_size=50)


def check(kind, one, other, share, width):
    """Merged counts tell of all numbers what NumPy does, to a bin."""
    values = np.array([*one, *other], np.float64)

    counts = kind.of(np.array(one)) + kind.of(np.array(other))

    assert counts == kind.of(values) or counts.total == pytest.approx(values.sum())
    assert counts.bins == kind.of(values).bins
    assert counts.n == sum(counts.bins.values()) == len(values)
    assert (counts.low, counts.high) == (values.min(), values.max())
    assert counts.mean == pytest.approx(values.mean())
    exact = np.sort(values)[math.floor(share * (len(values) - 1))]
    assert abs(counts.quantile(share) - exact) <= width(exact)


@given(lengths, lengths, st.floats(0, 1))
def test_lengths_are_exact_when_short_and_to_a_tenth_when_long(one, other, share):
    check(Lengths, one, other, share, lambda exact: 0 if exact < 16 else exact / 8)


@given(norms, norms, st.floats(0, 1))
def test_norms_are_known_to_a_tenth(one, other, share):
    check(Norms, one, other, share, lambda exact: 0.1 * (1 + exact))


@given(scores, scores, st.floats(0, 1))
def test_scores_of_both_signs_are_known_to_three_hundredths(one, other, share):
    check(Scores, one, other, share, lambda exact: 0.03 * (1 + abs(exact)))


@given(st.floats(-100, 100))
def test_a_score_lies_between_the_edges_of_its_bin(value):
    (bin_index,) = Scores.of(np.array([value])).bins

    assert Scores.edge(bin_index) <= value <= Scores.edge(bin_index + 1)


@pytest.mark.parametrize(("kind", "top"), [(Lengths, 5000), (Norms, 200)])
def test_a_number_lies_between_the_edges_of_its_bin(kind, top):
    values = np.arange(top, dtype=np.float64)

    for value, bin_index in zip(values, kind.bin_indices(values).astype(int), strict=True):
        assert kind.edge(bin_index) <= value < kind.edge(bin_index + 1)


def test_norms_near_one_fall_into_one_bin():
    assert len(Norms.of(1 + np.linspace(-0.01, 0.01, 99)).bins) == 1


def test_counts_survive_json_and_stay_small():
    counts = Lengths.of(np.random.default_rng(0).lognormal(5, 1, 4096).astype(int))

    text = json.dumps(counts.to_json())

    assert Lengths.from_json(json.loads(text)) == counts
    assert len(text) < 1000
    assert Norms.from_json(json.loads(json.dumps(Norms().to_json()))) == Norms()
