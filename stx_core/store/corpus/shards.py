"""Types that planning and reading share: a file of the corpus, its rows, the bad ones."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from stx_core.store.corpus.json_types import Profile

# A name of `stx_core.store.corpus.formats.READERS`.
Format = str

# Rows of a unit are held in memory as Arrow strings, whose offsets end at 2 GiB.
MAX_UNIT_BYTES = 2**31 - 1

_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Mark:
    """A place in a file of lines from which reading can go on.

    Attributes:
        row: number of the row that starts here.
        line: number of the line that starts here; rows are fewer than lines.
        byte: position in the (decompressed) file.
    """

    row: int
    line: int
    byte: int


@dataclass(frozen=True)
class Shard:
    """A file of the corpus, as the plan sees it.

    Attributes:
        url: where it is.
        identity: see `FileInfo.identity`.
        format: how it is read.
        n_rows: its rows, bad ones counted.
        boundaries: row numbers at which row groups start, then `n_rows`; (0, n_rows) where a file
            has none.
        schema: its columns, hive partition columns of the path (as strings) included.
        marks: for files of lines, ascending; empty for others.
        modified_s: see `FileInfo`.
        profiles: of JSON lines, what the columns hold that were asked for; types of the others are
            not known, and null in the schema.
        overridden: columns of the file that are partitions of its path, too; the path wins.
    """

    url: str
    identity: str
    format: Format
    n_rows: int
    boundaries: tuple[int, ...]
    schema: pa.Schema
    marks: tuple[Mark, ...] = ()
    modified_s: float | None = None
    profiles: Mapping[str, Profile] | None = None
    overridden: tuple[str, ...] = ()


@dataclass(frozen=True)
class CsvForm:
    """Meaning of the characters of a CSV file.

    Attributes:
        delimiter: between fields; None: a tab if the name ends in ``.tsv``, else a comma.
        quote: around fields that hold delimiters and line ends, doubled within; None if quotes are
            plain text.
        escape: in front of a character that is to be plain, quotes too.
        columns: names, if there is no header line.
    """

    delimiter: str | None = None
    quote: str | None = '"'
    escape: str | None = None
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class BadRow:
    """A row that could not be read.

    Attributes:
        row: its position in the shard.
        id: its id where that could be read.
        column: the column at fault; None when the whole row is.
        reason: a short closed word: ``invalid_utf8``, ``malformed``, ``too_large``, ``wrong_type``.
        detail: for people; never holds text of the document.
    """

    row: int
    id: str | int | None
    column: str | None
    reason: str
    detail: str


@dataclass(frozen=True)
class Rows:
    """Rows of a range of a shard: read, filtered out or bad; together all of the range.

    Attributes:
        table: the good rows, in file order, in the schema that was asked for.
        row_numbers: (N,) int64, position of each in the shard.
        bad: the rows that could not be read.
        n_filtered: rows that a filter left out.
    """

    table: pa.Table
    row_numbers: np.ndarray
    bad: list[BadRow] = field(default_factory=list)
    n_filtered: int = 0


def partitions(url: str) -> dict[str, str | None]:
    """Hive partition columns of a path: ``…/lang=en/part-0.parquet`` gives ``{"lang": "en"}``."""
    folders = [part.partition("=") for part in url.split("/")[:-1]]
    return {
        unquote(name): None if value == _HIVE_NULL else unquote(value)
        for name, equals, value in folders
        if equals and name
    }


def with_partitions(schema: pa.Schema, url: str) -> pa.Schema:
    """Add the partition columns of a path to the columns of its file.

    The path wins over the file: files are pruned by it before anybody knows their columns. The type
    is that of the file's own column where the path's value can be read as one.
    """
    for name, value in partitions(url).items():
        places = [place for place, column in enumerate(schema.names) if column == name]
        kind = pa.string()
        if len(places) == 1:
            own = schema.field(places[0]).type
            with suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):
                pa.repeat(pa.scalar(value, pa.string()).cast(own), 1)
                kind = pa.string() if pa.types.is_null(own) else own
        for place in reversed(places):
            schema = schema.remove(place)
        schema = schema.append(pa.field(name, kind))
    return schema


def overridden(schema: pa.Schema, url: str) -> tuple[str, ...]:
    """Columns of a file that stand in its path, too."""
    return tuple(name for name in partitions(url) if name in schema.names)
