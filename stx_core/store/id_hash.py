"""The hash of a multiset of ids: equal where two sets of files hold the same ids."""

from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

HASH_MODULUS = 1 << 128

_NULL_HASH = xxhash.xxh3_128_intdigest(b"", seed=2)


def id_hash(ids: pa.Array | pa.ChunkedArray) -> int:
    """Hash a multiset of ids: the sum over ids of a 128-bit hash, modulo 2**128.

    Order does not matter, repetition does. Hashes of parts add up (modulo `HASH_MODULUS`) to the
    hash of the whole. The integer 1 and the string "1" differ; null is an id of its own.
    About 3 million ids/s.

    Args:
        ids: (N,) strings, integers or nulls.
    """
    nulls = int(ids.null_count) * _NULL_HASH
    if pa.types.is_null(ids.type):
        return nulls % HASH_MODULUS
    if pa.types.is_dictionary(ids.type):
        ids = ids.cast(ids.type.value_type)
    whole = pa.types.is_integer(ids.type)
    text = ids.cast(pa.string()) if whole else ids
    values = pc.drop_null(text.cast(pa.large_binary())).to_pylist()
    # map over C functions: no Python byte code per row.
    hashes = map(partial(xxhash.xxh3_128_intdigest, seed=1 if whole else 0), values)
    return (sum(hashes) + nulls) % HASH_MODULUS
