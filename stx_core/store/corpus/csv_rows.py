"""Rows of a CSV or TSV file with a header line; every value is text until the plan casts it."""

import csv
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa

from stx_core.errors import InputError
from stx_core.store.corpus.filters import Filter
from stx_core.store.corpus.jsonl import MARK_ROWS, in_batches
from stx_core.store.corpus.lines import open_lines, read_line
from stx_core.store.corpus.select_rows import concat, select_rows
from stx_core.store.corpus.shards import BadRow, Mark, Rows, Shard, partitions, with_partitions
from stx_core.store.files.filesystem import FileInfo
from stx_core.store.files.urls import redact
from stx_core.store.units import Unit

# The csv module's own limit, 128 KiB, is for the whole process and shorter than long documents.
_FIELD_LIMIT = 2**31 - 1

# Fields of a record, or the reason and detail of a record that has none.
Record = list[str] | tuple[str, str]


class _TooLarge(Exception):
    """A record is longer than it may be: a long line, or a quote that is never closed."""


class _Lines:
    """Decoded lines of a stream, counted, for csv.reader to take as many as a record needs."""

    def __init__(self, stream: IO[bytes], mark: Mark, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        self.line = mark.line
        self.byte = mark.byte
        self.record_start = mark.byte

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        raw, size = read_line(self._stream, self._max_bytes)
        if not size:
            raise StopIteration
        encoding = "utf-8-sig" if self.line == 0 else "utf-8"
        self.line += 1
        self.byte += size
        if raw is None or self.byte - self.record_start > self._max_bytes:
            raise _TooLarge
        # Bytes that are no UTF-8 travel as surrogates, so that one row is bad and not the file.
        return raw.decode(encoding, errors="surrogateescape")


def _records(
    stream: IO[bytes], url: str, mark: Mark, max_bytes: int
) -> Iterator[tuple[Mark, Record]]:
    """Records that are not empty, each with its place."""
    stream.seek(mark.byte)
    lines = _Lines(stream, mark, max_bytes)
    csv.field_size_limit(_FIELD_LIMIT)
    name = url.lower().removesuffix(".gz")
    reader = csv.reader(lines, delimiter="\t" if name.endswith(".tsv") else ",")
    row = mark.row
    while True:
        place = Mark(row, lines.line, lines.byte)
        lines.record_start = lines.byte
        fields: Record
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error:
            fields = "malformed", "broken quotes or line ends"
        except _TooLarge:
            # The reader starts afresh with the next line.
            fields = "too_large", f"the record is longer than {max_bytes} bytes"
        if fields != []:
            yield place, fields
            row += 1


def _header(stream: IO[bytes], url: str, max_bytes: int) -> tuple[list[str], Mark]:
    """Column names, and where the rows begin."""
    records = _records(stream, url, Mark(-1, 0, 0), max_bytes)
    _, names = next(records, (None, []))
    if isinstance(names, tuple) or any(_invalid(name) for name in names):
        raise InputError(f"{redact(url)}: the header line is no valid UTF-8 CSV")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{redact(url)}: the header names column {twice[0]!r} twice")
    place, _ = next(records, (None, None))
    return names, place or Mark(0, 1, stream.tell())


def _invalid(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return True
    return False


def shard(file: FileInfo, max_bytes: int) -> Shard:
    """Count the rows of a file in one pass."""
    marks: list[Mark] = []
    n_rows = 0
    with open_lines(file.url) as stream:
        names, start = _header(stream, file.url, max_bytes)
        for place, _ in _records(stream, file.url, start, max_bytes):
            if place.row % MARK_ROWS == 0:
                marks.append(place)
            n_rows += 1
    schema = with_partitions(pa.schema([pa.field(name, pa.string()) for name in names]), file.url)
    return Shard(file.url, file.identity, "csv", n_rows, (0, n_rows), schema, tuple(marks))


def read(
    unit: Unit,
    schema: pa.Schema,
    filters: Sequence[Filter],
    id_column: str | None,
    max_bytes: int,
) -> Rows:
    """Read the row range of a unit; records that cannot be used become bad rows."""
    parts: list[Rows] = []
    with open_lines(unit.url) as stream:
        names, start = _header(stream, unit.url, max_bytes)
        wanted = _wanted(names, schema, filters, unit.url)
        records = _records(stream, unit.url, unit.mark or start, max_bytes)
        inside = (record for record in records if record[0].row >= unit.start)
        for batch in in_batches(inside, lambda record: sum(map(len, record[1])), unit):
            parts.append(_to_rows(batch, names, wanted, schema, filters, unit.url, id_column))
    return concat(parts, schema)


def _wanted(
    names: list[str], schema: pa.Schema, filters: Sequence[Filter], url: str
) -> dict[str, Any]:
    """Columns to take, with the type of each: that of the plan, or of the filter's value."""
    wanted = {field.name: field.type for field in schema}
    for name, op, value in filters:
        kind = pa.infer_type(value if op in ("in", "not in") else [value])
        wanted.setdefault(name, pa.string() if pa.types.is_null(kind) else kind)
    wanted = {name: kind for name, kind in wanted.items() if name not in partitions(url)}
    if missing := [name for name in wanted if name not in names]:
        raise InputError(
            f"{redact(url)}: no column {missing[0]!r}; the header has {', '.join(names)}"
        )
    return wanted


def _to_rows(
    records: Sequence[tuple[Mark, Record]],
    names: list[str],
    wanted: dict[str, Any],
    schema: pa.Schema,
    filters: Sequence[Filter],
    url: str,
    id_column: str | None,
) -> Rows:
    places = {name: names.index(name) for name in wanted}
    rows: list[int] = []
    values: dict[str, list[Any]] = {name: [] for name in wanted}
    bad: list[BadRow] = []
    for place, fields in records:
        problem = _problem(fields, len(names), places, wanted)
        if problem is not None:
            column, reason, detail = problem
            known = _known_id(fields, places, wanted, id_column, len(names))
            text = f"line {place.line + 1}: {detail}"
            bad.append(BadRow(place.row, known, column, reason, text))
            continue
        rows.append(place.row)
        for name, position in places.items():
            values[name].append(_value(fields[position], wanted[name]))
    table = pa.table({name: pa.array(column, wanted[name]) for name, column in values.items()})
    found = select_rows(table, np.array(rows, np.int64), schema, filters, url, id_column)
    return Rows(found.table, found.row_numbers, bad, found.n_filtered)


def _problem(
    fields: Record, n_columns: int, places: dict[str, int], wanted: dict[str, Any]
) -> tuple[str | None, str, str] | None:
    if isinstance(fields, tuple):
        return None, *fields
    if len(fields) != n_columns:
        return None, "malformed", f"{len(fields)} fields, the header has {n_columns}"
    for name, position in places.items():
        if _invalid(fields[position]):
            return name, "invalid_utf8", f"column {name!r} is not valid UTF-8"
        try:
            _value(fields[position], wanted[name])
        except pa.ArrowInvalid:
            return name, "wrong_type", f"column {name!r} cannot be read as {wanted[name]}"
    return None


def _known_id(
    fields: Record,
    places: dict[str, int],
    wanted: dict[str, Any],
    id_column: str | None,
    n_columns: int,
) -> Any:  # noqa: ANN401  (a value of the id column's type, or None)
    if isinstance(fields, tuple) or id_column not in places or len(fields) != n_columns:
        return None
    text = fields[places[id_column]]
    try:
        return None if _invalid(text) else _value(text, wanted[id_column])
    except pa.ArrowInvalid:
        return None


def _value(text: str, kind: Any) -> Any:  # noqa: ANN401
    """A field as a type; an empty one is an empty string, or null for other types."""
    if kind == pa.string():
        return text
    return pa.scalar(text).cast(kind).as_py() if text else None
