"""Copied columns in the types of Delta Lake and Iceberg, which know fewer than Arrow."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from stx.pipelines.exports.vectors import Vectors
from stx_core.errors import InputError, SpecError
from stx_core.store.data_file import read_batches
from stx_core.store.files.urls import redact

_ROWS_AT_ONCE = 65_536

# Digits of a decimal number that both of them hold, and those of the highest unsigned integer.
_MAX_DIGITS, _UINT64_DIGITS = 38, 20


def lake_schema(vectors: Vectors, *, has_times: bool) -> pa.Schema:
    """``id``, the copied columns that go along, and the vector, in types that the table has.

    None loses anything: unsigned integers become wider signed ones, the widest a decimal; times of
    day and timestamps have microseconds, the latter in UTC where they have a time zone;
    dictionaries are decoded. Dense vectors are lists of any length, of float32.

    Args:
        vectors: their columns are looked through where values may not fit.
        has_times: whether the table has times of day.

    Raises:
        SpecError: a column is of a type that the table does not have; names it.
        InputError: a value does not fit; names its column.
    """
    source, fields = redact(vectors.options.source), []
    for field in vectors.payload:
        kind = _lake_type(field.type, has_times)
        if kind is None:
            raise SpecError(
                f"{source}: column {field.name!r} is {field.type}, for which {vectors.form} has no "
                "type; leave it out with --columns"
            )
        fields.append(pa.field(field.name, kind))
    for old, new in zip(vectors.payload, fields, strict=True):
        if old.type == new.type or not _may_lose(old.type):
            continue
        for batch in read_batches(vectors.dataset, [old.name], _ROWS_AT_ONCE):
            try:
                batch.column(0).cast(new.type)
            except pa.ArrowInvalid as error:
                raise InputError(
                    f"{source}: column {old.name!r} is {old.type}, and {vectors.form} has "
                    f"{new.type} only, which does not hold all of its values "
                    f"({str(error).splitlines()[0]}); leave it out with --columns"
                ) from None
    kind = pa.list_(pa.float32()) if vectors.kind == "dense" else vectors.vector_type
    return pa.schema([pa.field("id", pa.string()), *fields, pa.field(vectors.column, kind)])


def _lake_type(kind: Any, has_times: bool) -> Any:  # noqa: ANN401  (pyarrow DataTypes)
    """The type that stands for one of Arrow; None if there is none."""
    if pa.types.is_struct(kind):
        parts = [_lake_type(field.type, has_times) for field in kind]
        named = zip(kind, parts, strict=True)
        return None if None in parts or not parts else pa.struct([(f.name, t) for f, t in named])
    if pa.types.is_map(kind):
        key, item = (_lake_type(part, has_times) for part in (kind.key_type, kind.item_type))
        return None if key is None or item is None else pa.map_(key, item)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        item = _lake_type(kind.value_type, has_times)
        return None if item is None else pa.list_(item)
    if pa.types.is_dictionary(kind):
        return _lake_type(kind.value_type, has_times)
    return _flat_type(kind, has_times)


def _flat_type(kind: Any, has_times: bool) -> Any:  # noqa: ANN401
    table_types: tuple[tuple[Callable[[Any], bool], Any], ...] = (
        (pa.types.is_uint64, pa.decimal128(_UINT64_DIGITS, 0)),
        (pa.types.is_uint32, pa.int64()),
        (pa.types.is_int64, pa.int64()),
        (pa.types.is_integer, pa.int32()),
        (pa.types.is_boolean, kind),
        (pa.types.is_float64, kind),
        (pa.types.is_floating, pa.float32()),
        (pa.types.is_null, pa.string()),
        (pa.types.is_string, pa.string()),
        (pa.types.is_large_string, pa.string()),
        (pa.types.is_string_view, pa.string()),
        (pa.types.is_binary, pa.binary()),
        (pa.types.is_large_binary, pa.binary()),
        (pa.types.is_binary_view, pa.binary()),
        (pa.types.is_fixed_size_binary, pa.binary()),
        (pa.types.is_date, pa.date32()),
        (pa.types.is_time, pa.time64("us") if has_times else None),
    )
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", None if kind.tz is None else "UTC")
    if pa.types.is_decimal(kind):
        fits = kind.precision <= _MAX_DIGITS and 0 <= kind.scale <= kind.precision
        return pa.decimal128(kind.precision, kind.scale) if fits else None
    return next((table_type for is_kind, table_type in table_types if is_kind(kind)), None)


def _may_lose(kind: Any) -> bool:  # noqa: ANN401
    """True if a value of a type may not fit the one that stands for it."""
    if pa.types.is_nested(kind):
        return any(_may_lose(kind.field(place).type) for place in range(kind.num_fields))
    if pa.types.is_dictionary(kind):
        return _may_lose(kind.value_type)
    return bool(pa.types.is_temporal(kind))
