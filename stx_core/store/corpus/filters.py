"""Conditions on rows: (column, operator, value), all of which must hold."""

import datetime
import functools
import math
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
    checks = [_check(table[column], column, op, value=v, where=where) for column, op, v in filters]
    if not checks:
        return pa.chunked_array([pa.repeat(True, len(table))])
    return functools.reduce(pc.and_, checks)


def _check(
    column: pa.ChunkedArray,
    name: str,
    op: str,
    *,
    value: Any,  # noqa: ANN401
    where: str,
) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    op, value = typed_condition(column.type, op, value, name, where)
    if op == "is null":
        return pc.is_null(column)
    if op == "is not null":
        return pc.is_valid(column)
    if pa.types.is_float16(column.type):
        # Arrow does not compare these; in float32 they are the same numbers.
        column = column.cast(pa.float32())
    try:
        if op in _SETS:
            values = pa.array([item.cast(column.type) for item in value], column.type)
            inside = pc.is_in(column, value_set=values)
            return inside if op == "in" else pc.and_(pc.invert(inside), pc.is_valid(column))
        return pc.fill_null(_COMPARE[op](column, value.cast(column.type)), False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, ValueError) as error:
        raise InputError(
            f"{redact(where)}: a filter compares column {name!r}, which is {column.type}; that "
            "works with 'is null' and 'is not null' only"
        ) from error


def typed_condition(kind: Any, op: str, value: Any, name: str, where: str) -> tuple[str, Any]:  # noqa: ANN401
    """A condition on a column of a type, its value as a scalar of the type, those of sets as list.

    Integers are compared as numbers, whatever the width of the column: a condition that all of them
    meet becomes ``is not null``, one that none meets ``in`` nothing.

    Raises:
        InputError: the value does not fit the column; `where` names the file.
    """
    if op in _NULLS:
        return op, None
    if pa.types.is_integer(kind) and all(map(_is_number, value if op in _SETS else [value])):
        op, value = _integer_condition(kind, op, value)
        if op in _NULLS:
            return op, None
    if op in _SETS:
        return op, [_typed_value(item, kind, name, where) for item in value]
    return op, _typed_value(value, kind, name, where)


def _is_number(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _integer_condition(kind: Any, op: str, value: Any) -> tuple[str, Any]:  # noqa: ANN401
    """The same condition on integers of some bits, with values that these bits can hold."""
    n_bits = kind.bit_width - pa.types.is_signed_integer(kind)
    low, high = (-(2**n_bits) if pa.types.is_signed_integer(kind) else 0), 2**n_bits - 1
    if op in ("==", "!=", *_SETS):
        numbers = value if op in _SETS else [value]
        whole = [int(item) for item in numbers if math.isfinite(item) and item == int(item)]
        fits = [item for item in whole if low <= item <= high]
        if op in _SETS or fits:
            return op, fits if op in _SETS else fits[0]
        return ("in", []) if op == "==" else ("is not null", None)
    if math.isnan(value):
        return "in", []
    if math.isinf(value):
        value = low - 1 if value < 0 else high + 1
    # Between two integers is nothing: "< 7.5" is "< 8", and "<= 7.5" is "<= 7".
    value = math.ceil(value) if op in ("<", ">=") else math.floor(value)
    if low <= value <= high:
        return op, value
    return ("is not null", None) if (value > high) == (op in ("<", "<=")) else ("in", [])


def _typed_value(value: Any, kind: Any, name: str, where: str) -> pa.Scalar:  # noqa: ANN401
    """A filter's value as a scalar of a column's type.

    Text stands for dates and times; otherwise text and numbers do not mix.

    Raises:
        InputError: it does not fit; `where` names the file.
    """
    is_text = isinstance(value, str)
    strings = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    fits = is_text == any(test(kind) for test in strings) or (
        is_text and pa.types.is_temporal(kind)
    )
    if fits:
        try:
            if _is_number(value) and pa.types.is_floating(kind):
                value = float(value)
            if isinstance(value, int) and (pa.types.is_integer(kind) or pa.types.is_decimal(kind)):
                return pa.scalar(int(value), kind)
            return pa.scalar(value).cast(kind)
        except (pa.ArrowException, OverflowError, ValueError, TypeError):
            pass
    try:
        type_name = str(pa.scalar(value).type)
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        type_name = type(value).__name__
    raise InputError(
        f"{redact(where)}: a filter compares column {name!r}, which is {kind}, with "
        f"{value!r}, which is {type_name}; give a value of the column's type"
    )


def may_match(minimum: Any, maximum: Any, op: str, value: Any) -> bool:  # noqa: ANN401
    """Tell whether a value between two bounds can pass a comparison or ``in``; True if in doubt."""
    if op in _SETS or op == "==":
        values = value if op in _SETS else [value]
        return op == "not in" or any(minimum <= item <= maximum for item in values)
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


def partition_type(name: str, filters: Sequence[Filter]) -> pa.DataType:
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
    """Tell whether a file's partition columns pass the filters on them.

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
