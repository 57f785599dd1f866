"""The import job: a ranking from elsewhere, BM25 of another engine say, for `mine` beside ours."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import pyarrow as pa

from stx.pipelines.engine import job
from stx.pipelines.engine.passes import Pass, Passes
from stx.pipelines.engine.runs import Start, View
from stx.pipelines.engine.unit_files import IdSet, UnitResult
from stx.pipelines.planning.dataset_state import DatasetState
from stx.pipelines.planning.plan import DueUnit, Plan, make_part
from stx.pipelines.planning.snapshot_files import digest
from stx.pipelines.retrieval.rankings import ranking_schema
from stx.pipelines.spec.parts import Dataset, Name, Part, Resources, Store
from stx.pipelines.spec.quality import EmptyQuality
from stx.pipelines.telemetry.report import Report
from stx_core.errors import InputError
from stx_core.evaluation.files import list_parts
from stx_core.evaluation.rankings import read_rankings
from stx_core.evaluation.whole_queries import best_first, whole_queries, with_ranks
from stx_core.store.corpus.units import Unit, Units, unit_key
from stx_core.store.files.apart import refuse_overlap
from stx_core.store.files.filesystem import file_info
from stx_core.store.files.local_disk import scratch_space
from stx_core.store.files.urls import redact

_FORMAT = 1

# Rows of a data file, about: queries are not cut.
_ROWS_PER_UNIT = 1 << 20


class ImportSpec(Part):
    """The ``import`` job: a ranking of another engine as a dataset."""

    source: str
    """File, folder or glob of a ranking: TREC run, MS MARCO, Parquet, JSONL, ``top_ranked``."""
    path: str
    """The dataset to write."""
    name: Name = "ranking"
    """Of its output."""
    format: str | None = None
    ids: Literal["string", "int64"] = "string"
    """Type of the ids: that of the datasets it shall be used with."""
    store: Store = Store()

    @property
    def output(self) -> Dataset:
        """The dataset, as other jobs have it."""
        return Dataset(path=self.path)

    @property
    def resources(self) -> Resources:
        """This process: where the file was read."""
        return Resources(runner="local")

    @property
    def quality(self) -> EmptyQuality:
        """No checks: a shorter ranking is what its engine gave."""
        return EmptyQuality()


def run_import(spec: ImportSpec, view: View | None = None) -> Report:
    """Commit a ranking as a snapshot; nothing is done when the file has not changed.

    A ranking that is to be imported is copied to a local disk first: its units are known when all
    of it was read, which happens once.

    Raises:
        InputError: no ranking, or a bad line, or ids that are no numbers where they should be.
        StoreError: from the store.
    """
    with scratch_space() as scratch:
        return job.run(partial(_Import, scratch), spec, view, dry_run=False)


class _Import(job.Job[Plan]):
    name = "import"

    def __init__(self, scratch: str, spec: ImportSpec) -> None:
        refuse_overlap(spec.path, [spec.source], "the dataset")
        identity = [file_info(url).identity for url in list_parts(spec.source)]
        self._spec, self._scratch = spec, scratch
        self._fingerprint = digest([identity, spec.ids, spec.format, _FORMAT])
        self.run_hash = digest([self._fingerprint, spec.name])
        kind = pa.string() if spec.ids == "string" else pa.int64()
        self._schema = ranking_schema(kind, kind)

    def plan(self, state: DatasetState) -> Plan:
        spec, fingerprint = self._spec, self._fingerprint
        before = {name: facts["fingerprint"] for name, facts in state.outputs.items()}
        if state.version and before == {spec.name: fingerprint} and not state.damaged:
            # The source is not read: the snapshot's units are those that it has.
            keys = state.carried["key"].to_pylist()
            part = make_part(spec.name, fingerprint, keys, state)
            return Plan(spec.path, Units.of(()), {spec.name: part}, state)
        units: list[Unit] = []
        row = 0
        for table in _blocks(spec, self._schema):
            stop = row + len(table)
            unit = Unit(len(units), spec.source, fingerprint, "parquet", start=row, stop=stop)
            with pa.ipc.new_file(_file(self._scratch, unit), self._schema) as writer:
                writer.write_table(table)
            units.append(unit)
            row = stop
        if not units:
            raise InputError(f"{redact(spec.source)}: an empty ranking, nothing to import")
        names = {"output": spec.name, "fingerprint": fingerprint}
        part = make_part(spec.name, fingerprint, [unit_key(unit, names) for unit in units], state)
        return Plan(spec.path, Units.of(units), {spec.name: part}, state)

    def is_judged(self, output: str) -> bool:  # noqa: ARG002
        return False

    def prepare(self, plan: Plan, planning: job.Planning) -> Plan:  # noqa: ARG002
        spec, source = self._spec, redact(self._spec.source)
        facts = {
            "type": "ranking",
            "fingerprint": self._fingerprint,
            "by": "import",
            "source": source,
        }
        lines = (f"plan for {plan.root}", f"  import   {source}: {plan.n_rows:,} rows")
        schemas = {spec.name: self._schema}
        return replace(plan, facts={spec.name: facts}, schemas=schemas, lines=lines)

    def passes(self, plan: Plan, start: Start) -> Passes:  # noqa: ARG002
        units = _ImportUnits(self._scratch)
        yield Pass(plan.due_units(), units.read, [], units.results)
        return {}

    def report(self, report: Report, plan: Plan, committed: job.Committed) -> Report:  # noqa: ARG002
        return report


@dataclass(frozen=True)
class _ImportUnits:
    """Gives the units of a ranking from the local disk."""

    scratch: str

    def read(self, due: DueUnit) -> pa.Table:
        """The rows of a unit."""
        return pa.ipc.open_file(pa.memory_map(_file(self.scratch, due.unit))).read_all()

    def results(self, due: DueUnit, table: pa.Table) -> Iterator[UnitResult]:
        """All of them."""
        ids = IdSet.of(table["query_id"])
        for output, key in due.keys.items():
            yield UnitResult(output=output, key=key, rows=table, ids_in=ids, ids_out=ids)


def _file(scratch: str, unit: Unit) -> str:
    return os.path.join(scratch, f"{unit.index}.arrow")


def _blocks(spec: ImportSpec, schema: pa.Schema) -> Iterator[pa.Table]:
    """Whole queries, best first, about as many rows as a data file has."""
    tables: list[pa.Table] = []
    for queries in whole_queries(read_rankings(spec.source, spec.format)):
        try:
            rows = with_ranks(best_first(queries)).select(schema.names).cast(schema)
        except pa.ArrowInvalid as error:
            raise InputError(
                f"{redact(spec.source)}: ids cannot be read as {spec.ids} ({error}); leave out "
                "--ids"
            ) from None
        tables.append(rows)
        if sum(map(len, tables)) >= _ROWS_PER_UNIT:
            yield pa.concat_tables(tables)
            tables = []
    if tables:
        yield pa.concat_tables(tables)
