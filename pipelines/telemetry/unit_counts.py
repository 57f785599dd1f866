"""Numbers of a unit's rows that add up over units: written with its record, read by the report."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypedDict, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.running import unit_table
from stx_core.histogram import HistogramValues, Lengths, Norms, Scores
from stx_core.store import clock
from stx_core.store.schema import dense_matrix

FINISHED = "finished"
RUN_TOKENS = "run_tokens"
RUN_PLACES = "run_places"
RUN_FILL = "run_fill"
TRUNCATED_CARRIED = "truncated_carried"

_AT_A_TIME = 1000


class UnitCounts(TypedDict, total=False):
    """Counts in a unit's record, JSON values; other jobs and older versions have fewer.

    Attributes:
        tokens: `Lengths` of the texts.
        norms: `Norms` of dense vectors.
        entries: `Lengths`, non-zero numbers of sparse vectors.
        scores: `Scores` of a ranking.
        finished: seconds since 1970, by the clock of the writer.
        run_tokens: that an encoder was given, where one ran.
        run_places: of its batches, with their padding.
        run_fill: tokens that only filled packed batches up to a round number.
        truncated_carried: carried rows whose texts were cut.
    """

    tokens: HistogramValues
    norms: HistogramValues
    entries: HistogramValues
    scores: HistogramValues
    finished: float
    run_tokens: int
    run_places: int
    run_fill: int
    truncated_carried: int


def count_rows(good: pa.Table, output: str) -> UnitCounts:
    """Count the rows that an output of a unit gives.

    Args:
        good: the unit's table without rejected rows, complete.
        output: name of the output.
    """
    if not len(good):
        return {"finished": clock.now()}
    tokens = good.column(f"{output}.n_tokens").to_numpy()
    counts = UnitCounts(tokens=Lengths.of(tokens).to_json())
    vectors = good.column(f"{output}.vector")
    if pa.types.is_struct(vectors.type):
        entries = pc.list_value_length(pc.struct_field(vectors, "indices"))
        counts["entries"] = Lengths.of(entries.to_numpy()).to_json()
    else:
        rows = dense_matrix(vectors).astype(np.float32, copy=False)
        counts["norms"] = Norms.of(np.sqrt(np.einsum("nd,nd->n", rows, rows))).to_json()
    run = unit_table.notes(good).get("run", {})
    return counts | {
        "finished": clock.now(),
        "run_tokens": run.get(f"{output}.tokens", 0),
        "run_places": run.get(f"{output}.places", 0),
        "run_fill": run.get(f"{output}.fill", 0),
    }


def count_scores(ranking: pa.Table) -> UnitCounts:
    """Count what a unit gives of a ranking: ``scores`` and ``finished``.

    Args:
        ranking: rows with ``score``, a number or null.
    """
    scores = ranking["score"].drop_null().to_numpy()
    return {"scores": Scores.of(scores[np.isfinite(scores)]).to_json(), "finished": clock.now()}


@dataclass(frozen=True)
class Totals:
    """Counts of many units, added up.

    Attributes:
        tokens: of the texts.
        norms: of dense vectors.
        entries: non-zero numbers of sparse vectors.
        scores: of rankings.
        run_tokens: that encoders were given.
        run_places: of their batches, padding counted.
        run_fill: what only filled packed batches up; not among the places.
    """

    tokens: Lengths = Lengths()
    norms: Norms = Norms()
    entries: Lengths = Lengths()
    scores: Scores = Scores()
    run_tokens: int = 0
    run_places: int = 0
    run_fill: int = 0

    @property
    def padding(self) -> float | None:
        """Share of the places that held no token; None where no encoder said."""
        return 1 - self.run_tokens / self.run_places if self.run_places else None

    @property
    def fill(self) -> float | None:
        """Share of what was computed that only filled packed batches up; None without batches."""
        return self.run_fill / (self.run_places + self.run_fill) if self.run_places else None

    def with_unit(self, counts: UnitCounts) -> "Totals":
        """Add what `count_rows` gave for one unit."""
        return Totals(
            tokens=self.tokens + Lengths.from_json(counts.get("tokens", {})),
            norms=self.norms + Norms.from_json(counts.get("norms", {})),
            entries=self.entries + Lengths.from_json(counts.get("entries", {})),
            scores=self.scores + Scores.from_json(counts.get("scores", {})),
            run_tokens=self.run_tokens + counts.get("run_tokens", 0),
            run_places=self.run_places + counts.get("run_places", 0),
            run_fill=self.run_fill + counts.get("run_fill", 0),
        )


def read_json(records: pa.Table, column: str) -> Iterator[dict[str, Any]]:
    """A column of `ledger.RECORDS` that holds JSON, some rows in memory at a time."""
    for batch in records.select([column]).to_batches(max_chunksize=_AT_A_TIME):
        yield from map(json.loads, batch.column(0).to_pylist())


def add_up(records: pa.Table) -> Totals:
    """The counts of all units; those of other jobs and older versions say nothing."""
    units = (cast(UnitCounts, values) for values in read_json(records, "counts"))
    return reduce(Totals.with_unit, units, Totals())
