"""Texts, or pairs of texts, as callers pass them: in any of the usual containers."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stx_core.errors import InputError, ModelError
from stx_core.inference.tokens import Pair, Tokens
from stx_core.models.folder import short

# Halves of a character, which a text may hold but UTF-8 cannot.
_SURROGATES = re.compile("[\ud800-\udfff]")

# Characters of a token, roughly: only batches of like length depend on it.
_TOKEN_CHARACTERS = 4


@dataclass(frozen=True)
class Unread(Tokens):
    """Inputs that a `preprocess` of the user's own makes tokens of, batch by batch.

    Lengths are estimates by characters; there are no ids.

    Attributes:
        inputs: N texts or pairs.
        prompt: text to put before each.
        options: further arguments of `preprocess`.
    """

    inputs: list[Any] = field(default_factory=list)
    prompt: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def unread(
    inputs: list[Any], prompt: str | None, task: str | None, options: Mapping[str, Any]
) -> Unread:
    """N inputs, as they are."""
    sizes = [len(item) if isinstance(item, str) else sum(map(len, item)) for item in inputs]
    lengths = 1 + np.asarray(sizes, np.int64) // _TOKEN_CHARACTERS
    return Unread(
        ids=np.empty(0, np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        truncated=np.zeros(len(inputs), bool),
        task=task,
        inputs=inputs,
        prompt=prompt,
        options=options,
    )


@contextmanager
def tokenizing(inputs: Sequence[str] | Sequence[Pair]) -> Iterator[None]:
    """Turn what a tokenizer raises in here into an error that says what to do.

    Args:
        inputs: N texts or pairs that are made tokens of.

    Raises:
        InputError: a text cannot be written as UTF-8.
        ModelError: the tokenizers library has raised an error of its own.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        rows = (row for row, item in enumerate(inputs) if _SURROGATES.search("".join(item)))
        if (row := next(rows, None)) is None:
            raise
        raise InputError(
            f"row {row}: the text holds half a character (a lone surrogate), which no encoding "
            "has; read it again, or replace it: text.encode('utf-8', 'replace').decode()"
        ) from error
    except Exception as error:
        if type(error) is not Exception:  # which is what the tokenizers library raises
            raise
        raise ModelError(
            f"the model's tokenizer cannot read these texts: {short(error)}"
        ) from error


def read_texts(inputs: Any) -> tuple[list[Any], bool]:  # noqa: ANN401  (checked here)
    """Make a list of texts, or of pairs of texts, of whatever holds them in order.

    A list, tuple, numpy array, column or series, an iterator. Texts are used as they are: white
    space at their ends stays.

    Returns:
        N texts, or N pairs of texts; and whether a single text was given.

    Raises:
        InputError: an input is not a text. Numbers and None are never turned into one.
    """
    if isinstance(inputs, np.ndarray) and inputs.ndim == 0:
        inputs = inputs.item()
    if isinstance(inputs, str):
        return [inputs], True
    items = in_order(inputs, "inputs must be a str or a list of them")
    if items and _as_pair(items[0]) is not None:
        return as_pairs(items, what="input"), False
    for row, text in enumerate(items):
        if not isinstance(text, str):
            raise InputError(
                f"input {row} is {type(text).__name__}, expected str; "
                f"leave such rows out, or give them a text"
            )
    return items, False


def read_only_texts(inputs: Any, what: str) -> list[str]:  # noqa: ANN401
    """A list of N texts.

    Args:
        inputs: N texts in any container that `read_texts` knows; not a single text.
        what: what they are, for the message.

    Raises:
        InputError: there is something else.
    """
    if isinstance(inputs, str | bytes):
        raise InputError(f"{what} must be a list of texts, got one {type(inputs).__name__}")
    items = in_order(inputs, f"{what} must be a list of texts")
    for row, text in enumerate(items):
        if not isinstance(text, str):
            raise InputError(f"{what}: item {row} is {type(text).__name__}, expected str")
    return items


def read_pairs(inputs: Any) -> tuple[list[Pair], bool]:  # noqa: ANN401  (checked here)
    """Make a list of pairs of texts of whatever holds them in order.

    Args:
        inputs: N lists, tuples or arrays of two texts, in any container that `read_texts` knows, a
            ``zip`` for example, or a (N, 2) array; or one pair, as a list, tuple or array.

    Returns:
        N pairs, and whether a single one was given.

    Raises:
        InputError: an item is not two texts.
    """
    if isinstance(inputs, list | tuple | np.ndarray) and len(inputs) and isinstance(inputs[0], str):
        return as_pairs([inputs]), True
    if isinstance(inputs, str):
        raise InputError("pairs must be lists of two texts (query, document), got one str")
    return as_pairs(in_order(inputs, "pairs must be a list of (query, document)")), False


def as_pairs(items: Iterable[Any], what: str = "pair") -> list[Pair]:
    """Each item as a tuple of two texts.

    Raises:
        InputError: an item is not two texts; it is named by `what` and its row.
    """
    pairs = []
    for row, item in enumerate(items):
        pair = _as_pair(item)
        if pair is None:
            parts = item if isinstance(item, list | tuple | np.ndarray) else (item,)
            kinds = ", ".join(type(part).__name__ for part in parts)
            raise InputError(f"{what} {row} must be two texts (query, document), got ({kinds})")
        pairs.append(pair)
    return pairs


def _as_pair(item: Any) -> Pair | None:  # noqa: ANN401
    if not isinstance(item, list | tuple | np.ndarray) or len(item) != 2:
        return None
    first, second = item
    return (first, second) if isinstance(first, str) and isinstance(second, str) else None


def in_order(inputs: Any, expected: str) -> list[Any]:  # noqa: ANN401
    """The items of a container that has an order of its own.

    Args:
        inputs: a list, tuple, array, column, series, iterator …
        expected: what is expected, for the message.

    Raises:
        InputError: it is a set, whose order is arbitrary, a table, a mapping, or no container.
    """
    if isinstance(inputs, np.ndarray):
        return list(inputs.tolist())
    kind = type(inputs).__name__
    if isinstance(inputs, set | frozenset):
        raise InputError(f"{expected}; a {kind} has no order: pass sorted(…) or a list of it")
    columns = getattr(inputs, "column_names", getattr(inputs, "columns", None))
    if columns is not None and not isinstance(inputs, Mapping):
        names = ", ".join(map(repr, list(columns)[:2])) if isinstance(columns, Iterable) else ""
        raise InputError(
            f"{expected}, got {kind}, a table: pass its column of texts, or the rows of two "
            f"columns as a list of pairs (columns are {names} …)"
        )
    if not isinstance(inputs, Iterable) or isinstance(inputs, bytes | bytearray | Mapping):
        raise InputError(f"{expected}, got {kind}")
    arrow = getattr(inputs, "to_pylist", None)
    return list(arrow() if callable(arrow) else inputs)
