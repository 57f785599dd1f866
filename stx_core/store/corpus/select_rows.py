"""Raw columns of a row range to the rows asked for: filtered, checked, in the planned schema."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx_core.errors import InputError
from stx_core.store.corpus.extensions import without_extensions
from stx_core.store.corpus.filters import Filter, filter_mask, partition_type
from stx_core.store.corpus.shards import BadRow, Rows, partition_column, partitions
from stx_core.store.files.urls import redact


def select_rows(
    table: pa.Table,
    row_numbers: np.ndarray,
    schema: pa.Schema,
    filters: Sequence[Filter],
    url: str,
    id_column: str | None,
    inexact: Mapping[str, np.ndarray] | None = None,
) -> Rows:
    """Filter a table, take out rows that cannot be told exactly, and cast it to a schema.

    These are rows with invalid UTF-8, and those that `inexact` names.

    Args:
        table: columns of the schema and of the filters, partition columns excepted.
        row_numbers: (N,) int64, positions in the shard.
        schema: what to return.
        filters: all must pass.
        url: of the shard, for partition values and messages.
        id_column: gives bad rows their id, where it is readable.
        inexact: by column, (N,) bool: rows with a time that the column cannot hold exactly.

    Raises:
        InputError: a column is missing, or has a type that does not fit.
    """
    table = without_extensions(_add_partitions(table, schema, filters, url))
    passed = filter_mask(table, filters, url)
    inexact = {name: mask for name, mask in (inexact or {}).items() if mask.any()}
    for mask in inexact.values():
        # Whether they pass a filter on the time is not known: they are told of in any case.
        passed = pc.or_(passed, pa.array(mask))
    n_filtered = len(table) - (pc.sum(passed).as_py() or 0)
    if n_filtered:
        table = table.filter(passed)
        kept = passed.to_numpy()
        row_numbers = row_numbers[kept]
        inexact = {name: mask[kept] for name, mask in inexact.items()}
    bad = _invalid_rows(table.select(schema.names), row_numbers, id_column)
    bad += _inexact_rows(table, row_numbers, id_column, inexact, {row.row for row in bad})
    if bad:
        bad.sort(key=lambda item: item.row)
        good = ~np.isin(row_numbers, [row.row for row in bad])
        table, row_numbers = table.filter(pa.array(good)), row_numbers[good]
    return Rows(_cast(table.select(schema.names), schema, url), row_numbers, bad, n_filtered)


def reject_large(rows: Rows, id_column: str | None, max_bytes: int) -> Rows:
    """Make rows bad that hold a string of more than `max_bytes` bytes."""
    bad: dict[int, BadRow] = {}
    for name in rows.table.column_names:
        column = rows.table[name]
        if not _has_bytes(column.type):
            continue
        sizes = pc.binary_length(column)
        for position in pc.indices_nonzero(pc.greater(sizes, max_bytes)).to_pylist():
            if position in bad:
                continue
            known = None if name == id_column else _readable(rows.table, id_column, position)
            detail = f"column {name!r} has {sizes[position]} bytes, more than {max_bytes}"
            row = int(rows.row_numbers[position])
            bad[position] = BadRow(row, known, name, "too_large", detail)
    if not bad:
        return rows
    good = np.ones(len(rows.table), bool)
    good[list(bad)] = False
    return Rows(
        rows.table.filter(pa.array(good)),
        rows.row_numbers[good],
        sorted([*rows.bad, *bad.values()], key=lambda item: item.row),
        rows.n_filtered,
    )


def _has_bytes(kind: Any) -> bool:  # noqa: ANN401  (a pyarrow DataType)
    string = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return bool(string or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def concat(parts: Sequence[Rows], schema: pa.Schema) -> Rows:
    """Put the rows of consecutive ranges together."""
    return Rows(
        pa.concat_tables([schema.empty_table(), *(part.table for part in parts)]),
        np.concatenate([np.empty(0, np.int64), *(part.row_numbers for part in parts)]),
        [row for part in parts for row in part.bad],
        sum(part.n_filtered for part in parts),
    )


def _add_partitions(
    table: pa.Table, schema: pa.Schema, filters: Sequence[Filter], url: str
) -> pa.Table:
    for name, value in partitions(url).items():
        wanted = name in schema.names or any(column == name for column, _, _ in filters)
        if not wanted:
            continue
        if name in table.column_names:
            table = table.drop_columns([name])
        kind = partition_type(name, filters)
        if name in schema.names and not any(column == name for column, _, _ in filters):
            kind = schema.field(name).type
        try:
            table = table.append_column(name, partition_column(value, len(table), kind))
        except pa.ArrowInvalid as error:
            raise InputError(
                f"{redact(url)}: partition {name!r} is {value!r}, which is no {kind}"
            ) from error
    return table


def _invalid_rows(table: pa.Table, row_numbers: np.ndarray, id_column: str | None) -> list[BadRow]:
    bad: dict[int, BadRow] = {}
    for name in table.column_names:
        # Parquet promises UTF-8 and pyarrow believes it; only a full check looks.
        if _is_valid(table[name]):
            continue
        for position in range(len(table)):
            if position not in bad and not _is_valid(table[name].slice(position, 1)):
                row = int(row_numbers[position])
                known = _readable(table, id_column, position)
                bad[position] = BadRow(
                    row, known, name, "invalid_utf8", f"column {name!r} is not valid UTF-8"
                )
    return [bad[position] for position in sorted(bad)]


def _inexact_rows(
    table: pa.Table,
    row_numbers: np.ndarray,
    id_column: str | None,
    inexact: Mapping[str, np.ndarray],
    others: set[int],
) -> list[BadRow]:
    bad: dict[int, BadRow] = {}
    for name, mask in inexact.items():
        detail = f"column {name!r} has a time that microseconds cannot hold"
        for position in np.flatnonzero(mask).tolist():
            row = int(row_numbers[position])
            if row not in others:
                known = _readable(table, id_column, position)
                bad[row] = BadRow(row, known, name, "wrong_type", detail)
    return list(bad.values())


def _is_valid(column: pa.ChunkedArray) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _readable(table: pa.Table, id_column: str | None, position: int) -> Any:  # noqa: ANN401
    if id_column is None or not _is_valid(table[id_column].slice(position, 1)):
        return None
    return table[id_column][position].as_py()


def _cast(table: pa.Table, schema: pa.Schema, url: str) -> pa.Table:
    columns = []
    for field in schema:
        column = table[field.name]
        try:
            columns.append(column if column.type == field.type else column.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(
                f"{redact(url)}: column {field.name!r} is {column.type}, the plan says "
                f"{field.type}, and its values do not fit; plan again or mend the file"
            ) from error
    return pa.Table.from_arrays(columns, schema=schema)
