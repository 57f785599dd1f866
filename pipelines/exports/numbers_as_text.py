"""Vectors as text, by Arrow's own loops: Python never sees a number.

Numbers have the fewest digits that give the same float32. N rows, T values of all of them.
"""

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.exports.vectors import Batch


def dense_text(batch: Batch) -> pa.Array:
    """N strings such as ``0.1,0.25,-3``."""
    matrix = batch.matrix
    ends = np.arange(0, matrix.size + 1, matrix.shape[1], dtype=np.int32)
    numbers = pa.array(matrix.reshape(-1)).cast(pa.string())
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(ends), numbers), ",")


def sparse_text(offsets: np.ndarray, keys: pa.Array, values: np.ndarray) -> pa.Array:
    """N strings such as ``3:0.5,17:1``.

    Args:
        offsets: (N + 1,) row i owns ``[offsets[i], offsets[i + 1])``.
        keys: T strings, written as they are.
        values: (T,) float32 or integer.
    """
    pairs = pc.binary_join_element_wise(keys, pa.array(values).cast(pa.string()), ":")
    starts = pa.array(offsets.astype(np.int32))
    return pc.binary_join(pa.ListArray.from_arrays(starts, pairs), ",")


def json_keys(names: pa.Array) -> pa.Array:
    """Strings as JSON writes them, in quotation marks."""
    distinct = names.dictionary_encode()
    quoted = [json.dumps(name, ensure_ascii=False) for name in distinct.dictionary.to_pylist()]
    return pc.take(pa.array(quoted, pa.string()), distinct.indices)


def lines(*pieces: pa.Array | str) -> bytes:
    """N lines: the pieces side by side; a string stands in every line."""
    whole = pc.binary_join_element_wise(*pieces, "\n", "")
    text: bytes = b"".join(whole.cast(pa.binary()).to_pylist())
    return text
