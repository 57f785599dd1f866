"""The retrieve job: blocks of queries times parts of the corpus, then one ranking of each query."""

from dataclasses import replace
from functools import partial

import pyarrow.compute as pc

from stx.pipelines.engine import job
from stx.pipelines.engine.passes import Passes
from stx.pipelines.engine.runs import Start, View
from stx.pipelines.planning.dataset_state import DatasetState
from stx.pipelines.planning.plan import Plan, make_part
from stx.pipelines.planning.snapshot_files import digest
from stx.pipelines.retrieval import describe
from stx.pipelines.retrieval.cells import retrieve_passes, top_k_stages
from stx.pipelines.retrieval.page import RankingRun, with_ranking_page
from stx.pipelines.retrieval.retrievers import CELLS, POSITIVES, find_grid
from stx.pipelines.spec.retrieval import RetrieveSpec
from stx.pipelines.telemetry.report import Report
from stx_core.store.files.apart import refuse_overlap


def run_retrieve(spec: RetrieveSpec, view: View | None = None, *, dry_run: bool = False) -> Report:
    """Find the best documents of every query; commit the rankings as one snapshot, see `job.run`.

    Args:
        spec: of the job.
        view: watches the run.
        dry_run: only plan.
    """
    return job.run(_Retrieve, spec, view, dry_run=dry_run)


class _Retrieve(job.Job[Plan]):
    name = "retrieve"

    def __init__(self, spec: RetrieveSpec) -> None:
        judged = [spec.positives] if spec.positives else []
        refuse_overlap(spec.output.path, [spec.queries.path, spec.corpus.path, *judged])
        self._spec, self._grid = spec, find_grid(spec)
        units = [unit.identity for unit in self._grid.units]
        self.run_hash = digest([self._grid.fingerprint, units])

    def plan(self, state: DatasetState) -> Plan:
        grid = self._grid
        parts = {
            name: make_part(name, grid.fingerprint, keys, state) for name, keys in grid.keys.items()
        }
        plan = Plan(self._spec.output.path, grid.units, parts, state)
        self._cells = grid.cells(plan.due.to_pylist())
        done = set(state.done.to_pylist())
        self._missing = [cell for cell in self._cells if cell.key not in done]
        n_rows = sum(cell.unit.n_rows for cell in self._missing)
        return replace(plan, n_before=len(self._missing), rows_before=n_rows)

    def prepare(self, plan: Plan, planning: job.Planning) -> Plan:
        spec, grid = planning.spec, self._grid
        pool, stages = job.pool_for(spec.resources, partial(top_k_stages, spec, grid))
        lines = describe.plan_lines(spec, grid, plan, cells=self._missing, pool=pool)
        plan = replace(plan, pool=pool, stages=stages, lines=tuple(lines))
        return replace(plan, facts=grid.facts, schemas=grid.outputs)

    def is_judged(self, output: str) -> bool:
        return not output.endswith(POSITIVES)

    def passes(self, plan: Plan, start: Start) -> Passes:
        return retrieve_passes(plan, self._grid, self._cells, start)

    def report(self, report: Report, plan: Plan, committed: job.Committed) -> Report:
        assert plan.pool is not None
        fresh, outputs = committed.fresh, committed.info.outputs
        recalls = describe.recall_lines(fresh, self._spec.k)
        unscored = describe.unscored_pairs(self._spec, self._grid, outputs)
        report = replace(
            report, lines=[*report.lines, *recalls], warnings=[*report.warnings, *unscored]
        )
        timed = fresh.filter(pc.equal(fresh["output"], CELLS))
        run = RankingRun(
            "Retrieved", "queries", plan.pool, report=report, committed=committed, timed=timed
        )
        return with_ranking_page(run)
