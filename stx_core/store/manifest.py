"""The manifest of a snapshot: one row per unit and output, kept in a few Parquet segments."""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from stx_core import failpoints
from stx_core.errors import StoreError
from stx_core.store.filesystem import read_bytes, write_new
from stx_core.store.ledger import Record
from stx_core.store.schema import to_parquet
from stx_core.store.urls import join, redact

MANIFEST = pa.schema(
    [
        pa.field("output", pa.string()),
        pa.field("key", pa.string()),
        pa.field("url", pa.string()),
        pa.field("identity", pa.string()),
        pa.field("start", pa.int64()),
        pa.field("stop", pa.int64()),
        pa.field("file", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("checksum", pa.string()),
        pa.field("quarantine_file", pa.string()),
        pa.field("rows_in", pa.int64()),
        pa.field("rows_filtered", pa.int64()),
        pa.field("rows_out", pa.int64()),
        pa.field("rows_quarantined", pa.int64()),
        pa.field("id_hash_in", pa.string()),
        pa.field("id_hash_out", pa.string()),
        pa.field("id_hash_quarantined", pa.string()),
        pa.field("n_tokens", pa.int64()),
        pa.field("n_truncated", pa.int64()),
        pa.field("run", pa.string()),
        pa.field("epoch", pa.int64()),
    ]
)

# Rows are put in buckets by their shard, so that a later commit rewrites only the segments whose
# shards it touched. A segment holds one bucket in large manifests, more in small ones.
BUCKETS = 64
_ROWS_PER_SEGMENT = 1024
_THREADS = 16


def to_row(record: Record) -> dict[str, Any]:
    """The manifest row of a finished unit."""
    return {name: getattr(record, name) for name in MANIFEST.names}


def bucket(url: str) -> int:
    """The bucket of a shard."""
    return xxhash.xxh3_64_intdigest(url.encode()) % BUCKETS


def write_segments(
    root: str, run: str, epoch: int, rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Write manifest rows as segments.

    Returns:
        Per segment: ``file`` relative to the dataset, ``sha256`` of it, ``rows``, ``buckets``.
    """
    n_segments = max(1, min(BUCKETS, -(-len(rows) // _ROWS_PER_SEGMENT)))
    groups: list[list[Mapping[str, Any]]] = [[] for _ in range(n_segments)]
    for row in sorted(rows, key=lambda row: (row["output"], row["url"], row["start"])):
        groups[bucket(row["url"]) % n_segments].append(row)

    def write(number: int) -> dict[str, Any]:
        table = pa.Table.from_pylist(groups[number], schema=MANIFEST)
        data = to_parquet(table)
        file = f"_stx/segments/{run}-{epoch}-{uuid.uuid4().hex}.parquet"
        write_new(join(root, file), data)
        failpoints.hit("segment.after")
        return {
            "file": file,
            "sha256": hashlib.sha256(data).hexdigest(),
            "rows": len(table),
            "buckets": list(range(number, BUCKETS, n_segments)),
        }

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(write, range(n_segments)))


def read_segments(root: str, segments: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Read the manifest, sorted by output, shard and row.

    Raises:
        StoreError: a segment is missing or damaged.
    """

    def read(segment: Mapping[str, Any]) -> pa.Table:
        url = join(root, segment["file"])
        try:
            data = read_bytes(url)
        except FileNotFoundError as error:
            raise StoreError(f"{redact(url)}: a segment of the manifest is missing") from error
        if hashlib.sha256(data).hexdigest() != segment["sha256"]:
            raise StoreError(f"{redact(url)}: damaged segment (its checksum does not match)")
        return pq.read_table(pa.BufferReader(data), schema=MANIFEST)

    with ThreadPoolExecutor(_THREADS) as pool:
        tables = list(pool.map(read, segments))
    table = pa.concat_tables([MANIFEST.empty_table(), *tables])
    return table.sort_by([("output", "ascending"), ("url", "ascending"), ("start", "ascending")])
