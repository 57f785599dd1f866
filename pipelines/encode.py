"""The encode job: texts of a corpus to vectors, in one pass over the text for several models."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import pyarrow as pa

from pipelines.encoding import describe, keys, sources
from pipelines.encoding.actors import earlier_probes, encode_stages, with_probes
from pipelines.encoding.duplicates import refuse_duplicates
from pipelines.encoding.plan import EncodePlan, make_plan
from pipelines.encoding.results import output_facts, output_schemas
from pipelines.encoding.units import encode_passes
from pipelines.models.settings import EncoderSettings, encoder_settings, fingerprint
from pipelines.planning.corpus import list_corpus, with_held_identities
from pipelines.planning.dataset_state import DatasetState, current_outputs, was_begun
from pipelines.planning.dtype import settled
from pipelines.planning.scope import Scope
from pipelines.planning.time_units import in_microseconds
from pipelines.quality.gate import QualityGate
from pipelines.running import job, stream
from pipelines.running.runs import Start, View
from pipelines.spec.encode import EncodeSpec
from pipelines.telemetry.report import Report
from pipelines.telemetry.run_report import EncodeRun, with_encode_page
from pipelines.telemetry.tracing import span
from stx_core import failpoints
from stx_core.store.files.apart import refuse_overlap
from stx_core.store.files.local_disk import scratch_space
from stx_core.store.snapshot import output_schemas as stored_schemas
from stx_core.store.units import plan_units


def run_encode(
    spec: EncodeSpec,
    view: View | None = None,
    *,
    dry_run: bool = False,
    repairs: frozenset[str] = frozenset(),
) -> Report:
    """Bring a dataset up to date with a spec, see `job.run`.

    Args:
        spec: of the job.
        view: watches the run.
        dry_run: only plan.
        repairs: URLs of shards, to write their damaged files again and nothing else; a rollback
            that holds the current version lets such a run commit.
    """
    return job.run(partial(_Encode, repaired=repairs), spec, view, dry_run=dry_run)


class _Encode(job.Job[EncodePlan]):
    def __init__(self, spec: EncodeSpec, repaired: frozenset[str]) -> None:
        refuse_overlap(spec.output.path, spec.inputs.paths)
        self._corpus = list_corpus(spec.inputs, spec.backfill)
        self._spec, self._repaired, self.repairs = spec, repaired, bool(repaired)
        if repaired:
            shards = tuple(shard for shard in self._corpus.shards if shard.url in repaired)
            self._corpus = replace(self._corpus, shards=shards, scope=Scope(urls=repaired))
        failpoints.hit("plan.listed")
        encoders = {name: encoder_settings(model) for name, model in spec.models.items()}
        root, begun = spec.output.path, lambda some: was_begun(root, self._run_hash(some))
        self._encoders = settled(encoders, current_outputs(root), spec.resources, begun)
        self.run_hash, self.scope = self._run_hash(self._encoders), self._corpus.scope

    def _run_hash(self, encoders: Mapping[str, EncoderSettings]) -> str:
        prints = {name: fingerprint(settings) for name, settings in encoders.items()}
        return keys.run_hash(self._spec, prints, sorted(self._repaired))

    def plan(self, state: DatasetState) -> EncodePlan:
        spec, corpus = self._spec, with_held_identities(self._corpus, state.identities)
        before = stored_schemas(spec.output.path, state.version)
        self._corpus, self._notes = in_microseconds(corpus, spec.inputs, before)
        units = plan_units(corpus.shards, spec.resources.rows_per_unit)
        schema, encoders = self._corpus.schema, self._encoders
        return make_plan(spec, units, schema, encoders=encoders, state=state)

    def prepare(self, plan: EncodePlan, planning: job.Planning) -> EncodePlan:
        spec, stack, corpus = planning.spec, planning.stack, self._corpus
        with span("plan", units=plan.n_due):
            scratch = stack.enter_context(scratch_space())
            plan = sources.with_sources(plan, spec, corpus, scratch)
        pool = job.pool_for(spec.resources, partial(encode_stages, plan))
        plan = replace(plan, pool=pool)
        probes, self._stage = earlier_probes(plan), encode_stages(plan, pool)[-1]
        # Where nothing is measured, few rows are due: maybe none that the model is needed for.
        if not planning.dry_run and len(probes) < len(plan.parts):
            warm = stream.warmed_up(self._stage, pool.runner)
            self._stage = stack.enter_context(warm)
        with span("probe"):
            plan = with_probes(plan, spec, corpus, probes)
        facts = output_facts(plan)
        schemas = output_schemas(corpus.schema, spec.inputs, facts)
        if plan.state.kept:
            describe.check_schemas(stored_schemas(plan.root, plan.state.version), schemas)
        lines = tuple(describe.plan_lines(plan, spec.inputs.paths, self._notes))
        return replace(plan, facts=facts, schemas=schemas, lines=lines)

    def passes(self, plan: EncodePlan, start: Start) -> job.Passes:
        plan = sources.publish(plan, start.claim.run)
        return encode_passes(plan, self._corpus, self._stage, start)

    def check(self, plan: EncodePlan, records: pa.Table) -> list[str]:
        return refuse_duplicates(plan, records, self._spec.output.duplicate_ids)

    def gate(self, plan: EncodePlan) -> QualityGate:
        return QualityGate(plan.root, self._spec.quality, plan.facts)

    def report(self, report: Report, plan: EncodePlan, committed: job.Committed) -> Report:
        return with_encode_page(EncodeRun(plan, report, committed))
