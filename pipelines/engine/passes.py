"""The passes of a run: units that are read, go through stages, and are written.

Units are dataclasses on both sides of the stream; on it they are JSON values.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import pyarrow as pa

from stx.pipelines.engine.runs import Start
from stx.pipelines.engine.unit_files import Target, UnitResult, write_result
from stx.pipelines.planning.plan import DueUnit
from stx.pipelines.running import stream, unit_table
from stx.pipelines.telemetry.metrics import metered
from stx.pipelines.telemetry.progress import FinishedUnit, Progress
from stx_core.errors import Stopped
from stx_core.store import ledger
from stx_core.store.files.retries import add_counts, take_counts
from stx_core.store.files.urls import redact
from stx_core.store.log_state import OutputFacts

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Due = TypeVar("Due", bound=DueUnit)

Facts = Mapping[str, OutputFacts]
"""By output, what a snapshot remembers of it, as JSON values."""


def to_facts(values: "DataclassInstance") -> OutputFacts:
    """The facts of an output, of which each job has a class of its own."""
    return cast(OutputFacts, asdict(values))


@dataclass(frozen=True)
class Pass(Generic[Due]):
    """Units that go through the same stages.

    Attributes:
        units: all of one class.
        read: gives the table of a unit; runs where there is room, in any process.
        stages: that the table passes in turn.
        results: of the table that the stages left, one of each output; runs like `read`.
        shown: to those who watch.
        limited: by `resources.max_units` and `resources.deadline`; a pass that is not has no
            records.
    """

    units: Sequence[Due]
    read: Callable[[Due], pa.Table]
    stages: Sequence[stream.StageSpec]
    results: Callable[[Due, pa.Table], Iterable[UnitResult]]
    shown: bool = True
    limited: bool = True


Passes = Generator[Pass[Any], pa.Table, Facts]
"""The passes of a run in order, each answered with the records of its units (`ledger.RECORDS`);
what it returns is added to the facts of outputs."""


@dataclass(frozen=True)
class UnitWork(Generic[Due]):
    """Reading and writing of a pass, around what its job does; small and picklable.

    Attributes:
        unit_class: of the units.
        read_unit: see `Pass.read`.
        results: see `Pass.results`.
        target: where the files go.
    """

    unit_class: type[Due]
    read_unit: Callable[[Due], pa.Table]
    results: Callable[[Due, pa.Table], Iterable[UnitResult]]
    target: Target

    def read(self, values: Mapping[str, Any]) -> pa.Table:
        """The table of a unit, with notes of seconds and repeated calls."""
        began = time.perf_counter()
        table = self.read_unit(self.unit_class.from_json(values))
        seconds = unit_table.notes(table).get("seconds", {})
        seconds |= {"read": time.perf_counter() - began}
        return unit_table.with_notes(table, seconds=seconds, retries=take_counts())

    def write(self, values: Mapping[str, Any], table: pa.Table) -> dict[str, Any]:
        """Write what a unit gives; a `FinishedUnit` in JSON values."""
        due = self.unit_class.from_json(values)
        # Equal shares for the outputs: their records add up.
        n_outputs = max(1, len(due.keys))
        spent = unit_table.notes(table)["seconds"]
        seconds = {stage: value / n_outputs for stage, value in spent.items()}
        records = tuple(
            write_result(self.target, due.unit, result, seconds)
            for result in self.results(due, table)
        )
        # Those who read the unit and worked on it noted their own.
        add_counts(unit_table.notes(table)["retries"])
        finished = FinishedUnit(
            records=records,
            retries=take_counts(),
            rows=due.unit.n_rows,
            tokens=sum(record.n_tokens - record.tokens_carried for record in records),
            quarantined=max((record.rows_quarantined for record in records), default=0),
        )
        return asdict(finished)


def finish_units(
    step: Pass[Any],
    start: Start,
    watch: Callable[[Iterator[FinishedUnit]], Iterator[FinishedUnit]],
) -> pa.Table:
    """Send the units of a pass through its stages; their records, see `ledger.RECORDS`.

    Args:
        step: the pass.
        start: that it is done in.
        watch: passes results through.

    Raises:
        Stopped: a limit was reached; what is finished is kept.
    """
    limits, run, units = start.spec.resources, start.claim.run, step.units
    chosen, seconds = units, None
    if step.limited:
        chosen = units[: limits.max_units]
        seconds = limits.deadline_s and limits.deadline_s - (time.monotonic() - start.began)
    target = Target(start.root, run, start.claim.epoch, start.damaged)
    unit_class = type(units[0]) if units else DueUnit
    work = UnitWork(unit_class, step.read, step.results, target)
    streamed = stream.run(
        (due.to_json() for due in chosen) if chosen else (),
        work.read,
        step.stages,
        write=work.write,
        runner=limits.runner,
        seconds=seconds,
        name=unit_name,
    )
    results: Iterator[FinishedUnit] = map(FinishedUnit.from_json, streamed)
    # Progress is not measured by passes that only prepare others.
    if step.limited:
        progress = Progress(len(units), sum(due.unit.n_rows for due in units))
        results = metered(
            results, limits.runner, run, job=start.job, dataset=start.root, progress=progress
        )
    folds = ledger.Folds(start.root, run, start.claim.epoch)
    n_finished = 0
    for result in watch(results):
        for record in result.records:
            folds.add(record)
        add_counts(result.retries)
        start.beat.check()
        n_finished += 1
    if n_finished < len(units):
        raise Stopped(
            f"stopped after {n_finished:,} of {len(units):,} units, as resources.max_units or "
            "resources.deadline says; they are kept, run again to go on"
        )
    return folds.table()


def unit_name(values: Mapping[str, Any]) -> str:
    """Name of a unit in errors."""
    unit = values["unit"]
    return f"{redact(unit['url'])} rows {unit['start']}-{unit['stop']}"
