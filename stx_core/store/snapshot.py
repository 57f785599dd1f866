"""Snapshots: what was published, described and opened."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from stx_core.errors import SnapshotExpired, SpecError, StoreError
from stx_core.store import log
from stx_core.store.data_file import read_columns
from stx_core.store.files.filesystem import arrow_filesystem
from stx_core.store.files.urls import join, redact
from stx_core.store.log_state import OutputFacts, Snapshot, State, current_version
from stx_core.store.manifest import read_segments
from stx_core.store.schema import QUARANTINE


@dataclass(frozen=True)
class SnapshotInfo:
    """Facts of a snapshot that are known without opening its files.

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
    outputs: dict[str, OutputFacts]
    rows: int
    id_hash: str


def snapshot_info(root: str, version: int | None = None) -> SnapshotInfo:
    """Describe a snapshot, the current one by default.

    Raises:
        StoreError: there is no snapshot, or not this version.
    """
    return to_info(snapshot_state(root, version))


def to_info(snapshot: Snapshot | None) -> SnapshotInfo:
    """A snapshot as the log keeps it, which must be there, without its schemas and segments."""
    assert snapshot is not None
    outputs = {name: facts.copy() for name, facts in snapshot["outputs"].items()}
    for facts in outputs.values():
        facts.pop("schema", None)
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
    _, state = _latest(root)
    numbers = [state["kept"][version] for version in sorted(state["kept"], key=int)]
    return [to_info(log.read_entry(root, number).state["snapshot"]) for number in numbers]


def _latest(root: str) -> tuple[Snapshot, State]:
    """The current snapshot, and the state of its dataset."""
    last = log.latest(root)
    if last is None or last.state["snapshot"] is None:
        raise StoreError(f"{redact(root)}: no snapshot was committed here; run `stx encode` first")
    return last.state["snapshot"], last.state


def snapshot_state(root: str, version: int | None = None) -> Snapshot:
    """A snapshot as the log keeps it.

    Raises:
        StoreError: there is no snapshot, or never was this version.
        SnapshotExpired: gc removed this version.
    """
    current, state = _latest(root)
    if version is None or version == current["version"]:
        return current
    check_kept(root, state, version)
    snapshot = log.read_entry(root, state["kept"][str(version)]).state["snapshot"]
    assert snapshot is not None
    return snapshot


def check_kept(root: str, state: State, version: int) -> None:
    """Refuse a version that is not kept.

    Raises:
        SnapshotExpired: gc removed it.
        StoreError: there never was one.
    """
    if str(version) in state["kept"]:
        return
    versions = ", ".join(sorted(state["kept"], key=int))
    if 0 < version < current_version(state):
        raise SnapshotExpired(
            f"{redact(root)}: version {version} was removed by gc or forget; kept are {versions}"
        )
    raise StoreError(f"{redact(root)}: no version {version}; kept are {versions}")


def _with_manifest(root: str, version: int | None) -> tuple[Snapshot, pa.Table]:
    """A snapshot and its manifest; those of the next one when gc removed it on the way.

    Raises:
        SnapshotExpired: gc removed the version that was asked for.
    """
    snapshot = snapshot_state(root, version)
    try:
        return snapshot, read_segments(root, snapshot["segments"])
    except StoreError:
        now = snapshot_state(root, version)
        if now["version"] == snapshot["version"]:
            raise
        return now, read_segments(root, now["segments"])


def read_manifest(root: str, version: int | None = None) -> pa.Table:
    """Read a snapshot's list of files, one row per unit and output, see `manifest.MANIFEST`.

    Raises:
        StoreError: there is no such snapshot, or its manifest is damaged.
    """
    return _with_manifest(root, version)[1]


def open_snapshot(
    root: str, *, output: str | None = None, version: int | None = None
) -> ds.FileSystemDataset:
    """Open one output of a snapshot: exactly its files, in corpus order, with its schema.

    Args:
        root: the dataset.
        output: name of the output; needed when there are several.
        version: None for the current one.

    Raises:
        SpecError: there is no such output.
        StoreError: there is no such snapshot.
    """
    snapshot, manifest = _with_manifest(root, version)
    output = _choose_output(root, snapshot, output)
    filesystem, path = arrow_filesystem(root)
    checked = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    return ds.FileSystemDataset.from_paths(
        [join(path, file) for file in _files(manifest, output)],
        schema=output_schema(snapshot["outputs"][output]).remove_metadata(),
        format=ds.ParquetFileFormat(default_fragment_scan_options=checked),
        filesystem=filesystem,
    )


def exact_ids(facts: OutputFacts) -> str | None:
    """The column of an output's files that has exactly the ids of the unit's rows, if there is one.

    The schema declares it; snapshots of an earlier stx do by the name of the column.
    """
    if "exact_ids" in facts:
        column: str | None = facts["exact_ids"]
        return column
    return "id" if "id" in output_schema(facts).names else None


def snapshot_schemas(root: str, version: int) -> dict[str, pa.Schema]:
    """Schema of the files of each output of a version; {} for version 0, none."""
    if not version:
        return {}
    outputs = snapshot_state(root, version)["outputs"]
    return {name: output_schema(facts) for name, facts in outputs.items()}


def output_schema(facts: OutputFacts) -> pa.Schema:
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
        SpecError: there is no such output.
        StoreError: there is no such snapshot.
    """
    snapshot, manifest = _with_manifest(root, version)
    if output is not None:
        output = _choose_output(root, snapshot, output)
    return [join(root, file) for file in dict.fromkeys(_files(manifest, output))]


def _files(manifest: pa.Table, output: str | None) -> list[str]:
    """Data files of one output, or of all, relative to the dataset."""
    chosen = pc.not_equal(manifest["file"], "")
    if output is not None:
        chosen = pc.and_(chosen, pc.equal(manifest["output"], output))
    files: list[str] = manifest.filter(chosen)["file"].to_pylist()
    return files


def quarantined_rows(
    root: str,
    version: int | None = None,
    *,
    output: str | None = None,
    reason: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of a version that could not be used, one file of them in memory at a time.

    Args:
        root: the dataset.
        version: None for the current one.
        output: None for all; a row that no output could use is there once for each.
        reason: None for all, see `store.schema.QUARANTINE`.

    Yields:
        Rows as `store.schema.QUARANTINE` has them, and ``output``.

    Raises:
        SpecError: there is no such output.
        StoreError: there is no such snapshot, or a file is damaged.
    """
    snapshot = snapshot_state(root, version)
    outputs = list(snapshot["outputs"])
    if output is not None:
        outputs = [_choose_output(root, snapshot, output)]
    table = read_segments(root, snapshot["segments"])
    for name in outputs:
        of_output = table.filter(pc.equal(table["output"], name))["quarantine_file"].to_pylist()
        for file in dict.fromkeys(filter(None, of_output)):
            for row in read_columns(join(root, file), QUARANTINE.names).to_pylist():
                if reason in (None, row["reason"]):
                    yield {**row, "output": name}


def _choose_output(root: str, snapshot: Snapshot, output: str | None) -> str:
    names = list(snapshot["outputs"])
    # Scores of judged pairs stand beside the ranking that they are scores of.
    main = [name for name in names if snapshot["outputs"][name].get("type") != "positives"]
    if output is None and len(main) == 1:
        return str(main[0])
    if output is None or output not in names:
        problem = "has several outputs" if output is None else f"has no output {output!r}"
        raise SpecError(
            f"{redact(root)}: the snapshot {problem}; name one (--output): {', '.join(names)}"
        )
    return output
