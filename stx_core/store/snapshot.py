"""Snapshots: check that a run is complete and publish it; open what was published."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from stx_core.errors import StoreError
from stx_core.store import log
from stx_core.store.filesystem import arrow_filesystem, list_sizes
from stx_core.store.ledger import Record, check_unit, find_problem
from stx_core.store.log import Claim
from stx_core.store.manifest import read_segments, to_row, write_segments
from stx_core.store.units import HASH_MODULUS, Unit
from stx_core.store.urls import join, redact

Planned = Mapping[str, Mapping[str, Unit]]
"""What a snapshot shall hold: by output, the units by key."""


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


def commit_snapshot(
    root: str,
    claim: Claim,
    planned: Planned,
    records: Mapping[str, Record],
    outputs: Mapping[str, Mapping[str, Any]],
    schemas: Mapping[str, pa.Schema],
) -> SnapshotInfo:
    """Check that all planned work is done and on disk, then publish it as the next version.

    A planned key without a record is taken over from the snapshot that the run builds on, if it
    is there: the same key is the same content.

    Args:
        root: the dataset.
        claim: of the run.
        planned: all units of the snapshot, by output and key.
        records: of this run, by key.
        outputs: what to remember of each output, as JSON values.
        schemas: of each output's files.

    Raises:
        StoreError: units are missing, counts or ids do not add up, or a file is not there.
        Fenced, CommitConflict: see `log.commit`.
    """
    if log.is_committed(root, claim.run):
        entry = log.commit(root, claim.run, claim.epoch, {})
        return _info(entry.state["snapshot"])
    rows = _manifest_rows(root, claim.base, planned, records)
    _check_files(root, rows)
    summaries = {name: _summary(rows, name) for name in planned}
    reads = {(each["rows_in"], each["id_hash_in"]) for each in summaries.values()}
    if len(reads) > 1:
        raise StoreError(
            f"{redact(root)}: the outputs {', '.join(planned)} were made from different rows "
            f"({sorted(read[0] for read in reads)}); run again"
        )
    (n_rows, id_hash) = reads.pop() if reads else (0, f"{0:032x}")
    body = {
        "outputs": {
            name: {
                **outputs[name],
                "schema": base64.b64encode(schemas[name].serialize().to_pybytes()).decode(),
                **{key: value for key, value in summaries[name].items() if not key.endswith("_in")},
            }
            for name in planned
        },
        "segments": write_segments(root, claim.run, claim.epoch, rows),
        "rows": n_rows,
        "id_hash": id_hash,
    }
    return _info(log.commit(root, claim.run, claim.epoch, body).state["snapshot"])


def _manifest_rows(
    root: str, base: int, planned: Planned, records: Mapping[str, Record]
) -> list[dict[str, Any]]:
    wanted = {key for units in planned.values() for key in units}
    carried: dict[str, dict[str, Any]] = {}
    if base and wanted - records.keys():
        carried = {row["key"]: row for row in read_manifest(root, base).to_pylist()}
    if missing := sorted(wanted - records.keys() - carried.keys()):
        raise StoreError(
            f"{redact(root)}: {len(missing)} of {len(wanted)} units are not done, for example "
            f"{missing[0]}; run again"
        )
    rows = []
    for output, units in planned.items():
        for key, unit in units.items():
            if key not in records:
                rows.append({**carried[key], "output": output})
                continue
            check_unit(records[key], unit)
            if problem := find_problem(records[key]):
                raise StoreError(f"{redact(root)}: record of unit {key}: {problem}")
            # Two outputs of the same encoder have the same keys, and share records and files.
            rows.append({**to_row(records[key]), "output": output})
    return rows


def _check_files(root: str, rows: list[dict[str, Any]]) -> None:
    """Each named file is there, with its size, and named once by an output."""
    sizes = {f"data/{name}": size for name, size in list_sizes(join(root, "data")).items()}
    quarantined = list_sizes(join(root, "quarantine"))
    for row in rows:
        name = row["file"]
        if name and sizes.get(name) != row["size"]:
            raise StoreError(
                f"{redact(join(root, name))}: {sizes.get(name, 'no')} bytes found, the record of "
                f"unit {row['key']} says {row['size']}; restore the file, or remove the record"
            )
        bad = row["quarantine_file"]
        if bad and bad.removeprefix("quarantine/") not in quarantined:
            raise StoreError(
                f"{redact(join(root, bad))}: missing, unit {row['key']} names it; restore the file"
            )
    names = [(row["output"], row["file"]) for row in rows if row["file"]]
    if len(set(names)) != len(names):
        raise StoreError(f"{redact(root)}: two units name the same file; nothing was published")


def _summary(rows: list[dict[str, Any]], output: str) -> dict[str, Any]:
    mine = [row for row in rows if row["output"] == output]
    return {
        "rows": sum(row["rows_out"] for row in mine),
        "bytes": sum(row["size"] for row in mine),
        "files": sum(bool(row["file"]) for row in mine),
        "rows_quarantined": sum(row["rows_quarantined"] for row in mine),
        "id_hash": _add_hashes(row["id_hash_out"] for row in mine),
        "rows_in": sum(row["rows_in"] for row in mine),
        "id_hash_in": _add_hashes(row["id_hash_in"] for row in mine),
    }


def _add_hashes(hashes: Any) -> str:  # noqa: ANN401  (an iterable of hexadecimal digits)
    return f"{sum(int(each, 16) for each in hashes) % HASH_MODULUS:032x}"


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


def snapshot_state(root: str, version: int | None = None) -> dict[str, Any]:
    """What the log keeps of a snapshot: version, outputs, segments, rows, id_hash.

    Raises:
        StoreError: there is no snapshot, or not this version.
    """
    last = log.latest(root)
    if last is None or last.state["snapshot"] is None:
        raise StoreError(f"{redact(root)}: no snapshot was committed here; run `stx encode` first")
    snapshot: dict[str, Any] = last.state["snapshot"]
    if version is None or version == snapshot["version"]:
        return snapshot
    if str(version) not in last.state["kept"]:
        kept = ", ".join(sorted(last.state["kept"], key=int))
        raise StoreError(f"{redact(root)}: no version {version}; kept are {kept}")
    old: dict[str, Any] = log.read_entry(root, last.state["kept"][str(version)]).state["snapshot"]
    return old


def read_manifest(root: str, version: int | None = None) -> pa.Table:
    """Read a snapshot's list of files, one row per unit and output, see `manifest.MANIFEST`.

    Raises:
        StoreError: there is no such snapshot, or its manifest is damaged.
    """
    return read_segments(root, snapshot_state(root, version)["segments"])


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
    snapshot = snapshot_state(root, version)
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
    snapshot = snapshot_state(root, version)
    if output is not None:
        output = _choose_output(root, snapshot, output)
    return [join(root, file) for file in dict.fromkeys(_files(root, snapshot, output))]


def _files(root: str, snapshot: Mapping[str, Any], output: str | None) -> list[str]:
    """Data files of one output, or of all, relative to the dataset."""
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
