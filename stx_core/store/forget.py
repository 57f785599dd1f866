"""Physical deletion of rows by their ids: nothing of them stays in a file of the dataset.

Files with such rows are written again without them and committed as a new version; older versions
with such files are given up by the same entry of the log, and so are interrupted runs that wrote
some. Then all that no kept version and no run needs is deleted, whatever its age. Killed anywhere,
the same call does the rest: it looks at the files, not at what an earlier one meant to do.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from stx_core.errors import CommitConflict, DamagedFile, Fenced, SpecError, StoreError
from stx_core.store import log
from stx_core.store.beat import wait_until_silent
from stx_core.store.data_file import open_parquet
from stx_core.store.files import create
from stx_core.store.files.filesystem import Listed, list_objects, modified_s, remove, write_over
from stx_core.store.files.parallel import parallel
from stx_core.store.files.retries import retry
from stx_core.store.files.urls import join, redact
from stx_core.store.gc import abort_uploads, unneeded, written_by
from stx_core.store.log_state import UNFINISHED, Content, State, current_version, publish
from stx_core.store.manifest import MANIFEST, read_segments
from stx_core.store.snapshot import exact_ids, output_schema
from stx_core.store.without_rows import Amend, content_without

FOLDER = "_stx/forgotten"

# All starts are of one run: two do not work side by side, and the log does not tell whose ids.
_RUN_HASH = "forget"
_MAX_LOOKS = 3
_BATCH_ROWS = 65_536
_FOLDERS = ("data", "quarantine")


@dataclass(frozen=True)
class Forgotten:
    """Outcome of `forget`, or what it would be.

    Attributes:
        run: that did it; None where nothing was to be done, or for a dry run.
        version: the new one; None where the current one has none of the rows.
        rows: of the current version that went, by output.
        quarantined: likewise, of its rows that could not be used.
        absent: ids that no file has.
        versions: older ones that had some of the rows and cannot be opened any more.
        runs: interrupted ones that had, and were given up.
        n_files: deleted; for a dry run those that have some of the rows.
        rewritten: files that have some of the ids again: a run wrote them meanwhile.
    """

    run: str | None
    version: int | None
    rows: dict[str, int]
    quarantined: dict[str, int]
    absent: tuple[str, ...]
    versions: tuple[int, ...]
    runs: tuple[str, ...]
    n_files: int
    rewritten: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Look:
    """Where the ids are.

    Attributes:
        entry: of the log, the latest one.
        column: of the ids in data files.
        sought: (N,) string, the ids.
        clean: files that have none.
        ids: by file that has some, those it has; none where a killed writer left half a file.
        manifest: of the current version.
        versions: kept ones that name such a file.
        runs: unfinished ones that wrote such a file, with their epochs.
    """

    entry: log.Entry
    column: str
    sought: pa.Array
    clean: frozenset[str]
    ids: Mapping[str, list[str]]
    manifest: pa.Table
    versions: tuple[int, ...]
    runs: Mapping[str, int]

    def rows(self, column: str) -> dict[str, int]:
        """Rows of the current version by output, in the files that a column of it names."""
        counts: dict[str, int] = {}
        for output, file in zip(*self.manifest.select(["output", column]).columns, strict=True):
            n_rows = len(self.ids.get(file.as_py(), ()))
            counts[output.as_py()] = counts.get(output.as_py(), 0) + n_rows
        return counts

    def outcome(self) -> Forgotten:
        """What there is to do, as if it was done."""
        seen = {text for texts in self.ids.values() for text in texts}
        return Forgotten(
            run=None,
            version=None,
            rows=self.rows("file"),
            quarantined=self.rows("quarantine_file"),
            absent=tuple(text for text in self.sought.to_pylist() if text not in seen),
            versions=self.versions,
            runs=tuple(self.runs),
            n_files=len(self.ids),
        )


def forget(root: str, ids: pa.Array, amend: Amend, *, dry_run: bool = False) -> Forgotten:
    """Delete all rows with some ids from the current version, and every file that has them.

    Older versions without them stay. What a rollback holds is held as before, without the rows.

    Args:
        root: the dataset; each row of its outputs is of one id.
        ids: (N,) string; integers as their digits.
        amend: see there.
        dry_run: only look; writes nothing.

    Raises:
        RunActive: a run is at work on the dataset, or another call of this.
        SpecError: rows of the dataset are not of one id each.
        DamagedFile: a file of a kept version cannot be read.
        StoreError: nothing was ever claimed here, or from the store. Running again goes on.
    """
    for last in (False,) * (_MAX_LOOKS - 1) + (True,):
        look = _look(root, ids, watch=not dry_run)
        if dry_run or not look.ids:
            return look.outcome()
        try:
            return _forget(root, look, amend)
        except CommitConflict:
            if last:
                raise
    raise AssertionError("the last attempt returns or raises")


def _look(root: str, ids: pa.Array, *, watch: bool) -> _Look:
    """Read the ids of all files: of kept versions, of unfinished runs, and of nobody."""
    entry = log.latest(root)
    if entry is None:
        raise StoreError(f"{redact(root)}: no dataset of stx is here")
    state = entry.state
    column, sought = _sought(root, state, ids)
    for run, facts in state["runs"].items():
        if watch and facts["state"] == "open" and facts["spec_hash"] != _RUN_HASH:
            wait_until_silent(root, run, facts["epoch"], facts["writer"])
    manifests = _manifests(root, state)
    named = {
        version: set(rows["file"].to_pylist()) | set(rows["quarantine_file"].to_pylist())
        for version, rows in manifests.items()
    }
    needed = set().union(*named.values())
    files = _files(root)

    def read(file: str) -> list[str] | None:
        try:
            return _ids_in(root, file, column, sought)
        except DamagedFile:
            if file in needed:
                raise
            return []

    seen = dict(zip(files, parallel(read, files), strict=True))
    holding = {file: texts for file, texts in seen.items() if texts is not None}
    writers = set(map(written_by, holding))
    return _Look(
        entry,
        column,
        sought,
        clean=frozenset(seen.keys() - holding.keys()),
        ids=holding,
        manifest=manifests.get(current_version(state), MANIFEST.empty_table()),
        versions=tuple(v for v in sorted(named) if named[v] & holding.keys()),
        runs={run: epoch for run, (epoch, _) in _unfinished(state).items() if run in writers},
    )


def _sought(root: str, state: State, ids: pa.Array) -> tuple[str, pa.Array]:
    """Name of the column of ids, and the ids as its values are spelt: 07 is 7 in one of numbers."""
    column, kind = "id", pa.string()
    for name, facts in (state["snapshot"]["outputs"] if state["snapshot"] else {}).items():
        own = exact_ids(facts)
        if own is None:
            raise SpecError(
                f"{redact(root)}: rows of output {name} are not of one id each (rankings, training "
                "rows); forget the ids in the datasets that it was made of and in files with "
                "judgements, run its job again, and then delete the version before: stx gc PATH "
                "--keep 1 --older-than 0 --abandon-after 0"
            )
        column, kind = own, output_schema(facts).field(own).type
    try:
        return column, ids.cast(kind).cast(pa.string()).unique()
    except pa.ArrowInvalid as error:
        raise SpecError(f"ids of the dataset are {kind}: {error}") from error


def _manifests(root: str, state: State) -> dict[int, pa.Table]:
    """Manifest rows of all kept versions."""
    manifests = {}
    for version, number in state["kept"].items():
        snapshot = log.read_entry(root, number).state["snapshot"]
        assert snapshot is not None
        manifests[int(version)] = read_segments(root, snapshot["segments"])
    return manifests


def _files(root: str) -> list[str]:
    """Files with rows, of whatever run; names that stx does not give are left alone."""
    paths = (f"{folder}/{f.name}" for folder in _FOLDERS for f in list_objects(join(root, folder)))
    return [path for path in paths if written_by(path)]


def _ids_in(root: str, file: str, column: str, ids: pa.Array) -> list[str] | None:
    """Those of the ids that a file has, as often as it has them; None for none."""
    url = join(root, file)

    def read() -> list[str]:
        texts: list[str] = []
        with open_parquet(url) as parquet:
            name = "id" if file.startswith("quarantine/") else column
            columns = [name] if name in parquet.schema_arrow.names else []
            for batch in parquet.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False):
                for values in batch.columns:
                    text = values.cast(pa.string())
                    texts += text.filter(pc.is_in(text, value_set=ids)).to_pylist()
        return texts

    if file.rpartition("/")[2].startswith("."):
        return []
    return retry(read, url) or None


def _unfinished(state: State) -> dict[str, tuple[int, str]]:
    """Epochs and states of runs that may go on."""
    return {
        run: (facts["epoch"], facts["state"])
        for run, facts in state["runs"].items()
        if facts["state"] in UNFINISHED and facts["spec_hash"] != _RUN_HASH
    }


def _forget(root: str, look: _Look, amend: Amend) -> Forgotten:
    create.probe(root)
    outcome = look.outcome()
    # What a rollback holds may lose rows too.
    claim = log.claim(root, _RUN_HASH, repairs=True)
    with log.hold(root, claim):
        content = None
        if snapshot := look.entry.state["snapshot"]:
            content = content_without(
                root,
                snapshot,
                look.manifest,
                ids=look.sought,
                files=look.ids,
                claim=claim,
                amend=amend,
            )
        entry = _commit(root, look, claim, content)
        deleted = _delete(root, entry)
        again = [file for file in _files(root) if file not in look.clean]
        is_left = parallel(lambda file: _ids_in(root, file, look.column, look.sought), again)
    done = asdict(outcome) | {
        "run": claim.run,
        "version": current_version(entry.state) if content else None,
        "n_files": len(deleted),
        "rewritten": tuple(f for f, has in zip(again, is_left, strict=True) if has is not None),
    }
    # The record that all is done, for audits: numbers, and no id.
    facts = done | {name: len(done[name]) for name in ("absent", "rewritten")}
    facts["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    write_over(join(root, FOLDER, f"{claim.run}.json"), json.dumps(facts).encode())
    return Forgotten(**done)


def _commit(root: str, look: _Look, claim: log.Claim, content: Content | None) -> log.Entry:
    """Publish the version without the rows, and give up all versions and runs that have some."""

    def change(state: State, number: int) -> State:
        facts = state["runs"].get(claim.run)
        if facts is None or (facts["epoch"], facts["state"]) != (claim.epoch, "open"):
            raise Fenced(f"{redact(root)}: another `stx forget` took over; nothing was done here")
        looked = look.entry.state
        if (current_version(state), _unfinished(state)) != (
            current_version(looked),
            _unfinished(looked),
        ):
            raise CommitConflict(f"{redact(root)}: another run changed the dataset; run again")
        if content is not None:
            publish(state, number, claim.run, content)
        for version in look.versions:
            state["kept"].pop(str(version), None)
        for run, epoch in look.runs.items():
            state["runs"][run]["state"] = "abandoned"
            state["runs"][run]["epoch"] = epoch + 1
        facts["state"], facts["committed"] = "done", number
        return state

    return log.append(root, "forget", change)


def _delete(root: str, entry: log.Entry) -> list[Listed]:
    """Delete what nothing needs after an entry; files with rows last, as they prove the need."""
    fence_s = modified_s(log.entry_url(root, entry.n))

    def is_over(file: Listed) -> bool:
        # A run that was claimed after the entry is not in its state, and has written later. Times
        # alone would not do: S3 tells them in whole seconds.
        if file.name.startswith("_stx/reports/"):
            return int(file.name.split("/")[2]) <= current_version(entry.state)
        return written_by(file.name) in entry.state["runs"] or file.modified_s < fence_s

    over = list(filter(is_over, unneeded(root, entry.state)))
    for has_rows in (False, True):
        names = [file.name for file in over if file.name.startswith(_FOLDERS) == has_rows]
        parallel(lambda name: remove(join(root, name)), names)
    abort_uploads(root, fence_s, dry_run=False)
    return over
