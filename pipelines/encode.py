"""The encode job: texts of a corpus to vectors, in one pass over the text for several models."""

from functools import partial

import pyarrow as pa

from stx.pipelines.encoding.actors import with_actors
from stx.pipelines.encoding.duplicates import refuse_duplicates
from stx.pipelines.encoding.inputs import as_in_dataset, list_inputs
from stx.pipelines.encoding.keys import run_hash
from stx.pipelines.encoding.page import EncodeRun, with_encode_page
from stx.pipelines.encoding.plan import EncodePlan, make_plan
from stx.pipelines.encoding.results import with_outputs
from stx.pipelines.encoding.sources import publish_sources, with_sources
from stx.pipelines.encoding.units import encode_passes
from stx.pipelines.engine import job
from stx.pipelines.engine.passes import Passes
from stx.pipelines.engine.runs import Start, View
from stx.pipelines.models.settings import encoder_settings
from stx.pipelines.planning.dataset_state import DatasetState
from stx.pipelines.planning.dtype import settled
from stx.pipelines.spec.encode import EncodeSpec
from stx.pipelines.telemetry.report import Report
from stx_core import failpoints
from stx_core.store.corpus.units import plan_units


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
    name = "encode"

    def __init__(self, spec: EncodeSpec, repaired: frozenset[str]) -> None:
        self._spec, self._corpus = spec, list_inputs(spec, repaired)
        failpoints.hit("plan.listed")
        encoders = {name: encoder_settings(model) for name, model in spec.models.items()}
        hash_of = partial(run_hash, spec, repairs=sorted(repaired))
        self._encoders = settled(encoders, spec.output.path, spec.resources, hash_of)
        self.run_hash, self.scope = hash_of(self._encoders), self._corpus.scope
        self.repairs = bool(repaired)

    def plan(self, state: DatasetState) -> EncodePlan:
        spec, encoders = self._spec, self._encoders
        self._corpus, self._notes = as_in_dataset(self._corpus, spec, state)
        units = plan_units(self._corpus.shards, spec.resources.rows_per_unit)
        return make_plan(spec, units, self._corpus.schema, encoders=encoders, state=state)

    def prepare(self, plan: EncodePlan, planning: job.Planning) -> EncodePlan:
        plan = with_sources(plan, self._corpus, planning)
        plan = with_actors(plan, self._corpus, planning)
        return with_outputs(plan, planning.spec.inputs, self._corpus.schema, self._notes)

    def passes(self, plan: EncodePlan, start: Start) -> Passes:
        plan = publish_sources(plan, start.claim.run)
        return encode_passes(plan, self._corpus, start)

    def check(self, plan: EncodePlan, records: pa.Table) -> list[str]:
        return refuse_duplicates(plan, records, self._spec.output.duplicate_ids)

    def report(self, report: Report, plan: EncodePlan, committed: job.Committed) -> Report:
        return with_encode_page(EncodeRun(plan, report, committed))
