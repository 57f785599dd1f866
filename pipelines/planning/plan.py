"""Units of a job, and what each of its outputs still needs of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Self

import pyarrow as pa

from stx.pipelines.planning.dataset_state import DatasetState
from stx.pipelines.planning.pool import Pool
from stx.pipelines.running.stream import StageSpec
from stx_core.store.corpus.shards import Mark
from stx_core.store.corpus.units import Unit


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
        unit, mark = values["unit"], values["unit"]["mark"]
        unit = Unit(**unit | {"mark": None if mark is None else Mark(**mark)})
        return cls(**{**values, "unit": unit})


@dataclass(frozen=True)
class Part:
    """What one output needs.

    Attributes:
        fingerprint: hash of all that decides its rows, the input apart.
        keys: (units,) unit keys, in the order of the plan's units.
        due: units to do, as indices into the plan's units.
        n_carried: units that the current snapshot has already.
        n_done: units that an interrupted start of this run has finished.
    """

    fingerprint: str
    keys: tuple[str, ...]
    due: tuple[int, ...]
    n_carried: int
    n_done: int


def make_part(name: str, fingerprint: str, keys: Sequence[str], state: DatasetState) -> Part:
    """Subtract what a dataset has from what an output shall hold."""
    carried = [(name, key) in state.carried for key in keys]
    due = tuple(i for i, key in enumerate(keys) if not carried[i] and key not in state.done)
    n_done = len(keys) - sum(carried) - len(due)
    return Part(fingerprint, tuple(keys), due, sum(carried), n_done)


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
    units: tuple[Unit, ...]
    parts: Mapping[str, Part]
    state: DatasetState
    n_before: int = 0
    rows_before: int = 0
    pool: Pool | None = None
    stages: tuple[StageSpec, ...] = ()
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    schemas: Mapping[str, pa.Schema] = field(default_factory=dict)
    lines: tuple[str, ...] = ()

    @cached_property
    def due(self) -> dict[int, list[str]]:
        """Units to do, by index, and the outputs that each is due for."""
        outputs: dict[int, list[str]] = {}
        for name, part in self.parts.items():
            for index in part.due:
                outputs.setdefault(index, []).append(name)
        return dict(sorted(outputs.items()))

    @property
    def n_due(self) -> int:
        """Number of units to do, those before them counted."""
        return len(self.due) + self.n_before

    @property
    def n_due_rows(self) -> int:
        """Rows of these units."""
        return sum(self.units[index].n_rows for index in self.due) + self.rows_before

    @property
    def n_rows(self) -> int:
        """Rows of all units, before filters."""
        return sum(unit.n_rows for unit in self.units)

    @property
    def is_current(self) -> bool:
        """Whether the current snapshot is exactly what the plan wants, no more and no less."""
        wanted = {(name, key) for name, part in self.parts.items() for key in part.keys}
        # An input without rows has no keys to compare.
        fingerprints = {name: part.fingerprint for name, part in self.parts.items()}
        before = {name: facts["fingerprint"] for name, facts in self.state.outputs.items()}
        whole = wanted == self.state.carried and not self.state.damaged
        return self.state.version > 0 and before == fingerprints and whole

    @property
    def units_by_key(self) -> dict[str, dict[str, Unit]]:
        """Unit by key, by output: as `commit_snapshot` takes them."""
        return {
            name: dict(zip(part.keys, self.units, strict=True)) for name, part in self.parts.items()
        }

    def due_units(self) -> Iterator[DueUnit]:
        """The due units, with the keys of their due outputs."""
        for index, names in self.due.items():
            yield DueUnit(self.units[index], {name: self.parts[name].keys[index] for name in names})
