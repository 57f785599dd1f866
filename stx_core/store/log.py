"""The log of a dataset: numbered entries, created once and never deleted, that order everything.

Each entry carries the whole small state, see `log_state.State`. Who wants to change something reads
the latest entry and creates the next number; of two only one can. A stalled process that wakes up
finds its number taken, reads again, and sees whether it may still act.

Beside the log, `head.json` has the number of an entry that was there: it may fall behind, but a log
that ends before it has lost its end.
"""

import copy
import json
import logging
import random
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from stx_core import failpoints
from stx_core.errors import CommitConflict, Fenced, StoreError
from stx_core.store import clock
from stx_core.store.beat import Heartbeat, this_process, wait_until_silent
from stx_core.store.files.create import create
from stx_core.store.files.filesystem import list_names, read_bytes, write_over
from stx_core.store.files.urls import join, redact
from stx_core.store.log_state import (
    EMPTY,
    Content,
    RunFacts,
    State,
    check_unpinned,
    current_version,
    publish,
    unfinished_run,
)
from stx_core.store.sealed import decode, is_whole, seal

logger = logging.getLogger(__name__)

FORMAT = 1

_LOG = "_stx/log"
_HEAD = "_stx/head.json"

_WAY_BACK = (
    "restore it from a copy of the folder or an older version of the object; the log is never "
    "repaired by guessing"
)


@dataclass(frozen=True)
class Entry:
    """One entry of the log.

    Attributes:
        n: its number, from 1 without gaps.
        kind: ``claim``, ``pause``, ``commit``, ``rollback``, ``release``, ``forget`` or
            ``gc``.
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
    names = [name for name in list_names(join(root, _LOG)) if name.endswith(".json")]
    if not names:
        return None
    expected = [f"{number:020d}.json" for number in range(1, len(names) + 1)]
    if names != expected:
        odd = next(name for name, right in zip(names, expected, strict=True) if name != right)
        raise StoreError(
            f"{redact(join(root, _LOG))}: the log has {len(names)} entries, but not 1 to "
            f"{len(names)} (see {odd}); an entry was deleted or added by hand, restore it"
        )
    return read_entry(root, len(names))


def last_number(root: str) -> int:
    """Highest number in a log; 0 where nothing was ever claimed. What lies below may be missing."""
    names = [name.removesuffix(".json") for name in list_names(join(root, _LOG))]
    return max((int(name) for name in names if name.isdigit()), default=0)


def read_entry(root: str, number: int) -> Entry:
    """Read one entry.

    Raises:
        StoreError: it is damaged or absent.
    """
    url = entry_url(root, number)
    try:
        return _to_entry(decode(read_bytes(url)), number, url)
    except FileNotFoundError as error:
        raise StoreError(f"{redact(url)}: this log entry is missing; {_WAY_BACK}") from error


def _to_entry(body: Mapping[str, Any], number: int, url: str) -> Entry:
    if not is_whole(body) or body.get("n") != number:
        raise StoreError(
            f"{redact(url)}: damaged log entry (its digest does not match); {_WAY_BACK}"
        )
    if body["format"] != FORMAT:
        raise StoreError(
            f"{redact(url)}: log format {body['format']}, this stx knows {FORMAT}; use a newer stx"
        )
    kind, digest, previous = body["kind"], body["digest"], body["previous"]
    return Entry(number, kind, digest, previous=previous, state=body["state"])


def entry_url(root: str, number: int) -> str:
    """URL of an entry."""
    return join(root, _LOG, f"{number:020d}.json")


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
        if problem := lost_end(root, number - 1):
            raise StoreError(problem)
        state = change(copy.deepcopy(last.state if last else EMPTY), number)
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
        url = entry_url(root, number)
        created = create(url, seal(body))
        if created.won:
            try:
                write_over(join(root, _HEAD), json.dumps({"n": number}).encode())
            except StoreError as error:
                # The entry is there, and this is only a hint.
                logger.info("the end of the log could not be noted: %s", error)
            return _to_entry(created.body, number, url)
        # Somebody moved on. Writers that lose together should not try again together.
        clock.sleep(random.uniform(0, 0.05))


def lost_end(root: str, last: int) -> str | None:
    """Say that a log went on behind entry `last` once, if it did; its number must not be used."""
    try:
        head = decode(read_bytes(join(root, _HEAD))).get("n", 0)
    except FileNotFoundError:
        return None
    if not isinstance(head, int) or head <= last:
        return None
    try:
        # A listing may be older than the hint.
        read_bytes(entry_url(root, head))
    except FileNotFoundError:
        return (
            f"{redact(join(root, _LOG))}: the log ends with entry {last}, but entry {head} was "
            f"there: the newest entries were deleted; {_WAY_BACK} (after restoring the whole "
            f"dataset as it was before them, delete {redact(join(root, _HEAD))})"
        )
    return None


def claim(root: str, spec_hash: str, *, repairs: bool = False) -> Claim:
    """Take the unfinished run of a spec, or open a new one.

    An open run is taken only when the start that holds it shows no life, see
    `beat.wait_until_silent`; a paused one at once. A taken run gets a higher epoch: from then on
    its earlier starts cannot commit. What they recorded stays valid.

    Args:
        root: the dataset.
        spec_hash: says what the run does.
        repairs: the run writes damaged files of the current version again, and nothing else: it
            may do so while a rollback holds that version.

    Raises:
        RunActive: another start is at work on it.
        Pinned: a rollback holds the current version.
    """
    # The time is for people who list the folder; nothing compares it.
    new_run = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
    while True:
        last = latest(root)
        state = last.state if last else EMPTY
        run = unfinished_run(state, spec_hash)
        free = None
        if run is not None:
            facts = state["runs"][run]
            if facts["state"] == "open":
                wait_until_silent(root, run, facts["epoch"], facts["writer"])
            free = run, facts["epoch"]
        if taken := _take(root, spec_hash, free, new_run, repairs=repairs):
            return taken
        # Another start was faster while this one watched: see whether it is at work.


def _take(
    root: str, spec_hash: str, free: tuple[str, int] | None, new_run: str, *, repairs: bool
) -> Claim | None:
    """Claim, unless the unfinished run is not what it was when this start looked."""
    taken: list[Claim] = []

    def change(state: State, number: int) -> State | None:
        taken.clear()
        unfinished = unfinished_run(state, spec_hash)
        if free != ((unfinished, state["runs"][unfinished]["epoch"]) if unfinished else None):
            return None
        if not repairs:
            check_unpinned(state, root)
        run, epoch = (free[0], free[1] + 1) if free else (new_run, 1)
        base = current_version(state)
        facts: RunFacts = {
            "spec_hash": spec_hash,
            "epoch": epoch,
            "state": "open",
            # Each start plans again, so it builds on the snapshot of now.
            "base": base,
            "adopts": [],
            "writer": this_process(),
            "claimed": number,
        }
        if repairs:
            facts["repairs"] = True
        state["runs"][run] = facts
        taken.append(Claim(run, epoch, base, resumed=free is not None))
        failpoints.hit("claim.before")
        return state

    append(root, "claim", change)
    return taken[0] if taken else None


def hold(root: str, claimed: Claim) -> Heartbeat:
    """A heartbeat that also notices when a newer start takes the run over."""
    run, epoch = claimed.run, claimed.epoch
    return Heartbeat(root, run, epoch, look=lambda: check(root, run, epoch))


def check(root: str, run: str, epoch: int) -> None:
    """Look whether a start still holds its run.

    Raises:
        Fenced: it does not.
    """
    last = latest(root)
    _facts(root, last.state if last else EMPTY, run, epoch)


def _facts(root: str, state: State, run: str, epoch: int) -> RunFacts:
    """Facts of a run that this start holds."""
    facts = state["runs"].get(run)
    if facts is None:
        raise Fenced(f"{redact(root)}: run {run} is not in the log; nothing was published")
    if facts["epoch"] != epoch or facts["state"] != "open":
        raise Fenced(
            f"{redact(root)}: run {run} is {facts['state']} with start {facts['epoch']}, this is "
            f"start {epoch}; a newer start took over and nothing was published here"
        )
    return facts


def pause(root: str, run: str, epoch: int) -> Entry:
    """Say that a start stopped before the end, so that the next one need not wait.

    Raises:
        Fenced: a newer start took the run over, or the run is over.
    """

    def change(state: State, number: int) -> State | None:
        facts = state["runs"].get(run)
        if facts is not None and (facts["epoch"], facts["state"]) == (epoch, "paused"):
            return None
        _facts(root, state, run, epoch)["state"] = "paused"
        return state

    return append(root, "pause", change)


def commit(root: str, run: str, epoch: int, content: Content, *, base: int | None = None) -> Entry:
    """Publish a snapshot as the next version. Committing a run twice changes nothing.

    Args:
        root: the dataset.
        run: id of the run.
        epoch: as claimed.
        content: of the snapshot.
        base: the version that it was built on; None for the one of the claim.

    Returns:
        The entry; if the run was committed before, the entry that did it.

    Raises:
        Fenced: a newer start took the run over.
        Pinned: a rollback holds the current version.
        CommitConflict: the version that it was built on is not the current one any more.
    """
    committed_at: list[int] = []

    def change(state: State, number: int) -> State | None:
        committed_at.clear()
        facts = state["runs"].get(run)
        if facts is not None and facts["state"] == "done":
            committed_at.append(facts["committed"])
            return None
        facts = _facts(root, state, run, epoch)
        if not facts.get("repairs"):
            check_unpinned(state, root)
        built_on = facts["base"] if base is None else base
        if current_version(state) != built_on:
            raise CommitConflict(
                f"{redact(root)}: run {run} builds on version {built_on}, but version "
                f"{current_version(state)} was committed meanwhile; run again, finished work is "
                "kept"
            )
        publish(state, number, run, content)
        facts["state"], facts["committed"] = "done", number
        failpoints.hit("commit.before")
        return state

    entry = append(root, "commit", change)
    failpoints.hit("commit.after")
    return read_entry(root, committed_at[0]) if committed_at else entry


def committed(root: str, run: str) -> Entry | None:
    """The entry that published the snapshot of a run; None where there is none."""
    last = latest(root)
    facts = last.state["runs"].get(run) if last else None
    return read_entry(root, facts["committed"]) if facts and facts["state"] == "done" else None
