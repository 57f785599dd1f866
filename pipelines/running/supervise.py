"""A stage in a child process: a row that kills or hangs it costs that row, and no other.

The actor holds no model. It sends each unit's table to a child (`stage_process`) that does, and
takes the added columns back. When the child dies, or finishes no batch for too long, a new one gets
the first and the second half of the rows, and so on down to the row that did it.
"""

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa

from stx.pipelines.running import unit_table
from stx.pipelines.running.activity import phase, report, reporting_to
from stx.pipelines.running.python_child import PythonChild
from stx_core.errors import InputError, ModelError, StxError
from stx_core.store.files.s3 import current_options

logger = logging.getLogger(__name__)

# Large models load from slow disks for minutes, and there is no sign of progress meanwhile.
_LOAD_TIMEOUT_S = 1800.0
_LOAD_ATTEMPTS = 3

# More rows of one unit that do this are no bad rows but a broken model or machine.
_MAX_GUILTY_ROWS = 8

_BEAT_S = 10.0

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Failure:
    """End of a child.

    Attributes:
        reason: ``crash`` or ``timeout``.
        detail: exit code or signal, and the last line on stderr.
        out_of_memory: it was killed the way the kernel, or an operator, kills.
    """

    reason: str
    detail: str
    out_of_memory: bool = False


class Supervised:
    """Runs a stage in a child process, and finds the rows that end it.

    Args:
        stage: importable class. Beside its settings it takes ``progress``, a function to call after
            each batch, and ``memory_share``, the share of its usual batch size to use.
        settings: see `StageSpec`.
        stall_timeout_s: a child that finishes no batch for so long is killed.
        beat: called every few seconds while a child is waited for, whatever it does: the sign that
            somebody looks after it.
    """

    def __init__(
        self,
        stage: type,
        settings: dict[str, Any],
        stall_timeout_s: float,
        beat: Callable[[], None] | None = None,
    ) -> None:
        groups = (settings.get(group, {}) for group in ("encoders", "rerankers"))
        models = [model.model for group in groups for model in group.values()]
        self._name = ", ".join(models) or stage.__name__
        self._new_child = partial(Child, stage, settings, beat or (lambda: None))
        self._stall_timeout_s = stall_timeout_s
        self._memory_share = 1.0
        # Loads while the first unit is read. What goes wrong is told to the first unit: an error
        # in the constructor of an actor would not arrive as it was raised.
        self._child: Child | None = self._new_child(self._memory_share)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Run the stage on a table; rows that end its process are rejected.

        Raises:
            StxError: raised by the stage.
            ModelError: the process does not live long enough to load.
            InputError: too many rows end the process.
        """
        result = self._attempt(table)
        if isinstance(result, Failure) and (result.out_of_memory or table.num_rows == 1):
            # Smaller batches may fit; and one death alone is no proof against a lone row.
            if result.out_of_memory:
                self._memory_share /= 2
            result = self._attempt(table)
        if isinstance(result, pa.Table):
            return result
        with reporting_to():  # parts of a unit know no share of it
            parts = self._bisect(table, result, [])
        return _joined(table, parts)

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.process.end()
            self._child = None

    def _bisect(self, table: pa.Table, failure: Failure, guilty: list[Failure]) -> list[pa.Table]:
        """Encode or reject the rows of a table that ended a child; they stay in order."""
        if table.num_rows > 1:
            half = table.num_rows // 2
            parts: list[pa.Table] = []
            for part in (table.slice(0, half), table.slice(half)):
                result = self._attempt(part)
                failed = isinstance(result, Failure)
                parts += self._bisect(part, result, guilty) if failed else [result]
            return parts
        guilty.append(failure)
        # Without its text a row is not encoded: this only adds the columns, all null.
        result = self._attempt(unit_table.reject(table, failure.reason, "text", failure.detail))
        if isinstance(result, Failure) or len(guilty) > _MAX_GUILTY_ROWS:
            raise InputError(
                f"{len(guilty)} rows of one unit end the process of {self._name} "
                f"({failure.reason}: {failure.detail}): see whether model and machine are sound; "
                "if only these rows are at fault, filter them out or lower resources.rows_per_unit"
            )
        return [result]

    def _attempt(self, table: pa.Table) -> pa.Table | Failure:
        """Let a loaded child work on a table; loading is tried three times, and no more."""
        failure: Failure | None = None
        for _ in range(_LOAD_ATTEMPTS):
            self._child = self._child or self._new_child(self._memory_share)
            try:
                with phase("loading the model"):
                    failure = self._child.wait_until_loaded()
            except StxError:
                self.close()
                raise
            if failure is None:
                answer = self._child.ask(table, self._stall_timeout_s)
                if isinstance(answer, Failure):
                    logger.warning(
                        "%d rows ended %s: %s", table.num_rows, self._name, answer.detail
                    )
                    self.close()
                return answer
            self.close()
        assert failure is not None
        raise ModelError(
            f"{self._name}: loading ended its process {_LOAD_ATTEMPTS} times "
            f"({failure.reason}: {failure.detail}); check the model's files, and the device"
        )


def _joined(table: pa.Table, parts: Sequence[pa.Table]) -> pa.Table:
    """The parts as one table; each has the notes of `table`, and its own numbers on top."""
    before, after = unit_table.notes(table), [unit_table.notes(part) for part in parts]
    joined = pa.concat_tables(parts).combine_chunks()
    if any("seconds" in notes for notes in after):
        seconds = [notes.get("seconds", {}) for notes in after]
        joined = unit_table.with_notes(joined, seconds=_sums(before.get("seconds", {}), seconds))
    if any("run" in notes for notes in after):
        runs = [notes.get("run", {}) for notes in after]
        joined = unit_table.with_notes(joined, run=_sums(before.get("run", {}), runs))
    return joined


def _sums(before: Mapping[str, Number], after: Sequence[Mapping[str, Number]]) -> dict[str, Number]:
    """The numbers before, and what each of those after has more."""
    sums = dict(before)
    for numbers in after:
        for name, value in numbers.items():
            sums[name] = sums.get(name, 0) + value - before.get(name, 0)
    return sums


class Child:
    """One process with the stage in it, and the connection to it.

    It ends when the connection does, so also when this process is killed.

    Attributes:
        process: it.
    """

    def __init__(
        self,
        stage: type,
        settings: dict[str, Any],
        beat: Callable[[], None],
        memory_share: float,
    ) -> None:
        self._beat = beat
        self.process = PythonChild("stx.pipelines.running.stage_process")
        self._connection = self.process.connection
        self._ready = False
        # If it is dead already, waiting for it says why.
        with contextlib.suppress(OSError):
            self._connection.send((stage, settings, memory_share, current_options()))

    def wait_until_loaded(self) -> Failure | None:
        """None as soon as the stage is loaded, else how the process ended."""
        if self._ready:
            return None
        answer = self._receive(_LOAD_TIMEOUT_S)
        if isinstance(answer, Failure):
            return answer
        self._ready = True
        return None

    def ask(self, table: pa.Table, stall_timeout_s: float) -> pa.Table | Failure:
        """Let the stage work on a table; the table with the columns that it added."""
        try:
            self._connection.send_bytes(unit_table.to_bytes(table))
        except OSError:
            return self._death()
        answer = self._receive(stall_timeout_s)
        if isinstance(answer, Failure):
            return answer
        added = pa.ipc.open_stream(answer).read_all()
        for name in added.column_names:
            table = table.append_column(name, added.column(name))
        return table.replace_schema_metadata(added.schema.metadata)

    def _receive(self, timeout_s: float) -> bytes | Failure:
        """The answer; any message before it is a sign of life that starts the clock again."""
        end = time.monotonic() + timeout_s
        try:
            while True:
                if not self._connection.poll(min(_BEAT_S, max(0.0, end - time.monotonic()))):
                    self._beat()
                    if time.monotonic() >= end:
                        return Failure("timeout", f"no batch was finished for {timeout_s:g} s")
                    continue
                kind, value = self._connection.recv()
                if kind == "done":
                    return bytes(value)
                if kind == "error":
                    raise value
                if kind == "failed":
                    return Failure("crash", value)
                if value:
                    report(*value)
                end = time.monotonic() + timeout_s
        except (EOFError, ConnectionError):
            return self._death()

    def _death(self) -> Failure:
        """Say why the process is gone, which has closed its end of the connection."""
        code = self.process.exit_code()
        if code is None:
            return Failure("crash", "its process closed the connection")
        how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        detail = "; ".join([how, *self.process.tail])
        return Failure("crash", detail, out_of_memory=code == -signal.SIGKILL)
