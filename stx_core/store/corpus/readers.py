"""Corpus files to shards and rows, whatever their format."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa

from stx_core import failpoints
from stx_core.errors import InputError, SpecError
from stx_core.store.corpus import arrow_dataset, parquet
from stx_core.store.corpus.filters import Filter, check_filters, keep_file
from stx_core.store.corpus.formats import READERS, Look
from stx_core.store.corpus.select_rows import Selection, concat
from stx_core.store.corpus.shards import CsvForm, Format, Rows, Shard
from stx_core.store.corpus.table_folders import refuse_tables
from stx_core.store.corpus.units import Unit, plan_units
from stx_core.store.files.filesystem import FileInfo, file_info, without_change_time
from stx_core.store.files.listing import list_files, once
from stx_core.store.files.retries import retry
from stx_core.store.files.urls import redact

# Footers are small and far away: read many at once.
_THREADS = 16

# Of files that can only be read from a mark on.
_ROWS_AT_ONCE = 4096

_ENDINGS: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
}

_GONE = "gone since it was planned; plan again"

# Longer strings than any document that a model reads; short enough to hold some in memory.
MAX_TEXT_BYTES = 64 << 20


def format_of(url: str) -> Format:
    """Tell a file's format by its name.

    Raises:
        InputError: the ending is unknown.
    """
    name = url.lower().removesuffix(".gz")
    for ending, kind in _ENDINGS.items():
        if name.endswith(ending) and not (kind == "parquet" and name != url.lower()):
            return kind
    ending = url.lower().rpartition("/")[2].rpartition(".")[2]
    if ending in READERS.plugins and ending in READERS:
        return ending
    added = [f".{kind}" for kind in READERS if kind in READERS.plugins]
    raise InputError(
        f"{redact(url)}: cannot tell its format; expected one of {', '.join([*_ENDINGS, *added])} "
        f"(.gz allowed for lines), or set the format: {', '.join(READERS)}"
    )


def list_shards(
    urls: Sequence[str],
    format: Format | None = None,
    filters: Sequence[Filter] = (),
    max_text_bytes: int = MAX_TEXT_BYTES,
    columns: Sequence[str] | None = None,
    csv: CsvForm = CsvForm(),  # noqa: B008  (frozen)
) -> list[Shard]:
    """List the shards of a corpus, sorted by URL, and look into each.

    Files whose partition columns do not pass the filters are left out unopened. Of Parquet files
    the footer is read; files of lines are read through once, to count.

    Args:
        urls: files, folders, globs, saved `datasets` folders, ``hf-dataset://name/config/split``.
        format: of all of them; None to tell by name.
        filters: checked here for their form.
        max_text_bytes: as for `read_rows`: it decides where broken CSV records end.
        columns: those that will be read, if that is known: of JSON lines it takes time to find
            types.
        csv: of CSV files.

    Raises:
        InputError: nothing is there, or a file cannot be used or belongs to a table, see
            `refuse_tables`; names the first such file.
        SpecError: a filter is wrong.
    """
    check_filters(filters)
    files = once([file for url in urls for file in find_files(url, format)])
    refuse_tables(file.url for file in files if not arrow_dataset.is_dataset(file.url))
    look = partial(
        shard_rows, format=format, max_text_bytes=max_text_bytes, columns=columns, csv=csv
    )
    with ThreadPoolExecutor(_THREADS) as pool:
        shards = list(pool.map(look, (file for file in files if keep_file(file.url, filters))))
    return sorted(shards, key=lambda shard: shard.url)


def find_files(url: str, format: Format | None) -> list[FileInfo]:
    """Files of a path, a glob or a saved dataset, of any format.

    Raises:
        InputError: nothing is there.
    """
    if arrow_dataset.is_dataset(url):
        return [arrow_dataset.describe(url)]
    if format == "arrow":
        raise InputError(f"{redact(url)}: no saved datasets folder (state.json is missing)")
    try:
        files = list_files(url)
    except FileNotFoundError as error:
        raise InputError(str(error)) from error
    if not files:
        raise InputError(f"{redact(url)}: the folder holds no files")
    return files


def shard_rows(
    file: FileInfo,
    format: Format | None = None,
    max_text_bytes: int = MAX_TEXT_BYTES,
    columns: Sequence[str] | None = None,
    csv: CsvForm = CsvForm(),  # noqa: B008  (frozen)
) -> Shard:
    """Describe one file: its rows, row groups and columns. Arguments as of `list_shards`.

    Raises:
        InputError: it cannot be read; says why.
    """
    kind = format
    if kind is None:
        kind = "arrow" if arrow_dataset.is_dataset(file.url) else format_of(file.url)
    reader = READERS.named(kind, f"{redact(file.url)}: format {kind!r}")
    look = Look(max_text_bytes, columns, csv)
    try:
        shard = retry(lambda: reader.shard(file, look), file.url)
    except InputError as error:
        if format is None or file.url.lower().removesuffix(".gz").endswith(f".{format}"):
            raise
        raise InputError(
            f"{error}; format: {format} goes for every file of the inputs, name them by a glob "
            f"(**/*.{format}) if others lie beside them"
        ) from error
    return replace(shard, format=kind, modified_s=file.modified_s)


def read_rows(
    unit: Unit,
    schema: pa.Schema,
    filters: Sequence[Filter] = (),
    id_column: str | None = None,
    max_text_bytes: int = MAX_TEXT_BYTES,
    csv: CsvForm = CsvForm(),  # noqa: B008  (frozen)
) -> Rows:
    """Read the rows of a unit.

    Every row of the range is in the table, among the bad ones, or counted as filtered out.

    Args:
        unit: from `plan_units`.
        schema: columns to read and the types to give them, see `corpus_schema`.
        filters: all must pass; their columns need not be in the schema.
        id_column: gives bad rows their id, where it is readable; must be in the schema.
        max_text_bytes: rows with a longer string, or whose line is longer, are bad: `too_large`.
        csv: as it was planned with.

    Raises:
        InputError: the file changed since it was planned, is damaged, or lacks a column.
        SpecError: `id_column` is not in the schema.
    """
    if id_column is not None and id_column not in schema.names:
        raise SpecError(f"id column {id_column!r} is not among the columns {schema.names}")
    check_identity(unit)
    failpoints.hit("read.before")
    # Opening is retried below; here it is what fails half-way through a file.
    reader = READERS.named(unit.format, f"{redact(unit.url)}: format {unit.format!r}")
    selection = Selection(schema, filters, id_column, max_text_bytes)
    try:
        rows = retry(lambda: reader.read(unit, selection, csv), unit.url)
    except FileNotFoundError as error:
        raise InputError(f"{redact(unit.url)}: {_GONE}") from error
    # Again after reading: an overwrite half-way would mix two versions.
    check_identity(unit)
    counted = len(rows.table) + len(rows.bad) + rows.n_filtered
    if counted != unit.n_rows:
        raise InputError(
            f"{redact(unit.url)}: rows {unit.start} to {unit.stop} were planned, {counted} were "
            "found; the file changed, plan again"
        )
    return rows


def read_some(
    shard: Shard,
    schema: pa.Schema,
    rows: np.ndarray,
    max_text_bytes: int = MAX_TEXT_BYTES,
    csv: CsvForm = CsvForm(),  # noqa: B008  (frozen)
) -> Rows:
    """Read some rows of a shard; of Parquet files the row groups that have one, no others.

    Args:
        shard: from `list_shards`; its own schema is not looked at.
        schema: columns to read and the types to give them, see `corpus_schema`.
        rows: (N,) int64 row numbers, ascending, each once.
        max_text_bytes: see `read_rows`.
        csv: as it was planned with.

    Returns:
        These rows, the bad ones among them apart.

    Raises:
        InputError: the file changed since it was planned, is damaged, or lacks a column.
    """
    if shard.format == "parquet":
        unit = Unit(0, shard.url, shard.identity, "parquet", start=0, stop=shard.n_rows)
        selection = Selection(schema, (), None, max_text_bytes)
        check_identity(unit)
        try:
            chosen = retry(lambda: parquet.read(unit, selection, rows), shard.url)
        except FileNotFoundError as error:
            raise InputError(f"{redact(unit.url)}: {_GONE}") from error
        check_identity(unit)
        return chosen
    parts = []
    for unit in plan_units([shard], _ROWS_AT_ONCE):
        here = rows[slice(*np.searchsorted(rows, (unit.start, unit.stop)))]
        if len(here):
            read = read_rows(unit, schema, max_text_bytes=max_text_bytes, csv=csv)
            is_here = np.isin(read.row_numbers, here)
            bad = [row for row in read.bad if row.row in set(here.tolist())]
            table = read.table.filter(pa.array(is_here))
            parts.append(Rows(table, read.row_numbers[is_here], bad))
    return concat(parts, schema)


def check_identity(unit: Unit) -> None:
    """Refuse a shard that is not the one that was planned.

    The time of a local inode's last change is left out: machines that share a folder may see
    different ones. A shard that only this tells apart has another identity in the next plan.

    Raises:
        InputError: it changed or is gone.
    """
    try:
        if unit.format == "arrow":
            identity = arrow_dataset.describe(unit.url).identity
        else:
            identity = file_info(unit.url).identity
    except FileNotFoundError as error:
        raise InputError(f"{redact(unit.url)}: {_GONE}") from error
    if without_change_time(identity) != without_change_time(unit.identity):
        raise InputError(
            f"{redact(unit.url)}: changed since it was planned (identity {identity}, planned "
            f"{unit.identity}); plan again"
        )
