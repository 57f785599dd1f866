"""The rerank job: cross-encoder scores of candidates, and one ranking per reranker by them."""

import itertools
from dataclasses import replace
from functools import partial

import pyarrow.compute as pc

from stx.pipelines.engine import job
from stx.pipelines.engine.passes import Passes
from stx.pipelines.engine.runs import Start, View
from stx.pipelines.planning.dataset_state import DatasetState
from stx.pipelines.planning.plan import Plan, make_part
from stx.pipelines.planning.snapshot_files import digest
from stx.pipelines.reranking import describe
from stx.pipelines.reranking.task import find_task
from stx.pipelines.reranking.units import rerank_passes, score_stages
from stx.pipelines.retrieval.page import RankingRun, with_ranking_page
from stx.pipelines.retrieval.retrievers import POSITIVES
from stx.pipelines.spec.retrieval import RerankSpec
from stx.pipelines.telemetry.report import Report
from stx_core.store.files.apart import refuse_overlap


def run_rerank(spec: RerankSpec, view: View | None = None, *, dry_run: bool = False) -> Report:
    """Score candidates by cross-encoders; commit the new rankings as one snapshot, see `job.run`.

    Args:
        spec: of the job.
        view: watches the run.
        dry_run: only plan.
    """
    return job.run(_Rerank, spec, view, dry_run=dry_run)


class _Rerank(job.Job[Plan]):
    name = "rerank"

    def __init__(self, spec: RerankSpec) -> None:
        texts = [side.paths for side in (spec.queries, spec.documents) if side is not None]
        pairs = [spec.candidates.path, *([spec.positives] if spec.positives else [])]
        refuse_overlap(spec.output.path, [*pairs, *itertools.chain.from_iterable(texts)])
        self._spec, self._task = spec, find_task(spec)
        units = [unit.identity for unit in self._task.candidates.units]
        self.run_hash = digest([self._task.keys, units])

    def plan(self, state: DatasetState) -> Plan:
        task, facts = self._task, self._task.facts
        parts = {
            name: make_part(name, facts[name]["fingerprint"], keys, state)
            for name, keys in task.keys.items()
        }
        return Plan(self._spec.output.path, task.candidates.units, parts, state)

    def prepare(self, plan: Plan, planning: job.Planning) -> Plan:
        spec, task = planning.spec, self._task
        pool, stages = job.pool_for(spec.resources, partial(score_stages, task))
        plan = replace(plan, pool=pool, stages=stages, facts=task.facts, schemas=task.schemas)
        return replace(plan, lines=tuple(describe.plan_lines(spec, task, plan, pool)))

    def is_judged(self, output: str) -> bool:
        return not output.endswith(POSITIVES)

    def passes(self, plan: Plan, start: Start) -> Passes:
        return rerank_passes(plan, self._task, start)

    def report(self, report: Report, plan: Plan, committed: job.Committed) -> Report:
        assert plan.pool is not None
        fresh, outputs = committed.fresh, committed.info.outputs
        lost = describe.quarantined_candidates(plan.root, committed.records, outputs)
        unscored = describe.unscored_pairs(self._spec, outputs)
        report = replace(report, warnings=[*report.warnings, *lost, *unscored])
        timed = fresh.filter(pc.equal(fresh["output"], next(iter(self._task.rerankers))))
        run = RankingRun(
            "Reranked", "candidates", plan.pool, report=report, committed=committed, timed=timed
        )
        return with_ranking_page(run)
