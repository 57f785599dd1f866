"""What callers give as pairs of texts, as a list of (text, text) tuples."""

from typing import Any

import numpy as np

from stx_core.errors import InputError
from stx_core.inference.tokens import Pair


def is_one_pair(inputs: Any) -> bool:  # noqa: ANN401  (whatever a caller gives)
    """Whether `inputs` is one pair, not a sequence of pairs. An empty sequence has no pairs."""
    if isinstance(inputs, np.ndarray):
        return inputs.ndim == 1 and inputs.size > 0
    return len(inputs) > 0 and isinstance(inputs[0], str)


def as_pairs(inputs: Any) -> list[Pair]:  # noqa: ANN401
    """N pairs as tuples of two texts.

    Args:
        inputs: N lists, tuples or arrays of two texts; a (N, 2) array; a column of a dataset.

    Raises:
        InputError: an item is not two texts.
    """
    items = inputs.tolist() if isinstance(inputs, np.ndarray) else inputs
    return [_as_pair(row, item) for row, item in enumerate(items)]


def _as_pair(row: int, item: Any) -> Pair:  # noqa: ANN401
    parts = tuple(item) if isinstance(item, list | tuple | np.ndarray) else (item,)
    if len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise InputError(f"pair {row} must be two texts (query, document), got ({kinds})")
    return parts
