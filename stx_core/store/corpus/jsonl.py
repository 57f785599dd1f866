"""Rows of a file with one JSON object per line."""

import gzip
import io
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import IO, Any, TypeVar

import numpy as np
import pyarrow as pa

from stx_core.errors import InputError
from stx_core.store.corpus.filters import Filter
from stx_core.store.corpus.select_rows import concat, select_rows
from stx_core.store.corpus.shards import (
    MAX_UNIT_BYTES,
    BadRow,
    Mark,
    Rows,
    Shard,
    partitions,
    with_partitions,
)
from stx_core.store.files.filesystem import FileInfo, open_stream
from stx_core.store.files.urls import redact
from stx_core.store.units import Unit

# A unit starts reading at most this many rows early; a billion rows have 250,000 marks.
MARK_ROWS = 4096
# Rows looked at for column types; later rows that do not fit are bad rows.
_SAMPLE_ROWS = 1000
_SAMPLE_BYTES = 64 << 20
# Rows and bytes parsed at once: bounds the memory of Python objects.
_BATCH_ROWS = 8192
_BATCH_BYTES = 64 << 20

# Lines of text compress 3 to 50 times; gzip cannot do more than 1,032. A file that grows beyond
# both limits is taken for an attack.
_MAX_RATIO = 200
_MAX_SUSPECT_BYTES = 1 << 30

_PIECE_BYTES = 1 << 20

Item = TypeVar("Item")

_BOM = b"\xef\xbb\xbf"


@contextmanager
def open_lines(url: str) -> Iterator[IO[bytes]]:
    """Open a file of lines, decompressed by its name.

    Raises:
        InputError: the compressed data is damaged, cut short, or grows out of all proportion.
    """
    with closing(open_stream(url)) as raw:
        source: Any = _Inflating(raw, url) if url.lower().endswith(".gz") else raw
        # Clients of stores give streams whose readline() takes no limit.
        stream = io.BufferedReader(source, _PIECE_BYTES)
        try:
            yield stream
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{redact(url)}: damaged gzip file ({error})") from error


class _Inflating(io.RawIOBase):
    """The decompressed bytes of a gzip file, with an eye on how many come out of how few."""

    def __init__(self, raw: IO[bytes], url: str) -> None:
        self._raw = raw
        self._gzip = gzip.GzipFile(fileobj=raw)
        self._url = url

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  (anything writable)
        n_read = self._gzip.readinto(buffer)
        plain, compressed = self._gzip.tell(), self._raw.tell()
        if plain > max(_MAX_SUSPECT_BYTES, _MAX_RATIO * compressed):
            raise InputError(
                f"{redact(self._url)}: {compressed:,} bytes grew to more than {plain:,}, over "
                f"{_MAX_RATIO} times; leave the file out, or compress it in smaller parts"
            )
        return n_read

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._gzip.seek(offset, whence)

    def tell(self) -> int:
        return self._gzip.tell()


def read_line(stream: IO[bytes], max_bytes: int) -> tuple[bytes | None, int]:
    """The next line, and its size; None for a line of more than `max_bytes`, which is not kept.

    At the end of the stream the size is 0.
    """
    line = stream.readline(max_bytes + 1)
    if len(line) <= max_bytes or line.endswith(b"\n"):
        return line, len(line)
    size = len(line)
    while not line.endswith(b"\n") and (line := stream.readline(_PIECE_BYTES)):
        size += len(line)
    return None, size


def _rows(stream: IO[bytes], mark: Mark, max_bytes: int) -> Iterator[tuple[Mark, bytes | None]]:
    """Lines that are not blank, each with its place; None for a line that is too long."""
    stream.seek(mark.byte)
    row, byte = mark.row, mark.byte
    for number in itertools.count(mark.line):
        line, size = read_line(stream, max_bytes)
        if not size:
            return
        if line is None or line.strip() not in (b"", _BOM):
            yield Mark(row, number, byte), line.removeprefix(_BOM) if line and not number else line
            row += 1
        byte += size


def shard(file: FileInfo, max_bytes: int) -> Shard:
    """Count the rows of a file in one pass, and look at the types of the first ones."""
    marks: list[Mark] = []
    sample: list[dict[str, Any]] = []
    n_rows = 0
    with open_lines(file.url) as stream:
        for place, line in _rows(stream, Mark(0, 0, 0), max_bytes):
            if place.row % MARK_ROWS == 0:
                marks.append(place)
            sampled = place.row < _SAMPLE_ROWS and place.byte < _SAMPLE_BYTES
            if sampled and line and isinstance(parsed := parse(line), dict):
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
        places = _rows(stream, unit.mark or Mark(0, 0, 0), max_bytes)
        inside = (place for place in places if place[0].row >= unit.start)
        for lines in in_batches(inside, lambda place: len(place[1] or b""), unit):
            objects, bad = _parse_all(lines, max_bytes)
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


def _parse_all(
    lines: Sequence[tuple[Mark, bytes | None]], max_bytes: int
) -> tuple[list[tuple[Mark, dict[str, Any]]], list[BadRow]]:
    objects, bad = [], []
    for place, line in lines:
        parsed = ("too_large", f"longer than {max_bytes} bytes") if line is None else parse(line)
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
