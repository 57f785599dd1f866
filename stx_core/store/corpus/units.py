"""Files to units of work, and the keys that name them. Pure: nothing here reads a file."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import xxhash

from stx_core.store.corpus.shards import Format, Mark, Shard
from stx_core.store.sealed import canonical_json

# Part of every key: raise it when files of the same unit would be written differently.
FORMAT_VERSION = 1

# The same for one format: raise its number when its files are read differently. What older versions
# read otherwise is then read again; texts that did not change are carried over.
_READ_AS = {"jsonl": 2, "csv": 2}


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


def plan_units(shards: Sequence[Shard], rows_per_unit: int) -> list[Unit]:
    """Cut shards into units of at most `rows_per_unit` rows that cover every row once.

    Whole row groups are put together where they fit; a larger one is cut into equal parts, so
    that as little as possible is decoded twice. Same shards, same units.
    """
    if rows_per_unit < 1:
        raise ValueError(f"rows_per_unit must be at least 1, got {rows_per_unit}")
    units: list[Unit] = []
    for shard in shards:
        for start, stop in _ranges(shard.boundaries, rows_per_unit):
            mark = _last_mark(shard.marks, start)
            units.append(
                Unit(len(units), shard.url, shard.identity, shard.format, start, stop, mark)
            )
    return units


def _ranges(boundaries: Sequence[int], rows_per_unit: int) -> Iterator[tuple[int, int]]:
    start = boundaries[0]
    for left, right in zip(boundaries, boundaries[1:], strict=False):
        if right - start <= rows_per_unit:
            continue
        if left > start:
            yield start, left
        if right - left <= rows_per_unit:
            start = left
            continue
        parts = -(-(right - left) // rows_per_unit)
        edges = [left + (right - left) * part // parts for part in range(parts + 1)]
        yield from zip(edges, edges[1:], strict=False)
        start = right
    if boundaries[-1] > start:
        yield start, boundaries[-1]


def _last_mark(marks: Sequence[Mark], start: int) -> Mark | None:
    place = bisect_right(marks, start, key=attrgetter("row"))
    return marks[place - 1] if place else None


def unit_key(unit: Unit, fields: Mapping[str, Any]) -> str:
    """Name the content of a unit's file: 32 hexadecimal digits, the same in every run.

    Args:
        unit: its shard, identity and range go in.
        fields: all else that decides the content, as plain JSON values: the output's
            fingerprint, columns passed through, filters, chunking, schema.
    """
    content: dict[str, Any] = {
        "version": FORMAT_VERSION,
        "url": unit.url,
        "identity": unit.identity,
        "rows": [unit.start, unit.stop],
        "fields": dict(fields),
    }
    if unit.format in _READ_AS:
        content["read_as"] = _READ_AS[unit.format]
    return xxhash.xxh3_128_hexdigest(canonical_json(content))
