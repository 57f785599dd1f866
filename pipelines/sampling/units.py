"""Reading and writing the units of a sample run, and its passes over them.

A first pass finds the lowest hashes of each unit, a second one takes the rows that are below the
limit of their stratum. So the same rows are chosen whatever the units, and memory is bounded by the
size of the sample. Of rows with one id all are chosen or none.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.engine.passes import Pass, Passes
from stx.pipelines.engine.runs import Start
from stx.pipelines.engine.unit_files import IdSet, UnitResult
from stx.pipelines.planning.plan import DueUnit, Plan
from stx.pipelines.planning.snapshot_files import take_unit
from stx.pipelines.sampling.lowest import SCHEMA, hashed, is_chosen, limits, lowest_hashes
from stx.pipelines.spec.sample import SampleSpec
from stx_core.store.data_file import read_columns
from stx_core.store.files.urls import join

LOWEST = "lowest"


@dataclass(frozen=True)
class SampleUnits:
    """All that readers and writers of a run need; small and picklable.

    Attributes:
        by: column of the strata; None for one stratum.
        seed: of the hashes.
        n_rows: of the sample.
        schema: of the files.
        limits: by stratum, see `lowest.limits`; {} in the first pass.
    """

    by: str | None
    seed: int
    n_rows: int
    schema: pa.Schema
    limits: Mapping[str | None, int] = field(default_factory=dict)

    def read_hashes(self, due: DueUnit) -> pa.Table:
        """Stratum and hash of each row."""
        rows = take_unit(due.unit, [name for name in ("id", self.by) if name])
        return hashed(rows, self.by, self.seed)

    def lowest(self, due: DueUnit, table: pa.Table) -> Iterator[UnitResult]:
        """The lowest hashes of each stratum, and how many rows it has."""
        ids = IdSet.of(table["hash"])
        rows = lowest_hashes(table, self.n_rows)
        yield UnitResult(output=LOWEST, key=due.keys[LOWEST], rows=rows, ids_in=ids, ids_out=ids)

    def read_rows(self, due: DueUnit) -> pa.Table:
        """All columns of a unit."""
        return take_unit(due.unit, self.schema.names)

    def chosen(self, due: DueUnit, table: pa.Table) -> Iterator[UnitResult]:
        """The rows up to the limits of their strata."""
        mask = is_chosen(hashed(table, self.by, self.seed), self.limits)
        rows = table.filter(pa.array(mask)).cast(self.schema)
        ids = IdSet.of(rows["id"])
        n_filtered = due.unit.n_rows - len(rows)
        for output, key in due.keys.items():
            yield UnitResult(
                output=output, key=key, rows=rows, ids_in=ids, ids_out=ids, n_filtered=n_filtered
            )


def sample_passes(plan: Plan, schema: pa.Schema, lowest: Sequence[DueUnit], start: Start) -> Passes:
    """Find the lowest hashes of the units that have no record of them, then take the rows.

    Args:
        plan: of the run.
        schema: of the files.
        lowest: units of the first pass.
        start: of the run.
    """
    spec: SampleSpec = start.spec
    units = SampleUnits(spec.by, spec.seed, spec.rows, schema)
    fresh = yield Pass(lowest, units.read_hashes, [], units.lowest)
    records = pa.concat_tables([start.records, fresh])
    files = records.filter(pc.equal(records["output"], LOWEST))["file"].to_pylist()
    tables = (read_columns(join(plan.root, file), SCHEMA.names) for file in files if file)
    units = SampleUnits(spec.by, spec.seed, spec.rows, schema, limits(tables, spec.rows))
    yield Pass(plan.due_units(), units.read_rows, [], units.chosen)
    return {}
