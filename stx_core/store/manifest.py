"""The manifest of a snapshot: one row per unit and output, kept in a few Parquet segments."""

import hashlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict, get_type_hints

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from stx_core import failpoints
from stx_core.errors import StoreError
from stx_core.store.corpus.units import Units
from stx_core.store.files.filesystem import read_bytes, write_new
from stx_core.store.files.parallel import parallel
from stx_core.store.files.urls import join, redact
from stx_core.store.id_hash import HASH_MODULUS
from stx_core.store.log_state import Segment
from stx_core.store.schema import from_parquet, to_parquet


class ManifestRow(TypedDict):
    """A row of `MANIFEST` in plain values."""

    output: str
    key: str
    url: str
    identity: str
    start: int
    stop: int
    file: str
    size: int
    checksum: str
    file_rows: int
    quarantine_file: str
    quarantine_size: int
    quarantine_checksum: str
    rows_in: int
    rows_filtered: int
    rows_out: int
    rows_quarantined: int
    id_hash_in: str
    id_hash_out: str
    id_hash_quarantined: str
    n_tokens: int
    n_truncated: int
    run: str
    epoch: int
    quality: str | None
    """JSON; None in segments of earlier versions of stx."""


Planned = Mapping[str, pa.Table]
"""Units that a snapshot shall hold: by output, see `planned_units`."""

_ARROW: dict[object, pa.DataType] = {int: pa.int64()}

MANIFEST = pa.schema(
    [pa.field(n, _ARROW.get(t, pa.string())) for n, t in get_type_hints(ManifestRow).items()]
)

# Rows are put in buckets by their shard, so that a later commit rewrites only the segments whose
# shards it touched. A segment holds one bucket in large manifests, more in small ones.
BUCKETS = 64
_ROWS_PER_SEGMENT = 1024

_WAY_BACK = (
    "restore it from a copy, or go back to a version that does not need it with `stx rollback` "
    "(`stx show --versions` lists them)"
)

_ORDER = [("output", "ascending"), ("url", "ascending"), ("start", "ascending")]
_UNIT = ["url", "identity", "start", "stop"]


def planned_units(keys: pa.Array, units: Units) -> pa.Table:
    """Units of an output with their keys, as columns of `MANIFEST`.

    Args:
        keys: (N,) string.
        units: (N,).
    """
    schema = pa.schema([MANIFEST.field(name) for name in ("key", *_UNIT)])
    return units.table.select(_UNIT).add_column(0, "key", keys).cast(schema)


def assemble(planned: Planned, records: pa.Table, base: pa.Table, where: str) -> pa.Table:
    """Find the manifest row of each planned unit: among the records, else in the base.

    The same key is the same content, so a unit of the base is taken over as it is; and two outputs
    of the same encoder, which have the same keys, share records and files.

    Args:
        planned: the units.
        records: of the run, see `ledger.RECORDS`.
        base: manifest of the snapshot that the run builds on.
        where: for the error message.

    Raises:
        StoreError: a unit is not done, or a record speaks of another row range than its unit.
    """
    nothing = MANIFEST.empty_table().select(["output", "key", *_UNIT])
    tables = [
        units.add_column(0, nothing.schema.field("output"), pa.repeat(output, len(units)))
        for output, units in planned.items()
    ]
    expected = pa.concat_tables([nothing, *tables])
    done = pa.concat_tables([records.select(MANIFEST.names), base]).combine_chunks()
    index = pc.index_in(expected["key"], value_set=done["key"])
    if index.null_count:
        missing = expected["key"].filter(index.is_null()).unique().to_pylist()
        n_units = pc.count_distinct(expected["key"])
        raise StoreError(
            f"{redact(where)}: {len(missing)} of {n_units} units are not done, for example "
            f"{min(missing)}; run again"
        )
    rows = done.take(index)
    recorded, units = rows.select(_UNIT), expected.select(_UNIT)
    if not recorded.equals(units):
        pairs = zip(rows["key"].to_pylist(), recorded.to_pylist(), units.to_pylist(), strict=True)
        key, *both = next(pair for pair in pairs if pair[1] != pair[2])
        record, unit = (
            f"{row['url']} ({row['identity']}) rows {row['start']} to {row['stop']}" for row in both
        )
        raise StoreError(redact(f"record of unit {key} is of {record}, but {unit} was planned"))
    return rows.set_column(0, MANIFEST.field("output"), expected["output"])


def split_shards(rows: pa.Table, keeps: Callable[[str], bool]) -> tuple[pa.Table, pa.Table]:
    """Split manifest rows: those of shards that `keeps` accepts by their URL, and the others."""
    urls = [url for url in rows["url"].unique().to_pylist() if keeps(url)]
    stays = pc.is_in(rows["url"], value_set=pa.array(urls, pa.string()))
    return rows.filter(stays), rows.filter(pc.invert(stays))


@dataclass(frozen=True)
class Totals:
    """Sums over the manifest rows of an output; of id hashes modulo `HASH_MODULUS`, in hex."""

    rows: int
    bytes: int
    files: int
    file_rows: int
    rows_quarantined: int
    id_hash: str
    rows_in: int
    id_hash_in: str


def summarise(rows: pa.Table, output: str) -> Totals:
    """Totals of one output."""
    rows = rows.filter(pc.equal(rows["output"], output))
    counted = ("rows_out", "size", "file_rows", "rows_quarantined", "rows_in")
    sums = {name: pc.sum(rows[name]).as_py() or 0 for name in counted}
    id_hashes = {
        name: sum(int(text, 16) for text in rows[name].to_pylist()) % HASH_MODULUS
        for name in ("id_hash_out", "id_hash_in")
    }
    return Totals(
        rows=sums["rows_out"],
        bytes=sums["size"],
        files=pc.sum(pc.not_equal(rows["file"], "")).as_py() or 0,
        file_rows=sums["file_rows"],
        rows_quarantined=sums["rows_quarantined"],
        id_hash=f"{id_hashes['id_hash_out']:032x}",
        rows_in=sums["rows_in"],
        id_hash_in=f"{id_hashes['id_hash_in']:032x}",
    )


def bucket(url: str) -> int:
    """The bucket of a shard."""
    return xxhash.xxh3_64_intdigest(url.encode()) % BUCKETS


def write_segments(
    root: str, run: str, epoch: int, rows: pa.Table, base: Sequence[Segment] = ()
) -> list[Segment]:
    """Write manifest rows as segments; what is equal to a segment of the base is not written again.

    Args:
        root: the dataset.
        run: id of the run.
        epoch: of this start.
        rows: see `MANIFEST`.
        base: segments of the snapshot that the new one follows.

    Returns:
        The segments.
    """
    n_segments = max(1, min(BUCKETS, -(-len(rows) // _ROWS_PER_SEGMENT)))
    rows = rows.sort_by(_ORDER)
    urls = rows["url"].unique()
    buckets = pa.array([bucket(url) % n_segments for url in urls.to_pylist()], pa.int32())
    groups = pc.take(buckets, pc.index_in(rows["url"], value_set=urls))
    of_base = {segment["sha256"]: segment for segment in base}

    def write(number: int) -> Segment:
        table = rows.filter(pc.equal(groups, number)).combine_chunks()
        # The same rows give the same bytes. Only the base's segments are taken over: gc protects
        # them until the commit, as it does no other object that happens to be equal.
        data = to_parquet(table)
        sha256 = hashlib.sha256(data).hexdigest()
        own_buckets = list(range(number, BUCKETS, n_segments))
        if (same := of_base.get(sha256)) and same["buckets"] == own_buckets:
            return same
        file = f"_stx/segments/{run}-{epoch}-{uuid.uuid4().hex}.parquet"
        write_new(join(root, file), data)
        failpoints.hit("segment.after")
        return {"file": file, "sha256": sha256, "rows": len(table), "buckets": own_buckets}

    return parallel(write, range(n_segments))


def read_segments(root: str, segments: Sequence[Segment]) -> pa.Table:
    """Read the manifest, sorted by output, shard and row.

    Raises:
        StoreError: a segment is missing or damaged.
    """

    def read(segment: Segment) -> bytes:
        url = join(root, segment["file"])
        try:
            data = read_bytes(url)
        except FileNotFoundError as error:
            raise StoreError(
                f"{redact(url)}: a segment of the manifest is missing; {_WAY_BACK}"
            ) from error
        if hashlib.sha256(data).hexdigest() != segment["sha256"]:
            raise StoreError(
                f"{redact(url)}: damaged segment (its checksum does not match); {_WAY_BACK}"
            )
        return data

    tables = [MANIFEST.empty_table()]
    for table in map(from_parquet, parallel(read, segments)):
        # Columns that an earlier stx did not write are null.
        columns = [
            table[column.name]
            if column.name in table.column_names
            else pa.nulls(len(table), column.type)
            for column in MANIFEST
        ]
        tables.append(pa.table(columns, names=MANIFEST.names).cast(MANIFEST))
    return pa.concat_tables(tables).sort_by(_ORDER)
