"""The engine of every job: from a spec to a committed snapshot. Jobs differ in their `Job`."""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

import pyarrow as pa

from stx.pipelines.engine.passes import Facts, Passes, finish_units
from stx.pipelines.engine.retention import give_up_old
from stx.pipelines.engine.runs import Start, View, check_output, claimed
from stx.pipelines.planning.dataset_state import DatasetState, read_state
from stx.pipelines.planning.plan import Plan
from stx.pipelines.planning.pool import Pool, available_cores, make_pool
from stx.pipelines.planning.runner import with_runner
from stx.pipelines.planning.scope import Scope
from stx.pipelines.quality.gate import QualityGate
from stx.pipelines.running import cluster, stream
from stx.pipelines.running.activity import phase
from stx.pipelines.spec.parts import Resources
from stx.pipelines.telemetry.history import with_history
from stx.pipelines.telemetry.report import Report, snapshot_report
from stx.pipelines.telemetry.tracing import span
from stx_core.errors import CommitConflict, SnapshotExpired
from stx_core.store import clock
from stx_core.store.commit import commit_snapshot
from stx_core.store.files.s3 import use_options
from stx_core.store.snapshot import SnapshotInfo

logger = logging.getLogger(__name__)

Spec = TypeVar("Spec", bound=Any)
AnyPlan = TypeVar("AnyPlan", bound=Plan)

# A dataset that other runs change all the time: at some point a person should look.
_MAX_PLANS = 3


@dataclass(frozen=True)
class Planning:
    """Values that a job is prepared with.

    Attributes:
        spec: with its runner.
        stack: what is entered on it is open until the run ends.
        dry_run: true if nothing will follow.
    """

    spec: Any
    stack: ExitStack
    dry_run: bool


@dataclass(frozen=True)
class Committed:
    """A run that has committed its snapshot, for its report.

    Attributes:
        spec: with its runner.
        info: the snapshot.
        records: of all starts of the run, see `ledger.RECORDS`.
        fresh: of this start.
        began: when its first unit did, in seconds since 1970.
    """

    spec: Any
    info: SnapshotInfo
    records: pa.Table
    fresh: pa.Table
    began: float


class Job(ABC, Generic[AnyPlan]):
    """How a dataset is made from a spec; `run` calls the methods in the order they have here.

    Attributes:
        name: of the job, as `stx.pipelines.jobs.JOBS` has it.
        run_hash: two starts with the same one are the same run.
        scope: shards that the run speaks about.
        repairs: see `log.claim`.
    """

    name: str
    run_hash: str
    scope: Scope = Scope()
    repairs: bool = False

    @abstractmethod
    def plan(self, state: DatasetState) -> AnyPlan:
        """Units and keys, and those that are due."""

    def unchanged(self, report: Report) -> Report:
        """Report of a start that had nothing to do."""
        return report

    @abstractmethod
    def prepare(self, plan: AnyPlan, planning: Planning) -> AnyPlan:
        """The plan with pool, stages, facts, schemas and lines; models may be loaded here."""

    @abstractmethod
    def passes(self, plan: AnyPlan, start: Start) -> Passes:
        """The passes; what workers read beside the store is published before the first one."""

    def check(self, plan: AnyPlan, records: pa.Table) -> list[str]:  # noqa: ARG002
        """Lines about the records of a run that a person should read; raises to refuse them."""
        return []

    def is_judged(self, output: str) -> bool:  # noqa: ARG002
        """True for outputs that the checks of the spec's part `quality` are for."""
        return True

    def report(self, report: Report, plan: AnyPlan, committed: Committed) -> Report:  # noqa: ARG002
        """The report with what only this job knows; writes its page, if it has one."""
        return report


def run(
    make: Callable[[Spec], Job[Any]], spec: Spec, view: View | None, *, dry_run: bool
) -> Report:
    """Bring a dataset up to date with a spec: do what is due, commit one snapshot.

    When another run commits meanwhile, it is planned again on top of that; finished units are kept.

    Args:
        make: gives the job of a spec; lists its inputs.
        spec: of the job.
        view: watches the run.
        dry_run: only plan.

    Raises:
        RunActive: another start of the same run is at work.
        QualityRefused: a check of the spec refuses what was made; it is kept.
        StxError: the spec, an input, a model or the store does not allow it. Finished units are
            kept: the next start goes on from there.
    """
    view = view or View()
    # Whoever only has the two methods is a view too.
    began = getattr(view, "began", None)
    began = time.monotonic() if began is None else began
    use_options(spec.store.options())
    for _ in range(_MAX_PLANS - 1):
        try:
            return _attempt(make, spec, view, began=began, dry_run=dry_run)
        except (CommitConflict, SnapshotExpired) as conflict:
            logger.info("planning again: %s", conflict)
    return _attempt(make, spec, view, began=began, dry_run=dry_run)


def _attempt(
    make: Callable[[Spec], Job[Any]], spec: Spec, view: View, *, began: float, dry_run: bool
) -> Report:
    """Plan and run a job once; raises where the dataset changes meanwhile."""
    root = spec.output.path
    with phase("listing the input"):
        job = make(spec)
    with phase("planning"):
        state = read_state(root, job.run_hash, job.scope)
        plan = job.plan(state)
    if plan.is_current:
        report = Report(root, state.version, committed=False)
        return report if dry_run else job.unchanged(report)
    spec = with_runner(spec, plan.n_due, plan.n_due_rows)
    if not dry_run:
        with phase("asking the store"):
            check_output(root, repairs=job.repairs)
    with ExitStack() as stack:
        with phase("preparing"):
            plan = job.prepare(plan, Planning(spec, stack, dry_run))
        view.plan(plan)
        if dry_run:
            return Report(root, None, committed=False)
        return _run(job, plan, spec, view=view, began=began)


def _run(job: Job[Any], plan: Plan, spec: Spec, *, view: View, began: float) -> Report:
    root = plan.root
    with phase("at work"), claimed(
        root, spec, job.run_hash,
        job=job.name, state=plan.state, began=began, repairs=job.repairs,
    ) as start:  # fmt: skip
        streamed, worked = time.monotonic(), clock.now()
        with span(start.job, run=start.claim.run, units=plan.n_due, rows=plan.n_due_rows):
            fresh, added = _stream(job.passes(plan, start), plan, start, view)
        seconds = time.monotonic() - streamed
        facts: Facts = {name: {**own, **added.get(name, {})} for name, own in plan.facts.items()}
        records = pa.concat_tables([start.records, fresh])
        warnings = job.check(plan, records)
        keeps = None if job.scope == Scope() else job.scope.keeps
        judged = {name: facts[name] for name in facts if job.is_judged(name)}
        gate = QualityGate(root, spec.quality, judged)
        with span("commit", run=start.claim.run), phase("committing"):
            info = commit_snapshot(
                root,
                start.claim,
                plan.planned,
                records,
                outputs=facts,
                schemas=plan.schemas,
                keeps=keeps,
                judge=gate,
            )
    # Its time and its repeated calls are of this start, too.
    retention = give_up_old(spec.output)
    report = snapshot_report(info, root, fresh, began=began, stream_seconds=seconds)
    report = replace(
        report, warnings=[*warnings, *gate.warnings, *retention.warnings], lines=[*retention.lines]
    )
    with phase("writing the report"):
        report = job.report(report, plan, Committed(spec, info, records, fresh, worked))
        return with_history(report, info, records, spec.resources.cost(report.seconds))


def _stream(passes: Passes, plan: Plan, start: Start, view: View) -> tuple[pa.Table, Facts]:
    """Finish the units of all passes: their records, and facts of outputs."""
    watch = partial(view.watch, plan=plan)
    tables = [start.records.slice(0, 0)]
    try:
        step = next(passes)
        while True:
            tables.append(finish_units(step, start, watch if step.shown else iter))
            step = passes.send(tables[-1])
    except StopIteration as end:
        return pa.concat_tables(tables), end.value or {}


def pool_for(
    resources: Resources,
    stages: Callable[[Pool], Sequence[stream.StageSpec]],
    adjust: Callable[[float], Resources] | None = None,
) -> tuple[Pool, tuple[stream.StageSpec, ...]]:
    """The actors of a run, and the stages on them, checked against what the cluster has.

    Args:
        resources: the spec's part, with its runner.
        stages: on a pool, in order.
        adjust: resources to take instead, given the cores of the cluster.

    Raises:
        SpecError: the cluster has less than what is asked for.
    """
    cpus, gpus = cluster.cluster_size(resources.runner, available_cores())
    pool = make_pool(adjust(cpus) if adjust else resources, cpus, gpus)
    placed = tuple(stages(pool))
    # In this process stages take turns.
    cluster.check_fits(placed[-1:] if pool.runner == "local" else placed, cpus, gpus)
    return pool, placed


def stage_on(
    pool: Pool,
    stage: type[stream.Stage],
    settings: Mapping[str, Any],
    **options: Any,  # noqa: ANN401
) -> stream.StageSpec:
    """A stage on the actors of a pool.

    Args:
        pool: of the run.
        stage: the class.
        settings: its arguments.
        options: further fields of a `StageSpec`.
    """
    placed = {"gpus": pool.gpus, "min_actors": pool.min_actors, "custom": pool.custom}
    return stream.StageSpec(stage, dict(settings), pool.actors, pool.cpus, **(placed | options))
