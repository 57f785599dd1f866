"""The data files of a dataset: written whole, with their checksum; read by column and row."""

import functools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs
import pyarrow.parquet as pq
import xxhash

from stx_core import failpoints
from stx_core.errors import DamagedFile, StoreError
from stx_core.store.files.filesystem import file_info, open_file, open_stream, write_new
from stx_core.store.files.retries import is_decoding, retry
from stx_core.store.files.urls import LOCAL, S3, join, one_line, redact, scheme
from stx_core.store.schema import to_parquet

# Each thread holds one piece of one file: memory stays small, however large the files are.
_PIECE_BYTES = 4 * 2**20

_ROWS_AT_ONCE = 65_536

# Stores of which threads of Arrow may hold an open file: not where it is an object of Python. A
# thread lets go of it after it has handed over its result. When the interpreter ends meanwhile,
# that aborts the process.
_IN_THREADS = (LOCAL, *S3)

WAY_BACK = (
    "run `stx verify` on the dataset, which notes damaged files: the next run encodes their units "
    "again; or go back with `stx rollback`"
)


class Written(NamedTuple):
    """A file in a record: name relative to the dataset, bytes, xxh3_128 in hex, rows."""

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

    def footer_rows() -> int:
        with open_file(url) as file:
            n_rows: int = pq.read_metadata(file).num_rows
            return n_rows

    n_rows = retry(footer_rows, url)
    if n_rows != len(table):
        raise StoreError(f"{redact(url)}: wrote {len(table)} rows, but its footer says {n_rows}")
    return Written(name, len(data), xxhash.xxh3_128_hexdigest(data), len(table))


def read_columns(url: str, columns: Sequence[str], rows: np.ndarray | None = None) -> pa.Table:
    """Read columns of a data file; row groups without a wanted row are not read.

    The checksum of each page that is read is checked, where the file has any: those of an earlier
    stx have none.

    Args:
        url: of the file.
        columns: their names.
        rows: (N,) row numbers, ascending; None for all.

    Raises:
        DamagedFile: the file is gone, or its bytes are not those that were written.
        StoreError: it cannot be read.
    """

    def read() -> pa.Table:
        with open_parquet(url) as parquet:
            if lacking := [name for name in columns if name not in parquet.schema_arrow.names]:
                raise pa.ArrowInvalid(f"no column {lacking[0]!r}")
            threads = scheme(url) in _IN_THREADS
            if rows is None:
                return parquet.read(list(columns), use_threads=threads)
            groups = range(parquet.num_row_groups)
            starts = np.cumsum([0, *(parquet.metadata.row_group(i).num_rows for i in groups)])
            if len(rows) and rows[-1] >= starts[-1]:
                raise pa.ArrowInvalid(f"{starts[-1]} rows, but row {rows[-1]} is wanted")
            group_of = np.searchsorted(starts, rows, side="right") - 1
            parts = []
            for group in np.unique(group_of).tolist():
                table = parquet.read_row_group(group, list(columns), use_threads=threads)
                parts.append(table.take(pa.array(rows[group_of == group] - starts[group])))
            return pa.concat_tables(parts)

    return retry(read, url)


def read_batches(
    dataset: ds.FileSystemDataset, columns: Sequence[str] | None, batch_rows: int
) -> Generator[pa.RecordBatch, None, None]:
    """Read the files of a dataset piece by piece, in order; pages are checked as `read_columns`.

    Not by the dataset's own scan: its threads read ahead of what is asked for, and may still do
    when the interpreter ends.

    Args:
        dataset: from `open_snapshot`, or some of its files.
        columns: their names; None for all.
        batch_rows: rows of a piece, at most.

    Raises:
        DamagedFile: as `read_columns`.
    """
    schema = dataset.schema if columns is None else pa.schema(map(dataset.schema.field, columns))
    threads = not isinstance(dataset.filesystem, pa.fs.PyFileSystem)
    for path in dataset.files:
        opened = partial(dataset.filesystem.open_input_file, path)
        with open_parquet(path, opened, threads=threads) as parquet:
            # A row group at a time: what is read ahead of them is held in memory.
            for group in range(parquet.num_row_groups):
                for batch in parquet.iter_batches(
                    batch_rows, [group], schema.names, use_threads=threads
                ):
                    # In this order; raises where one is missing.
                    table = pa.Table.from_batches([batch]).select(schema.names).cast(schema)
                    yield from table.to_batches()


def whole(dataset: ds.FileSystemDataset, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of a dataset, or some columns of them, see `read_batches`."""
    schema = dataset.schema if columns is None else pa.schema(map(dataset.schema.field, columns))
    return pa.Table.from_batches(read_batches(dataset, columns, _ROWS_AT_ONCE), schema)


def head(dataset: ds.FileSystemDataset, n_rows: int) -> pa.Table:
    """The first rows of a dataset, see `read_batches`."""
    first, n_first = [], 0
    with closing(read_batches(dataset, None, max(1, min(n_rows, _ROWS_AT_ONCE)))) as batches:
        for batch in batches:
            if n_first >= n_rows:
                break
            first.append(batch.slice(0, n_rows - n_first))
            n_first += len(first[-1])
    return pa.Table.from_batches(first, dataset.schema)


@contextmanager
def open_parquet(
    url: str, open_: Callable[[], Any] | None = None, *, threads: bool | None = None
) -> Iterator[pq.ParquetFile]:
    """A data file, opened; what is wrong with its bytes is told in one line.

    Args:
        url: of the file.
        open_: opens it; None for `open_file`.
        threads: whether threads of Arrow may hold it; None for what the URL says.

    Raises:
        DamagedFile: the file is gone, or its bytes are not those that were written.
    """
    ahead = scheme(url) in _IN_THREADS if threads is None else threads
    try:
        with (
            open_() if open_ else open_file(url) as opened,
            pq.ParquetFile(opened, pre_buffer=ahead, page_checksum_verification=True) as parquet,
        ):
            yield parquet
    except FileNotFoundError as error:
        raise DamagedFile(f"{redact(url)}: missing, the dataset names it; {WAY_BACK}") from error
    except (pa.ArrowException, KeyError, OSError) as error:
        if not is_decoding(error):
            raise
        problem = one_line(str(error).split("\n")[0])
        raise DamagedFile(f"{redact(url)}: damaged ({problem}); {WAY_BACK}") from error


def check_whole(url: str, checksum: str) -> None:
    """Compare all bytes of a data file with its checksum; once per process and state of the file.

    Args:
        url: of the file.
        checksum: see `Written`.

    Raises:
        DamagedFile: it is gone, or its bytes are not those that were written.
        StoreError: it cannot be read.
    """
    try:
        identity = file_info(url).identity
        actual = _checksum(url, identity)
    except FileNotFoundError as error:
        raise DamagedFile(f"{redact(url)}: missing, the dataset names it; {WAY_BACK}") from error
    if actual != checksum:
        raise DamagedFile(
            f"{redact(url)}: damaged (its bytes have checksum {actual}, {checksum} was written); "
            f"{WAY_BACK}"
        )


@functools.lru_cache(maxsize=65_536)
def _checksum(url: str, identity: str) -> str:  # noqa: ARG001  (part of the key)
    return hash_bytes(url)[1]


def hash_bytes(url: str) -> tuple[int, str]:
    """Size of a file, and xxh3_128 in hex of its bytes; memory stays small.

    Raises:
        FileNotFoundError: it is absent.
        StoreError: it cannot be read.
    """

    def read() -> tuple[int, str]:
        size, digest = 0, xxhash.xxh3_128()
        with open_stream(url) as stream:
            while piece := stream.read(_PIECE_BYTES):
                size += len(piece)
                digest.update(piece)
        return size, digest.hexdigest()

    return retry(read, url)
