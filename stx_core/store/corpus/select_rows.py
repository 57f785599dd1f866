"""Raw columns of a row range to the rows asked for: filtered, checked, in the planned schema."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx_core.errors import InputError
from stx_core.store.corpus.extensions import without_extensions
from stx_core.store.corpus.filters import Filter, filter_mask, partition_type
from stx_core.store.corpus.shards import BadRow, Rows, partitions
from stx_core.store.files.urls import redact

_WITH_BYTES = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


@dataclass(frozen=True)
class Selection:
    """Rows and columns to read.

    Attributes:
        schema: columns to read and the types to give them.
        filters: all must pass; their columns need not be in the schema.
        id_column: gives bad rows their id, where it is readable; in the schema.
        max_bytes: rows with a longer string are bad.
    """

    schema: pa.Schema
    filters: Sequence[Filter]
    id_column: str | None
    max_bytes: int

    def columns_outside(self, in_path: Collection[str]) -> list[str]:
        """Columns of the schema and of filters, each once, but for partitions of a path."""
        names = [*self.schema.names, *(column for column, _, _ in self.filters)]
        return [name for name in dict.fromkeys(names) if name not in in_path]


def select_rows(
    table: pa.Table,
    row_numbers: np.ndarray,
    selection: Selection,
    url: str,
    inexact: Mapping[str, np.ndarray] | None = None,
) -> Rows:
    """Filter a table, take out rows that cannot be told exactly, and cast it to a schema.

    These are rows with invalid UTF-8, and those that `inexact` names.

    Args:
        table: columns of the schema and of the filters, partition columns excepted.
        row_numbers: (N,) int64, positions in the shard.
        selection: what to return.
        url: of the shard, for partition values and messages.
        inexact: by column, (N,) bool: rows with a time that the column cannot hold exactly.

    Raises:
        InputError: a column is missing, or has a type that does not fit.
    """
    schema, id_column = selection.schema, selection.id_column
    table = without_extensions(_add_partitions(table, selection, url))
    passed = filter_mask(table, selection.filters, url)
    inexact = {name: mask for name, mask in (inexact or {}).items() if mask.any()}
    for mask in inexact.values():
        # Whether they pass a filter on the time is not known: they are told of in any case.
        passed = pc.or_(passed, pa.array(mask))
    n_filtered = len(table) - (pc.sum(passed).as_py() or 0)
    if n_filtered:
        table = table.filter(passed)
        passing = passed.to_numpy()
        row_numbers = row_numbers[passing]
        inexact = {name: mask[passing] for name, mask in inexact.items()}
    bad: dict[int, BadRow] = {}
    for name in schema.names:
        # Parquet promises UTF-8 and pyarrow believes it; only a full check looks.
        if _is_valid(table[name]):
            continue
        detail = f"column {name!r} is not valid UTF-8"
        for position in range(len(table)):
            if position not in bad and not _is_valid(table[name].slice(position, 1)):
                row, id_ = int(row_numbers[position]), _readable(table, id_column, position)
                bad[position] = BadRow(row, id_, name, reason="invalid_utf8", detail=detail)
    invalid = set(bad)
    for name, mask in inexact.items():
        detail = f"column {name!r} has a time that microseconds cannot hold"
        for position in set(np.flatnonzero(mask).tolist()) - invalid:
            row, id_ = int(row_numbers[position]), _readable(table, id_column, position)
            bad[position] = BadRow(row, id_, name, reason="wrong_type", detail=detail)
    if bad:
        good = np.ones(len(table), bool)
        good[list(bad)] = False
        table, row_numbers = table.filter(pa.array(good)), row_numbers[good]
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
    table = pa.Table.from_arrays(columns, schema=schema)
    return Rows(table, row_numbers, [bad[position] for position in sorted(bad)], n_filtered)


def reject_large(rows: Rows, id_column: str | None, max_bytes: int) -> Rows:
    """Make rows bad that hold a string of more than `max_bytes` bytes."""
    bad: dict[int, BadRow] = {}
    for name in rows.table.column_names:
        column = rows.table[name]
        if column.type not in _WITH_BYTES:
            continue
        sizes = pc.binary_length(column)
        for position in pc.indices_nonzero(pc.greater(sizes, max_bytes)).to_pylist():
            if position in bad:
                continue
            id_ = None if name == id_column else _readable(rows.table, id_column, position)
            detail = f"column {name!r} has {sizes[position]} bytes, more than {max_bytes}"
            row = int(rows.row_numbers[position])
            bad[position] = BadRow(row, id_, name, reason="too_large", detail=detail)
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


def concat(parts: Sequence[Rows], schema: pa.Schema) -> Rows:
    """Put the rows of consecutive ranges together."""
    return Rows(
        pa.concat_tables([schema.empty_table(), *(part.table for part in parts)]),
        np.concatenate([np.empty(0, np.int64), *(part.row_numbers for part in parts)]),
        [row for part in parts for row in part.bad],
        sum(part.n_filtered for part in parts),
    )


def _add_partitions(table: pa.Table, selection: Selection, url: str) -> pa.Table:
    schema = selection.schema
    for name, value in partitions(url).items():
        is_filtered = any(column == name for column, _, _ in selection.filters)
        if not is_filtered and name not in schema.names:
            continue
        if name in table.column_names:
            table = table.drop_columns([name])
        kind = partition_type(name, selection.filters) if is_filtered else schema.field(name).type
        try:
            column = pa.repeat(pa.scalar(value, pa.string()).cast(kind), len(table))
            table = table.append_column(name, column)
        except pa.ArrowInvalid as error:
            raise InputError(
                f"{redact(url)}: partition {name!r} is {value!r}, which is no {kind}"
            ) from error
    return table


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
