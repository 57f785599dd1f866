"""Snapshots: check that a run is complete and publish it; open what was published."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from stx_core.errors import CommitConflict, SnapshotExpired, StoreError
from stx_core.store import log
from stx_core.store.filesystem import arrow_filesystem, list_sizes
from stx_core.store.ledger import find_problem, to_records
from stx_core.store.log import Claim
from stx_core.store.manifest import (
    MANIFEST,
    Planned,
    assemble,
    read_segments,
    split_shards,
    summarise,
    write_segments,
)
from stx_core.store.urls import join, redact

Result = TypeVar("Result")

Keeps = Callable[[str], bool]
"""Says of a shard, by its URL, that a run does not speak about it: its rows stay as they are."""


@dataclass(frozen=True)
class SnapshotInfo:
    """What is known of a snapshot without opening its files.

    Attributes:
        version: from 1.
        run: the run that committed it.
        created: when, by the clock of that machine.
        outputs: by name: what the job said of it (model, fingerprint …), and ``rows``, ``bytes``,
            ``files``, ``rows_quarantined``, ``id_hash``.
        rows: rows of the corpus that passed the filters, quarantined ones counted.
        id_hash: multiset hash of the ids of these rows, 32 hexadecimal digits.
    """

    version: int
    run: str
    created: str
    outputs: dict[str, dict[str, Any]]
    rows: int
    id_hash: str


@dataclass(frozen=True)
class _Base:
    """A version to build on; 0, without rows and outputs, when there is none."""

    version: int
    rows: pa.Table
    segments: list[dict[str, Any]]
    outputs: Mapping[str, Mapping[str, Any]]


def commit_snapshot(
    root: str,
    claim: Claim,
    planned: Planned,
    records: pa.Table,
    outputs: Mapping[str, Mapping[str, Any]],
    schemas: Mapping[str, pa.Schema],
    keeps: Keeps | None = None,
) -> SnapshotInfo:
    """Check that all planned work is done and on disk, then publish it as the next version.

    A planned key without a record is taken over from the snapshot that the run builds on, if it
    is there: the same key is the same content. When another run committed meanwhile and left the
    shards alone that this one speaks about, this one builds on that snapshot instead.

    Args:
        root: the dataset.
        claim: of the run.
        planned: all units of the snapshot, by output and key.
        records: of this run, see `ledger.RECORDS`.
        outputs: what to remember of each output, as JSON values.
        schemas: of each output's files.
        keeps: shards that stay as they are; None when the run speaks about the whole corpus.

    Raises:
        StoreError: units are missing, counts or ids do not add up, or a file is not there.
        Fenced: a newer start took the run over.
        CommitConflict: another run committed, and it changed what this one speaks about.
    """
    if log.is_committed(root, claim.run):
        entry = log.commit(root, claim.run, claim.epoch, {})
        return _info(entry.state["snapshot"])
    # The commit asks this again; here it comes before complaints about files that gc removed.
    log.check(root, claim.run, claim.epoch)
    _check_records(root, records)
    base = _base(root, claim.base)
    while True:
        rows = assemble(planned, records, base.rows, root)
        if keeps is not None:
            rows = pa.concat_tables([_kept_rows(root, base, planned, outputs, keeps), rows])
        _check_files(root, rows)
        body = _body(root, rows, outputs, schemas)
        body["segments"] = write_segments(root, claim.run, claim.epoch, rows, base.segments)
        try:
            entry = log.commit(root, claim.run, claim.epoch, body, base=base.version)
            return _info(entry.state["snapshot"])
        except CommitConflict:
            winner = _base(root, None)
            if not _same_shards(base.rows, winner.rows, keeps):
                raise
            base = winner


def _base(root: str, version: int | None) -> _Base:
    if version == 0:
        return _Base(0, MANIFEST.empty_table(), [], {})
    snapshot = snapshot_state(root, version)
    segments = snapshot["segments"]
    return _Base(snapshot["version"], read_segments(root, segments), segments, snapshot["outputs"])


def _same_shards(before: pa.Table, after: pa.Table, keeps: Keeps | None) -> bool:
    """Whether two manifests agree on all shards but those that the run keeps."""
    if keeps is None:
        return bool(before.equals(after))
    return bool(split_shards(before, keeps)[1].equals(split_shards(after, keeps)[1]))


def _kept_rows(
    root: str,
    base: _Base,
    planned: Planned,
    outputs: Mapping[str, Mapping[str, Any]],
    keeps: Keeps,
) -> pa.Table:
    """The rows of the base that stay; they must come from the outputs that the run writes."""
    if any(keeps(unit.url) for units in planned.values() for unit in units.values()):
        raise ValueError("a shard is both planned and kept")
    has, writes = _fingerprints(base.outputs), _fingerprints(outputs)
    if base.version and has != writes:
        raise CommitConflict(
            f"{redact(root)}: version {base.version} has the outputs {_names(has)}, this run "
            f"writes {_names(writes)}; to keep a part of the corpus both must be the same"
        )
    return split_shards(base.rows, keeps)[0]


def _fingerprints(outputs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return {name: str(facts["fingerprint"]) for name, facts in outputs.items()}


def _names(fingerprints: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({print_[:12]})" for name, print_ in sorted(fingerprints.items()))


def _check_records(root: str, records: pa.Table) -> None:
    for record in to_records(records):
        if problem := find_problem(record):
            raise StoreError(f"{redact(root)}: record of unit {record.key}: {problem}")


def _check_files(root: str, rows: pa.Table) -> None:
    """Each named file is there, with its size, and named once by an output."""
    sizes = {f"data/{name}": size for name, size in list_sizes(join(root, "data")).items()}
    quarantined = list_sizes(join(root, "quarantine"))
    columns = ("output", "key", "file", "size", "quarantine_file")
    seen: set[tuple[str, str]] = set()
    for output, key, file, size, bad in zip(
        *(rows[name].to_pylist() for name in columns), strict=True
    ):
        if file and sizes.get(file) != size:
            raise StoreError(
                f"{redact(join(root, file))}: {sizes.get(file, 'no')} bytes found, the record of "
                f"unit {key} says {size}; restore the file, or remove the record"
            )
        if bad and bad.removeprefix("quarantine/") not in quarantined:
            raise StoreError(
                f"{redact(join(root, bad))}: missing, unit {key} names it; restore the file"
            )
        if file and (output, file) in seen:
            raise StoreError(f"{redact(root)}: two units name the same file; nothing was published")
        seen.add((output, file))


def _body(
    root: str,
    rows: pa.Table,
    outputs: Mapping[str, Mapping[str, Any]],
    schemas: Mapping[str, pa.Schema],
) -> dict[str, Any]:
    """What the log says of the new snapshot, but for its segments."""
    summaries = {name: summarise(rows, name) for name in outputs}
    reads = {(each["rows_in"], each["id_hash_in"]) for each in summaries.values()}
    if len(reads) > 1:
        raise StoreError(
            f"{redact(root)}: the outputs {', '.join(outputs)} were made from different rows "
            f"({sorted(read[0] for read in reads)}); run again"
        )
    (n_rows, id_hash) = reads.pop() if reads else (0, f"{0:032x}")
    return {
        "outputs": {
            name: {
                **outputs[name],
                "schema": base64.b64encode(schemas[name].serialize().to_pybytes()).decode(),
                **{key: value for key, value in summaries[name].items() if not key.endswith("_in")},
            }
            for name in outputs
        },
        "rows": n_rows,
        "id_hash": id_hash,
    }


def rollback(root: str, version: int) -> SnapshotInfo:
    """Make the content of an older version current again, as a new version.

    Raises:
        SnapshotExpired: gc removed that version.
        StoreError: there never was such a version, or a file of it is missing.
    """
    old = snapshot_state(root, version)
    _check_files(root, read_segments(root, old["segments"]))

    def change(state: log.State, number: int) -> log.State | None:
        # Once more: gc may have come between, and what it dropped is about to be deleted.
        _check_kept(root, state, version)
        if version == log.current_version(state):
            return None
        log.publish(state, number, old)
        return state

    return _info(log.append(root, "rollback", change).state["snapshot"])


def snapshot_info(root: str, version: int | None = None) -> SnapshotInfo:
    """Describe a snapshot, the current one by default.

    Raises:
        StoreError: there is no snapshot, or not this version.
    """
    return _info(snapshot_state(root, version))


def _info(snapshot: Mapping[str, Any]) -> SnapshotInfo:
    outputs = {
        name: {key: value for key, value in facts.items() if key != "schema"}
        for name, facts in snapshot["outputs"].items()
    }
    return SnapshotInfo(
        version=snapshot["version"],
        run=snapshot["run"],
        created=snapshot["created"],
        outputs=outputs,
        rows=snapshot["rows"],
        id_hash=snapshot["id_hash"],
    )


def versions(root: str) -> list[SnapshotInfo]:
    """All versions that can be opened, oldest first.

    Raises:
        StoreError: there is no snapshot.
    """
    numbers = _latest_state(root)["kept"]
    return [_info(_read_kept(root, numbers[version])) for version in sorted(numbers, key=int)]


def _latest_state(root: str) -> log.State:
    last = log.latest(root)
    if last is None or last.state["snapshot"] is None:
        raise StoreError(f"{redact(root)}: no snapshot was committed here; run `stx encode` first")
    return last.state


def snapshot_state(root: str, version: int | None = None) -> dict[str, Any]:
    """What the log keeps of a snapshot: version, outputs, segments, rows, id_hash.

    Raises:
        StoreError: there is no snapshot, or never was this version.
        SnapshotExpired: gc removed this version.
    """
    state = _latest_state(root)
    snapshot: dict[str, Any] = state["snapshot"]
    if version is None or version == snapshot["version"]:
        return snapshot
    _check_kept(root, state, version)
    return _read_kept(root, state["kept"][str(version)])


def _read_kept(root: str, number: int) -> dict[str, Any]:
    snapshot: dict[str, Any] = log.read_entry(root, number).state["snapshot"]
    return snapshot


def _check_kept(root: str, state: log.State, version: int) -> None:
    if str(version) in state["kept"]:
        return
    kept = ", ".join(sorted(state["kept"], key=int))
    if 0 < version < log.current_version(state):
        raise SnapshotExpired(
            f"{redact(root)}: version {version} was removed by gc; kept are {kept}"
        )
    raise StoreError(f"{redact(root)}: no version {version}; kept are {kept}")


def _read(root: str, version: int | None, read: Callable[[Mapping[str, Any]], Result]) -> Result:
    """Read something of a snapshot; of the next one when gc removed it on the way.

    Raises:
        SnapshotExpired: gc removed the version that was asked for.
    """
    snapshot = snapshot_state(root, version)
    try:
        return read(snapshot)
    except StoreError:
        now = snapshot_state(root, version)
        if now["version"] == snapshot["version"]:
            raise
        return read(now)


def read_manifest(root: str, version: int | None = None) -> pa.Table:
    """Read a snapshot's list of files, one row per unit and output, see `manifest.MANIFEST`.

    Raises:
        StoreError: there is no such snapshot, or its manifest is damaged.
    """
    return _read(root, version, lambda snapshot: read_segments(root, snapshot["segments"]))


def open_snapshot(
    root: str, *, output: str | None = None, version: int | None = None
) -> ds.FileSystemDataset:
    """Open one output of a snapshot: exactly its files, in corpus order, with its schema.

    Args:
        root: the dataset.
        output: name of the output; needed when there are several.
        version: None for the current one.

    Raises:
        StoreError: there is no such snapshot or output.
    """
    return _read(root, version, lambda snapshot: _open(root, snapshot, output))


def _open(root: str, snapshot: Mapping[str, Any], output: str | None) -> ds.FileSystemDataset:
    name = _choose_output(root, snapshot, output)
    filesystem, path = arrow_filesystem(root)
    return ds.FileSystemDataset.from_paths(
        [join(path, file) for file in _files(root, snapshot, name)],
        schema=output_schema(snapshot["outputs"][name]),
        format=ds.ParquetFileFormat(),
        filesystem=filesystem,
    )


def output_schema(facts: Mapping[str, Any]) -> pa.Schema:
    """Schema of an output's files, from what the log keeps of it."""
    return pa.ipc.read_schema(pa.BufferReader(base64.b64decode(facts["schema"])))


def snapshot_files(
    root: str, *, output: str | None = None, version: int | None = None
) -> list[str]:
    """URLs of a snapshot's data files in corpus order, for engines that read files.

    Args:
        root: the dataset.
        output: None for all outputs.
        version: None for the current one.

    Raises:
        StoreError: there is no such snapshot or output.
    """
    files = _read(root, version, lambda snapshot: _files(root, snapshot, output))
    return [join(root, file) for file in dict.fromkeys(files)]


def _files(root: str, snapshot: Mapping[str, Any], output: str | None) -> list[str]:
    """Data files of one output, or of all, relative to the dataset."""
    if output is not None:
        output = _choose_output(root, snapshot, output)
    table = read_segments(root, snapshot["segments"])
    wanted = pc.not_equal(table["file"], "")
    if output is not None:
        wanted = pc.and_(wanted, pc.equal(table["output"], output))
    files: list[str] = table.filter(wanted)["file"].to_pylist()
    return files


def _choose_output(root: str, snapshot: Mapping[str, Any], output: str | None) -> str:
    names = list(snapshot["outputs"])
    if output is None and len(names) == 1:
        return str(names[0])
    if output is None or output not in names:
        problem = "has several outputs" if output is None else f"has no output {output!r}"
        raise StoreError(f"{redact(root)}: the snapshot {problem}; name one of {', '.join(names)}")
    return output
