"""What every run does around its stream: claim the dataset, finish units, stop when asked to."""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pyarrow as pa
from pydantic import BaseModel

from stx.pipelines.planning.plan import UnitDict
from stx.pipelines.running import stream
from stx.pipelines.running.stopping import pausing
from stx.pipelines.spec.file import write_spec
from stx.pipelines.spec.parts import Resources, Store
from stx.pipelines.telemetry.lineage import told
from stx.pipelines.telemetry.metrics import metered
from stx.pipelines.telemetry.progress import Progress
from stx.pipelines.telemetry.report import Report
from stx_core.errors import CommitConflict, SnapshotExpired, Stopped
from stx_core.store import ledger, log
from stx_core.store.beat import Heartbeat
from stx_core.store.files import create
from stx_core.store.files.retries import add_counts
from stx_core.store.files.s3 import use_options
from stx_core.store.files.urls import redact

if TYPE_CHECKING:
    from stx.pipelines.planning.dataset_state import DatasetState
    from stx.pipelines.planning.plan import Plan

logger = logging.getLogger(__name__)

# A dataset that other runs change all the time: at some point a person should look.
_MAX_PLANS = 3


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

    def watch(self, results: Iterator[dict[str, Any]], plan: Amount) -> Iterator[dict[str, Any]]:
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
    if not repairs:
        log.refuse_pinned(root)


@contextmanager
def claimed(
    root: str,
    spec: BaseModel,
    run_hash: str,
    *,
    state: "DatasetState",
    began: float,
    repairs: bool = False,
) -> Iterator[Start]:
    """Claim the dataset for a run, or go on with one; in the block it is held.

    Args:
        root: the dataset.
        spec: kept beside the records.
        run_hash: two starts with the same one are the same run.
        state: what this start found when it planned.
        began: see `Start`.
        repairs: see `log.claim`.

    Raises:
        RunActive: another start of the same run is at work.
        Pinned: a rollback holds the current version.
        CommitConflict: another start changed the dataset since it was looked at.
    """
    job = type(spec).__name__.removesuffix("Spec").lower()
    claim = log.claim(root, run_hash, repairs=repairs)
    with log.hold(root, claim) as beat, pausing(root, claim), told(root, job, claim, spec):
        write_spec(root, claim.run, spec)
        if (claim.base, claim.run if claim.resumed else "") != (state.version, state.run):
            raise CommitConflict(
                f"{redact(root)}: another start changed the dataset while this one planned"
            )
        bad = state.damaged_files
        records = ledger.load(root, claim.run, bad) if claim.resumed else ledger.to_table([])
        yield Start(root, job, spec, claim, beat, records, bad, began)


def finish_units(
    start: Start,
    work: Sequence[UnitDict],
    read: stream.Read[UnitDict],
    stages: Sequence[stream.StageSpec],
    *,
    write: stream.Write[UnitDict, dict[str, Any]],
    limits: Resources,
    limited: bool = True,
    watch: Callable[[Iterator[dict[str, Any]]], Iterator[dict[str, Any]]],
) -> pa.Table:
    """Send due units through the stages; their records, see `ledger.RECORDS`.

    Args:
        start: that they are done in.
        work: descriptions with ``unit``; in this order.
        read: see `stream.run`.
        stages: likewise.
        write: likewise; its results have ``records`` and ``retries``.
        limits: of time and number.
        limited: whether they are kept to, and progress is measured: not by passes that only
            prepare others.
        watch: passes results through.

    Raises:
        Stopped: a limit was reached; what is finished is kept.
    """
    chosen, seconds = work, None
    if limited:
        chosen = work[: limits.max_units]
        seconds = limits.deadline_s and limits.deadline_s - (time.monotonic() - start.began)
    results = stream.run(
        chosen, read, stages, write, limits.runner, seconds=seconds, name=unit_name
    )
    if limited:
        progress = Progress(len(work), sum(map(_n_rows, work)))
        results = metered(results, limits.runner, start.claim.run, start.job, start.root, progress)
    folds = ledger.Folds(start.root, start.claim.run, start.claim.epoch)
    n_finished = 0
    for result in watch(results):
        for item in result["records"]:
            folds.add(ledger.Record(**item))
        add_counts(result["retries"])
        start.beat.check()
        n_finished += 1
    if n_finished < len(work):
        raise Stopped(
            f"stopped after {n_finished:,} of {len(work):,} units, as resources.max_units or "
            "resources.deadline says; they are kept, run again to go on"
        )
    return folds.table()


def _n_rows(description: Mapping[str, Any]) -> int:
    return int(description["unit"]["stop"] - description["unit"]["start"])


def unit_name(description: Mapping[str, Any]) -> str:
    """What to call a unit in an error."""
    unit = description["unit"]
    return f"{redact(unit['url'])} rows {unit['start']}-{unit['stop']}"


class _Spec(Protocol):
    store: Store


Job = TypeVar("Job", bound=_Spec)
Attempt = Callable[..., Report]
"""Plans and runs a job once: (spec, view, when it began, dry_run=…)."""


def run_job(spec: Job, view: View | None, attempt: Attempt, *, dry_run: bool) -> Report:
    """Plan and run a job; again, when the dataset changes meanwhile: finished units are kept.

    That is when another run commits, or gc gives up the version that the plan began with.
    """
    view = view or View()
    # Whoever only has the two methods is a view too.
    began = getattr(view, "began", None)
    began = time.monotonic() if began is None else began
    use_options(spec.store.options())
    for _ in range(_MAX_PLANS - 1):
        try:
            return attempt(spec, view, began, dry_run=dry_run)
        except (CommitConflict, SnapshotExpired) as conflict:
            logger.info("planning again: %s", conflict)
    return attempt(spec, view, began, dry_run=dry_run)
