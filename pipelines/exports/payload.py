"""Copied columns as JSON."""

import json
from collections.abc import Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from typing import Any

import pyarrow as pa

from pipelines.exports.vectors import Batch
from stx_core.errors import InputError


def payload_rows(batch: Batch) -> list[dict[str, Any]]:
    """N dictionaries of the copied columns, as `payload_json`.

    Raises:
        InputError: a value is NaN, infinite, or bytes.
    """
    return [json.loads(text) for text in payload_json(batch)]


def payload_json(batch: Batch, ids: bool = False) -> list[str]:
    """N JSON objects of the copied columns, the id in front of them if asked for.

    Nulls are left out: not all engines take them.

    Raises:
        InputError: a value is NaN, infinite, or bytes.
    """
    rows: Sequence[Mapping[str, Any]] = batch.payload.to_pylist()
    names = batch.ids.to_pylist()
    if not batch.payload.num_columns:
        rows = [{}] * len(names)
    texts = []
    for name, row in zip(names, rows, strict=True):
        try:
            known = {key: value for key, value in row.items() if value is not None}
            texts.append(to_json({"id": name, **known} if ids else known))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"id {name!r}: a copied column cannot be written as JSON ({error}); leave it out "
                "with --columns"
            ) from None
    return texts


def to_json(value: Any) -> str:  # noqa: ANN401
    """JSON of a row, in one line; times and decimal numbers become text.

    Raises:
        ValueError: a number is NaN or infinite.
        TypeError: a value is of another kind that JSON does not have.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)


def opened(texts: Sequence[str], more: str) -> pa.Array:
    """JSON objects without their last brace, and the begin of one more member behind them."""
    comma = [text[:-1] + ("," if len(text) > len("{}") else "") for text in texts]
    return pa.array([text + more for text in comma], pa.string())


def _plain(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no JSON type")
