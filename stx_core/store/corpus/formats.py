"""The formats of corpus files: those of stx, and those that plug-ins add (docs/extending.md)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from stx_core.errors import InputError
from stx_core.plugins import Registry, foreign_code
from stx_core.store.corpus import arrow_dataset, csv_rows, jsonl, parquet
from stx_core.store.corpus.select_rows import Selection, reject_large, select_rows
from stx_core.store.corpus.shards import (
    CsvForm,
    Rows,
    Shard,
    overridden,
    partitions,
    with_partitions,
)
from stx_core.store.corpus.units import Unit
from stx_core.store.files.filesystem import FileInfo
from stx_core.store.files.urls import redact


@dataclass(frozen=True)
class Look:
    """How files are looked into.

    Attributes:
        max_text_bytes: longer strings, and lines, are bad rows.
        columns: those that will be read; None if that is not known.
        csv: of CSV files.
    """

    max_text_bytes: int
    columns: Sequence[str] | None
    csv: CsvForm


@dataclass(frozen=True)
class Reader:
    """How files of one format are read; both functions raise InputError for what they cannot.

    Attributes:
        shard: describes a file: its rows and columns.
        read: the rows of a unit: each is in the table, among the bad ones, or counted as filtered.
    """

    shard: Callable[[FileInfo, Look], Shard]
    read: Callable[[Unit, Selection, CsvForm], Rows]


def table_reader(
    describe: Callable[[str], tuple[pa.Schema, int]],
    rows: Callable[[str, int, int, list[str]], pa.Table],
) -> Reader:
    """A reader of files whose rows can be had as tables: all else is done here.

    Args:
        describe: of a URL the columns of the file and the number of its rows.
        rows: of a URL, a first row and the one behind the last: these rows, in order, with these
            columns.
    """

    def shard(file: FileInfo, _: Look) -> Shard:
        with foreign_code(redact(file.url)):
            schema, n_rows = describe(file.url)
        return Shard(
            file.url,
            file.identity,
            "",  # who asked knows the name
            n_rows=n_rows,
            boundaries=(0, n_rows),
            schema=with_partitions(schema, file.url),
            overridden=overridden(schema, file.url),
        )

    def read(unit: Unit, selection: Selection, _: CsvForm) -> Rows:
        where = f"{redact(unit.url)} rows {unit.start} to {unit.stop}"
        names = selection.columns_outside(partitions(unit.url))
        with foreign_code(where):
            # A table without columns does not count its rows.
            names = names or describe(unit.url)[0].names[:1]
            table = rows(unit.url, unit.start, unit.stop, names)
        if missing := [name for name in names if name not in table.column_names]:
            raise InputError(f"{where}: no column {missing[0]!r}; it has {table.column_names}")
        if len(table) != unit.n_rows:
            raise InputError(f"{where}: its reader gave {len(table)} rows")
        numbers = np.arange(unit.start, unit.stop, dtype=np.int64)
        chosen = select_rows(table.select(names), numbers, selection, unit.url)
        return reject_large(chosen, selection.id_column, selection.max_bytes)

    return Reader(shard, read)


READERS: Registry[Reader] = Registry(
    "stx.readers",
    "format",
    {
        "parquet": Reader(
            lambda file, look: parquet.shard(file),
            lambda unit, selection, csv: parquet.read(unit, selection),
        ),
        "jsonl": Reader(
            lambda file, look: jsonl.shard(file, look.max_text_bytes, look.columns),
            lambda unit, selection, csv: jsonl.read(unit, selection),
        ),
        "csv": Reader(
            lambda file, look: csv_rows.shard(file, look.max_text_bytes, look.csv), csv_rows.read
        ),
        "arrow": Reader(
            lambda file, look: arrow_dataset.shard(file),
            lambda unit, selection, csv: arrow_dataset.read(unit, selection),
        ),
    },
    expected=Reader,
    # Endings of the formats above, and of specs.
    reserved=("pq", "ndjson", "tsv", "gz", "yaml", "yml"),
)
"""By name, which is also the ending of the files of a plug-in's format."""
