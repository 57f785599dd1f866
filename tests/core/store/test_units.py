import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stx_core.store.corpus.shards import Mark, Shard
from stx_core.store.units import HASH_MODULUS, id_hash, plan_units, unit_key


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


ids = st.lists(st.one_of(st.none(), st.text(max_size=4)), max_size=20)


@given(ids, ids, st.randoms())
def test_id_hash_adds_up_and_ignores_order(one, other, random):
    mixed = one + other
    random.shuffle(mixed)

    parts = id_hash(pa.array(one, pa.string())) + id_hash(pa.array(other, pa.string()))

    assert id_hash(pa.array(mixed, pa.string())) == parts % HASH_MODULUS


@given(ids, ids)
def test_id_hash_tells_different_multisets_apart(one, other):
    same = sorted(map(repr, one)) == sorted(map(repr, other))

    hashes = {id_hash(pa.array(each, pa.string())) for each in (one, other)}

    assert (len(hashes) == 1) == same


def test_id_hash_tells_types_apart_but_not_how_they_are_stored():
    strings = pa.array(["1", "2", None, "1"])
    numbers = pa.array([1, 2, None, 1])

    assert id_hash(strings) != id_hash(numbers)
    assert id_hash(numbers) == id_hash(numbers.cast(pa.int16()))
    assert id_hash(strings) == id_hash(strings.cast(pa.large_string()))
    assert id_hash(strings) == id_hash(strings.dictionary_encode())
    assert id_hash(strings) == id_hash(pa.chunked_array([strings[:1], strings[1:]]))
    assert id_hash(pa.nulls(2)) == id_hash(pa.array([None, None], pa.string()))
    assert id_hash(pa.array([], pa.string())) == 0


def test_id_hash_handles_a_hundred_thousand_ids_in_a_blink():
    import time

    numbers = pa.array(np.arange(100_000).astype(str))

    start = time.perf_counter()
    id_hash(numbers)

    assert time.perf_counter() - start < 2  # 0.05 s alone; the margin is for busy machines
