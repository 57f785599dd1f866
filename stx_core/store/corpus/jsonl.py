"""Rows of a file with one JSON object per line."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any, TypeVar

import numpy as np
import pyarrow as pa

from stx_core.errors import InputError
from stx_core.store.corpus.foreign import refuse_foreign, refuse_other_json
from stx_core.store.corpus.json_scan import BLANK, BOM, parse, scan
from stx_core.store.corpus.json_types import Json, JsonObject, Misfit, Profile, to_array, type_of
from stx_core.store.corpus.lines import open_lines, read_line
from stx_core.store.corpus.select_rows import Selection, concat, select_rows
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
        if line is None or line.strip() not in BLANK:
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
        lines = scan(stream, max_bytes, MARK_ROWS, columns)
    if lines.n_rows > 2 * lines.n_objects:
        refuse_other_json(first, lines.n_rows, file.url)
    types = {name: type_of(profile, name) for name, profile in lines.profiles.items()}
    fields = [pa.field(name, types.get(name, pa.null())) for name in lines.names]
    own = pa.schema(fields)
    in_path = overridden(own, file.url)
    return Shard(
        file.url,
        file.identity,
        "jsonl",
        n_rows=lines.n_rows,
        boundaries=(0, lines.n_rows),
        schema=with_partitions(own, file.url),
        marks=lines.marks,
        profiles={name: p for name, p in lines.profiles.items() if name not in in_path},
        overridden=in_path,
    )


def read(unit: Unit, selection: Selection) -> Rows:
    """Read the row range of a unit; lines that cannot be used become bad rows."""
    parts: list[Rows] = []
    too_large = "too_large", f"longer than {selection.max_bytes} bytes"
    with open_lines(unit.url) as stream:
        lines = _rows(stream, unit.mark or Mark(0, 0, 0), selection.max_bytes)
        inside = (line for line in lines if line[0] >= unit.start)
        for batch in in_batches(inside, lambda line: len(line[3] or b""), unit):
            objects, bad = [], []
            for row, number, _, line in batch:
                parsed = too_large if line is None else parse(line)
                if isinstance(parsed, dict):
                    objects.append(_Parsed(row, number, parsed))
                else:
                    reason, detail = parsed
                    detail = f"line {number + 1}: {detail}"
                    bad.append(BadRow(row, None, None, reason=reason, detail=detail))
            parts.append(_to_rows(objects, bad, selection, unit.url))
    return concat(parts, selection.schema)


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
    values: JsonObject


def _columns(
    selection: Selection, objects: Sequence[_Parsed], url: str
) -> dict[str, pa.DataType | None]:
    """Columns to take from each object, with the type of each.

    One that is only filtered on has the kind of the filter's value, and whatever type holds the
    numbers of these rows; None where only its nulls are.
    """
    kinds = {field.name: field.type for field in selection.schema}
    for name, op, value in selection.filters:
        if name in selection.schema.names:
            continue
        example = next(iter(value), None) if op in ("in", "not in") else value
        if op in ("is null", "is not null") or example is None:
            kinds.setdefault(name, None)
        elif isinstance(example, bool):
            kinds[name] = pa.bool_()
        elif isinstance(example, (int, float)):
            numbers = Profile()
            numbers.add([item.values.get(name) for item in objects])
            kind = type_of(numbers, name, "number")
            kinds[name] = pa.float64() if pa.types.is_null(kind) else kind
        else:
            kinds[name] = pa.string()
    return {name: kinds[name] for name in selection.columns_outside(partitions(url))}


def _to_rows(objects: list[_Parsed], bad: list[BadRow], selection: Selection, url: str) -> Rows:
    kinds, id_column = _columns(selection, objects, url), selection.id_column
    columns: dict[str, pa.Array] = {}
    misfits: dict[int, BadRow] = {}
    for name, kind in kinds.items():
        values = [item.values.get(name) for item in objects]
        if kind is None:
            columns[name] = pa.array([None if value is None else True for value in values])
            continue
        try:
            columns[name] = to_array(values, kind)
        except Misfit:
            problems = [_problem(value, kind) for value in values]
            pairs = zip(values, problems, strict=True)
            columns[name] = to_array([None if problem else value for value, problem in pairs], kind)
            for item, problem in zip(objects, problems, strict=True):
                if not problem or item.row in misfits:
                    continue
                id_: Any = None
                if id_column in kinds:
                    id_ = item.values.get(id_column)
                    id_ = None if _problem(id_, kinds[id_column]) else id_
                # A surrogate alone, as in "\ud800", is JSON but no text.
                is_text = kind == pa.string() and isinstance(item.values[name], str)
                reason = "invalid_utf8" if is_text else "wrong_type"
                detail = f"line {item.line + 1}: column {name!r} {problem}"
                misfits[item.row] = BadRow(item.row, id_, name, reason=reason, detail=detail)
    rows = np.array([item.row for item in objects], np.int64)
    table = pa.table(columns) if columns else pa.table({"": pa.nulls(len(rows))})
    if misfits:
        fitting = ~np.isin(rows, list(misfits))
        table, rows = table.filter(pa.array(fitting)), rows[fitting]
    chosen = select_rows(table, rows, selection, url)
    return replace(chosen, bad=sorted([*bad, *misfits.values()], key=lambda row: row.row))


def _problem(value: Json, kind: pa.DataType) -> str:
    """Why a value does not fit a type; empty if it does."""
    try:
        to_array([value], kind)
    except Misfit as error:
        return str(error)
    return ""
