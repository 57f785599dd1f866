"""Rows of a Parquet file, by row group, in bounded memory.

A small file can hold much more than its size: compressed pages of zeros, or one long string in a
dictionary that every row points to. The first is told by the footer, before anything is read. For
the second, strings are read as dictionaries, and made plain only when their sum is known; where
their encoding does not allow that, few rows are read at once. What is not covered: a footer that
lies about the size of its pages, of which each has up to 2 GiB.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stx_core.errors import InputError
from stx_core.store.corpus.filters import Filter, may_match, typed_condition
from stx_core.store.corpus.int96 import inexact_rows
from stx_core.store.corpus.nested import children, with_leaves
from stx_core.store.corpus.parquet_file import ParquetSource, open_parquet
from stx_core.store.corpus.select_rows import Selection, concat, reject_large, select_rows
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

_BINARY = (pa.string(), pa.binary(), pa.large_string(), pa.large_binary())
_WITHOUT_BOUNDS = (pa.types.is_nested, pa.types.is_float16, pa.types.is_duration)


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
        n_rows=boundaries[-1],
        boundaries=boundaries,
        schema=with_partitions(own, file.url),
        overridden=overridden(own, file.url),
    )


def read(unit: Unit, selection: Selection, only: np.ndarray | None = None) -> Rows:
    """Read the row range of a unit; row groups that no row of which can pass are not read.

    With `only`, ascending row numbers, only those rows; groups without one are not read.
    """
    with open_parquet(unit.url) as source:
        present = source.schema.names
        names = selection.columns_outside(partitions(unit.url))
        if missing := [name for name in names if name not in present]:
            raise InputError(
                f"{redact(unit.url)}: no column {missing[0]!r}; it has {', '.join(sorted(present))}"
            )
        # Rows without columns keep no count in pyarrow: read one where all stands in the path.
        names = names or present[:1]
        source.check_readable(names)
        columns = _Columns(source, names)
        parts: list[Rows] = []
        n_filtered = n_bytes = 0
        for group, low, high in _groups(source.metadata, unit.start, unit.stop, only):
            if _is_excluded(source, group, selection.filters):
                n_filtered += high - low
                continue
            for rows, encoded, inexact in columns.tables(group, low, high):
                if only is not None:
                    chosen = only[slice(*np.searchsorted(only, (rows[0], rows[-1] + 1)))]
                    places = chosen - rows[0]
                    rows, encoded = chosen, encoded.take(pa.array(places))
                    inexact = {name: mask[places] for name, mask in inexact.items()}
                n_bytes += sum(_plain_bytes(chunk) for column in encoded for chunk in column.chunks)
                if n_bytes > MAX_UNIT_BYTES:
                    raise InputError(
                        f"{redact(unit.url)}: rows {unit.start} to {unit.stop} hold more than "
                        f"{MAX_UNIT_BYTES:,} bytes; set resources.rows_per_unit lower"
                    )
                parts.append(select_rows(_plain(encoded), rows, selection, unit.url, inexact))
    rows_read = concat(parts, selection.schema)
    rows_read = replace(rows_read, n_filtered=rows_read.n_filtered + n_filtered)
    return reject_large(rows_read, selection.id_column, selection.max_bytes)


def _groups(
    metadata: pq.FileMetaData, start: int, stop: int, only: np.ndarray | None
) -> Iterator[tuple[int, int, int]]:
    """Row groups that overlap a range, with the overlap; cut to rows of `only`."""
    low = 0
    for group in range(metadata.num_row_groups):
        high = low + metadata.row_group(group).num_rows
        if low < stop and high > start:
            here = max(low, start), min(high, stop)
            if only is not None:
                inside = only[slice(*np.searchsorted(only, here))]
                here = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)
            if here[0] < here[1]:
                yield group, *here
        low = high
    if stop > low:
        raise InputError(
            f"rows {start} to {stop} were planned, but the file has {low}: it changed; plan again"
        )


class _Columns:
    """Some columns of a file, read by row group."""

    def __init__(self, source: ParquetSource, names: list[str]) -> None:
        self._source, self._names = source, names
        self._dictionaries = source.readable_as_dictionaries(names)
        self._parquet = source.open(as_dictionaries=self._dictionaries)
        kinds = {
            name: {
                source.metadata.schema.column(leaf).physical_type for leaf in source.leaves[name]
            }
            for name in names
        }
        self._int96 = [name for name in names if "INT96" in kinds[name]]
        units = ("ns", "s") if self._int96 else ()
        self._checks = [source.open(int96_unit=unit) for unit in units]

    def tables(
        self, group: int, low: int, high: int
    ) -> Iterator[tuple[np.ndarray, pa.Table, dict[str, np.ndarray]]]:
        """Rows [low, high) of the file, which lie in one row group, in parts.

        Gives the numbers of the rows, the rows, and by column which of them, (N,) bool, hold a
        time that microseconds cannot hold.

        Raises:
            InputError: the group would grow out of all proportion.
        """
        metadata, names = self._source.metadata, self._names
        n_bytes, compressed, longest = self._source.claimed_bytes(group, names, self._dictionaries)
        if n_bytes > max(_MAX_SUSPECT_BYTES, _MAX_RATIO * compressed):
            raise InputError(
                f"{redact(self._source.url)}: row group {group} would grow from {compressed:,} to "
                f"{n_bytes:,} bytes, more than {_MAX_RATIO} times; leave it out, or write smaller "
                "row groups"
            )
        sizes = [metadata.row_group(index).num_rows for index in range(group + 1)]
        first, n_rows = sum(sizes[:-1]), sizes[-1]
        # All of the group at once, if that is bounded memory.
        at_once = None
        most = max(1, _MAX_DECODED_BYTES // longest) if longest else n_rows
        if n_bytes > _BATCH_BYTES or most < n_rows:
            at_once = max(1, min(_BATCH_ROWS, most, _BATCH_BYTES * n_rows // max(1, n_bytes)))
        span = low - first, high - first
        if at_once is None and span != (0, n_rows):
            at_once = _BATCH_ROWS
        tables = _tables(self._parquet, group, names, span, at_once)
        checks = [_tables(reader, group, self._int96, span, at_once) for reader in self._checks]
        for (start, table), *in_units in zip(tables, *checks, strict=True):
            inexact = {
                name: inexact_rows(table[name], *(times[name] for _, times in in_units))
                for name in self._int96
            }
            yield np.arange(len(table)) + first + start, table, inexact


def _tables(
    parquet: pq.ParquetFile,
    group: int,
    names: list[str],
    span: tuple[int, int],
    at_once: int | None,
) -> Iterator[tuple[int, pa.Table]]:
    """Rows of a range of a row group, each piece with the number of its first row in the group."""
    low, high = span
    if at_once is None:
        yield 0, parquet.read_row_group(group, columns=names).select(names)
        return
    position = 0
    for batch in parquet.iter_batches(at_once, row_groups=[group], columns=names):
        end = position + batch.num_rows
        start, stop = max(position, low), min(end, high)
        if start < stop:
            rows = batch.slice(start - position, stop - start)
            yield start, pa.Table.from_batches([rows]).select(names)
        position = end
        if position >= high:
            return


def _plain_bytes(array: pa.Array) -> int:
    """Bytes that an array has when its dictionaries are decoded."""
    if pa.types.is_dictionary(array.type) and array.type.value_type in _BINARY:
        lengths = pc.binary_length(array.dictionary)
        return pc.sum(lengths.take(array.indices)).as_py() or 0
    if pa.types.is_nested(array.type):
        return sum(_plain_bytes(part) for part in children(array))
    return int(array.nbytes)


def _plain(table: pa.Table) -> pa.Table:
    """Decode the dictionaries in which strings are read, and those that the file has."""
    for place, field in enumerate(table.schema):
        kind = _decoded(field.type)
        if kind != field.type:
            table = table.set_column(place, field.name, table.column(place).cast(kind))
    return table


def _decoded(kind: pa.DataType) -> pa.DataType:
    """A type without dictionaries."""
    return with_leaves(kind, lambda leaf: leaf.value_type if pa.types.is_dictionary(leaf) else leaf)


def _is_excluded(source: ParquetSource, group: int, filters: Sequence[Filter]) -> bool:
    """Tell whether the statistics of a row group prove that no row passes."""
    in_path = partitions(source.url)
    for column, op, value in filters:
        leaves = () if column in in_path else source.leaves.get(column, ())
        if len(leaves) != 1:
            continue
        kind = source.schema.field(column).type
        # Statistics of these do not compare as their values do.
        if isinstance(kind, pa.BaseExtensionType) or any(test(kind) for test in _WITHOUT_BOUNDS):
            continue
        kind = _decoded(kind)
        op, value = typed_condition(kind, op, value, column, source.url)
        statistics = source.metadata.row_group(group).column(leaves[0]).statistics
        if statistics is None or op == "is not null":
            continue
        if op == "is null":
            if statistics.has_null_count and not statistics.null_count:
                return True
        elif statistics.has_min_max:
            # Bounds that Python cannot compare with the value, or that are no text, prove nothing.
            with suppress(TypeError, ValueError):
                values = [x.as_py() for x in value] if isinstance(value, list) else value.as_py()
                if not may_match(statistics.min, statistics.max, op, values):
                    return True
    return False
