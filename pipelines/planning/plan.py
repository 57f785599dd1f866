"""Units of a job, and what each of its outputs still needs of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Self, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.planning.dataset_state import DatasetState
from stx.pipelines.planning.pool import Pool
from stx.pipelines.running.stream import StageSpec
from stx_core.store.corpus.units import Unit, Units, to_unit
from stx_core.store.log_state import OutputFacts
from stx_core.store.manifest import planned_units

_AT_ONCE = 1024


@dataclass(frozen=True)
class DueUnit:
    """A unit that is to be done; a job may add fields in a subclass.

    Attributes:
        unit: its rows.
        keys: of the unit, by due output.
    """

    unit: Unit
    keys: Mapping[str, str]

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The unit of plain values."""
        return cls(**{**values, "unit": to_unit(values["unit"])})


class DueUnits(Sequence[DueUnit]):
    """Due units of a plan, each made when it is asked for.

    Args:
        units: of the plan.
        keys: (units,) a column for each output: unit keys, null where a unit is not due.
        order: (N,) int64, indices into the plan's units.
    """

    def __init__(self, units: Units, keys: pa.Table, order: np.ndarray) -> None:
        self._units, self._keys, self._order = units, keys, order

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, place: int) -> DueUnit: ...
    @overload
    def __getitem__(self, place: slice) -> "DueUnits": ...
    def __getitem__(self, place: int | slice) -> "DueUnit | DueUnits":
        if isinstance(place, slice):
            return DueUnits(self._units, self._keys, self._order[place])
        return next(iter(DueUnits(self._units, self._keys, self._order[[place]])))

    def __iter__(self) -> Iterator[DueUnit]:
        for start in range(0, len(self), _AT_ONCE):
            places = self._order[start : start + _AT_ONCE]
            keys = self._keys.take(pa.array(places)).to_pylist()
            for unit, row in zip(self._units.take(places), keys, strict=True):
                yield DueUnit(unit, {name: key for name, key in row.items() if key is not None})


@dataclass(frozen=True)
class Part:
    """What one output needs.

    Attributes:
        fingerprint: hash of all that decides its rows, the input apart.
        keys: (units,) string, unit keys in the order of the plan's units.
        due: int64, units to do, as ascending indices into the plan's units.
        n_carried: units that the current snapshot has already.
        n_done: units that an interrupted start of this run has finished.
    """

    fingerprint: str
    keys: pa.Array
    due: pa.Array
    n_carried: int
    n_done: int


def make_part(name: str, fingerprint: str, keys: Iterable[str], state: DatasetState) -> Part:
    """Subtract what a dataset has from what an output shall hold."""
    column = keys if isinstance(keys, pa.Array) else pa.array(keys, pa.string())
    carried = state.has(name, column)
    exists = pc.or_(carried, pc.is_in(column, value_set=state.done))
    due = pc.indices_nonzero(pc.invert(exists)).cast(pa.int64())
    n_carried = pc.sum(carried).as_py() or 0
    return Part(fingerprint, column, due, n_carried, n_done=len(column) - n_carried - len(due))


@dataclass(frozen=True)
class Plan:
    """What a run shall do.

    Attributes:
        root: the dataset to write.
        units: in the order of the result.
        parts: by output.
        state: of the dataset before.
        n_before: units to finish before those of `units`, see `retrieve`.
        rows_before: their rows.
        pool: the actors; None before that is known.
        stages: on them, in order; the first pass that needs them may set more of their settings.
        facts: by output, what the snapshot remembers of it, as JSON values; {} before they are
            known, likewise below.
        schemas: by output, of its files.
        lines: the plan in words.
    """

    root: str
    units: Units
    parts: Mapping[str, Part]
    state: DatasetState
    n_before: int = 0
    rows_before: int = 0
    pool: Pool | None = None
    stages: tuple[StageSpec, ...] = ()
    facts: Mapping[str, OutputFacts] = field(default_factory=dict)
    schemas: Mapping[str, pa.Schema] = field(default_factory=dict)
    lines: tuple[str, ...] = ()

    @cached_property
    def due(self) -> pa.Array:
        """int64, units to do for any output, as ascending indices."""
        return pa.array(self.indices_due(self.parts), pa.int64())

    def indices_due(self, outputs: Iterable[str]) -> np.ndarray:
        """(N,) int64, ascending, units to do for any of some outputs."""
        due = [self.parts[name].due for name in outputs]
        return np.unique(np.concatenate([np.zeros(0, np.int64), *due]))

    @cached_property
    def due_keys(self) -> pa.Table:
        """(units,) a column for each output: unit keys, null where a unit is not due for it."""
        columns = {}
        for name, part in self.parts.items():
            is_due = np.zeros(len(self.units), bool)
            is_due[part.due.to_numpy()] = True
            columns[name] = pc.if_else(pa.array(is_due), part.keys, None)
        return pa.table(columns)

    def outputs_due(self, index: int) -> list[str]:
        """Outputs that a unit is due for."""
        (row,) = self.due_keys.slice(index, 1).to_pylist()
        return [name for name, key in row.items() if key is not None]

    @property
    def n_due(self) -> int:
        """Number of units to do, those before them counted."""
        return len(self.due) + self.n_before

    @property
    def n_due_rows(self) -> int:
        """Rows of these units."""
        return self.units.count_rows(self.due) + self.rows_before

    @property
    def n_rows(self) -> int:
        """Rows of all units, before filters."""
        return self.units.count_rows()

    @property
    def is_current(self) -> bool:
        """Whether the current snapshot is exactly what the plan says, no more and no less."""
        # An input without rows has no keys to compare.
        fingerprints = {name: part.fingerprint for name, part in self.parts.items()}
        before = {name: facts["fingerprint"] for name, facts in self.state.outputs.items()}
        n_units = sum(len(part.keys) for part in self.parts.values())
        whole = n_units == len(self.state.carried) and not self.state.damaged
        return (
            self.state.version > 0
            and before == fingerprints
            and whole
            and all(
                pc.all(self.state.has(name, part.keys), min_count=0).as_py()
                for name, part in self.parts.items()
            )
        )

    @property
    def planned(self) -> dict[str, pa.Table]:
        """Units and keys by output, as `commit_snapshot` takes them."""
        return {name: planned_units(part.keys, self.units) for name, part in self.parts.items()}

    def due_units(self, ranks: Mapping[str, int] | None = None) -> DueUnits:
        """The due units, with the keys of their due outputs.

        Args:
            ranks: by shard, which comes first; None for the order of the plan.
        """
        order = self.due.to_numpy()
        if ranks is not None:
            shards = self.units.table["url"].combine_chunks()
            by_shard = np.array([ranks[url] for url in shards.dictionary.to_pylist()], np.int64)
            order = order[np.argsort(by_shard[shards.indices.to_numpy()[order]], kind="stable")]
        return DueUnits(self.units, self.due_keys, order)
