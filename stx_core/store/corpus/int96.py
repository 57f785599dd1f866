"""Times that Spark, Hive and Impala wrote as INT96: a day and nanoseconds of the day.

That holds more than any 64 bits of Arrow do, and pyarrow wraps what does not fit. Read in three
units, the times that microseconds hold exactly are told from the others.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from stx_core.store.corpus.nested import children

_MAX_SECONDS = (2**63 - 1) // 10**6


def inexact_rows(
    micros: pa.ChunkedArray, nanos: pa.ChunkedArray, seconds: pa.ChunkedArray
) -> np.ndarray:
    """Rows with a time outside of the years that microseconds hold, or with parts of one.

    Args:
        micros: (N,) a column with times in INT96, read as microseconds.
        nanos: the same, as nanoseconds, which may have wrapped.
        seconds: the same, as seconds.

    Returns:
        (N,) bool.
    """
    inexact = np.zeros(len(micros), bool)
    if _is_exact(micros, nanos, seconds):
        return inexact
    for row in range(len(micros)):
        place = slice(row, row + 1)
        inexact[row] = not _is_exact(micros[place], nanos[place], seconds[place])
    return inexact


def _is_exact(micros: pa.ChunkedArray, nanos: pa.ChunkedArray, seconds: pa.ChunkedArray) -> bool:
    units = [
        (times for chunk in column.chunks for times in _times(chunk))
        for column in (micros, nanos, seconds)
    ]
    for micro, nano, second in zip(*units, strict=True):
        # Wrapped numbers differ by what the others differ by.
        if (nano - micro * 1000 != 0).any() or (np.abs(second) > _MAX_SECONDS - 1).any():
            return False
    return True


def _times(array: pa.Array) -> Iterator[np.ndarray]:
    """The times in an array, as int64; those of lists and structs one after the other."""
    if pa.types.is_timestamp(array.type):
        yield array.drop_null().cast(pa.int64()).to_numpy()
    elif pa.types.is_nested(array.type):
        for part in children(array):
            yield from _times(part)
