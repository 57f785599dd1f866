"""Everything that a snapshot says of itself, counted and hashed again from what is on the store."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from stx_core.errors import StoreError
from stx_core.store import log
from stx_core.store.files.filesystem import open_file, open_stream
from stx_core.store.files.parallel import parallel
from stx_core.store.files.retries import retry
from stx_core.store.files.urls import join, redact
from stx_core.store.manifest import bucket, read_segments
from stx_core.store.snapshot import output_schema, snapshot_state
from stx_core.store.units import HASH_MODULUS, id_hash

# Each thread holds one piece of one file: memory stays small, however large the files are.
_PIECE_BYTES = 4 * 2**20
_BATCH_ROWS = 65_536

_COUNTED = (
    *("rows", "file_rows", "bytes", "files", "rows_quarantined", "id_hash"),
    *("rows of the corpus", "id_hash of the corpus"),
)


@dataclass(frozen=True)
class _File:
    """What the manifest says of a file; no id hash where a row in may give several or none."""

    name: str
    rows: int
    size: int
    checksum: str
    id_hash: str | None
    id_type: Any


def find_problems(root: str, version: int | None = None) -> Iterator[str]:
    """Read a snapshot from end to end; give one line for each thing that is not as it should be.

    Checked are the chain of the log, the segments of the manifest, each named file (size,
    checksum, rows, ids), that no row of the corpus is in two units, and the totals.

    Args:
        root: the dataset.
        version: None for the current one.
    """
    in_log = list(_log_problems(root))
    yield from in_log
    try:
        state = snapshot_state(root, version)
    except StoreError as error:
        # A damaged entry has been named already.
        if str(error) not in in_log:
            yield str(error)
        return
    totals: dict[str, Counter[str]] = {name: Counter() for name in state["outputs"]}
    is_whole = True
    # One segment at a time: it has all rows of its shards, and the manifest may be large.
    for segment in state["segments"]:
        try:
            rows = read_segments(root, [segment]).to_pylist()
        except StoreError as error:
            is_whole = False
            yield str(error)
            continue
        yield from _files_problems(root, _named_files(rows, state["outputs"]))
        yield from (f"{redact(root)}: {line}" for line in _row_problems(rows, segment))
        for row in rows:
            totals[row["output"]].update(_counts(row))
    # Without all segments nothing adds up: that has been said.
    if is_whole:
        yield from (f"{redact(root)}: {line}" for line in _total_problems(totals, state))


def _log_problems(root: str) -> Iterator[str]:
    """Entries that are damaged, missing, or do not follow the entry before them."""
    previous: str | None = ""
    for number in range(1, log.last_number(root) + 1):
        try:
            entry = log.read_entry(root, number)
        except StoreError as error:
            yield str(error)
            previous = None
            continue
        if previous not in (None, entry.previous):
            yield (
                f"{redact(root)}: log entry {number} does not follow entry {number - 1}; one of "
                "them was replaced by hand, restore it"
            )
        previous = entry.digest


def _named_files(rows: list[dict[str, Any]], outputs: Mapping[str, Any]) -> list[_File]:
    """Each file once: two outputs of the same encoder share theirs."""
    files: dict[str, _File] = {}
    for row in rows:
        schema = output_schema(outputs[row["output"]])
        id_type = schema.field("id").type if "id" in schema.names else None
        if name := row["file"]:
            ids = row["id_hash_out"] if id_type else None
            bytes_ = (row["size"], row["checksum"])
            files[name] = _File(name, row["file_rows"], *bytes_, ids, id_type)
        if name := row["quarantine_file"]:
            ids = row["id_hash_quarantined"] if id_type else None
            bytes_ = (row["quarantine_size"], row["quarantine_checksum"])
            files[name] = _File(name, row["rows_quarantined"], *bytes_, ids, id_type)
    return list(files.values())


def _files_problems(root: str, files: list[_File]) -> Iterator[str]:
    found = parallel(lambda file: _file_problem(root, file), files)
    for file, problem in zip(files, found, strict=True):
        if problem:
            yield f"{redact(join(root, file.name))}: {problem}"


def _file_problem(root: str, file: _File) -> str | None:
    """The first thing that is wrong with a file."""
    url = join(root, file.name)
    try:
        size, checksum = retry(lambda: _hash_bytes(url), url)
        if size != file.size:
            return f"{size} bytes, the manifest says {file.size}"
        if checksum != file.checksum:
            return f"its bytes have checksum {checksum}, the manifest says {file.checksum}"
        rows, ids = retry(lambda: _hash_ids(url, file.id_type), url)
    except FileNotFoundError:
        return "missing, the manifest names it"
    except StoreError as error:
        return f"cannot be read ({error})"
    except pa.ArrowException as error:
        return f"not a whole Parquet file with ids ({str(error).splitlines()[0]})"
    if rows != file.rows:
        return f"{rows} rows, the manifest says {file.rows}"
    if file.id_hash is not None and ids != int(file.id_hash, 16):
        return f"{rows} rows as the manifest says, but with other ids"
    return None


def _hash_bytes(url: str) -> tuple[int, str]:
    size, digest = 0, xxhash.xxh3_128()
    with open_stream(url) as stream:
        while piece := stream.read(_PIECE_BYTES):
            size += len(piece)
            digest.update(piece)
    return size, digest.hexdigest()


def _hash_ids(url: str, id_type: Any) -> tuple[int, int]:  # noqa: ANN401
    """Rows of a Parquet file, and the hash of their ids; quarantine files hold ids as text."""
    rows, total = 0, 0
    with open_file(url) as opened, pq.ParquetFile(opened) as parquet:
        if id_type is None:
            return parquet.metadata.num_rows, 0
        for batch in parquet.iter_batches(_BATCH_ROWS, columns=["id"]):
            rows += batch.num_rows
            total += id_hash(batch.column("id").cast(id_type))
    return rows, total % HASH_MODULUS


def _row_problems(rows: list[dict[str, Any]], segment: Mapping[str, Any]) -> Iterator[str]:
    """Manifest rows that contradict themselves, or speak of the same rows of the corpus."""
    for row in rows:
        unit = f"output {row['output']}, unit {row['key']}"
        if not _adds_up(row):
            yield f"{unit}: rows in, out, filtered and quarantined do not add up"
        if bucket(row["url"]) not in segment["buckets"]:
            yield f"{unit}: its shard does not belong into segment {segment['file']}"
    ordered = sorted(rows, key=lambda row: (row["output"], row["url"], row["start"], row["stop"]))
    for one, other in pairwise(ordered):
        same_shard = (one["output"], one["url"]) == (other["output"], other["url"])
        if same_shard and other["start"] < one["stop"]:
            yield (
                f"output {one['output']}: rows {other['start']} to "
                f"{min(one['stop'], other['stop'])} of {redact(one['url'])} are in two units, "
                f"{one['key']} and {other['key']}"
            )


def _adds_up(row: Mapping[str, Any]) -> bool:
    ids = int(row["id_hash_out"], 16) + int(row["id_hash_quarantined"], 16)
    return (
        row["rows_in"] + row["rows_filtered"] == row["stop"] - row["start"]
        and row["rows_in"] == row["rows_out"] + row["rows_quarantined"]
        and int(row["id_hash_in"], 16) == ids % HASH_MODULUS
    )


def _counts(row: Mapping[str, Any]) -> dict[str, int]:
    return {
        "rows": row["rows_out"],
        "file_rows": row["file_rows"],
        "bytes": row["size"],
        "files": int(bool(row["file"])),
        "rows_quarantined": row["rows_quarantined"],
        "id_hash": int(row["id_hash_out"], 16),
        "rows of the corpus": row["rows_in"],
        "id_hash of the corpus": int(row["id_hash_in"], 16),
    }


def _total_problems(totals: Mapping[str, Counter[str]], state: Mapping[str, Any]) -> Iterator[str]:
    """Totals in the log that are not the sums over the manifest."""
    corpus = {"rows of the corpus": state["rows"], "id_hash of the corpus": state["id_hash"]}
    for name, found in totals.items():
        for key in _COUNTED:
            said = {**state["outputs"][name], **corpus}[key]
            value = f"{found[key] % HASH_MODULUS:032x}" if "id_hash" in key else found[key]
            if value != said:
                yield f"output {name}: {key} {value} counted, the log says {said}"
