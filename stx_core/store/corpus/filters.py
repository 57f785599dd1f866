"""Conditions on rows: (column, operator, value), all of which must hold."""

import datetime
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stx_core.errors import InputError, SpecError
from stx_core.store.corpus.shards import partitions
from stx_core.store.files.urls import redact

Filter = tuple[str, str, Any]
"""``("lang", "in", ["en", "de"])``; the value of ``is null`` and ``is not null`` is ignored."""

_COMPARE = {
    "==": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
_SETS = ("in", "not in")
_NULLS = ("is null", "is not null")
OPERATORS = (*_COMPARE, *_SETS, *_NULLS)


def check_filters(filters: Sequence[Filter]) -> None:
    """Refuse unknown operators and values that do not fit them.

    Raises:
        SpecError: names the filter.
    """
    for column, op, value in filters:
        if op not in OPERATORS:
            raise SpecError(
                f"filter on {column!r}: unknown operator {op!r}; use one of {OPERATORS}"
            )
        if op in _SETS and (isinstance(value, str) or not isinstance(value, Sequence)):
            raise SpecError(f"filter on {column!r}: {op!r} needs a list, got {value!r}")
        if op in _COMPARE and (value is None or isinstance(value, (list, tuple, dict))):
            raise SpecError(
                f"filter on {column!r}: {op!r} needs one value, got {value!r}; "
                "use 'is null' for missing values and 'in' for lists"
            )


def filter_mask(table: pa.Table, filters: Sequence[Filter], where: str) -> pa.ChunkedArray:
    """Tell which rows pass all filters: (N,) bool without nulls.

    A null passes only ``is null``, as in SQL.

    Raises:
        InputError: a value cannot be compared with its column; `where` names the file.
    """
    checks = [_check(table[column], column, op, value, where) for column, op, value in filters]
    if not checks:
        return pa.chunked_array([pa.repeat(True, len(table))])
    return functools.reduce(pc.and_, checks)


def _check(column: pa.ChunkedArray, name: str, op: str, value: Any, where: str) -> pa.ChunkedArray:  # noqa: ANN401
    if op == "is null":
        return pc.is_null(column)
    if op == "is not null":
        return pc.is_valid(column)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    column = column.cast(comparison_type(column.type, value), safe=False)
    if op in _SETS:
        values = pa.array(
            [typed_value(item, column.type, name, where) for item in value], type=column.type
        )
        inside = pc.is_in(column, value_set=values)
        return inside if op == "in" else pc.and_(pc.invert(inside), pc.is_valid(column))
    wanted = pa.scalar(typed_value(value, column.type, name, where), column.type)
    return pc.fill_null(_COMPARE[op](column, wanted), False)


def comparison_type(kind: Any, value: Any) -> Any:  # noqa: ANN401
    """Type in which a column is compared: integers as floats where a value is a fraction."""
    values = value if isinstance(value, (list, tuple)) else [value]
    if pa.types.is_integer(kind) and any(isinstance(item, float) for item in values):
        return pa.float64()
    return kind


def typed_value(value: Any, kind: Any, name: str, where: str) -> Any:  # noqa: ANN401
    """Give a filter's value as the Python value of a column type.

    Text stands for dates and times; otherwise text and numbers do not mix.

    Raises:
        InputError: it does not fit; `where` names the file.
    """
    scalar = pa.scalar(value)
    is_text = pa.types.is_string(scalar.type)
    fits = not is_text or _is_string(kind) or pa.types.is_temporal(kind)
    if _is_string(kind):
        fits = is_text
    if fits:
        try:
            return scalar.cast(kind).as_py()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            fits = False
    raise InputError(
        f"{redact(where)}: a filter compares column {name!r}, which is {kind}, with "
        f"{value!r}, which is {scalar.type}; give a value of the column's type"
    )


def _is_string(kind: Any) -> bool:  # noqa: ANN401
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def may_match(minimum: Any, maximum: Any, op: str, value: Any) -> bool:  # noqa: ANN401
    """Whether a value between two bounds can pass a comparison or ``in``; True if in doubt."""
    if op in _SETS or op == "==":
        wanted = value if op in _SETS else [value]
        return op == "not in" or any(minimum <= item <= maximum for item in wanted)
    bounds: Mapping[str, tuple[Callable[[Any, Any], bool], Any]] = {
        "<": (operator.lt, minimum),
        "<=": (operator.le, minimum),
        ">": (operator.gt, maximum),
        ">=": (operator.ge, maximum),
    }
    if op not in bounds:
        return True
    compare, bound = bounds[op]
    return compare(bound, value)


def partition_type(name: str, filters: Sequence[Filter]) -> Any:  # noqa: ANN401  (a pyarrow DataType)
    """Type as which a filter reads a partition's text: that of the filter's own value.

    So ``year=2024`` passes ``("year", ">=", 2023)`` as a number.
    """
    for column, op, value in filters:
        if column == name and op not in _NULLS:
            sample = value[0] if op in _SETS and value else value
            if isinstance(sample, (bool, int, float, datetime.date)):
                return pa.scalar(sample).type
    return pa.string()


def keep_file(url: str, filters: Sequence[Filter]) -> bool:
    """Whether a file's partition columns pass the filters on them.

    Raises:
        InputError: a partition's text cannot be read as the type of the filter's value.
    """
    values = partitions(url)
    for condition in filters:
        name = condition[0]
        if name not in values:
            continue
        kind = partition_type(name, [condition])
        try:
            column = pa.array([pa.scalar(values[name], pa.string()).cast(kind).as_py()], kind)
        except pa.ArrowInvalid as error:
            raise InputError(
                f"{redact(url)}: the filter on partition {name!r} compares with a {kind}, "
                f"but its value is {values[name]!r}"
            ) from error
        table = pa.table({name: pa.chunked_array([column])})
        if not filter_mask(table, [condition], url)[0].as_py():
            return False
    return True
