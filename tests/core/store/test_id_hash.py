import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from stx_core.store.id_hash import HASH_MODULUS, id_hash

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
