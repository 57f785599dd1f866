"""Progress of a start of a run: counts of its finished units, as they come."""

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from stx.pipelines.telemetry import unit_counts
from stx_core.store.ledger import Record


@dataclass(frozen=True)
class FinishedUnit:
    """A unit that was written, for those who watch.

    Attributes:
        records: one of each due output.
        rows: of the unit.
        tokens: that models read for it.
        quarantined: rows, of the output with the most of them.
        retries: calls of the store that were repeated, by kind.
    """

    records: tuple[Record, ...]
    rows: int
    tokens: int
    quarantined: int
    retries: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "FinishedUnit":
        """The unit that `dataclasses.asdict` made JSON values of."""
        return cls(**{**values, "records": tuple(Record(**item) for item in values["records"])})


def by_stage(seconds: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Seconds by stage, added up: those of ``encode.dense`` and ``encode.splade`` as ``encode``."""
    total: dict[str, float] = {}
    for stages in seconds:
        for name, value in stages.items():
            stage = name.partition(".")[0]
            total[stage] = total.get(stage, 0.0) + value
    return total


class ProgressValues(TypedDict):
    """JSON values of a `Progress`, see docs/seeing.md."""

    run: str
    units: int
    units_total: int
    rows: int
    rows_total: int
    tokens: int
    quarantined: int
    seconds: float
    rows_per_s: float
    tokens_per_s: int
    eta_s: int | None
    eta_spread_s: int | None
    cost: float | None
    padding: float | None
    stages: dict[str, float]


class Progress:
    """Counts of finished units, and what follows from them.

    Args:
        units_total: that are due.
        rows_total: their rows.
        cost_per_hour: of all that the run uses; None where nobody said.

    Attributes:
        run: its id; empty before the first unit.
    """

    def __init__(
        self, units_total: int, rows_total: int, cost_per_hour: float | None = None
    ) -> None:
        self.units_total, self.rows_total = units_total, rows_total
        self.cost_per_hour = cost_per_hour
        self.run = ""
        self.units = self.rows = self.tokens = self.quarantined = 0
        self.stages: dict[str, float] = {}
        self._run_tokens = self._run_places = 0
        self._began = self._worked_since = self._last = time.monotonic()
        # Of the intervals between finished units, x, and their rows, r: sums of xx, xr and rr.
        self._squares = (0.0, 0.0, 0.0)

    def add(self, unit: FinishedUnit) -> None:
        """Count a unit."""
        now = time.monotonic()
        if not self.units:
            # When the first unit was begun: speeds leave out what actors need to start.
            busy = sum(sum(record.seconds.values()) for record in unit.records)
            self._worked_since = self._last = max(self._began, now - busy) if busy else self._began
        interval, self._last = now - self._last, now
        xx, xr, rr = self._squares
        self._squares = xx + interval**2, xr + interval * unit.rows, rr + unit.rows**2
        self.run = next((record.run for record in unit.records), self.run)
        self.units += 1
        self.rows += unit.rows
        self.tokens += unit.tokens
        self.quarantined += unit.quarantined
        self.stages = by_stage([self.stages, *(record.seconds for record in unit.records)])
        for record in unit.records:
            self._run_tokens += record.counts.get(unit_counts.RUN_TOKENS, 0)
            self._run_places += record.counts.get(unit_counts.RUN_PLACES, 0)

    @property
    def seconds(self) -> float:
        """Since the stream began."""
        return time.monotonic() - self._began

    @property
    def eta_s(self) -> float | None:
        """Seconds that the remaining rows take at the speed so far; None before the first.

        The speed is that of the finished units. Until the next one it counts down: time that
        passes within a unit is no news of the speed.
        """
        if not self.rows:
            return None if self.rows_total else 0.0
        seconds_per_row = (self._last - self._worked_since) / self.rows
        rest_s = (self.rows_total - self.rows) * seconds_per_row
        return max(0.0, rest_s - (time.monotonic() - self._last))

    @property
    def eta_spread_s(self) -> float | None:
        """Two standard errors of `eta_s`, of a ratio of means; None before the third unit."""
        if self.units < 3 or not self.rows:
            return None
        seconds_per_row = (self._last - self._worked_since) / self.rows
        xx, xr, rr = self._squares
        squares = max(0.0, xx - 2 * seconds_per_row * xr + seconds_per_row**2 * rr)
        error = math.sqrt(squares * self.units / (self.units - 1)) / self.rows
        return 2 * max(0, self.rows_total - self.rows) * error

    @property
    def ratio(self) -> float:
        """Share of the rows that is done."""
        return min(1.0, self.rows / self.rows_total) if self.rows_total else 1.0

    @property
    def cost(self) -> float | None:
        """So far."""
        return None if self.cost_per_hour is None else self.cost_per_hour * self.seconds / 3600

    @property
    def padding(self) -> float | None:
        """Share of the places of all batches that held no token; None where no encoder said."""
        return 1 - self._run_tokens / self._run_places if self._run_places else None

    @property
    def shares(self) -> dict[str, float]:
        """Share of the workers' time, by stage."""
        total = sum(self.stages.values())
        return {name: value / total for name, value in self.stages.items()} if total else {}

    def as_dict(self) -> ProgressValues:
        """All of it as JSON values, always with the same keys; see docs/seeing.md."""
        # Since the first finished unit was begun.
        worked_s = max(time.monotonic() - self._worked_since, 1e-9)
        return {
            "run": self.run,
            "units": self.units,
            "units_total": self.units_total,
            "rows": self.rows,
            "rows_total": self.rows_total,
            "tokens": self.tokens,
            "quarantined": self.quarantined,
            "seconds": round(self.seconds, 1),
            "rows_per_s": round(self.rows / worked_s, 1),
            "tokens_per_s": round(self.tokens / worked_s),
            "eta_s": None if self.eta_s is None else round(self.eta_s),
            "eta_spread_s": None if self.eta_spread_s is None else round(self.eta_spread_s),
            "cost": None if self.cost is None else round(self.cost, 4),
            "padding": None if self.padding is None else round(self.padding, 4),
            "stages": {name: round(value, 3) for name, value in self.shares.items()},
        }
