"""Columns of mining tables as checked numpy arrays."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx_core.errors import InputError


def scores_of(table: pa.Table, name: str, column: str = "score") -> np.ndarray:
    """A score column as (N,) float32, without nulls and NaN.

    Raises:
        InputError: it is missing, no number, null or NaN somewhere.
    """
    values = _column(table, name, column)
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        raise InputError(f"{name}: {column!r} is {values.type}, expected a number")
    array = values.to_numpy().astype(np.float32, copy=False)
    if np.isnan(array).any():
        row = int(np.flatnonzero(np.isnan(array))[0])
        raise InputError(f"{name} row {row}: {column!r} is NaN; the judge's scores are broken")
    return np.asarray(array)


def ranks_of(table: pa.Table, name: str) -> np.ndarray:
    """The column `rank` as (N,) int64, from 1.

    Raises:
        InputError: it is missing, no integer, null or below 1 somewhere.
    """
    values = _column(table, name, "rank")
    if not pa.types.is_integer(values.type):
        raise InputError(f"{name}: 'rank' is {values.type}, expected an integer from 1")
    array = values.to_numpy().astype(np.int64, copy=False)
    if len(array) and array.min() < 1:
        row = int(array.argmin())
        raise InputError(f"{name} row {row}: 'rank' is {array[row]}; ranks count from 1")
    return np.asarray(array)


def ids_of(table: pa.Table, name: str, column: str) -> pa.ChunkedArray:
    """An id column as strings or int64.

    Raises:
        InputError: it is missing, of another type, or null somewhere.
    """
    values = _column(table, name, column)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_integer(values.type):
        return values.cast(pa.int64())
    return _as_strings(values, name, column)


def texts_of(table: pa.Table, name: str, column: str = "text") -> pa.ChunkedArray:
    """A text column as large strings.

    Raises:
        InputError: it is missing, no text (a list, say), or null somewhere.
    """
    return _as_strings(_column(table, name, column), name, column)


def id_codes(*columns: pa.ChunkedArray, what: str = "ids") -> tuple[list[np.ndarray], pa.Array]:
    """Number the ids of several columns alike, in the order of first appearance.

    Returns:
        For each column (N,) int64 codes, and the ids by code.

    Raises:
        InputError: some columns hold text and others integers.
    """
    kinds = {column.type for column in columns}
    if len(kinds) > 1:
        types = " and ".join(sorted(str(kind) for kind in kinds))
        raise InputError(f"{what} are {types}: give all tables ids of one type")
    chunks = [chunk for column in columns for chunk in column.chunks]
    joined = pa.chunked_array(chunks, type=columns[0].type).combine_chunks()
    coded = pc.dictionary_encode(joined)
    codes = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
    return np.split(codes, np.cumsum([len(column) for column in columns])[:-1]), coded.dictionary


def unique_ids(table: pa.Table, name: str, column: str) -> pa.ChunkedArray:
    """`ids_of`, each once.

    Raises:
        InputError: as `ids_of`, or an id stands twice.
    """
    ids = ids_of(table, name, column)
    (codes,), values = id_codes(ids)
    if len(values) < len(ids):
        row = first_repeated(codes)
        raise InputError(f"{name} row {row}: {column} {ids[row].as_py()!r} stands twice")
    return ids


def rows_of(ids: pa.Array | pa.ChunkedArray, table_ids: pa.ChunkedArray, what: str) -> np.ndarray:
    """Row at which each id stands in a table: (N,) int64.

    Raises:
        InputError: ids of another type, or one that is not there.
    """
    if ids.type != table_ids.type:
        raise InputError(
            f"{what} is {ids.type} here and {table_ids.type} there; give both one type"
        )
    rows = pc.index_in(ids, value_set=table_ids)
    if rows.null_count:
        missing = ids.filter(pc.is_null(rows))
        raise InputError(
            f"{what} {missing[0].as_py()!r} has no text ({rows.null_count} of {len(ids)}); "
            "add it to the table or drop it"
        )
    whole = rows.combine_chunks() if isinstance(rows, pa.ChunkedArray) else rows
    return np.asarray(whole.to_numpy(zero_copy_only=False), np.int64)


def first_repeated(keys: np.ndarray) -> int | None:
    """The first row whose key stands in an earlier row; None if all differ."""
    if len(keys) < 2 or (np.diff(keys) > 0).all():
        return None
    order = np.argsort(keys, kind="stable")
    repeated = order[1:][keys[order][1:] == keys[order][:-1]]
    return int(repeated.min()) if len(repeated) else None


def _column(table: pa.Table, name: str, column: str) -> pa.ChunkedArray:
    if column not in table.column_names:
        present = ", ".join(map(repr, table.column_names))
        raise InputError(f"{name} has no column {column!r}, only {present}")
    values = table[column]
    if values.null_count:
        row = pc.index(pc.is_null(values), True).as_py()
        raise InputError(f"{name} row {row}: {column!r} is null; drop the row or fill it")
    return values


def _as_strings(values: pa.ChunkedArray, name: str, column: str) -> pa.ChunkedArray:
    kind = values.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InputError(f"{name}: {column!r} is {kind}, expected string")
    # Offsets of 64 bits: 2 GiB of text in a column are not rare.
    return values.cast(pa.large_string())
