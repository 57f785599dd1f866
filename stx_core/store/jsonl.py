"""Rows of a file with one JSON object per line."""

import gzip
import itertools
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import IO, Any

import numpy as np
import pyarrow as pa

from stx_core.errors import InputError
from stx_core.store.filesystem import FileInfo, open_stream
from stx_core.store.filters import Filter
from stx_core.store.select_rows import concat, select_rows
from stx_core.store.shards import BadRow, Mark, Rows, Shard, partitions, with_partitions
from stx_core.store.units import Unit
from stx_core.store.urls import redact

# A unit starts reading at most this many rows early; a billion rows have 250,000 marks.
MARK_ROWS = 4096
# Rows looked at for column types; later rows that do not fit are bad rows.
_SAMPLE_ROWS = 1000
# Rows parsed at once: bounds the memory of Python objects.
_BATCH_ROWS = 8192

_BOM = b"\xef\xbb\xbf"


@contextmanager
def open_lines(url: str) -> Iterator[IO[bytes]]:
    """Open a file of lines, decompressed by its name.

    Raises:
        InputError: the compressed data is damaged or cut short.
    """
    with closing(open_stream(url)) as raw:
        stream: Any = gzip.GzipFile(fileobj=raw) if url.lower().endswith(".gz") else raw
        try:
            yield stream
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{redact(url)}: damaged gzip file ({error})") from error


def _rows(stream: IO[bytes], mark: Mark) -> Iterator[tuple[Mark, bytes]]:
    """Lines that are not blank, each with its place."""
    stream.seek(mark.byte)
    row, byte = mark.row, mark.byte
    for number, line in enumerate(stream, mark.line):
        if line.strip() and line.strip() != _BOM:
            yield Mark(row, number, byte), line.removeprefix(_BOM) if number == 0 else line
            row += 1
        byte += len(line)


def shard(file: FileInfo) -> Shard:
    """Count the rows of a file in one pass, and look at the types of the first ones."""
    marks: list[Mark] = []
    sample: list[dict[str, Any]] = []
    n_rows = 0
    with open_lines(file.url) as stream:
        for place, line in _rows(stream, Mark(0, 0, 0)):
            if place.row % MARK_ROWS == 0:
                marks.append(place)
            if place.row < _SAMPLE_ROWS and isinstance(parsed := parse(line), dict):
                sample.append(parsed)
            n_rows += 1
    schema = with_partitions(_infer(sample), file.url)
    return Shard(file.url, file.identity, "jsonl", n_rows, (0, n_rows), schema, tuple(marks))


def parse(line: bytes) -> dict[str, Any] | tuple[str, str]:
    """Parse a line to an object, or give the reason and detail of a bad row."""
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return "invalid_utf8", f"byte {error.start} of the line is not valid UTF-8"
    except json.JSONDecodeError as error:
        return "malformed", f"no JSON: {error.msg} at character {error.pos}"
    except (RecursionError, ValueError) as error:
        return "malformed", f"no JSON: {type(error).__name__}"
    if not isinstance(value, dict):
        return "malformed", f"expected a JSON object, found {type(value).__name__}"
    return value


def _infer(sample: Sequence[dict[str, Any]]) -> pa.Schema:
    names = dict.fromkeys(name for row in sample for name in row)
    return pa.schema([pa.field(name, _infer_type(name, sample)) for name in names])


def _infer_type(name: str, sample: Sequence[dict[str, Any]]) -> Any:  # noqa: ANN401
    try:
        return pa.infer_type([row.get(name) for row in sample])
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError, OverflowError):
        # Mixed types: that of most rows, the others become bad rows.
        kinds = [_type_of(row[name]) for row in sample if row.get(name) is not None]
        return max(kinds, key=kinds.count)


def _type_of(value: Any) -> Any:  # noqa: ANN401
    try:
        return pa.infer_type([value])
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError, OverflowError):
        return pa.null()


def read(unit: Unit, schema: pa.Schema, filters: Sequence[Filter], id_column: str | None) -> Rows:
    """Read the row range of a unit; lines that cannot be used become bad rows."""
    parts: list[Rows] = []
    with open_lines(unit.url) as stream:
        places = _rows(stream, unit.mark or Mark(0, 0, 0))
        inside = (place for place in places if place[0].row >= unit.start)
        while lines := list(itertools.islice(inside, min(_BATCH_ROWS, _left(unit, parts)))):
            objects, bad = _parse_all(lines)
            parts.append(_to_rows(objects, bad, schema, filters, unit.url, id_column))
    return concat(parts, schema)


def _left(unit: Unit, parts: Sequence[Rows]) -> int:
    done = sum(len(part.table) + len(part.bad) + part.n_filtered for part in parts)
    return unit.n_rows - done


def _parse_all(
    lines: Sequence[tuple[Mark, bytes]],
) -> tuple[list[tuple[Mark, dict[str, Any]]], list[BadRow]]:
    objects, bad = [], []
    for place, line in lines:
        parsed = parse(line)
        if isinstance(parsed, dict):
            objects.append((place, parsed))
        else:
            reason, detail = parsed
            bad.append(BadRow(place.row, None, None, reason, f"line {place.line + 1}: {detail}"))
    return objects, bad


def _columns(
    schema: pa.Schema, filters: Sequence[Filter], sample: Sequence[dict[str, Any]], url: str
) -> pa.Schema:
    """Columns to take from each object; those only filtered on have the type of their values."""
    for name, op, value in filters:
        if name in schema.names:
            continue
        kind = _infer_type(name, sample)
        if pa.types.is_null(kind):
            kind = pa.infer_type(value if op in ("in", "not in") else [value])
        schema = schema.append(pa.field(name, kind))
    in_path = partitions(url)
    return pa.schema([field for field in schema if field.name not in in_path])


def _to_rows(
    objects: list[tuple[Mark, dict[str, Any]]],
    bad: list[BadRow],
    schema: pa.Schema,
    filters: Sequence[Filter],
    url: str,
    id_column: str | None,
) -> Rows:
    wanted = _columns(schema, filters, [row for _, row in objects], url)
    misfits = _misfits(objects, wanted, id_column)
    bad = sorted([*bad, *misfits.values()], key=lambda row: row.row)
    good = [(place.row, row) for place, row in objects if place.row not in misfits]
    columns = [pa.array([row.get(field.name) for _, row in good], field.type) for field in wanted]
    table = pa.Table.from_arrays(columns, schema=wanted)
    rows = select_rows(
        table, np.array([row for row, _ in good], np.int64), schema, filters, url, id_column
    )
    return Rows(rows.table, rows.row_numbers, bad, rows.n_filtered)


def _misfits(
    objects: list[tuple[Mark, dict[str, Any]]], wanted: pa.Schema, id_column: str | None
) -> dict[int, BadRow]:
    """Rows with a value that does not fit its column, by row number."""
    bad: dict[int, BadRow] = {}
    for field in wanted:
        if _fits([row.get(field.name) for _, row in objects], field.type):
            continue
        for place, row in objects:
            value = row.get(field.name)
            if place.row in bad or _fits([value], field.type):
                continue
            # A surrogate alone, as in "\ud800", is JSON but no text.
            reason = (
                "invalid_utf8"
                if isinstance(value, str) and field.type == pa.string()
                else ("wrong_type")
            )
            bad[place.row] = BadRow(
                place.row,
                _known_id(row, wanted, id_column),
                field.name,
                reason,
                f"line {place.line + 1}: column {field.name!r} should be {field.type}, "
                f"found {type(value).__name__}",
            )
    return bad


def _known_id(row: dict[str, Any], wanted: pa.Schema, id_column: str | None) -> Any:  # noqa: ANN401
    if id_column is None or id_column not in wanted.names:
        return None
    value = row.get(id_column)
    return value if _fits([value], wanted.field(id_column).type) else None


def _fits(values: list[Any], kind: Any) -> bool:  # noqa: ANN401
    try:
        pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError, OverflowError):
        return False
    return True
