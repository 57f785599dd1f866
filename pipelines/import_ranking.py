"""The import job: a ranking from elsewhere, BM25 of another engine say, for `mine` beside ours."""

from dataclasses import replace
from functools import partial

import pyarrow as pa

from stx.pipelines.engine import job
from stx.pipelines.engine.passes import Pass, Passes
from stx.pipelines.engine.runs import Start, View
from stx.pipelines.importing.units import ImportUnits, copy_units
from stx.pipelines.planning.dataset_state import DatasetState
from stx.pipelines.planning.plan import Plan, make_part
from stx.pipelines.planning.snapshot_files import digest
from stx.pipelines.retrieval.rankings import ranking_schema
from stx.pipelines.spec.import_ranking import ImportSpec
from stx.pipelines.telemetry.report import Report
from stx_core.evaluation.files import list_parts
from stx_core.store.corpus.units import Units, unit_key
from stx_core.store.files.apart import refuse_overlap
from stx_core.store.files.filesystem import file_info
from stx_core.store.files.local_disk import scratch_space
from stx_core.store.files.urls import redact
from stx_core.store.log_state import OutputFacts

# Part of every key: raise it when the same work would give other files.
_FORMAT = 1


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
        units = copy_units(spec, self._schema, fingerprint, self._scratch)
        names = {"output": spec.name, "fingerprint": fingerprint}
        part = make_part(spec.name, fingerprint, [unit_key(unit, names) for unit in units], state)
        return Plan(spec.path, Units.of(units), {spec.name: part}, state)

    def is_judged(self, output: str) -> bool:  # noqa: ARG002
        return False

    def prepare(self, plan: Plan, planning: job.Planning) -> Plan:  # noqa: ARG002
        spec, source = self._spec, redact(self._spec.source)
        facts: OutputFacts = {
            "type": "ranking",
            "fingerprint": self._fingerprint,
            "by": "import",
            "source": source,
        }
        lines = (f"plan for {plan.root}", f"  import   {source}: {plan.n_rows:,} rows")
        schemas = {spec.name: self._schema}
        return replace(plan, facts={spec.name: facts}, schemas=schemas, lines=lines)

    def passes(self, plan: Plan, start: Start) -> Passes:  # noqa: ARG002
        units = ImportUnits(self._scratch)
        yield Pass(plan.due_units(), units.read, [], units.results)
        return {}
