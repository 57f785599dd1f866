"""Rows of a Parquet file, by row group."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stx_core.errors import InputError
from stx_core.store.filesystem import FileInfo, open_file
from stx_core.store.filters import Filter, comparison_type, may_match, typed_value
from stx_core.store.retries import answer
from stx_core.store.select_rows import concat, select_rows
from stx_core.store.shards import Rows, Shard, partitions, with_partitions
from stx_core.store.units import Unit
from stx_core.store.urls import redact

# Rows decoded at once where a unit takes part of a row group.
_BATCH_ROWS = 8192


def shard(file: FileInfo) -> Shard:
    """Describe a Parquet file from its footer alone.

    Raises:
        InputError: the file is empty, cut short or no Parquet file.
    """
    with _open(file.url) as parquet:
        metadata = parquet.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        boundaries = tuple(int(edge) for edge in np.cumsum([0, *sizes]))
        schema = with_partitions(parquet.schema_arrow.remove_metadata(), file.url)
    return Shard(file.url, file.identity, "parquet", boundaries[-1], boundaries or (0,), schema)


def read(unit: Unit, schema: pa.Schema, filters: Sequence[Filter], id_column: str | None) -> Rows:
    """Read the row range of a unit; row groups that no row of which can pass are not read."""
    with _open(unit.url) as parquet:
        present = set(parquet.schema_arrow.names)
        wanted = dict.fromkeys([*schema.names, *(column for column, _, _ in filters)])
        missing = [name for name in wanted if name not in present | set(partitions(unit.url))]
        if missing:
            raise InputError(
                f"{redact(unit.url)}: no column {missing[0]!r}; it has {', '.join(sorted(present))}"
            )
        names = [name for name in wanted if name in present]
        parts: list[Rows] = []
        n_filtered = 0
        for group, left, right in _groups(parquet, unit.start, unit.stop):
            if _is_excluded(parquet, group, filters, unit.url):
                n_filtered += right - left
                continue
            for start, table in _tables(parquet, group, names, left, right):
                rows = np.arange(start, start + len(table), dtype=np.int64)
                parts.append(select_rows(table, rows, schema, filters, unit.url, id_column))
    rows_read = concat(parts, schema)
    return Rows(
        rows_read.table, rows_read.row_numbers, rows_read.bad, rows_read.n_filtered + n_filtered
    )


@contextmanager
def _open(url: str) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(open_file(url), pre_buffer=True) as parquet:
            yield parquet
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{redact(url)}: not a whole Parquet file ({_first_line(error)}); write it again, or "
            "leave it out"
        ) from error
    except OSError as error:
        # pyarrow reports pages that cannot be decoded as OSError without a number, as it does what
        # its S3 client met; the latter is for `retry`.
        if error.errno is not None or type(error) is not OSError or answer(error) != (None, ""):
            raise
        raise InputError(f"{redact(url)}: damaged Parquet file ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _groups(parquet: pq.ParquetFile, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Row groups that overlap a range, with the overlap."""
    left = 0
    for group in range(parquet.metadata.num_row_groups):
        right = left + parquet.metadata.row_group(group).num_rows
        if left < stop and right > start:
            yield group, max(left, start), min(right, stop)
        left = right
    if stop > left:
        raise InputError(
            f"rows {start} to {stop} were planned, but the file has {left}: it changed; plan again"
        )


def _tables(
    parquet: pq.ParquetFile, group: int, names: list[str], left: int, right: int
) -> Iterator[tuple[int, pa.Table]]:
    """Rows [left, right) of the file, which lie in one row group, with the first row number."""
    rows = [parquet.metadata.row_group(index).num_rows for index in range(group + 1)]
    first = sum(rows[:-1])
    if right - left == rows[-1]:
        yield left, _read_all(parquet, group, names)
        return
    position = first
    for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=[group], columns=names):
        end = position + batch.num_rows
        start, stop = max(position, left), min(end, right)
        if start < stop:
            yield start, pa.Table.from_batches([batch.slice(start - position, stop - start)])
        position = end
        if position >= right:
            return


def _read_all(parquet: pq.ParquetFile, group: int, names: list[str]) -> pa.Table:
    if names:
        return parquet.read_row_group(group, columns=names)
    # All that is asked for stands in the path: rows without columns keep no count in pyarrow.
    return parquet.read_row_group(group)


def _is_excluded(parquet: pq.ParquetFile, group: int, filters: Sequence[Filter], url: str) -> bool:
    """Whether the statistics of a row group prove that no row passes."""
    schema = parquet.schema_arrow
    places = {parquet.schema.column(i).path: i for i in range(len(parquet.schema))}
    for column, op, value in filters:
        if column not in places or column not in schema.names:
            continue
        statistics = parquet.metadata.row_group(group).column(places[column]).statistics
        if statistics is not None and not _may_pass(
            statistics, schema.field(column), op, value, url
        ):
            return True
    return False


def _may_pass(statistics: Any, field: pa.Field, op: str, value: Any, url: str) -> bool:  # noqa: ANN401
    if op == "is null":
        return not statistics.has_null_count or bool(statistics.null_count)
    if op == "is not null" or not statistics.has_min_max:
        return True
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    kind = comparison_type(kind, value)
    if op in ("in", "not in"):
        value = [typed_value(item, kind, field.name, url) for item in value]
    else:
        value = typed_value(value, kind, field.name, url)
    try:
        return may_match(statistics.min, statistics.max, op, value)
    except TypeError:
        # Bounds that Python cannot compare with the value (say bytes) prove nothing.
        return True
