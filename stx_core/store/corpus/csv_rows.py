"""Rows of a CSV or TSV file; every value is text until the plan casts it."""

import csv
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import IO, Any

import numpy as np
import pyarrow as pa

from stx_core.errors import InputError
from stx_core.store.corpus.foreign import OLD_LINE_ENDS, refuse_foreign
from stx_core.store.corpus.json_types import is_text
from stx_core.store.corpus.jsonl import MARK_ROWS, in_batches
from stx_core.store.corpus.lines import open_lines, read_line
from stx_core.store.corpus.select_rows import Selection, concat, select_rows
from stx_core.store.corpus.shards import (
    BadRow,
    CsvForm,
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

# The csv module's own limit, 128 KiB, is for the whole process and shorter than long documents.
_FIELD_LIMIT = 2**31 - 1

_BROKEN = (
    "a quote is not closed, or text stands behind a closed one; mend the line, or say in "
    "inputs.csv what quotes mean (quote: null where they are plain text)"
)

# Fields of a record, or the reason and detail of a record that has none.
Record = list[str] | tuple[str, str]


class _TooLargeError(Exception):
    """A line is longer than it may be."""


class _NotClosedError(Exception):
    """A quote is not closed within the length that a record may have."""


@dataclass
class _Lines:
    """Decoded lines of a stream, counted, for csv.reader to take as many as a record needs.

    Those of one record are kept, so that all but the first can be given back.

    Attributes:
        stream: at the byte.
        max_bytes: of a line, and of a record.
        line: number of the next line.
        byte: where it starts.
    """

    stream: IO[bytes]
    max_bytes: int
    line: int
    byte: int
    _start: int = field(init=False)
    _taken: list[tuple[bytes | None, int]] = field(default_factory=list, init=False)
    _given_back: deque[tuple[bytes | None, int]] = field(default_factory=deque, init=False)

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        raw, size = (
            self._given_back.popleft()
            if self._given_back
            else read_line(self.stream, self.max_bytes)
        )
        if not size:
            raise StopIteration
        self._taken.append((raw, size))
        encoding = "utf-8-sig" if self.line == 0 else "utf-8"
        self.line += 1
        self.byte += size
        if raw is None:
            raise _TooLargeError
        if self.byte - self._start > self.max_bytes:
            raise _NotClosedError
        # Bytes that are no UTF-8 travel as surrogates, so that one row is bad and not the file.
        return raw.decode(encoding, errors="surrogateescape")

    def begin_record(self) -> tuple[int, int]:
        """Forget the lines of the record before; line and byte where the next one starts."""
        self._taken.clear()
        self._start = self.byte
        return self.line, self.byte

    def give_back(self) -> None:
        """Take back all lines of the record but the first."""
        for raw, size in reversed(self._taken[1:]):
            self._given_back.appendleft((raw, size))
            self.line -= 1
            self.byte -= size


def _records(
    stream: IO[bytes], url: str, form: CsvForm, mark: Mark, *, max_bytes: int
) -> Iterator[tuple[Mark, Record]]:
    """Records that are not empty, each with its place."""
    stream.seek(mark.byte)
    lines = _Lines(stream, max_bytes, mark.line, mark.byte)
    name = url.lower().removesuffix(".gz")
    delimiter = form.delimiter or ("\t" if name.endswith(".tsv") else ",")
    reader: Iterator[list[str]]
    if form.quote is None and form.escape is None:
        # No generator: it goes on behind a line that was refused.
        reader = map(partial(_split, delimiter=delimiter), lines)
    else:
        csv.field_size_limit(_FIELD_LIMIT)
        reader = csv.reader(
            lines,
            delimiter=delimiter,
            quotechar=form.quote,
            quoting=csv.QUOTE_NONE if form.quote is None else csv.QUOTE_MINIMAL,
            escapechar=form.escape,
            # Else what stands behind a closing quote is put to the field, and the quote is lost.
            strict=True,
        )
    row = mark.row
    while True:
        line, byte = lines.begin_record()
        fields: Record
        try:
            fields = next(reader)
        except StopIteration:
            return
        except _TooLargeError:
            fields = "too_large", f"the line is longer than {max_bytes} bytes"
            lines.give_back()
        except (_NotClosedError, csv.Error):
            # Where the record should have ended nobody knows. So that it does not take others
            # along, its first line alone is bad, and the next one is a record again.
            fields = "malformed", _BROKEN
            lines.give_back()
        if fields != []:
            yield Mark(row, line, byte), fields
            row += 1


def _split(line: str, delimiter: str) -> list[str]:
    """Fields of a line in which no character but the delimiter means anything."""
    line = line.removesuffix("\n").removesuffix("\r")
    return line.split(delimiter) if line else []


def header(stream: IO[bytes], url: str, form: CsvForm, max_bytes: int) -> tuple[list[str], Mark]:
    """Column names, and where the rows begin.

    Raises:
        InputError: there is no such line.
    """
    if form.columns:
        return list(form.columns), Mark(0, 0, 0)
    records = _records(stream, url, form, Mark(-1, 0, 0), max_bytes=max_bytes)
    place, names = next(records, (Mark(-1, 0, 0), []))
    if isinstance(names, tuple) or not all(map(is_text, names)):
        stream.seek(place.byte)
        line, _ = read_line(stream, max_bytes)
        if line and b"\r" in line.rstrip():
            raise InputError(f"{redact(url)}: {OLD_LINE_ENDS}")
        raise InputError(
            f"{redact(url)}: the header line is no valid UTF-8 CSV; mend it, or name the columns "
            "in inputs.csv.columns if there is none"
        )
    after = next(records, None)
    return names, Mark(0, 1, stream.tell()) if after is None else after[0]


def shard(file: FileInfo, max_bytes: int, form: CsvForm = CsvForm()) -> Shard:  # noqa: B008
    """Count the rows of a file in one pass."""
    marks: list[Mark] = []
    n_rows = 0
    with open_lines(file.url) as stream:
        refuse_foreign(stream, file.url)
        names, start = header(stream, file.url, form, max_bytes)
        for place, _ in _records(stream, file.url, form, start, max_bytes=max_bytes):
            if place.row % MARK_ROWS == 0:
                marks.append(place)
            n_rows += 1
    own = pa.schema([pa.field(name, pa.string()) for name in names])
    return Shard(
        file.url,
        file.identity,
        "csv",
        n_rows=n_rows,
        boundaries=(0, n_rows),
        schema=with_partitions(own, file.url),
        marks=tuple(marks),
        overridden=overridden(own, file.url),
    )


def read(unit: Unit, selection: Selection, form: CsvForm = CsvForm()) -> Rows:  # noqa: B008
    """Read the row range of a unit; records that cannot be used become bad rows."""
    parts: list[Rows] = []
    with open_lines(unit.url) as stream:
        names, start = header(stream, unit.url, form, selection.max_bytes)
        columns = _columns(names, selection, unit.url)
        first = unit.mark or start
        records = _records(stream, unit.url, form, first, max_bytes=selection.max_bytes)
        inside = (record for record in records if record[0].row >= unit.start)
        for batch in in_batches(inside, lambda record: sum(map(len, record[1])), unit):
            rows: list[int] = []
            taken: dict[str, list[Any]] = {name: [] for name in columns}
            bad: list[BadRow] = []
            for mark, record in batch:
                values, problem = _parse(record, len(names), columns)
                if problem is not None:
                    column, reason, detail = problem
                    detail = f"line {mark.line + 1}: {detail}"
                    id_ = None if selection.id_column is None else values.get(selection.id_column)
                    bad.append(BadRow(mark.row, id_, column, reason=reason, detail=detail))
                    continue
                rows.append(mark.row)
                for name, value in values.items():
                    taken[name].append(value)
            table = pa.table(
                {name: pa.array(taken[name], kind) for name, (_, kind) in columns.items()}
            )
            chosen = select_rows(table, np.array(rows, np.int64), selection, unit.url)
            parts.append(replace(chosen, bad=bad))
    return concat(parts, selection.schema)


def _columns(
    names: list[str], selection: Selection, url: str
) -> dict[str, tuple[int, pa.DataType]]:
    """Position and type of the columns to take: the type of the plan, or of the filter's value."""
    kinds = {field.name: field.type for field in selection.schema}
    for name, op, value in selection.filters:
        example = next(iter(value), None) if op in ("in", "not in") else value
        if isinstance(example, (int, float)) and not isinstance(example, bool):
            # Fractions may stand beside the whole number that they are compared with.
            kind = pa.float64()
        else:
            kind = pa.string() if example is None else pa.scalar(example).type
        kinds.setdefault(name, kind)
    columns = {}
    for name in selection.columns_outside(partitions(url)):
        if name not in names:
            raise InputError(
                f"{redact(url)}: no column {name!r}; the header has {', '.join(names)}"
            )
        if names.count(name) > 1:
            raise InputError(
                f"{redact(url)}: the header names column {name!r} twice; rename one of them"
            )
        columns[name] = names.index(name), kinds[name]
    return columns


def _parse(
    record: Record, n_fields: int, columns: Mapping[str, tuple[int, pa.DataType]]
) -> tuple[dict[str, Any], tuple[str | None, str, str] | None]:
    """The fields of a record that can be read, and what is wrong with it first, if anything.

    Args:
        record: from `_records`.
        n_fields: how many it should have.
        columns: position and type of those to take.

    Returns:
        Values by column; an empty field is an empty string, or null for other types. And column,
        reason and detail of the problem.
    """
    if isinstance(record, tuple):
        return {}, (None, *record)
    if len(record) != n_fields:
        return {}, (None, "malformed", f"{len(record)} fields, the header has {n_fields}")
    values: dict[str, Any] = {}
    problems: list[tuple[str, str, str]] = []
    for name, (position, kind) in columns.items():
        text = record[position]
        if not is_text(text):
            problems.append((name, "invalid_utf8", f"column {name!r} is not valid UTF-8"))
        elif kind == pa.string():
            values[name] = text
        else:
            try:
                values[name] = pa.scalar(text).cast(kind).as_py() if text else None
            except pa.ArrowInvalid:
                problems.append((name, "wrong_type", f"column {name!r} cannot be read as {kind}"))
    return values, problems[0] if problems else None
