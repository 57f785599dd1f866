import itertools

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stx_core.store.corpus.shards import Mark, Shard
from stx_core.store.corpus.units import Units, plan_units, unit_key


def shard(groups, name="a", marks=()):
    edges = tuple(itertools.accumulate(groups, initial=0))
    return Shard(f"/c/{name}", f"etag-{name}", "parquet", edges[-1], edges, pa.schema([]), marks)


groups = st.lists(st.integers(0, 40), max_size=12)


@given(st.lists(groups, max_size=4), st.integers(1, 50))
def test_units_cover_every_row_once_in_order_and_within_size(shards, rows_per_unit):
    shards = [shard(each, str(number)) for number, each in enumerate(shards)]

    units = plan_units(shards, rows_per_unit)

    covered = [(unit.url, row) for unit in units for row in range(unit.start, unit.stop)]
    assert covered == [(each.url, row) for each in shards for row in range(each.n_rows)]
    assert all(0 < unit.n_rows <= rows_per_unit for unit in units)
    assert [unit.index for unit in units] == list(range(len(units)))


@given(groups, st.integers(1, 50))
def test_a_row_group_that_fits_is_never_cut(sizes, rows_per_unit):
    edges = list(itertools.accumulate(sizes, initial=0))

    units = plan_units([shard(sizes)], rows_per_unit)

    cuts = {unit.start for unit in units} | {unit.stop for unit in units}
    for left, right in itertools.pairwise(edges):
        if right - left <= rows_per_unit:
            assert not any(left < cut < right for cut in cuts)


def test_small_row_groups_are_put_together_and_large_ones_cut_evenly():
    units = plan_units([shard([4, 4, 4, 25, 3])], 10)

    assert [(unit.start, unit.stop) for unit in units] == [
        (0, 8), (8, 12), (12, 20), (20, 28), (28, 37), (37, 40),
    ]  # fmt: skip


def test_a_unit_starts_reading_at_the_last_mark_before_it():
    marks = (Mark(0, 0, 0), Mark(4, 5, 99), Mark(8, 9, 200))

    units = plan_units([shard([12], marks=marks)], 6)

    assert [unit.mark for unit in units] == [marks[0], marks[1]]


def test_columns_of_units_give_the_units_that_they_were_made_of():
    marks = (Mark(0, 1, 3), Mark(6, 9, 200))
    units = plan_units([shard([12], marks=marks), shard([5], "b"), shard([0], "c")], 6)

    single = list(units)

    assert list(Units.of(single)) == single
    assert [units[place] for place in (0, 1, -1)] == [single[0], single[1], single[-1]]
    assert [unit.index for unit in units.take([2, 0])] == [2, 0]
    assert units.count_rows() == 17
    assert units.count_rows(pa.array([2])) == 5
    with pytest.raises(IndexError):
        units[3]


def test_columns_of_no_units_are_empty():
    assert list(plan_units([], 10)) == list(Units.of([])) == []
    assert plan_units([], 10).count_rows() == 0


def test_a_plan_needs_at_least_one_row_per_unit():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        plan_units([], 0)


def key(url="/c/a", identity="e", start=0, stop=5, **fields):
    whole = Shard(url, identity, "parquet", stop, (start, stop), pa.schema([]))
    return unit_key(plan_units([whole], 10)[0], fields)


def test_the_same_work_has_the_same_key_and_field_order_does_not_matter():
    assert key(a=1, b=[2]) == key(b=[2], a=1)
    assert len(key()) == 32


def test_everything_that_decides_the_content_changes_the_key():
    keys = [
        key(), key(url="/c/b"), key(identity="f"), key(start=1), key(stop=4),
        key(fingerprint="x"), key(fingerprint="y"), key(filters=[["a", "==", 1]]),
        key(filters=[["a", "==", "1"]]), key(columns=["a", "b"]), key(columns=["ab"]),
    ]  # fmt: skip

    assert len(set(keys)) == len(keys)


def test_the_place_in_the_plan_does_not_change_the_key():
    alone = plan_units([shard([5], "b")], 5)[0]
    behind = plan_units([shard([5], "a"), shard([5], "b")], 5)[1]

    assert alone.index != behind.index
    assert unit_key(alone, {}) == unit_key(behind, {})
