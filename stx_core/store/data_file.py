"""The data files of a dataset: written whole, with their checksum; read by column and row."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from stx_core import failpoints
from stx_core.errors import StoreError
from stx_core.store.files.filesystem import open_file, write_new
from stx_core.store.files.retries import retry
from stx_core.store.files.urls import join, redact
from stx_core.store.schema import to_parquet


class Written(NamedTuple):
    """What a record says of a file: name relative to the dataset, bytes, xxh3_128 in hex, rows."""

    name: str
    size: int
    checksum: str
    rows: int


NO_FILE = Written("", 0, "", 0)


def write_table(root: str, name: str, table: pa.Table, about: Mapping[str, str]) -> Written:
    """Write a table as a new file of a dataset, and read its footer back.

    Args:
        root: the dataset.
        name: relative to it, never used before.
        table: the rows.
        about: key-value metadata: a file that was copied away still says what it is.

    Raises:
        StoreError: the store does not have what was written.
    """
    data = to_parquet(table, about)
    failpoints.hit("write.before")
    url = join(root, name)
    write_new(url, data)
    found = retry(lambda: _footer_rows(url), url)
    if found != len(table):
        raise StoreError(f"{redact(url)}: wrote {len(table)} rows, but its footer says {found}")
    return Written(name, len(data), xxhash.xxh3_128_hexdigest(data), len(table))


def _footer_rows(url: str) -> int:
    with open_file(url) as file:
        n_rows: int = pq.read_metadata(file).num_rows
        return n_rows


def read_columns(url: str, columns: Sequence[str], rows: np.ndarray | None = None) -> pa.Table:
    """Read columns of a data file; row groups without a wanted row are not read.

    Args:
        url: of the file.
        columns: their names.
        rows: (N,) row numbers, ascending; None for all.

    Raises:
        StoreError: the file is gone, damaged or cannot be read.
    """

    def read() -> pa.Table:
        with open_file(url) as source, pq.ParquetFile(source, pre_buffer=True) as parquet:
            if rows is None:
                return parquet.read(list(columns))
            return _take(parquet, list(columns), rows)

    try:
        return retry(read, url)
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise StoreError(
            f"{redact(url)}: a file of the current snapshot cannot be read "
            f"({type(error).__name__}); restore it, or go back to an older version"
        ) from error


def _take(parquet: pq.ParquetFile, columns: list[str], rows: np.ndarray) -> pa.Table:
    sizes = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
    starts = np.cumsum([0, *sizes])
    group_of = np.searchsorted(starts, rows, side="right") - 1
    parts = []
    for group in np.unique(group_of).tolist():
        table = parquet.read_row_group(group, columns=columns)
        parts.append(table.take(pa.array(rows[group_of == group] - starts[group])))
    return pa.concat_tables(parts)
