"""The machine that every job goes through: units in, finished units out, on Ray Data or right here.

A row of the Ray dataset is one unit: its description and its table, wrapped as one Arrow IPC cell.
So Ray may bundle and split blocks as it likes; a unit stays whole. Only this file knows that.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice, pairwise
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from stx.pipelines.running.activity import (
    InFlight,
    Listener,
    phase,
    reporting_to,
    set_in_flight,
)
from stx.pipelines.running.gate import Gate
from stx.pipelines.running.supervise import Supervised
from stx.pipelines.running.unit_table import to_bytes, with_retries
from stx.pipelines.running.watch import original_errors, watched
from stx_core.errors import StoreError
from stx_core.store.files.s3 import S3Options, current_options, use_options

Unit = TypeVar("Unit")
"""Description of a unit in JSON values; what they mean is between `read` and `write`."""

Result = TypeVar("Result")

# Tasks that feed and drain the actors. Below one CPU each, so that a reader and a writer fit
# beside actors which were given every other core.
IO_CPUS = 0.5

# Blocks that the driver describes to Ray up front; each holds one or more unit descriptions. Ray
# keeps some 25 KB per block on the driver until the end, so there are no more than keep all busy.
_MIN_INPUT_BLOCKS = 64
_INPUT_BLOCKS_PER_ACTOR = 4

# Ray replaces lost actors for ever. A unit that loses so many ends the run.
_MAX_ATTEMPTS = 4

# How long the stages may look after themselves beyond their own timeout.
_WATCH_SLACK_S = 60.0
_ASK_TIMEOUT_S = 120.0

# How often an actor says how far it is, and how long the driver waits for what all have said.
_SECONDS_BETWEEN_NOTES = 1.0
_LOOK_TIMEOUT_S = 2.0

# How long nodes may take to join before the first unit: GPUs are not always to be had.
_NODES_JOIN_S = 7200.0


class Stage(Protocol):
    """Any class that loads once and maps a table to the same rows with columns added."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """Take a unit's table, give it back with the same rows in the same order."""


@dataclass(frozen=True)
class StageSpec:
    """A stage, its settings (small: paths and numbers) and the resources of its actors.

    Attributes:
        stage: the class.
        settings: its arguments.
        actors: processes of Ray that hold it; the most of them, if there is a least number.
        cpus: of one actor.
        gpus: of one actor.
        skip: tables for which it is true pass the stage by; it is loaded for the first other one.
        min_actors: the pool grows and shrinks between this and `actors`, and waits for nodes to
            join; None: it always has `actors`.
        custom: resources of one actor by the names that the cluster gave them.
        stall_timeout_s: run the stage in a child of the actor, see `Supervised`; None: in the
            actor itself, which a bad row can then kill.
        started: the stage for the local runner, loading already.
    """

    stage: type[Stage]
    settings: dict[str, Any] = field(default_factory=dict)
    actors: int = 1
    cpus: float = 1
    gpus: float = 0
    skip: Callable[[pa.Table], bool] | None = None
    min_actors: int | None = None
    custom: Mapping[str, float] = field(default_factory=dict)
    stall_timeout_s: float | None = None
    started: Supervised | None = None


Read = Callable[[Unit], pa.Table]
"""Description of a unit to its table; storage is read here. Runs as a task."""

Write = Callable[[Unit, pa.Table], Result]
"""Description and table to a small JSON value. Runs as a task; it makes a unit done."""


@contextmanager
def warmed_up(spec: StageSpec, runner: str) -> Iterator[StageSpec]:
    """Let a stage load while its run is still planned, where it loads in a child of this process.

    To import torch and transformers takes longer than to load a small model.
    """
    if runner != "local" or spec.stall_timeout_s is None:
        yield spec
        return
    started = Supervised(spec.stage, spec.settings, spec.stall_timeout_s)
    try:
        yield replace(spec, started=started)
    finally:
        started.close()


def run(
    units: Iterable[Unit],
    read: Read[Unit],
    stages: Sequence[StageSpec],
    write: Write[Unit, Result],
    runner: str,
    *,
    seconds: float | None = None,
    name: Callable[[Unit], str] = json.dumps,
) -> Iterator[Result]:
    """Send units through read, the stages and write; yield what write returned, as units finish.

    Args:
        units: descriptions in JSON values; started in this order, finished in any. No list of them
            is needed: a plan may have a million.
        read: see `Read`.
        stages: actor pools that the table passes in turn.
        write: see `Write`.
        runner: "ray", or "local" for a plain loop over the same functions in this process.
        seconds: until the deadline. Units that would not finish before it are left out; how long
            a unit takes is learned from those before it.
        name: what to call a unit in an error.

    Raises:
        StxError: as raised by read, a stage or write.
        StoreError: Ray lost its actors, or nothing moves any more.
    """
    if not units:
        return iter(())
    if runner == "local":
        return _run_local(units, read, stages, write=write, gate=Gate(seconds))
    return _run_ray(units, read, stages, write=write, seconds=seconds, name=name)


def _run_local(
    units: Iterable[Unit],
    read: Read[Unit],
    stages: Sequence[StageSpec],
    *,
    write: Write[Unit, Result],
    gate: Gate,
) -> Iterator[Result]:
    loaded = [_LazyStage(spec, lambda: None) for spec in stages]
    options = current_options()
    try:
        for number, unit in enumerate(units):
            if not gate.admit(str(number)):
                break
            use_options(options)  # whatever the caller did since the last unit
            with phase("reading the input"):
                table = read(unit)
            with reporting_to(partial(_note_here, table.num_rows)):
                for stage in loaded:
                    table = stage(table)
            with phase("writing"):
                result = write(unit, table)
            gate.finish(str(number))
            set_in_flight(None)
            yield result
    finally:
        set_in_flight(None)
        for stage in loaded:
            if isinstance(stage.stage, Supervised):
                stage.stage.close()


def _note_here(n_rows: int, share: float, tokens: int) -> None:
    set_in_flight(InFlight(share * n_rows, tokens))


def _run_ray(
    units: Iterable[Unit],
    read: Read[Unit],
    stages: Sequence[StageSpec],
    *,
    write: Write[Unit, Result],
    seconds: float | None,
    name: Callable[[Unit], str],
) -> Iterator[Result]:
    import ray.data
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    _set_up(ray.data.DataContext.get_current())
    # The gate is an actor beside the driver: a lost node must not take it along.
    nodes_may_join = any(spec.min_actors for spec in stages)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    gate = (
        ray.remote(Gate)
        .options(num_cpus=0, scheduling_strategy=here)
        .remote(seconds, patience_s=_NODES_JOIN_S if nodes_may_join else 0.0)
    )
    n_actors = sum(spec.actors for spec in stages)
    cells = pa.table({"unit": pa.array(map(json.dumps, units), pa.large_string())})
    n_blocks = min(len(cells), max(_MIN_INPUT_BLOCKS, _INPUT_BLOCKS_PER_ACTOR * n_actors))
    edges = [len(cells) * block // n_blocks for block in range(n_blocks + 1)]
    blocks = [cells.slice(start, stop - start) for start, stop in pairwise(edges)]
    stream = ray.data.from_arrow(blocks)
    one_unit = {"batch_size": 1, "batch_format": "pyarrow", "udf_modifying_row_count": False}
    # Whatever process a cell runs in, it reaches the store as this one does.
    options = current_options()
    reader = partial(_read_cell, read=read, gate=gate, options=options)
    stream = stream.map_batches(reader, num_cpus=IO_CPUS, **one_unit)
    for spec in stages:
        most = min(spec.actors, n_blocks)
        least = most if spec.min_actors is None else min(spec.min_actors, most)
        stream = stream.map_batches(
            _StageCell,
            fn_constructor_kwargs={
                "spec": spec,
                "gate": gate,
                "name": name if spec is stages[0] else None,
                "options": options,
            },
            compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most),
            num_cpus=spec.cpus,
            num_gpus=spec.gpus or None,
            resources=dict(spec.custom) or None,
            **one_unit,
        )
    writer = partial(_write_cell, write=write, gate=gate, options=options)
    stream = stream.map_batches(writer, num_cpus=IO_CPUS, **one_unit)
    limit_s = max((spec.stall_timeout_s or math.inf for spec in stages), default=math.inf)

    def in_flight() -> str:
        return "; ".join(name(json.loads(unit)) for unit in _ask(gate, "in_flight")) or "none"

    with original_errors(in_flight):
        batches = watched(
            iter(stream.iter_batches(batch_size=None, batch_format="pyarrow")),
            limit_s + _WATCH_SLACK_S,
            lambda: float(_ask(gate, "idle_s")),
            what=in_flight,
            look=partial(_look, gate),
        )
        with phase("starting the actors"):
            first = list(islice(batches, 1))
        for batch in chain(first, batches):
            set_in_flight(None)  # until the next look: it knew of units that are finished now
            for result in batch.column("result").to_pylist():
                if result is not None:
                    yield json.loads(result)


def _look(gate: Any) -> None:  # noqa: ANN401
    """Note what the actors have done of the units in flight; of a gate that is busy, nothing."""
    import ray
    from ray.exceptions import GetTimeoutError

    with suppress(GetTimeoutError):
        set_in_flight(ray.get(gate.work.remote(), timeout=_LOOK_TIMEOUT_S))


def _set_up(context: Any) -> None:  # noqa: ANN401  (ray ships no usable types)
    """Settings under which a unit flows on its own, and Ray's progress bars stay away."""
    context.target_max_block_size = 1  # each unit becomes a block of its own, at once
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    # A unit on a slow CPU may take long, and a plan may hold just one; the ledger keeps what is
    # done, so a stuck run is ended by its operator and not by a timer.
    context.execution_no_progress_timeout_s = -1
    # What goes wrong arrives as an exception; Ray would print its stack trace several times over.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def _ask(gate: Any, question: str, *arguments: str) -> Any:  # noqa: ANN401
    import ray

    return ray.get(getattr(gate, question).remote(*arguments), timeout=_ASK_TIMEOUT_S)


class _LazyStage:
    """A stage that is loaded for the first table that needs it."""

    def __init__(self, spec: StageSpec, beat: Callable[[], None]) -> None:
        self.spec, self.beat = spec, beat
        self.stage = None if spec.skip else self._load()

    def __call__(self, table: pa.Table) -> pa.Table:
        if self.spec.skip and self.spec.skip(table):
            return table
        self.stage = self.stage or self._load()
        result = self.stage(table)
        if result.num_rows != table.num_rows:
            raise AssertionError(
                f"{self.spec.stage.__name__} took {table.num_rows} rows and returned "
                f"{result.num_rows}"
            )
        return with_retries(result)

    def _load(self) -> Stage:
        if self.spec.started is not None:
            return self.spec.started
        if self.spec.stall_timeout_s is None:
            with phase("loading the model"):
                return self.spec.stage(**self.spec.settings)
        return Supervised(self.spec.stage, self.spec.settings, self.spec.stall_timeout_s, self.beat)


def _read_cell(
    batch: pa.Table,
    read: Read[Any],
    gate: Any,  # noqa: ANN401
    options: S3Options,
) -> pa.Table:
    use_options(options)
    (unit,) = batch.column("unit").to_pylist()
    return _wrap(unit, read(json.loads(unit)) if _ask(gate, "is_open") else None)


class _StageCell:
    """The actor: a stage between unwrapping and wrapping.

    Args:
        spec: of the stage.
        gate: the remote one.
        name: of a unit, in the first stage, which admits units; None in later ones.
        options: of the store.
    """

    def __init__(
        self,
        spec: StageSpec,
        gate: Any,  # noqa: ANN401
        name: Callable[[Any], str] | None,
        options: S3Options,
    ) -> None:
        use_options(options)
        self.gate, self.name = gate, name
        self.stage = _LazyStage(spec, lambda: _ask(gate, "beat"))

    def __call__(self, batch: pa.Table) -> pa.Table:
        unit, table = _unwrap(batch)
        if table is not None and self.name is not None:
            attempt = _ask(self.gate, "admit", unit)
            if attempt > _MAX_ATTEMPTS:
                raise StoreError(
                    f"{self.name(json.loads(unit))}: {_MAX_ATTEMPTS} actors or nodes were lost "
                    "while they worked on these rows; see Ray's logs for why (out of memory?), "
                    "run again to go on"
                )
            if not attempt:
                table = None
        if table is None:
            return _wrap(unit, None)
        with reporting_to(_to_gate(self.gate, unit, table.num_rows)):
            return _wrap(unit, self.stage(table))


def _to_gate(gate: Any, unit: str, n_rows: int) -> Listener:  # noqa: ANN401
    """Tells the gate how far a stage is within a unit, once a second; waits for no answer."""
    last = -math.inf

    def note(share: float, tokens: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_NOTES:
            last = now
            gate.note.remote(unit, InFlight(share * n_rows, tokens))

    return note


def _write_cell(
    batch: pa.Table,
    write: Write[Any, Any],
    gate: Any,  # noqa: ANN401
    options: S3Options,
) -> pa.Table:
    use_options(options)
    unit, table = _unwrap(batch)
    result = None
    if table is not None:
        result = json.dumps(write(json.loads(unit), table))
        _ask(gate, "finish", unit)
    return pa.table({"result": pa.array([result], pa.string())})


def _wrap(unit: str, table: pa.Table | None) -> pa.Table:
    """A row of the Ray dataset; the table is None for a unit that is left out."""
    data = None if table is None else to_bytes(table).to_pybytes()
    # large_binary: the tables of long documents pass the 2 GiB of plain binary.
    return pa.table({"unit": [unit], "table": pa.array([data], pa.large_binary())})


def _unwrap(batch: pa.Table) -> tuple[str, pa.Table | None]:
    if batch.num_rows != 1:
        raise AssertionError(f"a stage takes one unit at a time, got {batch.num_rows}")
    unit, cell = batch.column("unit")[0].as_py(), batch.column("table").chunk(0)[0]
    return unit, pa.ipc.open_stream(cell.as_buffer()).read_all() if cell.is_valid else None
