"""Create an object only if it is absent: the one thing the commit protocol needs of a store."""

import json
import os
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import tenacity

from stx_core.errors import StoreError
from stx_core.store.files.filesystem import connect, read_bytes
from stx_core.store.files.local_disk import is_full, link_new
from stx_core.store.files.retries import DEADLINE_S, add_counts, answer, explain, is_final, kind_of
from stx_core.store.files.urls import LOCAL, join, local_path, redact, scheme
from stx_core.store.sealed import decode

# Stores whose clients pass the condition on to the server (or, for memory, are guarded here).
# The default of fsspec is "look, then write": two writers can both win.
CONDITIONAL = {LOCAL, "memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"}

_memory_lock = threading.Lock()


@dataclass(frozen=True)
class Created:
    """Outcome of `create`.

    Attributes:
        won: our object is there.
        body: what is there, ours or the winner's; empty if that is no JSON object.
    """

    won: bool
    body: Mapping[str, Any]


class _Unclear(Exception):
    """The store gave no definite answer: the object may be there or come later."""


def create(url: str, body: Mapping[str, Any]) -> Created:
    """Create a small JSON object, unless the URL is taken.

    The body gets a random nonce. A refusal is believed only after reading back: if our nonce is
    there, an earlier attempt of ours had won and its answer was lost.

    Raises:
        StoreError: the store refuses to be written, cannot do this, or gave no definite answer
            within `DEADLINE_S`. Nothing is deleted; the same call may be made again.
    """
    own = {**body, "nonce": uuid.uuid4().hex}
    data = json.dumps(own, indent=1, ensure_ascii=False, allow_nan=False).encode()
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_delay(DEADLINE_S),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=10),
        retry=tenacity.retry_if_exception_type(_Unclear),
        before_sleep=_count,
        reraise=True,
    )
    try:
        # The same body each time: the first attempt may still land.
        return retrying(_attempt, url, data, own)
    except _Unclear as error:
        raise StoreError(
            redact(
                f"{url}: outcome unknown after {DEADLINE_S:.0f} s ({error}); nothing was deleted, "
                "run again"
            )
        ) from error.__cause__


def _count(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    if error is not None:
        add_counts({kind_of(error.__cause__ or error): 1})


def _attempt(url: str, data: bytes, own: Mapping[str, Any]) -> Created:
    try:
        put_if_absent(url, data)
    except Exception as error:
        outcome = outcome_of(error)
        if outcome == "failed":
            raise StoreError(explain(url, error)) from error
        if outcome == "unclear":
            raise _Unclear(f"{type(error).__name__}: {error}") from error
    else:
        return Created(True, own)
    try:
        seen = decode(read_bytes(url))
    except OSError as error:
        # Refused, yet not to be read: never take that for absent.
        raise _Unclear(f"taken, but not readable: {error}") from error
    return Created(seen.get("nonce") == own["nonce"], seen)


def put_if_absent(url: str, data: bytes) -> None:
    """Make one attempt; errors are the client's own, see `outcome_of`."""
    kind = scheme(url)
    if kind not in CONDITIONAL:
        raise StoreError(
            f"{redact(url)}: {kind}:// cannot create an object only if it is absent; write to one "
            f"of {', '.join(sorted(CONDITIONAL))}"
        )
    if kind == LOCAL:
        try:
            link_new(local_path(url), data)
        except FileExistsError:
            raise
        except OSError as error:
            # Disks do not answer later: no reason to try again.
            advice = (
                "no space left on the disk, or of the quota: free some, and run again; nothing "
                "was deleted"
                if is_full(error)
                else "the folder must be writable, on a file system with hard links"
            )
            raise StoreError(f"{url}: {type(error).__name__}: {error} ({advice})") from error
        return
    filesystem, path = connect(url)
    if kind == "memory":
        with _memory_lock:
            if filesystem.exists(path):
                raise FileExistsError(url)
            filesystem.pipe_file(path, data)
        return
    filesystem.pipe_file(path, data, mode="create")


def outcome_of(error: BaseException) -> Literal["exists", "failed", "unclear"]:
    """Read a failed conditional write of any client.

    Only "the condition is false" (HTTP 412, or FileExistsError) means that the object exists. A
    conflict (409) means that nothing was written yet, and time-outs mean nothing at all.
    """
    status, _ = answer(error)
    if isinstance(error, FileExistsError) or status == 412:
        return "exists"
    if is_final(error):
        return "failed"
    if isinstance(error, OSError) or status is not None:
        return "unclear"
    # Mistakes in our own call must surface; what is left comes from a client's network code.
    return "failed" if isinstance(error, (TypeError, ValueError, LookupError)) else "unclear"


def probe(root: str) -> None:
    """Prove that a store honours "only if absent" before anything relies on it.

    Leaves one small object, the same for every run.

    Raises:
        StoreError: it does not, or cannot be written; or a local folder in it is a link.
    """
    _refuse_links(root)
    url = join(root, "_stx", "probe.json")
    create(url, {"purpose": "a second write of this object must be refused"})
    if create(url, {"purpose": "must not be seen"}).won:
        raise StoreError(
            f"{redact(root)}: the store overwrote an object that was to be created only if absent "
            "(If-None-Match is ignored); runs would not be safe here, write to another store"
        )


def _refuse_links(root: str) -> None:
    """Check that what is written below a local folder stays there.

    Raises:
        StoreError: one of the folders below it is a link. The folder itself may be one.
    """
    if scheme(root) != LOCAL:
        return
    for folder, names, _ in os.walk(local_path(root)):
        for name in names:
            if os.path.islink(path := os.path.join(folder, name)):
                raise StoreError(
                    f"{redact(path)}: a link in an output folder; stx does not write through "
                    "links, put a real folder there"
                )
