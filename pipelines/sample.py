"""The sample job: rows of a snapshot with the lowest hashes of ids, each stratum its share."""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from stx.pipelines.engine import job
from stx.pipelines.engine.passes import Passes
from stx.pipelines.engine.runs import Start, View
from stx.pipelines.planning.dataset_state import DatasetState
from stx.pipelines.planning.plan import DueUnit, Plan, make_part
from stx.pipelines.planning.snapshot_files import digest, snapshot_data
from stx.pipelines.sampling.units import LOWEST, sample_passes
from stx.pipelines.spec.sample import SampleSpec
from stx.pipelines.telemetry.report import Report
from stx_core.errors import SpecError
from stx_core.store.corpus.units import Unit, Units, unit_key
from stx_core.store.files.apart import refuse_overlap
from stx_core.store.files.urls import redact
from stx_core.store.log_state import OutputFacts
from stx_core.store.snapshot import output_schema, snapshot_info, snapshot_state

# What a snapshot says of an output by its vectors, not by its number of rows.
_FACTS = ("type", "model", "fingerprint", "dim", "similarity", "store_as", "settings", "probe")


def run_sample(spec: SampleSpec, view: View | None = None, *, dry_run: bool = False) -> Report:
    """Commit a sample of the rows of an output as a snapshot, see `job.run`.

    Args:
        spec: of the job.
        view: watches the run.
        dry_run: only plan.
    """
    return job.run(_Sample, spec, view, dry_run=dry_run)


class _Sample(job.Job[Plan]):
    name = "sample"

    def __init__(self, spec: SampleSpec) -> None:
        path = spec.sampled.path
        refuse_overlap(spec.output.path, [path])
        info = snapshot_info(path, spec.sampled.version)
        output = spec.output_of or (next(iter(info.outputs)) if len(info.outputs) == 1 else None)
        if output not in info.outputs:
            raise SpecError(
                f"output_of: {redact(path)} has the outputs {', '.join(info.outputs)}; name one"
            )
        self._output, self._version = output, info.version
        self._schema = output_schema(snapshot_state(path, info.version)["outputs"][output])
        for column in filter(None, ("id", spec.by)):
            if column not in self._schema.names:
                raise SpecError(
                    f"sampled: output {output} of {redact(path)} has no column {column!r}; it has "
                    f"{', '.join(self._schema.names)}"
                )
        self._spec, facts = spec, info.outputs[output]
        values: Mapping[str, object] = facts
        chosen = {name: values[name] for name in _FACTS if name in values}
        self._facts = cast(OutputFacts, chosen)
        files = snapshot_data(path, info.version, output)
        self._units = Units.of(
            Unit(number, file.url, file.checksum, format="parquet", start=0, stop=file.rows)
            for number, file in enumerate(files)
        )
        requested = spec.model_dump(mode="json", include={"rows", "by", "seed"})
        self.run_hash = digest([requested, output, [unit.identity for unit in self._units]])

    def plan(self, state: DatasetState) -> Plan:
        # Which rows are chosen depends on all files.
        sample = {"sample": self.run_hash}
        keys = [unit_key(unit, sample | {"output": self._output}) for unit in self._units]
        part = make_part(self._output, self._facts["fingerprint"], keys, state)
        plan = Plan(self._spec.output.path, self._units, {self._output: part}, state)
        lowest = [
            DueUnit(unit, {LOWEST: unit_key(unit, sample | {"output": LOWEST})})
            for unit in (self._units if plan.due else ())
        ]
        done = set(state.done.to_pylist())
        self._lowest = [due for due in lowest if due.keys[LOWEST] not in done]
        n_rows = sum(due.unit.n_rows for due in self._lowest)
        return replace(plan, n_before=len(self._lowest), rows_before=n_rows)

    def prepare(self, plan: Plan, planning: job.Planning) -> Plan:
        spec = self._spec
        pool, _ = job.pool_for(planning.spec.resources, lambda _: [])
        by = f", each {spec.by} its share" if spec.by else ""
        lines = (
            f"plan for {plan.root}",
            f"  of       {redact(spec.sampled.path)}, version {self._version}, {self._output}",
            f"  sample   {spec.rows:,} of {plan.n_rows:,} rows{by}",
        )
        facts, schemas = {self._output: self._facts}, {self._output: self._schema}
        return replace(plan, pool=pool, facts=facts, schemas=schemas, lines=lines)

    def passes(self, plan: Plan, start: Start) -> Passes:
        return sample_passes(plan, self._schema, self._lowest, start)
