import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stx_core.inference.batches import make_batches

LENGTHS = st.lists(st.integers(0, 600), max_size=200).map(lambda values: np.array(values, np.int64))


@given(LENGTHS, st.integers(1, 2000), st.none() | st.integers(1, 50))
def test_every_input_is_in_exactly_one_batch(lengths, token_budget, max_rows):
    batches = make_batches(lengths, token_budget, max_rows)

    rows = np.concatenate([np.empty(0, np.int64), *batches])
    assert sorted(rows) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 2000), st.none() | st.integers(1, 50))
def test_no_batch_exceeds_budget_or_row_limit_unless_one_input_does(lengths, budget, max_rows):
    for rows in make_batches(lengths, budget, max_rows):
        assert len(rows) == 1 or len(rows) * lengths[rows].max() <= budget
        assert max_rows is None or len(rows) <= max_rows


@given(LENGTHS, st.integers(1, 2000))
def test_lengths_never_grow_from_batch_to_batch(lengths, budget):
    ordered = [lengths[rows] for rows in make_batches(lengths, budget)]

    assert (np.diff(np.concatenate([np.empty(0, np.int64), *ordered])) <= 0).all()


def test_equal_lengths_keep_their_order():
    batches = make_batches(np.array([3, 3, 9, 3, 3]), token_budget=6)

    assert [rows.tolist() for rows in batches] == [[2], [0, 1], [3, 4]]


@pytest.mark.parametrize(("budget", "max_rows"), [(0, None), (-1, None), (8, 0)])
def test_a_budget_or_row_limit_below_one_is_refused(budget, max_rows):
    with pytest.raises(ValueError, match="must be at least 1"):
        make_batches(np.array([1]), budget, max_rows)
