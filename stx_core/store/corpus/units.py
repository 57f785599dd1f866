"""Files to units of work, and the keys that name them. Pure: nothing here reads a file."""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from stx_core.store.corpus.shards import Format, Mark, Shard
from stx_core.store.sealed import canonical_json

# Part of every key: raise it when files of the same unit would be written differently.
FORMAT_VERSION = 1

# The same for one format: raise its number when its files are read differently. What older versions
# read otherwise is then read again; texts that did not change are carried over.
_READ_AS = {"jsonl": 2, "csv": 2}

_MARK = pa.struct([("row", pa.int64()), ("line", pa.int64()), ("byte", pa.int64())])

# `pa.dictionary`: units of a shard share its URL.
_SHARED = pa.dictionary(pa.int32(), pa.string())

UNITS = pa.schema(
    [
        pa.field("index", pa.int64()),
        pa.field("url", _SHARED),
        pa.field("identity", _SHARED),
        pa.field("format", _SHARED),
        pa.field("start", pa.int64()),
        pa.field("stop", pa.int64()),
        pa.field("mark", _MARK),
    ]
)
"""Units as a table: the attributes of `Unit`."""

_PLAIN = pa.schema(
    [pa.field(f.name, pa.string()) if f.type == _SHARED else f for f in UNITS],
)
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Unit:
    """A contiguous row range of one shard: the atom of scheduling, writing, retry and resume.

    Attributes:
        index: position in the plan. Not part of the key.
        url: the shard.
        identity: of the shard when it was planned; reading checks it.
        format: of the shard.
        start: first row.
        stop: behind the last row.
        mark: where to start reading in a file of lines. Not part of the key.
    """

    index: int
    url: str
    identity: str
    format: Format
    start: int
    stop: int
    mark: Mark | None = None

    @property
    def n_rows(self) -> int:
        """Rows in the range, bad and filtered ones counted."""
        return self.stop - self.start


class Units:
    """The units of a plan as columns, 60 bytes each; a `Unit` is made when it is asked for.

    Attributes:
        table: see `UNITS`, a row each, in one chunk.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table.combine_chunks()

    @classmethod
    def of(cls, units: Iterable[Unit]) -> "Units":
        """Columns of single units."""
        rows = pa.Table.from_pylist([asdict(unit) for unit in units], schema=_PLAIN)
        return cls(rows.cast(UNITS))

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, place: int) -> Unit:
        return next(self.take([range(len(self))[place]]))

    def __iter__(self) -> Iterator[Unit]:
        for start in range(0, len(self), _ROWS_AT_ONCE):
            yield from self.take(range(start, len(self))[:_ROWS_AT_ONCE])

    def take(self, places: Sequence[int] | np.ndarray) -> Iterator[Unit]:
        """The units at some places."""
        for values in self.table.take(pa.array(places, pa.int64())).cast(_PLAIN).to_pylist():
            yield to_unit(values)

    def count_rows(self, places: pa.Array | None = None) -> int:
        """Rows of all units, or of those at some places."""
        table = self.table if places is None else self.table.take(places)
        return pc.sum(pc.subtract(table["stop"], table["start"])).as_py() or 0


def to_unit(values: Mapping[str, Any]) -> Unit:
    """The unit of its attributes as JSON values."""
    mark = values["mark"]
    return Unit(**{**values, "mark": None if mark is None else Mark(**mark)})


def plan_units(shards: Sequence[Shard], rows_per_unit: int) -> Units:
    """Cut shards into units of at most `rows_per_unit` rows that cover every row once.

    Whole row groups are put together where they fit; a larger one is cut into equal parts, so
    that as little as possible is decoded twice. Same shards, same units.
    """
    if rows_per_unit < 1:
        raise ValueError(f"rows_per_unit must be at least 1, got {rows_per_unit}")
    starts, stops, shard_of = array("q"), array("q"), array("q")
    marks = (array("q"), array("q"), array("q"))
    for number, shard in enumerate(shards):
        for start, stop in _ranges(shard.boundaries, rows_per_unit):
            starts.append(start)
            stops.append(stop)
            shard_of.append(number)
            place = bisect_right(shard.marks, start, key=attrgetter("row"))
            mark = shard.marks[place - 1] if place else Mark(-1, -1, -1)
            for column, value in zip(marks, (mark.row, mark.line, mark.byte), strict=True):
                column.append(value)
    # Empty arrays have no buffer.
    *edges, at, row, line, byte = (
        pa.array(np.array(column, np.int64)) for column in (starts, stops, shard_of, *marks)
    )
    columns = [
        pa.array([getattr(shard, name) for shard in shards], pa.string()).dictionary_encode()
        for name in ("url", "identity", "format")
    ]
    mark_column = pa.StructArray.from_arrays(
        [row, line, byte], fields=list(_MARK), mask=pc.less(row, 0)
    )
    index = pa.array(np.arange(len(starts)))
    return Units(
        pa.table([index, *(c.take(at) for c in columns), *edges, mark_column], schema=UNITS)
    )


def _ranges(boundaries: Sequence[int], rows_per_unit: int) -> Iterator[tuple[int, int]]:
    start = boundaries[0]
    for first, end in pairwise(boundaries):
        if end - start <= rows_per_unit:
            continue
        if first > start:
            yield start, first
        if end - first <= rows_per_unit:
            start = first
            continue
        parts = -(-(end - first) // rows_per_unit)
        edges = [first + (end - first) * part // parts for part in range(parts + 1)]
        yield from zip(edges, edges[1:], strict=False)
        start = end
    if boundaries[-1] > start:
        yield start, boundaries[-1]


def unit_key(unit: Unit, fields: Mapping[str, Any]) -> str:
    """Name the content of a unit's file: 32 hexadecimal digits, the same in every run.

    Args:
        unit: its shard, identity and range go in.
        fields: all else that decides the content, as plain JSON values: the output's
            fingerprint, columns passed through, filters, chunking, schema.
    """
    content: dict[str, object] = {
        "version": FORMAT_VERSION,
        "url": unit.url,
        "identity": unit.identity,
        "rows": [unit.start, unit.stop],
        "fields": dict(fields),
    }
    if unit.format in _READ_AS:
        content["read_as"] = _READ_AS[unit.format]
    return xxhash.xxh3_128_hexdigest(canonical_json(content))
