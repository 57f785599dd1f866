"""Numbers of a unit's rows that add up over units: written with its record, read by the report."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.running import unit_table
from stx_core.histogram import Lengths, Norms, Scores
from stx_core.store import clock
from stx_core.store.schema import dense_matrix

TOKENS = "tokens"
NORMS = "norms"
ENTRIES = "entries"
FINISHED = "finished"
SCORES = "scores"
RUN_TOKENS = "run_tokens"
RUN_PLACES = "run_places"
RUN_FILL = "run_fill"
TRUNCATED_CARRIED = "truncated_carried"

_NONE: dict[str, Any] = {"bins": {}}
_AT_A_TIME = 1000


def count_rows(good: pa.Table, output: str) -> dict[str, Any]:
    """Count the rows that an output of a unit gives.

    Args:
        good: the unit's table without rejected rows, complete.
        output: name of the output.

    Returns:
        JSON values: ``tokens`` (`Lengths` of the texts), ``norms`` (`Norms` of dense vectors) or
        ``entries`` (`Lengths`, non-zero numbers of sparse ones), ``finished`` (seconds since 1970
        by the clock of the writer), and where an encoder ran ``run_tokens``, ``run_places`` and
        ``run_fill``: the tokens that it was given, the places of its batches with their padding,
        and the tokens that only filled packed batches up to a round number.
    """
    if not len(good):
        return {FINISHED: clock.now()}
    tokens = good.column(f"{output}.n_tokens").to_numpy()
    run = unit_table.notes(good).get("run", {})
    return {
        TOKENS: Lengths.of(tokens).to_json(),
        **_of_vectors(good.column(f"{output}.vector")),
        FINISHED: clock.now(),
        RUN_TOKENS: run.get(f"{output}.tokens", 0),
        RUN_PLACES: run.get(f"{output}.places", 0),
        RUN_FILL: run.get(f"{output}.fill", 0),
    }


def count_scores(ranking: pa.Table) -> dict[str, Any]:
    """Count what a unit gives of a ranking: ``scores`` (`Scores`), and ``finished``, as above.

    Args:
        ranking: rows with ``score``, a number or null.
    """
    scores = ranking["score"].drop_null().to_numpy()
    return {SCORES: Scores.of(scores[np.isfinite(scores)]).to_json(), FINISHED: clock.now()}


def _of_vectors(vectors: pa.ChunkedArray) -> dict[str, Any]:
    if pa.types.is_struct(vectors.type):
        entries = pc.list_value_length(pc.struct_field(vectors, "indices"))
        return {ENTRIES: Lengths.of(entries.to_numpy()).to_json()}
    rows = dense_matrix(vectors).astype(np.float32, copy=False)
    return {NORMS: Norms.of(np.sqrt(np.einsum("nd,nd->n", rows, rows))).to_json()}


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

    def with_unit(self, counts: Mapping[str, Any]) -> "Totals":
        """Add what `count_rows` gave for one unit."""
        return Totals(
            self.tokens + Lengths.from_json(counts.get(TOKENS, _NONE)),
            self.norms + Norms.from_json(counts.get(NORMS, _NONE)),
            self.entries + Lengths.from_json(counts.get(ENTRIES, _NONE)),
            self.scores + Scores.from_json(counts.get(SCORES, _NONE)),
            self.run_tokens + counts.get(RUN_TOKENS, 0),
            self.run_places + counts.get(RUN_PLACES, 0),
            self.run_fill + counts.get(RUN_FILL, 0),
        )


def read_json(records: pa.Table, column: str) -> Iterator[dict[str, Any]]:
    """A column of `ledger.RECORDS` that holds JSON, some rows in memory at a time."""
    for batch in records.select([column]).to_batches(max_chunksize=_AT_A_TIME):
        yield from map(json.loads, batch.column(0).to_pylist())


def truncated_carried(records: pa.Table) -> int:
    """How many carried rows of units have texts that were cut; older records do not say."""
    return sum(counts.get(TRUNCATED_CARRIED, 0) for counts in read_json(records, "counts"))


def add_up(records: pa.Table) -> Totals:
    """The counts of all units; those of other jobs and older versions say nothing."""
    return reduce(Totals.with_unit, read_json(records, "counts"), Totals())
