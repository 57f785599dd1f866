"""Delete what no version that is kept and no run that may go on needs.

First an entry goes into the log (the fence): from then on nobody can publish what is about to be
deleted. Only then objects are deleted, and only old ones: a run that was claimed after the fence
has written all of its objects later. Ages are differences between times that the store itself
gave, and log entries stay for ever.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from stx_core import failpoints
from stx_core.errors import RunActive, StoreError
from stx_core.store import clock, damage, log
from stx_core.store.beat import beat_url, wait_until_silent
from stx_core.store.files.filesystem import (
    Listed,
    list_objects,
    modified_s,
    remove,
)
from stx_core.store.files.parallel import parallel
from stx_core.store.files.unfinished_uploads import abort_upload, unfinished_uploads
from stx_core.store.files.urls import join, redact
from stx_core.store.log_state import UNFINISHED, State
from stx_core.store.manifest import read_segments

logger = logging.getLogger(__name__)

KEEP = 10
# Clocks of a store's machines differ, readers hold a snapshot open for a while.
MARGIN_S = 24 * 3600.0
# An interrupted run may be gone on with for so long: two weeks.
ABANDON_AFTER_S = 14 * 24 * 3600.0

_TEMPORARY = re.compile(r"^\.(.+)\.[0-9a-f]{32}\.tmp$")
_RUN = r"\d{8}T\d{6}-[0-9a-f]{8}"
_FILE = re.compile(rf"^(?:[0-9a-f]{{32}}-)?(?P<run>{_RUN})-\d+-[0-9a-f]+\.parquet$")


@dataclass(frozen=True)
class Garbage:
    """Objects that gc removed, or would remove.

    Attributes:
        versions: that cannot be opened any more.
        runs: interrupted ones that were given up.
        files: paths relative to the dataset.
        size: of the files, bytes.
        n_uploads: unfinished uploads of killed processes, which nobody sees and which cost money.
        n_spared: files that nothing needs and that are too young to be deleted.
        next_in_s: when the first of them is old enough; None where none was spared.
    """

    versions: tuple[int, ...]
    runs: tuple[str, ...]
    files: tuple[str, ...]
    size: int
    n_uploads: int = 0
    n_spared: int = 0
    next_in_s: float | None = None


def gc(
    root: str,
    *,
    keep: int = KEEP,
    keep_for_s: float | None = None,
    margin_s: float = MARGIN_S,
    abandon_after_s: float = ABANDON_AFTER_S,
    dry_run: bool = False,
) -> Garbage:
    """Give up old versions and runs, and delete what only they needed.

    The versions that open and paused runs build on are kept beside the newest ones.

    Args:
        root: the dataset.
        keep: how many of the newest versions stay, at least 1.
        keep_for_s: versions stay, too, that were current less than this before the newest log
            entry.
        margin_s: objects stay that were written less than this before the fence.
        abandon_after_s: an interrupted run is given up when it showed no life for so long.
        dry_run: only say what would be deleted; writes nothing.

    Raises:
        StoreError: nothing was ever claimed here, or from the store. Running again is safe.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    before = log.latest(root)
    if before is None:
        raise StoreError(f"{redact(root)}: no dataset of stx is here")
    deletes = False
    if dry_run:
        state = _without_expired(root, before.state, before.n, keep=keep, keep_for_s=keep_for_s)
        now_s = clock.now()
        state = _without_runs(state, _old_runs(root, state, now_s - abandon_after_s))
    else:
        fence = _fence(root, keep, keep_for_s, abandon_after_s, margin_s)
        deletes = fence is not None
        state, now_s = before.state, clock.now()
        if fence is not None:
            state, now_s = fence.state, modified_s(log.entry_url(root, fence.n))
        failpoints.hit("gc.after_fence")
    useless = list(unneeded(root, state))
    garbage = [file for file in useless if file.modified_s < now_s - margin_s]
    # S3 tells the time of one object in whole seconds: those in a listing may be a bit later.
    young = [min(file.modified_s, now_s) for file in useless if file.modified_s >= now_s - margin_s]
    if not dry_run and not deletes:
        # Nothing was old enough when it was decided that no fence is needed.
        garbage = []

    def delete(file: Listed) -> None:
        failpoints.hit("gc.mid")
        remove(join(root, file.name))

    if deletes:
        parallel(delete, garbage)
    return Garbage(
        versions=tuple(sorted(map(int, before.state["kept"].keys() - state["kept"].keys()))),
        runs=tuple(run for run, facts in state["runs"].items() if facts["state"] == "abandoned"),
        files=tuple(file.name for file in garbage),
        size=sum(file.size for file in garbage),
        n_uploads=abort_uploads(root, now_s - margin_s, dry_run=dry_run),
        n_spared=len(young),
        next_in_s=max(0.0, min(young) + margin_s - now_s) if young else None,
    )


def abort_uploads(root: str, before_s: float, *, dry_run: bool) -> int:
    """Abort multipart uploads that were begun before some time of the store; how many."""
    try:
        old = [upload for upload in unfinished_uploads(root) if upload.begun_s < before_s]
        if not dry_run:
            parallel(abort_upload, old)
    except StoreError as error:
        # Some stores and policies do not let them be listed: that is no reason to fail.
        logger.warning("unfinished uploads were left: %s", error)
        return 0
    return len(old)


def _fence(
    root: str, keep: int, keep_for_s: float | None, abandon_after_s: float, margin_s: float
) -> log.Entry | None:
    """Append what gives up versions, and then what gives up runs, if there are such.

    None where nothing is to be given up, and by the local clock nothing is old enough to be
    deleted: a schedule does not fill the log.
    """

    def expire(state: State, number: int) -> State | None:
        after = _without_expired(root, state, number - 1, keep=keep, keep_for_s=keep_for_s)
        before_s = clock.now() - margin_s
        if after == state and not any(x.modified_s < before_s for x in unneeded(root, state)):
            return None
        return after

    last = log.latest(root)
    fence = log.append(root, "gc", expire)
    now_s = modified_s(log.entry_url(root, fence.n)) if last != fence else clock.now()
    given_up = _old_runs(root, fence.state, now_s - abandon_after_s)
    for run, epoch in list(given_up.items()):
        facts = fence.state["runs"][run]
        if facts["state"] == "open":
            try:
                wait_until_silent(root, run, epoch, facts["writer"])
            except RunActive:
                del given_up[run]
    if given_up:
        return log.append(root, "gc", lambda state, _: _without_runs(state, given_up))
    return fence if fence.kind == "gc" and fence != last else None


def _without_expired(
    root: str, state: State, last: int, *, keep: int, keep_for_s: float | None
) -> State:
    """Drop old versions, and finished runs that made none of the others.

    Args:
        root: the dataset.
        state: of log entry `last`.
        last: its number.
        keep: see `gc`.
        keep_for_s: see `gc`.
    """
    numbers = sorted((int(version), number) for version, number in state["kept"].items())
    newest = [version for version, _ in numbers[-keep:]]
    spared: list[int] = []
    if keep_for_s is not None:
        now_s = modified_s(log.entry_url(root, last))
        # A version was current until the one that followed it was committed.
        ends_s = parallel(lambda pair: modified_s(log.entry_url(root, pair[1])), numbers[1:])
        spared = [
            version
            for (version, _), end_s in zip(numbers, ends_s, strict=False)
            if now_s - end_s < keep_for_s
        ]
    bases = [facts["base"] for facts in state["runs"].values() if facts["state"] in UNFINISHED]
    versions = {
        version: number
        for version, number in state["kept"].items()
        if int(version) in {*newest, *bases, *spared}
    }
    runs = {
        run: facts
        for run, facts in state["runs"].items()
        if facts["state"] in UNFINISHED or facts.get("committed") in versions.values()
    }
    return {**state, "kept": versions, "runs": runs}


def _old_runs(root: str, state: State, before_s: float) -> dict[str, int]:
    """Unfinished runs that showed no life since some time of the store, with their epochs."""
    old = {}
    for run, facts in state["runs"].items():
        if facts["state"] in UNFINISHED:
            last_life_s = modified_s(log.entry_url(root, facts["claimed"]))
            with suppress(FileNotFoundError):
                last_life_s = max(last_life_s, modified_s(beat_url(root, run)))
            if last_life_s < before_s:
                old[run] = facts["epoch"]
    return old


def _without_runs(state: State, given_up: Mapping[str, int]) -> State:
    """Abandon runs, unless a newer start took them over."""
    runs = dict(state["runs"])
    for run, facts in state["runs"].items():
        if given_up.get(run) == facts["epoch"] and facts["state"] in UNFINISHED:
            runs[run] = {**facts, "state": "abandoned", "epoch": facts["epoch"] + 1}
    return {**state, "runs": runs}


def written_by(path: str) -> str | None:
    """Run that wrote an object of a dataset, by its path; None where that does not say."""
    if path.startswith("_stx/runs/"):
        return path.split("/")[2]
    # What a killed writer left has the name of a file inside its own.
    name = path.rpartition("/")[2]
    temporary = _TEMPORARY.match(name)
    match = _FILE.match(temporary[1] if temporary else name)
    return match["run"] if match else None


def unneeded(root: str, state: State) -> Iterator[Listed]:
    """Objects that no kept version names, and that no run which may go on has written.

    Names that stx does not give are left alone.
    """
    snapshots = parallel(
        lambda number: log.read_entry(root, number).state["snapshot"], state["kept"].values()
    )
    # Versions share most of their segments.
    segments = {s["file"]: s for snapshot in snapshots if snapshot for s in snapshot["segments"]}
    rows = read_segments(root, list(segments.values()))
    files = (rows[name].unique().to_pylist() for name in ("file", "quarantine_file"))
    needed, makers = set(segments).union(*files), set(rows["run"].unique().to_pylist())
    going_on = {run: facts for run, facts in state["runs"].items() if facts["state"] in UNFINISHED}
    spared = {*going_on, *(run for facts in going_on.values() for run in facts["adopts"])}
    for folder in ("data", "quarantine", "_stx/segments"):
        for file in list_objects(join(root, folder)):
            path = f"{folder}/{file.name}"
            run = written_by(path)
            if path not in needed and run and run not in spared:
                yield replace(file, name=path)
    for file in list_objects(join(root, "_stx/runs")):
        run, _, name = file.name.partition("/")
        # The spec says how the texts of rows that are still served were read.
        if run not in spared and not (name == "spec.yaml" and run in makers):
            yield replace(file, name=f"_stx/runs/{file.name}")
    notes = set(map(damage.note_name, needed))
    for file in list_objects(join(root, damage.FOLDER)):
        if file.name not in notes:
            yield replace(file, name=f"{damage.FOLDER}/{file.name}")
    for file in list_objects(join(root, "_stx/reports")):
        version = file.name.partition("/")[0]
        if version.isdecimal() and version not in state["kept"]:
            yield replace(file, name=f"_stx/reports/{file.name}")
