"""Columns of one data file of a snapshot, for some of its rows or for all."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stx_core.errors import StoreError
from stx_core.store.filesystem import open_file
from stx_core.store.retries import retry
from stx_core.store.urls import redact


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
