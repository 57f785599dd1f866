"""Work around the passes of every run: those who watch it, checks of the store, the claim."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
from pydantic import BaseModel

from stx.pipelines.running.stopping import pausing
from stx.pipelines.spec.file import write_spec
from stx.pipelines.telemetry.lineage import lineage_events
from stx.pipelines.telemetry.progress import FinishedUnit
from stx_core.errors import CommitConflict
from stx_core.store import ledger, log
from stx_core.store.beat import Heartbeat
from stx_core.store.files import create
from stx_core.store.files.urls import redact
from stx_core.store.log_state import check_unpinned

if TYPE_CHECKING:
    from stx.pipelines.planning.dataset_state import DatasetState
    from stx.pipelines.planning.plan import Plan


class Amount(Protocol):
    """How much a plan has to do, for those who watch."""

    @property
    def n_due(self) -> int:
        """Units."""

    @property
    def n_due_rows(self) -> int:
        """Their rows."""


class View:
    """Whoever watches a run. This one shows nothing.

    Attributes:
        began: `time.monotonic` when the command began; None for now.
    """

    began: float | None = None

    def plan(self, plan: "Plan") -> None:
        """Called once, before anything runs."""

    def watch(self, results: Iterator[FinishedUnit], plan: Amount) -> Iterator[FinishedUnit]:
        """Passes the finished units through."""
        return results


@dataclass(frozen=True)
class Start:
    """A start of a run that holds its dataset.

    Attributes:
        root: the dataset.
        job: `encode`, `retrieve` …
        spec: of it, with its runner.
        claim: of the run.
        beat: tells others that it is alive.
        records: of earlier starts, see `ledger.RECORDS`.
        damaged: see `ledger.record`.
        began: `time.monotonic` when the command began.
    """

    root: str
    job: str
    spec: Any
    claim: log.Claim
    beat: Heartbeat
    records: pa.Table
    damaged: Collection[str]
    began: float


def check_output(root: str, *, repairs: bool = False) -> None:
    """Before models are loaded and actors start: what refuses the run in the end ends it here.

    Args:
        root: the dataset.
        repairs: see `log.claim`.

    Raises:
        Pinned: a rollback holds the current version.
        StoreError: the store cannot be committed to.
    """
    create.probe(root)
    last = None if repairs else log.latest(root)
    if last is not None:
        check_unpinned(last.state, root)


@contextmanager
def claimed(
    root: str,
    spec: BaseModel,
    run_hash: str,
    *,
    job: str,
    state: "DatasetState",
    began: float,
    repairs: bool = False,
) -> Iterator[Start]:
    """Claim the dataset for a run, or go on with one; in the block it is held.

    Args:
        root: the dataset.
        spec: kept beside the records.
        run_hash: two starts with the same one are the same run.
        job: see `Start`.
        state: what this start found when it planned.
        began: see `Start`.
        repairs: see `log.claim`.

    Raises:
        RunActive: another start of the same run is at work.
        Pinned: a rollback holds the current version.
        CommitConflict: another start changed the dataset since it was looked at.
    """
    claim = log.claim(root, run_hash, repairs=repairs)
    with (
        log.hold(root, claim) as beat,
        pausing(root, claim),
        lineage_events(root, job, claim, spec),
    ):
        write_spec(root, claim.run, spec)
        if (claim.base, claim.run if claim.resumed else "") != (state.version, state.run):
            raise CommitConflict(
                f"{redact(root)}: another start changed the dataset while this one planned"
            )
        bad = state.damaged_files
        records = ledger.load(root, claim.run, bad) if claim.resumed else ledger.to_table([])
        yield Start(
            root, job, spec, claim=claim, beat=beat, records=records, damaged=bad, began=began
        )
