"""Rows of a Parquet file, by row group, in bounded memory.

A small file can hold much more than its size: compressed pages of zeros, or one long string in a
dictionary that every row points to. The first is told by the footer, before anything is read. For
the second, strings are read as dictionaries, and made plain only when their sum is known. What is
not covered: a footer that lies about the size of its pages, of which each has up to 2 GiB.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stx_core.errors import InputError
from stx_core.store.corpus.filters import Filter, comparison_type, may_match, typed_value
from stx_core.store.corpus.select_rows import concat, reject_large, select_rows
from stx_core.store.corpus.shards import MAX_UNIT_BYTES, Rows, Shard, partitions, with_partitions
from stx_core.store.files.filesystem import FileInfo, open_file
from stx_core.store.files.retries import answer
from stx_core.store.files.urls import redact
from stx_core.store.units import Unit

# Rows and bytes decoded at once where a unit takes part of a row group, or the group is large.
_BATCH_ROWS = 8192
_BATCH_BYTES = 256 << 20

# Text compresses 3 to 50 times. A row group beyond both limits is taken for an attack.
_MAX_RATIO = 200
_MAX_SUSPECT_BYTES = 1 << 30


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
    with _open(unit.url, strings_as_dictionaries=True) as parquet:
        present = set(parquet.schema_arrow.names)
        wanted = dict.fromkeys([*schema.names, *(column for column, _, _ in filters)])
        missing = [name for name in wanted if name not in present | set(partitions(unit.url))]
        if missing:
            raise InputError(
                f"{redact(unit.url)}: no column {missing[0]!r}; it has {', '.join(sorted(present))}"
            )
        # Rows without columns keep no count in pyarrow: read one where all stands in the path.
        names = [name for name in wanted if name in present] or parquet.schema_arrow.names[:1]
        parts: list[Rows] = []
        n_filtered = n_bytes = 0
        for group, left, right in _groups(parquet, unit.start, unit.stop, only):
            if _is_excluded(parquet, group, filters, unit.url):
                n_filtered += right - left
                continue
            _refuse_bomb(parquet, group, names, unit.url)
            for rows, encoded in _wanted(_tables(parquet, group, names, left, right), only):
                n_bytes += sum(_plain_bytes(chunk) for column in encoded for chunk in column.chunks)
                if n_bytes > MAX_UNIT_BYTES:
                    raise InputError(
                        f"{redact(unit.url)}: rows {unit.start} to {unit.stop} hold more than "
                        f"{MAX_UNIT_BYTES:,} bytes; set resources.rows_per_unit lower"
                    )
                table = _plain(encoded, parquet)
                parts.append(select_rows(table, rows, schema, filters, unit.url, id_column))
    rows_read = concat(parts, schema)
    return reject_large(replace(rows_read, n_filtered=rows_read.n_filtered + n_filtered),
                        id_column, max_bytes)  # fmt: skip


@contextmanager
def _open(url: str, *, strings_as_dictionaries: bool = False) -> Iterator[pq.ParquetFile]:
    try:
        with open_file(url) as file:
            metadata = pq.read_metadata(file)
            leaves = [metadata.schema.column(i) for i in range(len(metadata.schema))]
            strings = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
            yield pq.ParquetFile(
                file,
                metadata=metadata,
                pre_buffer=True,
                read_dictionary=strings if strings_as_dictionaries else None,
            )
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


def _groups(
    parquet: pq.ParquetFile, start: int, stop: int, only: np.ndarray | None
) -> Iterator[tuple[int, int, int]]:
    """Row groups that overlap a range, with the overlap; cut to rows of `only`."""
    left = 0
    for group in range(parquet.metadata.num_row_groups):
        right = left + parquet.metadata.row_group(group).num_rows
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


def _tables(
    parquet: pq.ParquetFile, group: int, names: list[str], left: int, right: int
) -> Iterator[tuple[int, pa.Table]]:
    """Rows [left, right) of the file, which lie in one row group, with the first row number."""
    rows = [parquet.metadata.row_group(index).num_rows for index in range(group + 1)]
    position = sum(rows[:-1])
    n_bytes, _ = _claimed_bytes(parquet, group, names)
    if right - left == rows[-1] and n_bytes <= _BATCH_BYTES:
        yield left, parquet.read_row_group(group, columns=names)
        return
    at_once = max(1, min(_BATCH_ROWS, _BATCH_BYTES * rows[-1] // max(1, n_bytes)))
    for batch in parquet.iter_batches(at_once, row_groups=[group], columns=names):
        end = position + batch.num_rows
        start, stop = max(position, left), min(end, right)
        if start < stop:
            yield start, pa.Table.from_batches([batch.slice(start - position, stop - start)])
        position = end
        if position >= right:
            return


def _wanted(
    tables: Iterator[tuple[int, pa.Table]], only: np.ndarray | None
) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Tables, each with the numbers of its rows; only those of `only`, if it is given."""
    for start, table in tables:
        rows = np.arange(start, start + len(table), dtype=np.int64)
        if only is not None:
            rows = only[slice(*np.searchsorted(only, (start, start + len(table))))]
            table = table.take(pa.array(rows - start))
        yield rows, table


def _claimed_bytes(parquet: pq.ParquetFile, group: int, names: Sequence[str]) -> tuple[int, int]:
    """Bytes of some columns in a row group, plain and compressed, as the footer says."""
    metadata = parquet.metadata.row_group(group)
    leaves = [metadata.column(i) for i in range(metadata.num_columns)]
    wanted = [leaf for leaf in leaves if leaf.path_in_schema.split(".")[0] in names]
    return (
        sum(leaf.total_uncompressed_size for leaf in wanted),
        sum(leaf.total_compressed_size for leaf in wanted),
    )


def _refuse_bomb(parquet: pq.ParquetFile, group: int, names: Sequence[str], url: str) -> None:
    n_bytes, compressed = _claimed_bytes(parquet, group, names)
    if n_bytes > max(_MAX_SUSPECT_BYTES, _MAX_RATIO * compressed):
        raise InputError(
            f"{redact(url)}: row group {group} would grow from {compressed:,} to {n_bytes:,} "
            f"bytes, more than {_MAX_RATIO} times; leave it out, or write smaller row groups"
        )


def _plain_bytes(array: pa.Array) -> int:
    """Bytes that an array has when its dictionaries are decoded."""
    if pa.types.is_dictionary(array.type) and _is_binary(array.type.value_type):
        lengths = pc.binary_length(array.dictionary)
        return pc.sum(lengths.take(array.indices)).as_py() or 0
    if pa.types.is_nested(array.type):
        parts = array.flatten()
        # Of a list one array, of a struct one per field.
        parts = parts if isinstance(parts, list) else [parts]
        return sum(_plain_bytes(part) for part in parts)
    return int(array.nbytes)


def _is_binary(kind: Any) -> bool:  # noqa: ANN401  (a pyarrow DataType)
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind))


def _plain(table: pa.Table, parquet: pq.ParquetFile) -> pa.Table:
    """Decode the dictionaries in which `_open` reads strings."""
    types = parquet.metadata.schema.to_arrow_schema()
    for place, field in enumerate(table.schema):
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else (
            types.field(field.name).type
        )  # fmt: skip
        if kind != field.type:
            table = table.set_column(place, field.name, table.column(place).cast(kind))
    return table


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
