"""Publish snapshots: check that a run is complete, make it current; go back to an older one."""

import base64
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from stx_core.errors import CommitConflict, DamagedFile, StoreError
from stx_core.store import log
from stx_core.store.damage import missing_or_resized, named_files
from stx_core.store.files.urls import join, redact
from stx_core.store.ledger import find_problem, to_records
from stx_core.store.log import Claim
from stx_core.store.log_state import (
    Content,
    OutputFacts,
    Segment,
    State,
    current_version,
    pinned_version,
    publish,
)
from stx_core.store.manifest import (
    MANIFEST,
    Planned,
    assemble,
    read_segments,
    split_shards,
    summarise,
    write_segments,
)
from stx_core.store.schema import exact_ids
from stx_core.store.snapshot import SnapshotInfo, check_kept, snapshot_state, to_info

logger = logging.getLogger(__name__)

Keeps = Callable[[str], bool]
"""Says of a shard, by its URL, that a run does not speak about it: its rows stay as they are."""


@dataclass(frozen=True)
class Base:
    """A version to build on; 0, without rows and outputs, when there is none."""

    version: int
    rows: pa.Table
    segments: list[Segment]
    outputs: Mapping[str, OutputFacts]


Judge = Callable[[pa.Table, Base], Mapping[str, OutputFacts]]
"""Looks at the manifest rows that are about to be published, and at the version that they follow:
what to add to the facts of outputs, by name. Raises to refuse; asked again for another base."""


def commit_snapshot(
    root: str,
    claim: Claim,
    planned: Planned,
    records: pa.Table,
    outputs: Mapping[str, OutputFacts],
    schemas: Mapping[str, pa.Schema],
    keeps: Keeps | None = None,
    judge: Judge | None = None,
) -> SnapshotInfo:
    """Check that all planned work is done and on disk, then publish it as the next version.

    A planned key without a record is taken over from the snapshot that the run builds on, if it
    is there: the same key is the same content. When another run committed meanwhile and left the
    shards alone that this one speaks about, this one builds on that snapshot instead.

    Args:
        root: the dataset.
        claim: of the run.
        planned: all units of the snapshot, by output, see `planned_units`.
        records: of this run, see `ledger.RECORDS`.
        outputs: what to remember of each output, as JSON values.
        schemas: of each output's files.
        keeps: shards that stay as they are; None when the run speaks about the whole corpus.
        judge: asked last, before the snapshot is published.

    Raises:
        StoreError: units are missing, counts or ids do not add up, or a file is not there.
        Fenced: a newer start took the run over.
        CommitConflict: another run committed, and it changed what this one speaks about.
    """
    if entry := log.committed(root, claim.run):
        return to_info(entry.state["snapshot"])
    # The commit asks this again; here it comes before complaints about files that gc removed.
    log.check(root, claim.run, claim.epoch)
    for record in to_records(records):
        if problem := find_problem(record):
            raise StoreError(f"{redact(root)}: record of unit {record.key}: {problem}")
    base = _base(root, claim.base)
    while True:
        rows = assemble(planned, records, base.rows, root)
        stays = MANIFEST.empty_table()
        if keeps is not None:
            stays = _rows_that_stay(root, base, planned, outputs=outputs, keeps=keeps)
            rows = pa.concat_tables([stays, rows])
        # What the run does not speak about is no worse than it was.
        _check_files(root, rows, named_files(stays)["name"])
        added = judge(rows, base) if judge else {}
        judged: dict[str, OutputFacts] = {
            name: {**facts, **added.get(name, {})} for name, facts in outputs.items()
        }
        content = _content(root, rows, judged, schemas)
        content["segments"] = write_segments(
            root, claim.run, claim.epoch, rows=rows, base=base.segments
        )
        try:
            entry = log.commit(root, claim.run, claim.epoch, content, base=base.version)
            return to_info(entry.state["snapshot"])
        except CommitConflict:
            winner = _base(root, None)
            before, after = base.rows, winner.rows
            if keeps is not None:
                before, after = split_shards(before, keeps)[1], split_shards(after, keeps)[1]
            if not before.equals(after):
                raise
            base = winner


def _base(root: str, version: int | None) -> Base:
    if version == 0:
        return Base(0, MANIFEST.empty_table(), [], {})
    snapshot = snapshot_state(root, version)
    segments = snapshot["segments"]
    return Base(snapshot["version"], read_segments(root, segments), segments, snapshot["outputs"])


def _rows_that_stay(
    root: str,
    base: Base,
    planned: Planned,
    *,
    outputs: Mapping[str, OutputFacts],
    keeps: Keeps,
) -> pa.Table:
    """The rows of the base that stay; they must come from the outputs that the run writes."""
    if any(keeps(url) for units in planned.values() for url in units["url"].unique().to_pylist()):
        raise ValueError("a shard is both planned and kept")
    old, new = (
        sorted((name, str(facts["fingerprint"])) for name, facts in side.items())
        for side in (base.outputs, outputs)
    )
    if base.version and old != new:
        has, writes = (
            ", ".join(f"{name} ({fingerprint[:12]})" for name, fingerprint in side)
            for side in (old, new)
        )
        raise CommitConflict(
            f"{redact(root)}: version {base.version} has the outputs {has}, this run writes "
            f"{writes}; to keep a part of the corpus both must be the same"
        )
    return split_shards(base.rows, keeps)[0]


def _check_files(root: str, rows: pa.Table, spared: pa.ChunkedArray) -> list[str]:
    """Each named file is there, with its size, and named once by an output.

    Args:
        root: the dataset.
        rows: of its manifest.
        spared: files that may be missing.

    Returns:
        Those of them that are.
    """
    missing = missing_or_resized(root, rows)
    unexpected = missing.filter(pc.invert(pc.is_in(missing["name"], value_set=spared)))
    for file in unexpected.slice(0, 1).to_pylist():
        size = "no" if file["actual"] is None else file["actual"]
        raise DamagedFile(
            f"{redact(join(root, file['name']))}: {size} bytes found, the record of unit "
            f"{rows['key'][file['row']]} says {file['size']}; restore the file, or run again: "
            "its unit is done again"
        )
    files = rows.select(["output", "file"]).filter(pc.not_equal(rows["file"], ""))
    if len(files.group_by(["output", "file"]).aggregate([])) < len(files):
        raise StoreError(f"{redact(root)}: two units name the same file; nothing was published")
    return list(missing["name"].to_pylist())


def _content(
    root: str,
    rows: pa.Table,
    outputs: Mapping[str, OutputFacts],
    schemas: Mapping[str, pa.Schema],
) -> Content:
    """Content of the new snapshot; its segments are not written yet."""
    totals = {name: summarise(rows, name) for name in outputs}
    reads = {(total.rows_in, total.id_hash_in) for total in totals.values()}
    if len(reads) > 1:
        raise StoreError(
            f"{redact(root)}: the outputs {', '.join(outputs)} were made from different rows "
            f"({sorted(read[0] for read in reads)}); run again, or, where `stx forget` took rows "
            "out, delete them in the source too: its files are then read anew for all outputs"
        )
    (n_rows, id_hash) = reads.pop() if reads else (0, f"{0:032x}")
    return {
        "outputs": {
            name: {
                **outputs[name],
                "exact_ids": exact_ids(schemas[name]),
                "schema": base64.b64encode(schemas[name].serialize().to_pybytes()).decode(),
                "rows": total.rows,
                "bytes": total.bytes,
                "files": total.files,
                "file_rows": total.file_rows,
                "rows_quarantined": total.rows_quarantined,
                "id_hash": total.id_hash,
            }
            for name, total in totals.items()
        },
        "segments": [],
        "rows": n_rows,
        "id_hash": id_hash,
    }


def rollback(root: str, version: int) -> SnapshotInfo:
    """Make the content of an older version current again, as a new version, and hold it.

    Until `release`, no run can commit: a schedule would bring back what was rolled back. Going
    back to the current version only holds it.

    Raises:
        SnapshotExpired: gc removed that version.
        StoreError: there never was such a version, or a file of it is missing that the current one
            has, or does not name.
    """
    old = snapshot_state(root, version)
    rows = read_segments(root, old["segments"])
    try:
        current = read_segments(root, snapshot_state(root)["segments"])
    except StoreError:
        # With a damaged manifest nothing is known of its files.
        current = MANIFEST.empty_table()
    if missing := _check_files(root, rows, named_files(current)["name"]):
        logger.warning(
            "%s: %d files of version %d are missing or cut, as they are in the current one (%s); "
            "`stx verify PATH --repair` encodes their units again",
            redact(root), len(missing), version, missing[0],
        )  # fmt: skip

    def change(state: State, number: int) -> State | None:
        # Once more: gc may have come between, and what it dropped is about to be deleted.
        check_kept(root, state, version)
        if version == current_version(state):
            if pinned_version(state) == version:
                return None
        else:
            publish(state, number, old["run"], old)
        state["pin"] = {"version": current_version(state), "since": number}
        return state

    return to_info(log.append(root, "rollback", change).state["snapshot"])


def release(root: str) -> int | None:
    """Let runs commit again after a rollback.

    Returns:
        The version that was held; None where none was.
    """
    version: int | None = None

    def change(state: State, number: int) -> State | None:  # noqa: ARG001
        nonlocal version
        version = pinned_version(state)
        return None if state.pop("pin", None) is None else state

    if log.latest(root) is None:
        raise StoreError(f"{redact(root)}: no dataset of stx is here")
    log.append(root, "release", change)
    return version
