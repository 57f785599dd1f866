"""Rows of a Parquet file, by row group, in bounded memory.

A small file can hold much more than its size: compressed pages of zeros, or one long string in a
dictionary that every row points to. The first is told by the footer, before anything is read. For
the second, strings are read as dictionaries, and made plain only when their sum is known; where
their encoding does not allow that, few rows are read at once. What is not covered: a footer that
lies about the size of its pages, of which each has up to 2 GiB.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stx_core.errors import InputError
from stx_core.store.corpus.filters import Filter, may_match, typed_condition
from stx_core.store.corpus.int96 import inexact_rows
from stx_core.store.corpus.nested import children, with_leaves
from stx_core.store.corpus.parquet_file import ParquetSource, open_parquet
from stx_core.store.corpus.select_rows import concat, reject_large, select_rows
from stx_core.store.corpus.shards import (
    MAX_UNIT_BYTES,
    Rows,
    Shard,
    overridden,
    partitions,
    with_partitions,
)
from stx_core.store.corpus.units import Unit
from stx_core.store.files.filesystem import FileInfo
from stx_core.store.files.urls import redact

# Rows and bytes decoded at once where a unit takes part of a row group, or the group is large.
_BATCH_ROWS = 8192
_BATCH_BYTES = 256 << 20

# Bytes that rows decoded at once could have, if each were the longest that the footer allows.
_MAX_DECODED_BYTES = 1 << 30

# Text compresses 3 to 50 times. A row group beyond both limits is taken for an attack.
_MAX_RATIO = 200
_MAX_SUSPECT_BYTES = 1 << 30


def shard(file: FileInfo) -> Shard:
    """Describe a Parquet file from its footer alone.

    Raises:
        InputError: the file is empty, cut short, encrypted or no Parquet file.
    """
    with open_parquet(file.url) as source:
        metadata = source.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        if min(sizes, default=0) < 0 or sum(sizes) != metadata.num_rows:
            raise InputError(
                f"{redact(file.url)}: damaged Parquet file (its footer counts {metadata.num_rows} "
                f"rows, its row groups {sum(sizes)})"
            )
        boundaries = tuple(int(edge) for edge in np.cumsum([0, *sizes]))
        own = source.described
    return Shard(
        file.url,
        file.identity,
        "parquet",
        boundaries[-1],
        boundaries or (0,),
        with_partitions(own, file.url),
        overridden=overridden(own, file.url),
    )


def read(
    unit: Unit,
    schema: pa.Schema,
    filters: Sequence[Filter],
    id_column: str | None,
    max_bytes: int,
    only: np.ndarray | None = None,
) -> Rows:
    """Read the row range of a unit; row groups that no row of which can pass are not read.

    With `only`, ascending row numbers, only those rows; groups without one are not read.
    """
    with open_parquet(unit.url) as source:
        names = _names(source, schema, filters)
        source.check_readable(names)
        columns = _Columns(source, names)
        parts: list[Rows] = []
        n_filtered = n_bytes = 0
        for group, left, right in _groups(source.metadata, unit.start, unit.stop, only):
            if _is_excluded(source, group, filters):
                n_filtered += right - left
                continue
            _refuse_bomb(source, group, names)
            for rows, encoded, bad in _wanted(columns.tables(group, left, right), only):
                n_bytes += sum(_plain_bytes(chunk) for column in encoded for chunk in column.chunks)
                if n_bytes > MAX_UNIT_BYTES:
                    raise InputError(
                        f"{redact(unit.url)}: rows {unit.start} to {unit.stop} hold more than "
                        f"{MAX_UNIT_BYTES:,} bytes; set resources.rows_per_unit lower"
                    )
                table = _plain(encoded)
                parts.append(select_rows(table, rows, schema, filters, unit.url, id_column, bad))
    rows_read = concat(parts, schema)
    return reject_large(replace(rows_read, n_filtered=rows_read.n_filtered + n_filtered),
                        id_column, max_bytes)  # fmt: skip


def _names(source: ParquetSource, schema: pa.Schema, filters: Sequence[Filter]) -> list[str]:
    """Columns of the file to read, for a schema and for filters; at least one.

    Raises:
        InputError: one is neither in the file nor in its path.
    """
    present = source.schema.names
    wanted = dict.fromkeys([*schema.names, *(column for column, _, _ in filters)])
    in_path = partitions(source.url)
    if missing := [name for name in wanted if name not in present and name not in in_path]:
        raise InputError(
            f"{redact(source.url)}: no column {missing[0]!r}; it has {', '.join(sorted(present))}"
        )
    # Rows without columns keep no count in pyarrow: read one where all stands in the path.
    return [name for name in wanted if name in present and name not in in_path] or present[:1]


def _groups(
    metadata: pq.FileMetaData, start: int, stop: int, only: np.ndarray | None
) -> Iterator[tuple[int, int, int]]:
    """Row groups that overlap a range, with the overlap; cut to rows of `only`."""
    left = 0
    for group in range(metadata.num_row_groups):
        right = left + metadata.row_group(group).num_rows
        if left < stop and right > start:
            here = max(left, start), min(right, stop)
            if only is not None:
                found = only[slice(*np.searchsorted(only, here))]
                here = (int(found[0]), int(found[-1]) + 1) if len(found) else (0, 0)
            if here[0] < here[1]:
                yield group, *here
        left = right
    if stop > left:
        raise InputError(
            f"rows {start} to {stop} were planned, but the file has {left}: it changed; plan again"
        )


class _Columns:
    """Some columns of a file, read by row group."""

    def __init__(self, source: ParquetSource, names: list[str]) -> None:
        self._source, self._names = source, names
        self._dictionaries = source.readable_as_dictionaries(names)
        self._parquet = source.open(as_dictionaries=self._dictionaries)
        self._int96 = [name for name in names if source.has_int96(name)]
        units = ("ns", "s") if self._int96 else ()
        self._checks = [source.open(int96_unit=unit) for unit in units]

    def tables(
        self, group: int, left: int, right: int
    ) -> Iterator[tuple[int, pa.Table, dict[str, np.ndarray]]]:
        """Rows [left, right) of the file, which lie in one row group, some at a time.

        Gives the number of the first row, the rows, and by column which of them, (N,) bool, hold a
        time that microseconds cannot hold.
        """
        metadata, names = self._source.metadata, self._names
        sizes = [metadata.row_group(index).num_rows for index in range(group + 1)]
        at_once = self._rows_at_once(group, sizes[-1])
        first = sum(sizes[:-1])
        span = left - first, right - first
        if at_once is None and span != (0, sizes[-1]):
            at_once = _BATCH_ROWS
        tables = _tables(self._parquet, group, names, span, at_once)
        checks = [_tables(other, group, self._int96, span, at_once) for other in self._checks]
        for (start, table), *others in zip(tables, *checks, strict=True):
            bad = {
                name: inexact_rows(table[name], *(other[name] for _, other in others))
                for name in self._int96
            }
            yield first + start, table, bad

    def _rows_at_once(self, group: int, n_rows: int) -> int | None:
        """How many rows to decode at once in bounded memory; None where all of the group fit."""
        n_bytes, _ = self._source.claimed_bytes(group, self._names)
        longest = self._source.longest_string(group, self._names, self._dictionaries)
        most = max(1, _MAX_DECODED_BYTES // longest) if longest else n_rows
        if n_bytes <= _BATCH_BYTES and most >= n_rows:
            return None
        return max(1, min(_BATCH_ROWS, most, _BATCH_BYTES * n_rows // max(1, n_bytes)))


def _tables(
    parquet: pq.ParquetFile,
    group: int,
    names: list[str],
    span: tuple[int, int],
    at_once: int | None,
) -> Iterator[tuple[int, pa.Table]]:
    """Rows of a range of a row group, each piece with the number of its first row in the group."""
    left, right = span
    if at_once is None:
        yield 0, parquet.read_row_group(group, columns=names).select(names)
        return
    position = 0
    for batch in parquet.iter_batches(at_once, row_groups=[group], columns=names):
        end = position + batch.num_rows
        start, stop = max(position, left), min(end, right)
        if start < stop:
            rows = batch.slice(start - position, stop - start)
            yield start, pa.Table.from_batches([rows]).select(names)
        position = end
        if position >= right:
            return


def _wanted(
    tables: Iterator[tuple[int, pa.Table, dict[str, np.ndarray]]], only: np.ndarray | None
) -> Iterator[tuple[np.ndarray, pa.Table, dict[str, np.ndarray]]]:
    """Tables, each with the numbers of its rows; only those of `only`, if it is given."""
    for start, table, bad in tables:
        rows = np.arange(start, start + len(table), dtype=np.int64)
        if only is not None:
            rows = only[slice(*np.searchsorted(only, (start, start + len(table))))]
            table = table.take(pa.array(rows - start))
            bad = {name: mask[rows - start] for name, mask in bad.items()}
        yield rows, table, bad


def _refuse_bomb(source: ParquetSource, group: int, names: Sequence[str]) -> None:
    n_bytes, compressed = source.claimed_bytes(group, names)
    if n_bytes > max(_MAX_SUSPECT_BYTES, _MAX_RATIO * compressed):
        raise InputError(
            f"{redact(source.url)}: row group {group} would grow from {compressed:,} to {n_bytes:,}"
            f" bytes, more than {_MAX_RATIO} times; leave it out, or write smaller row groups"
        )


def _plain_bytes(array: pa.Array) -> int:
    """Bytes that an array has when its dictionaries are decoded."""
    if pa.types.is_dictionary(array.type) and _is_binary(array.type.value_type):
        lengths = pc.binary_length(array.dictionary)
        return pc.sum(lengths.take(array.indices)).as_py() or 0
    if pa.types.is_nested(array.type):
        return sum(_plain_bytes(part) for part in children(array))
    return int(array.nbytes)


def _is_binary(kind: Any) -> bool:  # noqa: ANN401  (a pyarrow DataType)
    kinds = pa.string(), pa.binary(), pa.large_string(), pa.large_binary()
    return kind in kinds


def _plain(table: pa.Table) -> pa.Table:
    """Decode the dictionaries in which strings are read, and those that the file has."""
    for place, field in enumerate(table.schema):
        kind = _decoded(field.type)
        if kind != field.type:
            table = table.set_column(place, field.name, table.column(place).cast(kind))
    return table


def _decoded(kind: Any) -> Any:  # noqa: ANN401  (a pyarrow DataType)
    """A type without dictionaries."""
    return with_leaves(kind, lambda leaf: leaf.value_type if pa.types.is_dictionary(leaf) else leaf)


def _is_excluded(source: ParquetSource, group: int, filters: Sequence[Filter]) -> bool:
    """Whether the statistics of a row group prove that no row passes."""
    in_path = partitions(source.url)
    for column, op, value in filters:
        leaves = () if column in in_path else source.leaves.get(column, ())
        if len(leaves) != 1 or not _has_bounds(source.schema.field(column).type):
            continue
        kind = _decoded(source.schema.field(column).type)
        op, value = typed_condition(kind, op, value, column, source.url)
        statistics = source.metadata.row_group(group).column(leaves[0]).statistics
        if statistics is not None and not _may_pass(statistics, op, value):
            return True
    return False


def _has_bounds(kind: Any) -> bool:  # noqa: ANN401
    """Whether the statistics of a column compare as its values do; those of some types are raw."""
    return not (
        isinstance(kind, pa.BaseExtensionType)
        or pa.types.is_nested(kind)
        or pa.types.is_float16(kind)
        or pa.types.is_duration(kind)
    )


def _may_pass(statistics: Any, op: str, value: Any) -> bool:  # noqa: ANN401
    if op == "is null":
        return not statistics.has_null_count or bool(statistics.null_count)
    if op == "is not null" or not statistics.has_min_max:
        return True
    try:
        values = [item.as_py() for item in value] if isinstance(value, list) else value.as_py()
        return may_match(statistics.min, statistics.max, op, values)
    except (TypeError, ValueError):
        # Bounds that Python cannot compare with the value, or that are no text, prove nothing.
        return True
