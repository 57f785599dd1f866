"""Everything that a snapshot says of itself, counted and hashed again from what is on the store."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, NamedTuple

from stx_core.errors import DamagedFile, StoreError
from stx_core.store import damage, log
from stx_core.store.data_file import hash_bytes, open_parquet
from stx_core.store.files.filesystem import read_bytes, write_over
from stx_core.store.files.parallel import parallel
from stx_core.store.files.retries import retry
from stx_core.store.files.urls import join, redact
from stx_core.store.id_hash import HASH_MODULUS, id_hash
from stx_core.store.manifest import bucket, read_segments
from stx_core.store.sealed import decode
from stx_core.store.snapshot import exact_ids, output_schema, snapshot_state

_BATCH_ROWS = 65_536

_VERIFIED = "_stx/verified.json"

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
    id_column: str
    id_type: Any


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
        told = {"version": number, "at": at, "problems": n_problems}
        write_over(join(root, _VERIFIED), json.dumps(told).encode())


def last_verified(root: str) -> dict[str, Any] | None:
    """``version``, ``at`` and number of ``problems`` of the last `verify`; None for never."""
    try:
        found = decode(read_bytes(join(root, _VERIFIED)))
    except FileNotFoundError:
        return None
    return found if found.keys() >= {"version", "at", "problems"} else None


def _problems(root: str, version: int | None) -> Iterator[_Problem]:
    in_log = list(_log_problems(root))
    yield from map(_Problem, in_log)
    try:
        state = snapshot_state(root, version)
    except StoreError as error:
        # A damaged entry has been named already.
        if str(error) not in in_log:
            yield _Problem(str(error))
        return
    totals: dict[str, Counter[str]] = {name: Counter() for name in state["outputs"]}
    is_whole = True
    # One segment at a time: it has all rows of its shards, and the manifest may be large.
    for segment in state["segments"]:
        try:
            rows = read_segments(root, [segment]).to_pylist()
        except StoreError as error:
            is_whole = False
            yield _Problem(str(error))
            continue
        yield from _files_problems(root, _named_files(rows, state["outputs"]))
        lines = _row_problems(rows, segment)
        yield from (_Problem(f"{redact(root)}: {line}") for line in lines)
        for row in rows:
            totals[row["output"]].update(_counts(row))
    # Without all segments nothing adds up: that has been said.
    if is_whole:
        lines = _total_problems(totals, state)
        yield from (_Problem(f"{redact(root)}: {line}") for line in lines)


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


def _named_files(rows: list[dict[str, Any]], outputs: Mapping[str, Any]) -> list[_File]:
    """Each file once: two outputs of the same encoder share theirs."""
    files: dict[str, _File] = {}
    for row in rows:
        facts = outputs[row["output"]]
        column = exact_ids(facts)
        kind = output_schema(facts).field(column).type if column else None
        if name := row["file"]:
            ids = row["id_hash_out"] if column else None
            said = (row["file_rows"], row["size"], row["checksum"], ids, column or "", kind)
            files[name] = _File(name, *said)
        if name := row["quarantine_file"]:
            ids = row["id_hash_quarantined"] if column else None
            bytes_ = (row["quarantine_size"], row["quarantine_checksum"])
            files[name] = _File(name, row["rows_quarantined"], *bytes_, ids, "id", kind)
    return list(files.values())


def _files_problems(root: str, files: list[_File]) -> Iterator[_Problem]:
    found = parallel(lambda file: _file_problem(root, file), files)
    for file, problem in zip(files, found, strict=True):
        if problem:
            line, name, kind = problem
            yield _Problem(f"{redact(join(root, file.name))}: {line}", name, kind)


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
