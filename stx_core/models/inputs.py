"""What callers pass as texts: one or many, in any of the usual containers."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from stx_core.errors import InputError


def read_texts(inputs: Any) -> tuple[list[str], bool]:  # noqa: ANN401  (checked here)
    """Make a list of texts of a text, list, tuple, numpy array, datasets column or iterator.

    Texts are used as they are: white space at their ends stays (trap 1).

    Returns:
        The texts, and whether a single one was given.

    Raises:
        InputError: an input is not a text. Numbers and None are never turned into one (trap 23).
    """
    if isinstance(inputs, np.ndarray):
        inputs = inputs.tolist()
    if isinstance(inputs, str):
        return [inputs], True
    if not isinstance(inputs, Iterable) or isinstance(inputs, (bytes, dict)):
        raise InputError(f"inputs must be a str or a list of them, got {type(inputs).__name__}")
    texts = list(inputs)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(
                f"input {row} is {type(text).__name__}, expected str; "
                f"leave such rows out, or give them a text"
            )
    return texts, False
