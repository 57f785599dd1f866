"""The log of a dataset: numbered entries, created once and never deleted, that order everything.

Each entry carries the whole small state::

    snapshot  None, or {version, run, created, outputs, segments, rows, id_hash}
    kept      {version: number of the log entry that committed it}
    runs      {run: {spec_hash, epoch, state, base, adopts}}

A run's state is open, paused, done or abandoned. Who wants to change something reads the latest
entry and creates the next number; of two only one can. A stalled process that wakes up finds its
number taken, reads again, and sees whether it may still act.
"""

import copy
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from stx_core import failpoints
from stx_core.errors import CommitConflict, Fenced, StoreError
from stx_core.store.create import create
from stx_core.store.filesystem import list_names, read_bytes
from stx_core.store.sealed import decode, is_whole, seal
from stx_core.store.urls import join, redact

FORMAT = 1

State = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One entry of the log.

    Attributes:
        n: its number, from 1 without gaps.
        kind: ``claim`` or ``commit``.
        digest: SHA-256 of its content.
        previous: digest of the entry before; empty for the first.
        state: the whole state after it.
    """

    n: int
    kind: str
    digest: str
    previous: str
    state: State


@dataclass(frozen=True)
class Claim:
    """The right to work on a run, until a newer start takes it.

    Attributes:
        run: id of the run.
        epoch: number of this start.
        base: version of the snapshot that this start plans against; 0 for none.
        resumed: an earlier start left the run unfinished.
    """

    run: str
    epoch: int
    base: int
    resumed: bool


def latest(root: str) -> Entry | None:
    """Read the last entry of a log; None where nothing was ever claimed.

    Raises:
        StoreError: an entry is missing or damaged. Both mean that somebody else changed the
            folder; nothing is repaired by guessing.
    """
    names = [name for name in list_names(_folder(root)) if name.endswith(".json")]
    if not names:
        return None
    expected = [_name(number) for number in range(1, len(names) + 1)]
    if names != expected:
        odd = next(name for name, wanted in zip(names, expected, strict=True) if name != wanted)
        raise StoreError(
            f"{redact(_folder(root))}: the log has {len(names)} entries, but not 1 to "
            f"{len(names)} (see {odd}); an entry was deleted or added by hand, restore it"
        )
    return read_entry(root, len(names))


def read_entry(root: str, number: int) -> Entry:
    """Read one entry.

    Raises:
        StoreError: it is damaged or absent.
    """
    url = join(_folder(root), _name(number))
    try:
        return _to_entry(decode(read_bytes(url)), number, url)
    except FileNotFoundError as error:
        raise StoreError(f"{redact(url)}: this log entry is missing") from error


def _to_entry(body: dict[str, Any], number: int, url: str) -> Entry:
    if not is_whole(body) or body.get("n") != number:
        raise StoreError(f"{redact(url)}: damaged log entry (its digest does not match)")
    if body["format"] != FORMAT:
        raise StoreError(
            f"{redact(url)}: log format {body['format']}, this stx knows {FORMAT}; use a newer stx"
        )
    return Entry(number, body["kind"], body["digest"], body["previous"], body["state"])


def append(root: str, kind: str, change: Callable[[State, int], State | None]) -> Entry:
    """Append an entry, again and again until no other writer is faster.

    Args:
        root: the dataset.
        kind: of the entry.
        change: takes a copy of the latest state and the number of the new entry, and gives the
            new state, or None when nothing needs to be written. It may be called several times,
            and may raise to give up.

    Returns:
        The new entry; the latest one if nothing needed to be written.
    """
    while True:
        last = latest(root)
        number = last.n + 1 if last else 1
        state = change(copy.deepcopy(last.state) if last else _empty(), number)
        if state is None and last is not None:
            return last
        body = {
            "format": FORMAT,
            "n": number,
            "kind": kind,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "previous": last.digest if last else "",
            "state": state,
        }
        url = join(_folder(root), _name(number))
        created = create(url, seal(body))
        if created.won:
            return _to_entry(created.body, number, url)
        # Somebody moved on. Writers that lose together should not try again together.
        time.sleep(random.uniform(0, 0.05))


def unfinished_run(state: State, spec_hash: str) -> str | None:
    """The run of a spec that was claimed and not committed: the next start goes on with it."""
    runs = [
        run
        for run, facts in state["runs"].items()
        if facts["spec_hash"] == spec_hash and facts["state"] in ("open", "paused")
    ]
    return runs[-1] if runs else None


def claim(root: str, spec_hash: str) -> Claim:
    """Take the unfinished run of a spec, or open a new one.

    A taken run gets a higher epoch: from then on its earlier starts cannot commit. What they
    recorded stays valid.
    """
    new_run = _run_name()
    taken: dict[str, Any] = {}

    def change(state: State, number: int) -> State:
        base = state["snapshot"]["version"] if state["snapshot"] else 0
        unfinished = unfinished_run(state, spec_hash)
        run = unfinished or new_run
        epoch = state["runs"][run]["epoch"] + 1 if unfinished else 1
        state["runs"][run] = {
            "spec_hash": spec_hash,
            "epoch": epoch,
            "state": "open",
            # Each start plans again, so it builds on the snapshot of now.
            "base": base,
            "adopts": [],
        }
        taken.update(run=run, epoch=epoch, base=base, resumed=unfinished is not None)
        failpoints.hit("claim.before")
        return state

    append(root, "claim", change)
    return Claim(**taken)


def commit(root: str, run: str, epoch: int, snapshot: dict[str, Any]) -> Entry:
    """Publish a snapshot as the next version. Committing a run twice changes nothing.

    Args:
        root: the dataset.
        run: id of the run.
        epoch: as claimed.
        snapshot: outputs, segments, rows and id_hash; version, run and time are added.

    Returns:
        The entry; if the run was committed before, the entry that did it.

    Raises:
        Fenced: a newer start took the run over.
        CommitConflict: the snapshot that this run builds on is not the current one any more.
    """
    committed_at: list[int] = []

    def change(state: State, number: int) -> State | None:
        committed_at.clear()
        facts = state["runs"].get(run)
        if facts is not None and facts["state"] == "done":
            committed_at.append(facts["committed"])
            return None
        if facts is None or facts["epoch"] != epoch or facts["state"] != "open":
            raise Fenced(_fenced(root, run, epoch, facts))
        current = state["snapshot"]["version"] if state["snapshot"] else 0
        if current != facts["base"]:
            raise CommitConflict(
                f"{redact(root)}: run {run} builds on version {facts['base']}, but version "
                f"{current} was committed meanwhile; run again, finished work is kept"
            )
        version = current + 1
        state["snapshot"] = {
            **snapshot,
            "version": version,
            "run": run,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        state["kept"][str(version)] = number
        facts.update(state="done", committed=number)
        failpoints.hit("commit.before")
        return state

    entry = append(root, "commit", change)
    failpoints.hit("commit.after")
    return read_entry(root, committed_at[0]) if committed_at else entry


def is_committed(root: str, run: str) -> bool:
    """Whether a run has published its snapshot."""
    last = latest(root)
    return bool(last and last.state["runs"].get(run, {}).get("state") == "done")


def _fenced(root: str, run: str, epoch: int, facts: dict[str, Any] | None) -> str:
    if facts is None:
        return f"{redact(root)}: run {run} is not in the log; nothing was published"
    return (
        f"{redact(root)}: run {run} is {facts['state']} with start {facts['epoch']}, this is "
        f"start {epoch}; a newer start took over and nothing was published here"
    )


def _empty() -> State:
    return {"snapshot": None, "kept": {}, "runs": {}}


def _run_name() -> str:
    # The time is for people who list the folder; nothing compares it.
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"


def _folder(root: str) -> str:
    return join(root, "_stx", "log")


def _name(number: int) -> str:
    return f"{number:020d}.json"
