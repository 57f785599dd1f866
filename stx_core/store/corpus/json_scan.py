"""One pass over a file of JSON lines: its rows, places to start from, and what its columns hold.

As fast as pyarrow's parser where a block of lines holds what the lines before it let expect, which
that parser proves and counts; any other block is parsed by Python, which takes whatever comes.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.json

from stx_core.store.buffers import owned
from stx_core.store.corpus.json_types import LAST_EXACT, Json, JsonObject, Profile, is_text
from stx_core.store.corpus.lines import read_line
from stx_core.store.corpus.shards import Mark

BOM = b"\xef\xbb\xbf"
BLANK = (b"", BOM)
"""Lines that are no rows, when they are stripped."""

_BLOCK_BYTES = 4 << 20
# The first rows say what to expect of the others.
_SAMPLE_BYTES = 1 << 16
# Column names that messages can choose from; rows of dynamic keys may have millions.
_MAX_NAMES = 1000

_NEWLINE = 10
_SPACES = np.array([9, 10, 11, 12, 13, 32, BOM[0]], np.uint8)


@dataclass
class Scan:
    """Contents of a file.

    Attributes:
        n_rows: lines that are not blank.
        n_objects: about how many of them can be parsed.
        marks: where every so many rows start.
        names: of columns, in the order of their appearance; some 1,000 at most.
        profiles: by name, of the columns that were asked for and have a value.
    """

    n_rows: int = 0
    n_objects: int = 0
    marks: tuple[Mark, ...] = ()
    names: dict[str, None] = field(default_factory=dict)
    profiles: dict[str, Profile] = field(default_factory=dict)

    def add(self, rows: Sequence[JsonObject], columns: Sequence[str] | None) -> None:
        """Count what parsed rows hold."""
        self.n_objects += len(rows)
        keys = dict.fromkeys(chain.from_iterable(rows))
        for name in filter(is_text, keys):
            if len(self.names) < _MAX_NAMES or (columns and name in columns):
                self.names.setdefault(name)
        for name in self.names if columns is None else columns:
            if name in keys:
                values = [row.get(name) for row in rows]
                self.profiles.setdefault(name, Profile()).add(values)


def scan(stream: IO[bytes], max_bytes: int, mark_rows: int, columns: Sequence[str] | None) -> Scan:
    """Look at all lines of a stream.

    Args:
        stream: at its start.
        max_bytes: longer lines are rows, too, but not looked into.
        mark_rows: rows from one mark to the next.
        columns: those to look into; None for all.
    """
    result, marks = Scan(), []
    n_lines = position = 0
    for data, size in _blocks(stream, max_bytes):
        if data is None:
            # One line, too long to tell what it holds.
            starts, ends, filled = np.array([0]), np.array([size]), np.array([0])
        else:
            ends = np.flatnonzero(np.frombuffer(data, np.uint8) == _NEWLINE)
            if not data.endswith(b"\n"):
                ends = np.append(ends, size)
            starts = np.concatenate([[0], ends[:-1] + 1])
            # A blank one begins with a space, a newline, or what editors put in front of a file.
            firsts = np.frombuffer(data, np.uint8)[np.minimum(starts, len(data) - 1)]
            doubtful = np.flatnonzero(np.isin(firsts, _SPACES) & (ends - starts <= max_bytes))
            blank = [
                line
                for line in doubtful.tolist()
                if data[starts[line] : ends[line]].strip() in BLANK
            ]
            filled = np.setdiff1d(np.arange(len(starts)), blank, assume_unique=True)
        rows = result.n_rows + np.arange(len(filled))
        for place in np.flatnonzero(rows % mark_rows == 0).tolist():
            line = int(filled[place])
            marks.append(Mark(int(rows[place]), n_lines + line, position + int(starts[line])))
        result.n_rows += len(filled)
        short = filled[(ends - starts)[filled] <= max_bytes]
        if data is not None and not (
            len(short) == len(filled) and _as_expected(data, result, columns)
        ):
            lines = [data[starts[line] : ends[line]] for line in short.tolist()]
            result.add(objects(lines), columns)
        n_lines += len(starts)
        position += size
    result.marks = tuple(marks)
    return result


def _blocks(stream: IO[bytes], max_bytes: int) -> Iterator[tuple[bytes | None, int]]:
    """Whole lines, and their size; None for a line that is far too long."""
    n_bytes = _SAMPLE_BYTES
    while data := stream.read(n_bytes):
        n_bytes = _BLOCK_BYTES
        if data.endswith(b"\n"):
            yield data, len(data)
            continue
        rest, size = read_line(stream, max_bytes)
        if rest is not None:
            yield data + rest, len(data) + size
            continue
        head, newline, tail = data.rpartition(b"\n")
        if newline:
            yield head + newline, len(head) + 1
        yield None, len(tail) + size


def _as_expected(data: bytes, result: Scan, columns: Sequence[str] | None) -> bool:
    """Tell whether a block holds only values of the expected types; then they are counted."""
    if columns is None or not result.names:
        return False
    types = {}
    for name in columns:
        profile = result.profiles.get(name, Profile())
        counts = {
            pa.string(): profile.strings,
            pa.int64(): profile.ints,
            pa.float64(): profile.floats,
            pa.bool_(): profile.bools,
            None: profile.lists + profile.objects,
        }
        kind = max(counts, key=counts.__getitem__)
        if kind is None and counts[kind]:
            return False  # only Python can tell
        types[name] = kind if counts[kind] else pa.null()
    schema = pa.schema([pa.field(name, kind) for name, kind in types.items()])
    try:
        table = read_json(data.removeprefix(BOM), schema)
        profiles = {name: _profile(table[name]) for name in types}
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError, _DoubtfulError):
        return False
    result.n_objects += len(table)
    for name, profile in profiles.items():
        if name in result.profiles:
            result.profiles[name].merge(profile)
    return True


def read_json(data: bytes, schema: pa.Schema) -> pa.Table:
    """Parse lines of JSON objects; keys that the schema lacks are ignored.

    Raises:
        pa.ArrowInvalid: a line is no object, or a value has another type.
    """
    # On a null at the beginning pyarrow 26 ends the process.
    if data.lstrip(b" \t\r\n").startswith(b"null"):
        raise pa.ArrowInvalid("expected a JSON object, found null")
    options = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    blocks = pa.json.ReadOptions(use_threads=False, block_size=len(data) + 1)
    return pa.json.read_json(pa.BufferReader(owned(data)), blocks, options)


class _DoubtfulError(Exception):
    """The kinds of values of a column can no longer be told."""


def _profile(column: pa.ChunkedArray) -> Profile:
    """Counts of the values in a column of an expected type."""
    n_values = len(column) - column.null_count
    if pa.types.is_string(column.type):
        return Profile(strings=n_values)
    if pa.types.is_boolean(column.type):
        return Profile(bools=n_values)
    if not n_values:
        return Profile()
    values = column.drop_null().to_numpy()
    if pa.types.is_integer(column.type):
        # Not abs(): that of -2**63 is itself.
        long = (values > LAST_EXACT) | (values < -LAST_EXACT)
        return Profile(ints=n_values, negative=int((values < 0).sum()), inexact=int(long.sum()))
    if np.any(np.isfinite(values) & (np.abs(values) > LAST_EXACT)):
        # They may have been whole numbers.
        raise _DoubtfulError
    return Profile(floats=n_values)


def objects(lines: Sequence[bytes]) -> list[JsonObject]:
    """Parse lines; those that are no objects are left out."""
    try:
        parsed: list[Any] = [_decode(line.removeprefix(BOM).decode()) for line in lines]
    except (ValueError, RecursionError):
        parsed = [parse(line.removeprefix(BOM)) for line in lines]
    return [value for value in parsed if type(value) is dict]


class _TwiceError(ValueError):
    """An object has two values under one key."""


def _object(pairs: list[tuple[str, Json]]) -> JsonObject:
    values = dict(pairs)
    if len(values) < len(pairs) and any(values[key] != value for key, value in pairs):
        raise _TwiceError
    return values


# Types do not depend on keys that stand twice; looking for them takes a third of the time.
_decode = json.JSONDecoder().decode
_decode_strictly = json.JSONDecoder(object_pairs_hook=_object).decode


def parse(line: bytes) -> JsonObject | tuple[str, str]:
    """Parse a line to an object, or give the reason and detail of a bad row.

    ``NaN``, ``Infinity`` and ``-Infinity`` are taken as Python writes them. A key may stand twice
    if its values are equal: of others one would be lost.
    """
    try:
        value = _decode_strictly(line.decode())
    except UnicodeDecodeError as error:
        return "invalid_utf8", f"byte {error.start} of the line is not valid UTF-8"
    except json.JSONDecodeError as error:
        return "malformed", f"no JSON: {error.msg} at character {error.pos}"
    except _TwiceError:
        return "malformed", "a key stands twice in one object, with different values"
    except (RecursionError, ValueError) as error:
        return "malformed", f"no JSON: {type(error).__name__}"
    if not isinstance(value, dict):
        return "malformed", f"expected a JSON object, found {type(value).__name__}"
    return value
