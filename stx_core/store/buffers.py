"""Bytes for Arrow's threads, which may let go of them when there is no interpreter any more."""

import numpy as np
import pyarrow as pa


def owned(data: bytes) -> pa.Buffer:
    """A copy that belongs to Arrow.

    A buffer over Python's bytes is freed by the last thread that held it, and that needs the
    interpreter: where it has just ended, the process aborts.
    """
    buffer = pa.allocate_buffer(len(data))
    if data:
        np.frombuffer(buffer, np.uint8)[:] = np.frombuffer(data, np.uint8)
    return buffer
