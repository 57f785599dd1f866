"""Progress of a start of a run: counts of its finished units, as they come."""

import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict, cast

from stx.pipelines.running.activity import in_flight
from stx.pipelines.telemetry import unit_counts
from stx_core.store.ledger import Record

# The speed is that of the last intervals: each at least a second, and a fiftieth of the time so
# far, so that they reach back over three quarters of it. What was slow at first is forgotten.
_INTERVALS, _LEAST_S, _LEAST_SHARE = 64, 1.0, 0.02
# Within the first unit so many must have passed before they say something about the rest.
_ENOUGH = 3


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


class ProgressValues(TypedDict, total=False):
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
    eta_s: int
    eta_spread_s: int
    cost: float
    padding: float
    stages: dict[str, float]


# A rest or a padding of 0 says something; that nothing was counted does not.
_SILENT_AT_0 = frozenset({"tokens", "quarantined", "rows_per_s", "tokens_per_s"})


class Progress:
    """Counts of units as they are worked on, and what follows from them.

    One thread may `add` units while another one looks.

    Args:
        units_total: that are due.
        rows_total: their rows.
        cost_per_hour: of all that the run uses; None where nobody said.
        began: `time.monotonic` when the command began; None for now.

    Attributes:
        run: its id; empty before the first unit.
        units: that are finished.
        rows: of these, and of units in flight the share that is done.
        tokens: likewise.
        has_begun: a stage works on a unit, or one is finished.
    """

    def __init__(
        self,
        units_total: int,
        rows_total: int,
        cost_per_hour: float | None = None,
        began: float | None = None,
    ) -> None:
        self.units_total, self.rows_total = units_total, rows_total
        self.cost_per_hour = cost_per_hour
        self.run = ""
        self.units = self.rows = self.tokens = self.quarantined = 0
        self.has_begun = False
        self.stages: dict[str, float] = {}
        self._finished_rows = self._finished_tokens = 0
        self._run_tokens = self._run_places = 0
        self._created = self._worked_since = self._last = self._news = time.monotonic()
        self._began = self._created if began is None else began
        # Seconds and rows between news of the speed, the rows at the last one.
        self._intervals: deque[tuple[float, int]] = deque(maxlen=_INTERVALS)
        self._last_rows = 0
        self._lock = threading.Lock()

    def add(self, unit: FinishedUnit) -> None:
        """Count a unit."""
        with self._lock:
            now = time.monotonic()
            if not self.has_begun:
                # When the first unit was begun: speeds leave out what actors need to start.
                busy = sum(sum(record.seconds.values()) for record in unit.records)
                self._begin(max(self._created, now - busy) if busy else self._created)
            self.run = next((record.run for record in unit.records), self.run)
            self.units += 1
            self._finished_rows += unit.rows
            self._finished_tokens += unit.tokens
            self.quarantined += unit.quarantined
            self.stages = by_stage([self.stages, *(record.seconds for record in unit.records)])
            for record in unit.records:
                self._run_tokens += record.counts.get(unit_counts.RUN_TOKENS, 0)
                self._run_places += record.counts.get(unit_counts.RUN_PLACES, 0)
            self._advance(self._finished_rows, self._finished_tokens, now)

    def look(self) -> None:
        """Count what stages report of the units in flight."""
        work = in_flight()
        if work is None:
            return
        with self._lock:
            now = time.monotonic()
            if not self.has_begun:
                self._begin(now)
            rows = self._finished_rows + int(work.rows)
            self._advance(rows, self._finished_tokens + work.tokens, now)

    def _begin(self, when: float) -> None:
        self.has_begun, self._worked_since, self._last = True, when, when

    def _advance(self, rows: int, tokens: int, now: float) -> None:
        """Count on, never back: what a lost node has done is done again."""
        if rows > self.rows or tokens > self.tokens:
            self._news = now
        self.rows = max(self.rows, min(rows, self.rows_total or rows))
        self.tokens = max(self.tokens, tokens)
        interval, news = now - self._last, self.rows - self._last_rows
        least = max(_LEAST_S, _LEAST_SHARE * (now - self._worked_since))
        is_first = self.units == 1 and not self._intervals
        if news and (is_first or interval >= least):
            self._intervals.append((interval, news))
            self._last, self._last_rows = now, self.rows

    @property
    def seconds(self) -> float:
        """Since the command began."""
        return time.monotonic() - self._began

    @property
    def eta_s(self) -> float | None:
        """Seconds that the remaining rows take at the speed of late; None before it is known.

        Until there is news of it, it counts down.
        """
        if self.rows >= self.rows_total:
            return 0.0
        speed = self._speed()
        if speed is None:
            return None
        rest_s = (self.rows_total - self._last_rows) * speed[0]
        return max(0.0, rest_s - (time.monotonic() - self._last))

    @property
    def eta_spread_s(self) -> float | None:
        """Two standard errors of `eta_s`, of a ratio of means; None before the third interval."""
        speed = self._speed()
        if speed is None or speed[1] is None:
            return None
        return 2 * max(0, self.rows_total - self._last_rows) * speed[1]

    def _speed(self) -> tuple[float, float | None] | None:
        """Seconds per row, and their standard error where there are three intervals."""
        with self._lock:
            pairs = list(self._intervals)
        if not pairs or (not self.units and len(pairs) < _ENOUGH):
            return None
        n, n_rows = len(pairs), sum(rows for _, rows in pairs)
        mean = sum(seconds for seconds, _ in pairs) / n_rows
        if n < _ENOUGH:
            return mean, None
        squares = sum((seconds - mean * rows) ** 2 for seconds, rows in pairs)
        return mean, math.sqrt(squares * n / (n - 1)) / n_rows

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
        """All of it that says something, as JSON values; see docs/seeing.md."""
        # From the first unit's begin to the last batch: speeds do not sink while one is at work.
        worked_s = max(self._news - self._worked_since, 1e-9)
        values: dict[str, object] = {
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
        says = {
            name: value
            for name, value in values.items()
            if value not in (None, "", {}) and (value or name not in _SILENT_AT_0)
        }
        return cast(ProgressValues, says)
