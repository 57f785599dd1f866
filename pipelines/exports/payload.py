"""Copied columns as JSON."""

import json
from collections.abc import Sequence
from datetime import date, time
from decimal import Decimal
from typing import Any

import pyarrow as pa

from stx.pipelines.exports.vectors import Batch
from stx_core.errors import InputError
from stx_core.store.corpus.nested import with_leaves

# Decimal numbers of so many digits are read back from float64 as they were.
_FLOAT_DIGITS = 15


def payload_json(batch: Batch, ids: bool = False) -> list[str]:
    """N JSON objects of the copied columns, the id in front of them if asked for.

    Nulls are left out: not all engines take them.

    Raises:
        InputError: a value is NaN, infinite, bytes, or a duration.
    """
    names = batch.ids.to_pylist()
    rows = json_rows(batch.payload) if batch.payload.num_columns else [{}] * len(names)
    texts = []
    for name, row in zip(names, rows, strict=True):
        try:
            values = {key: value for key, value in row.items() if value is not None}
            texts.append(to_json({"id": name, **values} if ids else values))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"id {name!r}: a copied column cannot be written as JSON ({error}); leave it out "
                "with --columns"
            ) from None
    return texts


def json_rows(table: pa.Table | pa.RecordBatch) -> list[dict[str, Any]]:
    """Rows as Python values that `to_json` takes.

    Decimal numbers of up to 15 digits are numbers, which are read back as the same ones; those of
    more are text. Times are as exact as they are stored. Maps are objects.

    Raises:
        InputError: a map has a key twice.
    """
    columns = []
    for column in table.columns:
        kind = with_leaves(column.type, _json_type)
        column = column if kind == column.type else column.cast(kind)
        is_time = pa.types.is_timestamp(kind) or pa.types.is_time(kind)
        columns.append(_time_text(column) if is_time else column)
    try:
        rows: list[dict[str, Any]] = pa.table(columns, names=table.column_names).to_pylist(
            maps_as_pydicts="strict"
        )
        return rows
    except KeyError as error:
        raise InputError(f"a copied map has the key {error} twice; leave it out") from None


def _json_type(kind: Any) -> Any:  # noqa: ANN401  (pyarrow DataTypes)
    if pa.types.is_decimal(kind):
        exact = kind.precision <= _FLOAT_DIGITS and 0 <= kind.scale <= kind.precision
        return pa.float64() if exact else kind
    return kind


def _time_text(times: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """ISO 8601, as Python writes it where it has such a time; of others all digits."""
    try:
        values = times.to_pylist()
    except (OverflowError, ValueError):
        values = None
    # A nanosecond has no place in Python: pandas gives its own kind of time, if it is there.
    if values is None or any(getattr(value, "nanosecond", 0) for value in values):
        texts = [text and text.replace(" ", "T", 1) for text in times.cast(pa.string()).to_pylist()]
    else:
        texts = [value and value.isoformat() for value in values]
    return pa.array(texts, pa.string())


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
