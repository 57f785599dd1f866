"""The state that each entry of a dataset's log carries, and how it changes. Pure."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NotRequired, TypedDict

from stx_core.errors import Pinned
from stx_core.store.files.urls import redact

RunState = Literal["open", "paused", "done", "abandoned"]
UNFINISHED: tuple[RunState, ...] = ("open", "paused")


class Segment(TypedDict):
    """A file of manifest rows."""

    file: str
    """Relative to the dataset."""
    sha256: str
    rows: int
    buckets: list[int]
    """Whose shards it has, see `manifest.bucket`."""


class Process(TypedDict, total=False):
    """See `beat.this_process`; empty where the system does not say."""

    boot: str
    pid_namespace: str
    pid: int
    started: int


class RunFacts(TypedDict):
    """Facts of a run in the log."""

    spec_hash: str
    epoch: int
    state: RunState
    base: int
    """Version of the snapshot that it builds on; 0 for none."""
    adopts: list[str]
    writer: Process
    claimed: int
    """Number of the entry."""
    repairs: NotRequired[bool]
    """See `claim`."""
    committed: NotRequired[int]
    """Number of the entry."""


class OutputFacts(TypedDict, total=False):
    """Facts of an output: what its job says of it, its schema and totals, see `commit`.

    The first two are there in any case, and in a snapshot the totals; others as the job has them,
    whose own class of facts says what they mean. JSON values: tuples have become lists.
    """

    type: str
    fingerprint: str
    schema: str
    """Of the files: an Arrow IPC schema in base64; `snapshot_info` leaves it out."""
    exact_ids: str | None
    """See `snapshot.exact_ids`."""
    rows: int
    bytes: int
    files: int
    file_rows: int
    rows_quarantined: int
    id_hash: str
    quality: Mapping[str, Any]
    """Statistics and values of checks."""
    model: str
    dim: int | None
    similarity: Literal["cosine", "dot", "euclidean", "manhattan"]
    store_as: Literal["float32", "float16"]
    settings: Mapping[str, Any]
    """Of the model."""
    probe: Mapping[str, Any]
    by: str
    source: str
    k: int
    top_k: int | None
    queries: Mapping[str, Any]
    corpus: Mapping[str, Any]
    candidates: Mapping[str, Any]
    judge: str
    positives: str
    rules: Mapping[str, Any]
    notes: Sequence[str]


class Content(TypedDict):
    """Content of a snapshot."""

    outputs: dict[str, OutputFacts]
    """By name."""
    segments: list[Segment]
    rows: int
    id_hash: str


class Snapshot(Content):
    """A snapshot as the log keeps it."""

    version: int
    run: str
    created: str


class Pin(TypedDict):
    """A version that a rollback holds, and the number of the entry."""

    version: int
    since: int


class State(TypedDict):
    """The whole state of a dataset."""

    snapshot: Snapshot | None
    kept: dict[str, int]
    """Number of the entry that committed it, by version."""
    runs: dict[str, RunFacts]
    pin: NotRequired[Pin]


EMPTY: State = {"snapshot": None, "kept": {}, "runs": {}}
"""The state of a dataset before its first entry; to be copied before it is changed."""


def current_version(state: State) -> int:
    """Version of the current snapshot; 0 for none."""
    return state["snapshot"]["version"] if state["snapshot"] else 0


def pinned_version(state: State) -> int | None:
    """The version that a rollback holds; None for none."""
    pin = state.get("pin")
    return pin["version"] if pin else None


def check_unpinned(state: State, root: str) -> None:
    """Refuse to commit to a dataset while a rollback holds its current version.

    Raises:
        Pinned: it does.
    """
    version = pinned_version(state)
    if version is not None:
        raise Pinned(
            f"{redact(root)}: `stx rollback` holds version {version}, nothing is committed; "
            "finished units are kept. To go on: stx rollback PATH --release"
        )


def publish(state: State, number: int, run: str, content: Content) -> None:
    """Make what a snapshot holds the current one of a state, as its next version.

    Args:
        state: changed in place.
        number: of the entry that is being written.
        run: that made it.
        content: of the snapshot.
    """
    version = current_version(state) + 1
    state["snapshot"] = {
        "outputs": content["outputs"],
        "segments": content["segments"],
        "rows": content["rows"],
        "id_hash": content["id_hash"],
        "version": version,
        "run": run,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    state["kept"][str(version)] = number
    if state.get("pin"):
        # The same content, repaired, or another rollback.
        state["pin"] = {"version": version, "since": number}


def unfinished_run(state: State, spec_hash: str) -> str | None:
    """The run of a spec that was claimed and not committed: the next start goes on with it."""
    runs = [
        run
        for run, facts in state["runs"].items()
        if facts["spec_hash"] == spec_hash and facts["state"] in UNFINISHED
    ]
    return runs[-1] if runs else None
