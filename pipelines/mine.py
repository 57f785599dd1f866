"""The mine job: hard negatives out of committed rankings, by whole queries.

Tables only: nothing is searched or encoded, so other rules cost one more pass over the rankings.
"""

import itertools
from dataclasses import replace
from functools import partial

from stx.pipelines.engine import job
from stx.pipelines.engine.passes import Passes
from stx.pipelines.engine.runs import Start, View
from stx.pipelines.mining import describe
from stx.pipelines.mining.actors import few_actors, mine_stages
from stx.pipelines.mining.plan import find_mining
from stx.pipelines.mining.report import read_summary, summary_lines, write_reports
from stx.pipelines.mining.rows import to_candidates
from stx.pipelines.mining.stage import NEGATIVES, Miner, schemas
from stx.pipelines.mining.units import mine_passes
from stx.pipelines.planning.dataset_state import DatasetState
from stx.pipelines.planning.plan import Plan, make_part
from stx.pipelines.planning.snapshot_files import digest
from stx.pipelines.retrieval.rankings import ranking_schema
from stx.pipelines.spec.retrieval import MineSpec
from stx.pipelines.telemetry.report import Report
from stx_core.store.files.apart import refuse_overlap
from stx_core.store.files.urls import redact


def run_mine(spec: MineSpec, view: View | None = None, *, dry_run: bool = False) -> Report:
    """Find hard negatives for every query; commit them, and the rows of formats, as one snapshot.

    See `job.run`.

    Args:
        spec: of the job.
        view: watches the run.
        dry_run: only plan.
    """
    return job.run(_Mine, spec, view, dry_run=dry_run)


class _Mine(job.Job[Plan]):
    name = "mine"

    def __init__(self, spec: MineSpec) -> None:
        texts = [side.paths for side in (spec.queries, spec.documents) if side is not None]
        rankings = [ranking.path for ranking in spec.candidates.values()]
        refuse_overlap(
            spec.output.path, [*rankings, spec.positives, *itertools.chain.from_iterable(texts)]
        )
        self._spec, self._mining = spec, find_mining(spec)
        self._miner = Miner(spec.rules.to_core(), spec.formats, spec.scores, None, None)
        schema = ranking_schema(self._mining.query_type, self._mining.doc_type)
        nothing = {name: schema.empty_table() for name in self._mining.rankings}
        self._schemas = schemas(self._miner, to_candidates(nothing, spec.judging).schema)
        self._prints = {name: self._mining.fingerprint(name) for name in self._schemas}
        self.run_hash = digest([self._prints, [unit.identity for unit in self._mining.units]])

    def plan(self, state: DatasetState) -> Plan:
        parts = {
            name: make_part(name, self._prints[name], keys, state)
            for name, keys in self._mining.keys(self._prints).items()
        }
        return Plan(self._spec.output.path, self._mining.units, parts, state)

    def is_judged(self, output: str) -> bool:
        return output == NEGATIVES

    def unchanged(self, report: Report) -> Report:
        # The page of the snapshot is written again.
        summary = read_summary(report.output, report.version or 0)
        url = write_reports(report.output, summary)
        lines = (*report.lines, *summary_lines(summary), f"  report   {redact(url)}")
        return replace(report, lines=lines, warnings=(*report.warnings, *summary.notes))

    def prepare(self, plan: Plan, planning: job.Planning) -> Plan:
        spec, mining = planning.spec, self._mining
        pool, stages = job.pool_for(
            spec.resources, partial(mine_stages, self._miner), partial(few_actors, spec)
        )
        lines = tuple(describe.plan_lines(spec, mining, plan, pool))
        plan = replace(plan, pool=pool, stages=stages, lines=lines)
        return replace(plan, facts=mining.facts(spec, self._prints), schemas=self._schemas)

    def passes(self, plan: Plan, start: Start) -> Passes:
        return mine_passes(plan, self._mining, self._miner, start)

    def report(self, report: Report, plan: Plan, committed: job.Committed) -> Report:  # noqa: ARG002
        return self.unchanged(report)
