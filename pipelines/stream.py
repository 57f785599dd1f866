"""The machine that every job goes through: units in, finished units out, on Ray Data or right here.

A row of the Ray dataset is one unit: its description and its table, wrapped as one Arrow IPC cell.
So Ray may bundle and split blocks as it likes; a unit stays whole. Only this file knows that.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import pyarrow as pa

from stx_core.errors import SpecError, StxError

UnitDict = dict[str, Any]
"""A unit described in plain JSON values; what they mean is between `read` and `write`."""

# Tasks that feed and drain the actors. Below one CPU each, so that a reader and a writer fit
# beside actors which were given every other core.
_IO_CPUS = 0.5

# Blocks that the driver describes to Ray up front; each holds one or more unit descriptions. Ray
# keeps some 25 KB per block on the driver until the end, so there are no more than keep all busy.
_MIN_INPUT_BLOCKS = 64
_INPUT_BLOCKS_PER_ACTOR = 4


class Stage(Protocol):
    """Any class that loads once and maps a table to the same rows with columns added."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """Take a unit's table, give it back with the same rows in the same order."""


@dataclass(frozen=True)
class StageSpec:
    """A stage, its settings (small: paths and numbers) and the resources of its actors.

    Tables for which `skip` is true pass it by; it is loaded for the first that does not.
    """

    stage: type[Stage]
    settings: dict[str, Any] = field(default_factory=dict)
    actors: int = 1
    cpus: float = 1
    gpus: float = 0
    skip: Callable[[pa.Table], bool] | None = None


Read = Callable[[UnitDict], pa.Table]
Write = Callable[[UnitDict, pa.Table], dict[str, Any]]


def run(
    units: Sequence[UnitDict], read: Read, stages: Sequence[StageSpec], write: Write, runner: str
) -> Iterator[dict[str, Any]]:
    """Send units through read, the stages and write; yield what write returned, as units finish.

    Args:
        units: descriptions in JSON values; finished in any order.
        read: description to table, where storage is read; runs as a task.
        stages: actor pools that the table passes in turn.
        write: description and table to a small JSON result; runs as a task. It, and not this
            function, makes a unit done.
        runner: "ray", or "local" for a plain loop over the same functions in this process.

    Raises:
        StxError: as raised by read, a stage or write.
    """
    if not units:
        return iter(())
    return (_run_local if runner == "local" else _run_ray)(units, read, stages, write)


def _run_local(
    units: Sequence[UnitDict], read: Read, stages: Sequence[StageSpec], write: Write
) -> Iterator[dict[str, Any]]:
    loaded = [_Lazy(spec) for spec in stages]
    for unit in units:
        table = read(unit)
        for stage in loaded:
            table = stage(table)
        yield write(unit, table)


def _run_ray(
    units: Sequence[UnitDict], read: Read, stages: Sequence[StageSpec], write: Write
) -> Iterator[dict[str, Any]]:
    import ray.data
    from ray.data import ActorPoolStrategy

    _quiet(ray.data.DataContext.get_current())
    rows = [{"unit": json.dumps(unit)} for unit in units]
    n_actors = sum(spec.actors for spec in stages)
    n_blocks = min(len(rows), max(_MIN_INPUT_BLOCKS, _INPUT_BLOCKS_PER_ACTOR * n_actors))
    stream = ray.data.from_items(rows, override_num_blocks=n_blocks)
    one_unit = {"batch_size": 1, "batch_format": "pyarrow", "udf_modifying_row_count": False}
    stream = stream.map_batches(partial(_read_cell, read=read), num_cpus=_IO_CPUS, **one_unit)
    for spec in stages:
        stream = stream.map_batches(
            _StageCell,
            fn_constructor_kwargs={"spec": spec},
            compute=ActorPoolStrategy(size=spec.actors),
            num_cpus=spec.cpus,
            num_gpus=spec.gpus or None,
            **one_unit,
        )
    stream = stream.map_batches(partial(_write_cell, write=write), num_cpus=_IO_CPUS, **one_unit)
    with _original_errors():
        for batch in stream.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from map(json.loads, batch.column("result").to_pylist())


def _quiet(context: Any) -> None:  # noqa: ANN401  (ray ships no usable types)
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


def _read_cell(batch: pa.Table, read: Read) -> pa.Table:
    (unit,) = batch.column("unit").to_pylist()
    return _wrap(unit, read(json.loads(unit)))


class _Lazy:
    """A stage that is loaded for the first table that needs it."""

    def __init__(self, spec: StageSpec) -> None:
        self.spec = spec
        self.stage = None if spec.skip else spec.stage(**spec.settings)

    def __call__(self, table: pa.Table) -> pa.Table:
        if self.spec.skip and self.spec.skip(table):
            return table
        self.stage = self.stage or self.spec.stage(**self.spec.settings)
        return _checked(self.stage(table), table, self.spec.stage)


class _StageCell:
    """The actor: a stage between unwrapping and wrapping."""

    def __init__(self, spec: StageSpec) -> None:
        self.stage = _Lazy(spec)

    def __call__(self, batch: pa.Table) -> pa.Table:
        unit, table = _unwrap(batch)
        return _wrap(unit, self.stage(table))


def _write_cell(batch: pa.Table, write: Write) -> pa.Table:
    unit, table = _unwrap(batch)
    return pa.table({"result": [json.dumps(write(json.loads(unit), table))]})


def _wrap(unit: str, table: pa.Table) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    # large_binary: the tables of long documents pass the 2 GiB of plain binary.
    cell = pa.array([sink.getvalue().to_pybytes()], pa.large_binary())
    return pa.table({"unit": [unit], "table": cell})


def _unwrap(batch: pa.Table) -> tuple[str, pa.Table]:
    if batch.num_rows != 1:
        raise AssertionError(f"a stage takes one unit at a time, got {batch.num_rows}")
    cell = batch.column("table").chunk(0)[0].as_buffer()
    return batch.column("unit")[0].as_py(), pa.ipc.open_stream(cell).read_all()


def _checked(result: pa.Table, table: pa.Table, stage: type) -> pa.Table:
    if result.num_rows != table.num_rows:
        raise AssertionError(
            f"{stage.__name__} took {table.num_rows} rows and returned {result.num_rows}"
        )
    return result


@contextmanager
def _original_errors() -> Iterator[None]:
    """Raise the StxError that a worker raised, not the layers that Ray puts around it."""
    import ray.exceptions

    try:
        yield
    except ray.exceptions.RayError as error:
        seen: BaseException | None = error
        while seen is not None and not isinstance(seen, StxError):
            seen = getattr(seen, "cause", None) or seen.__cause__
        if seen is not None:
            raise seen from None
        raise


def cluster_size(runner: str, cores: int) -> tuple[float, float]:
    """CPUs and GPUs that actors can be given; Ray is started, or connected to, for the answer.

    Args:
        runner: "local" asks no cluster.
        cores: of this machine.
    """
    if runner == "local":
        return cores + 2 * _IO_CPUS, 0
    start_ray(cores)
    import ray

    size = ray.cluster_resources()
    return size.get("CPU", 0.0), size.get("GPU", 0.0)


def start_ray(cpus: int) -> None:
    """Connect to the cluster named by RAY_ADDRESS, or start Ray on this machine.

    Args:
        cpus: cores of this machine to use, if Ray is started here. Ray is told of one more, the
            share of readers and writers: actors that hold every logical CPU starve them, and the
            run hangs (ray issue 44687).
    """
    import ray

    if ray.is_initialized():
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        with _silent_stderr():
            ray.init(address="local", num_cpus=cpus + 1, include_dashboard=False, **quiet)


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keep what Ray's core prints at its start, past Python, off the terminal; errors raise."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def check_fits(stages: Sequence[StageSpec], cpus: float, gpus: float) -> None:
    """Refuse pools that the cluster cannot hold, with the arithmetic: starved actors hang.

    Raises:
        SpecError: the reservations exceed the cluster.
    """
    asked_cpus = sum(stage.actors * stage.cpus for stage in stages)
    asked_gpus = sum(stage.actors * stage.gpus for stage in stages)
    pools = ", ".join(
        f"{s.stage.__name__} {s.actors} actors x ({s.cpus:g} CPU, {s.gpus:g} GPU)" for s in stages
    )
    if asked_cpus + 2 * _IO_CPUS > cpus:
        raise SpecError(
            f"resources: {pools} take {asked_cpus:g} CPUs, readers and writers {2 * _IO_CPUS:g}, "
            f"but the cluster has {cpus:g}; lower resources.actors or resources.cpus_per_actor"
        )
    if asked_gpus > gpus:
        raise SpecError(
            f"resources: {pools} take {asked_gpus:g} GPUs, but the cluster has {gpus:g}; "
            "lower resources.actors or resources.gpus_per_actor"
        )
