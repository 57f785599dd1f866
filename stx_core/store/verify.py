"""Everything that a snapshot says of itself, counted and hashed again from what is on the store."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import NamedTuple

import pyarrow as pa

from stx_core.errors import DamagedFile, StoreError
from stx_core.store import damage, log
from stx_core.store.data_file import hash_bytes, open_parquet
from stx_core.store.files.filesystem import read_bytes, write_over
from stx_core.store.files.parallel import parallel
from stx_core.store.files.retries import retry
from stx_core.store.files.urls import join, redact
from stx_core.store.id_hash import HASH_MODULUS, id_hash
from stx_core.store.log_state import OutputFacts, Segment, Snapshot
from stx_core.store.manifest import ManifestRow, bucket, read_segments
from stx_core.store.sealed import decode
from stx_core.store.snapshot import exact_ids, output_schema, snapshot_state

_BATCH_ROWS = 65_536

_VERIFIED = "_stx/verified.json"

_COUNTED = (
    *("rows", "file_rows", "bytes", "files", "rows_quarantined", "id_hash"),
    *("rows of the corpus", "id_hash of the corpus"),
)


@dataclass(frozen=True)
class Verified:
    """The last `verify` of a dataset: which version, when, and how many problems it had."""

    version: int
    at: str
    problems: int


@dataclass(frozen=True)
class _File:
    """A file in the manifest; no id hash where a row in may give several or none."""

    name: str
    rows: int
    size: int
    checksum: str
    id_hash: str | None
    id_column: str
    id_type: pa.DataType | None


class _Problem(NamedTuple):
    """A line for people; and, where it is damage of a file, which one and what."""

    line: str
    file: str = ""
    kind: damage.Kind = "bytes"


def find_problems(root: str, version: int | None = None) -> Iterator[str]:
    """Read a snapshot from end to end; give one line for each thing that is not as it should be.

    Checked are the chain of the log and its end, the segments of the manifest, each named file
    (size, checksum, rows, ids), that no row of the corpus is in two units, and the totals.

    Args:
        root: the dataset.
        version: None for the current one.
    """
    return (problem.line for problem in _problems(root, version))


def verify(root: str, version: int | None = None) -> Iterator[str]:
    """As `find_problems`; and leave notes: of damaged files, and when all was read.

    The next run does the units of damaged files again. Where nothing may be written, nothing is.
    """
    n_problems = 0
    for problem in _problems(root, version):
        n_problems += 1
        if problem.file:
            damage.note(root, problem.file, problem.kind)
        yield problem.line
    with suppress(StoreError, OSError):
        number = snapshot_state(root, version)["version"]
        at = datetime.now(UTC).isoformat(timespec="seconds")
        body = asdict(Verified(number, at, n_problems))
        write_over(join(root, _VERIFIED), json.dumps(body).encode())


def last_verified(root: str) -> Verified | None:
    """The last `verify`; None for never."""
    try:
        body = decode(read_bytes(join(root, _VERIFIED)))
        return Verified(body["version"], body["at"], body["problems"])
    except (FileNotFoundError, KeyError):
        return None


def _problems(root: str, version: int | None) -> Iterator[_Problem]:
    in_log = list(_log_problems(root))
    yield from map(_Problem, in_log)
    try:
        snapshot = snapshot_state(root, version)
    except StoreError as error:
        # A damaged entry has been named already.
        if str(error) not in in_log:
            yield _Problem(str(error))
        return
    totals: dict[str, Counter[str]] = {name: Counter() for name in snapshot["outputs"]}
    is_whole = True
    # One segment at a time: it has all rows of its shards, and the manifest may be large.
    for segment in snapshot["segments"]:
        try:
            rows = read_segments(root, [segment]).to_pylist()
        except StoreError as error:
            is_whole = False
            yield _Problem(str(error))
            continue
        files = _named_files(rows, snapshot["outputs"])
        problems = parallel(lambda file: _file_problem(root, file), files)
        for file, problem in zip(files, problems, strict=True):
            if problem:
                yield problem._replace(line=f"{redact(join(root, file.name))}: {problem.line}")
        for line in _row_problems(rows, segment):
            yield _Problem(f"{redact(root)}: {line}")
        for row in rows:
            totals[row["output"]].update(
                {
                    "rows": row["rows_out"],
                    "file_rows": row["file_rows"],
                    "bytes": row["size"],
                    "files": int(bool(row["file"])),
                    "rows_quarantined": row["rows_quarantined"],
                    "id_hash": int(row["id_hash_out"], 16),
                    "rows of the corpus": row["rows_in"],
                    "id_hash of the corpus": int(row["id_hash_in"], 16),
                }
            )
    # Without all segments nothing adds up: that has been said.
    if is_whole:
        for line in _total_problems(totals, snapshot):
            yield _Problem(f"{redact(root)}: {line}")


def _log_problems(root: str) -> Iterator[str]:
    """Entries that are damaged, missing, or do not follow the entry before them."""
    previous: str | None = ""
    last = log.last_number(root)
    for number in range(1, last + 1):
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
    if problem := log.lost_end(root, last):
        yield problem


def _named_files(rows: list[ManifestRow], outputs: Mapping[str, OutputFacts]) -> list[_File]:
    """Each file once: two outputs of the same encoder share theirs."""
    files: dict[str, _File] = {}
    for row in rows:
        facts = outputs[row["output"]]
        column = exact_ids(facts)
        kind = output_schema(facts).field(column).type if column else None
        if name := row["file"]:
            files[name] = _File(
                name,
                row["file_rows"],
                size=row["size"],
                checksum=row["checksum"],
                id_hash=row["id_hash_out"] if column else None,
                id_column=column or "",
                id_type=kind,
            )
        if name := row["quarantine_file"]:
            files[name] = _File(
                name,
                row["rows_quarantined"],
                size=row["quarantine_size"],
                checksum=row["quarantine_checksum"],
                id_hash=row["id_hash_quarantined"] if column else None,
                id_column="id",
                id_type=kind,
            )
    return list(files.values())


def _file_problem(root: str, file: _File) -> _Problem | None:
    """The first thing that is wrong with a file."""
    url = join(root, file.name)
    try:
        size, checksum = hash_bytes(url)
        if size != file.size:
            return _Problem(f"{size} bytes, the manifest says {file.size}", file.name)
        if checksum != file.checksum:
            said = f"its bytes have checksum {checksum}, the manifest says {file.checksum}"
            return _Problem(said, file.name)
        rows, ids = retry(lambda: _hash_ids(url, file), url)
    except FileNotFoundError:
        return _Problem("missing, the manifest names it", file.name)
    except DamagedFile:
        # Its bytes are those of the manifest: a run took it over when it was damaged already.
        return _Problem("not a whole Parquet file with ids", file.name, "rows")
    except StoreError as error:
        return _Problem(f"cannot be read ({error})")
    if rows != file.rows:
        return _Problem(f"{rows} rows, the manifest says {file.rows}", file.name, "rows")
    if file.id_hash is not None and ids != int(file.id_hash, 16):
        said = f"{rows} rows as the manifest says, but with other ids"
        return _Problem(said, file.name, "rows")
    return None


def _hash_ids(url: str, file: _File) -> tuple[int, int]:
    """Rows of a Parquet file, and the hash of their ids; quarantine files hold ids as text."""
    rows, total = 0, 0
    with open_parquet(url) as parquet:
        if file.id_hash is None:
            return parquet.metadata.num_rows, 0
        for batch in parquet.iter_batches(_BATCH_ROWS, columns=[file.id_column], use_threads=False):
            rows += batch.num_rows
            total += id_hash(batch.column(file.id_column).cast(file.id_type))
    return rows, total % HASH_MODULUS


def _row_problems(rows: list[ManifestRow], segment: Segment) -> Iterator[str]:
    """Manifest rows that contradict themselves, or speak of the same rows of the corpus."""
    for row in rows:
        unit = f"output {row['output']}, unit {row['key']}"
        ids = int(row["id_hash_out"], 16) + int(row["id_hash_quarantined"], 16)
        if (
            row["rows_in"] + row["rows_filtered"] != row["stop"] - row["start"]
            or row["rows_in"] != row["rows_out"] + row["rows_quarantined"]
            or int(row["id_hash_in"], 16) != ids % HASH_MODULUS
        ):
            yield f"{unit}: rows in, out, filtered and quarantined do not add up"
        if bucket(row["url"]) not in segment["buckets"]:
            yield f"{unit}: its shard does not belong into segment {segment['file']}"
    ordered = sorted(rows, key=lambda row: (row["output"], row["url"], row["start"], row["stop"]))
    for row, after in pairwise(ordered):
        same_shard = (row["output"], row["url"]) == (after["output"], after["url"])
        if same_shard and after["start"] < row["stop"]:
            yield (
                f"output {row['output']}: rows {after['start']} to "
                f"{min(row['stop'], after['stop'])} of {redact(row['url'])} are in two units, "
                f"{row['key']} and {after['key']}"
            )


def _total_problems(totals: Mapping[str, Counter[str]], snapshot: Snapshot) -> Iterator[str]:
    """Totals in the log that are not the sums over the manifest."""
    corpus = {"rows of the corpus": snapshot["rows"], "id_hash of the corpus": snapshot["id_hash"]}
    for name, total in totals.items():
        stated = {**snapshot["outputs"][name], **corpus}
        for key in _COUNTED:
            value = f"{total[key] % HASH_MODULUS:032x}" if "id_hash" in key else total[key]
            if value != stated[key]:
                yield f"output {name}: {key} {value} counted, the log says {stated[key]}"
