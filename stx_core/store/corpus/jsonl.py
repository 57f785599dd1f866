"""Rows of a file with one JSON object per line."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, TypeVar

import numpy as np
import pyarrow as pa

from stx_core.errors import InputError
from stx_core.store.corpus.filters import Filter
from stx_core.store.corpus.foreign import refuse_foreign, refuse_other_json
from stx_core.store.corpus.json_scan import BOM, is_blank, parse, scan
from stx_core.store.corpus.json_types import Misfit, Profile, to_array, type_of
from stx_core.store.corpus.lines import open_lines, read_line
from stx_core.store.corpus.select_rows import concat, select_rows
from stx_core.store.corpus.shards import (
    MAX_UNIT_BYTES,
    BadRow,
    Mark,
    Rows,
    Shard,
    overridden,
    partitions,
    with_partitions,
)
from stx_core.store.corpus.units import Unit
from stx_core.store.files.filesystem import FileInfo
from stx_core.store.files.urls import redact

# A unit starts reading at most this many rows early; a billion rows have 250,000 marks.
MARK_ROWS = 4096
_FIRST_BYTES = 4096
# Rows and bytes parsed at once: bounds the memory of Python objects.
_BATCH_ROWS = 8192
_BATCH_BYTES = 64 << 20


Item = TypeVar("Item")


# A line with its place: number of row and line, position in the file; None if it is too long.
Line = tuple[int, int, int, bytes | None]


def _rows(stream: IO[bytes], mark: Mark, max_bytes: int) -> Iterator[Line]:
    """Lines that are not blank."""
    stream.seek(mark.byte)
    row, byte = mark.row, mark.byte
    for number in itertools.count(mark.line):
        line, size = read_line(stream, max_bytes)
        if not size:
            return
        if line is None or not is_blank(line):
            yield row, number, byte, line.removeprefix(BOM) if line and not number else line
            row += 1
        byte += size


def shard(file: FileInfo, max_bytes: int, columns: Sequence[str] | None = None) -> Shard:
    """Look at all rows of a file in one pass: how many, and what their columns hold.

    Args:
        file: from a listing.
        max_bytes: longer lines are bad rows.
        columns: those whose types matter; None for all.

    Raises:
        InputError: the file cannot be read, or holds no JSON lines at all; says what instead.
    """
    with open_lines(file.url) as stream:
        refuse_foreign(stream, file.url)
        first = bytes(stream.peek(_FIRST_BYTES)[:_FIRST_BYTES])
        found = scan(stream, max_bytes, MARK_ROWS, columns)
    if found.n_rows > 2 * found.n_objects:
        refuse_other_json(first, found.n_rows, file.url)
    profiles = found.profiles
    types = {name: type_of(profile, name) for name, profile in profiles.items()}
    fields = [pa.field(name, types.get(name, pa.null())) for name in found.names]
    own = pa.schema(fields)
    in_path = overridden(own, file.url)
    return Shard(
        file.url,
        file.identity,
        "jsonl",
        found.n_rows,
        (0, found.n_rows),
        with_partitions(own, file.url),
        found.marks,
        profiles={name: one for name, one in profiles.items() if name not in in_path},
        overridden=in_path,
    )


def read(
    unit: Unit,
    schema: pa.Schema,
    filters: Sequence[Filter],
    id_column: str | None,
    max_bytes: int,
) -> Rows:
    """Read the row range of a unit; lines that cannot be used become bad rows."""
    parts: list[Rows] = []
    with open_lines(unit.url) as stream:
        lines = _rows(stream, unit.mark or Mark(0, 0, 0), max_bytes)
        inside = (line for line in lines if line[0] >= unit.start)
        for batch in in_batches(inside, lambda line: len(line[3] or b""), unit):
            objects, bad = _parse_all(batch, max_bytes)
            parts.append(_to_rows(objects, bad, schema, filters, unit.url, id_column))
    return concat(parts, schema)


def in_batches(
    items: Iterable[Item], size: Callable[[Item], int], unit: Unit
) -> Iterator[list[Item]]:
    """Group the rows of a unit so that a group is small enough for Python objects.

    Args:
        items: the unit's rows, and whatever follows.
        size: bytes of one.
        unit: how many to take.

    Raises:
        InputError: together they have more bytes than a unit may hold.
    """
    batch: list[Item] = []
    total = n_bytes = 0
    for item in itertools.islice(items, unit.n_rows):
        batch.append(item)
        n_bytes += size(item)
        if len(batch) < _BATCH_ROWS and n_bytes < _BATCH_BYTES:
            continue
        total += n_bytes
        if total > MAX_UNIT_BYTES:
            raise InputError(
                f"{redact(unit.url)}: rows {unit.start} to {unit.stop} hold more than "
                f"{MAX_UNIT_BYTES:,} bytes; set resources.rows_per_unit lower"
            )
        yield batch
        batch, n_bytes = [], 0
    if batch:
        yield batch


@dataclass(frozen=True)
class _Parsed:
    """An object, and the numbers of its row and line."""

    row: int
    line: int
    values: dict[str, Any]


def _parse_all(lines: Sequence[Line], max_bytes: int) -> tuple[list[_Parsed], list[BadRow]]:
    objects, bad = [], []
    for row, number, _, line in lines:
        parsed = ("too_large", f"longer than {max_bytes} bytes") if line is None else parse(line)
        if isinstance(parsed, dict):
            objects.append(_Parsed(row, number, parsed))
        else:
            reason, detail = parsed
            bad.append(BadRow(row, None, None, reason, f"line {number + 1}: {detail}"))
    return objects, bad


def _columns(
    schema: pa.Schema, filters: Sequence[Filter], objects: Sequence[_Parsed], url: str
) -> dict[str, Any]:
    """Columns to take from each object, with the type of each.

    One that is only filtered on has the kind of the filter's value, and whatever type holds the
    numbers of these rows.
    """
    wanted = {field.name: field.type for field in schema}
    for name, op, value in filters:
        if name in schema.names:
            continue
        example = next(iter(value), None) if op in ("in", "not in") else value
        if op in ("is null", "is not null") or example is None:
            wanted.setdefault(name, None)
        elif isinstance(example, bool):
            wanted[name] = pa.bool_()
        elif isinstance(example, (int, float)):
            numbers = Profile()
            numbers.add([one.values.get(name) for one in objects])
            kind = type_of(numbers, name, "number")
            wanted[name] = pa.float64() if pa.types.is_null(kind) else kind
        else:
            wanted[name] = pa.string()
    in_path = partitions(url)
    return {name: kind for name, kind in wanted.items() if name not in in_path}


def _values(objects: Sequence[_Parsed], name: str, kind: Any) -> list[Any]:  # noqa: ANN401
    if kind is None:
        # Only whether there is one.
        return [None if one.values.get(name) is None else True for one in objects]
    return [one.values.get(name) for one in objects]


def _to_rows(
    objects: list[_Parsed],
    bad: list[BadRow],
    schema: pa.Schema,
    filters: Sequence[Filter],
    url: str,
    id_column: str | None,
) -> Rows:
    wanted = _columns(schema, filters, objects, url)
    columns: dict[str, pa.Array] = {}
    misfits: dict[int, BadRow] = {}
    for name, kind in wanted.items():
        values = _values(objects, name, kind)
        try:
            columns[name] = to_array(values, kind or pa.bool_())
        except Misfit:
            good = [_fits(value, kind) for value in values]
            columns[name] = to_array(
                [value if fit else None for value, fit in zip(values, good, strict=True)], kind
            )
            for one, fit in zip(objects, good, strict=True):
                if not fit and one.row not in misfits:
                    misfits[one.row] = _misfit(one, name, kind, wanted, id_column)
    rows = np.array([one.row for one in objects], np.int64)
    table = pa.table(columns) if columns else pa.table({"": pa.nulls(len(rows))})
    if misfits:
        keep = ~np.isin(rows, list(misfits))
        table, rows = table.filter(pa.array(keep)), rows[keep]
    found = select_rows(table, rows, schema, filters, url, id_column)
    bad = sorted([*bad, *misfits.values()], key=lambda row: row.row)
    return Rows(found.table, found.row_numbers, bad, found.n_filtered)


def _misfit(
    one: _Parsed,
    name: str,
    kind: Any,  # noqa: ANN401
    wanted: dict[str, Any],
    id_column: str | None,
) -> BadRow:
    known = one.values.get(id_column) if id_column in wanted else None
    if known is not None and not _fits(known, wanted[str(id_column)]):
        known = None
    value, detail = one.values[name], ""
    try:
        to_array([value], kind)
    except Misfit as error:
        detail = str(error)
    # A surrogate alone, as in "\ud800", is JSON but no text.
    reason = "invalid_utf8" if kind == pa.string() and isinstance(value, str) else "wrong_type"
    detail = f"line {one.line + 1}: column {name!r} {detail}"
    return BadRow(one.row, known, name, reason, detail)


def _fits(value: Any, kind: Any) -> bool:  # noqa: ANN401
    try:
        to_array([value], kind)
    except Misfit:
        return False
    return True
