"""Reading and writing the units of a rerank run, and its pass over them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.engine.job import stage_on
from stx.pipelines.engine.passes import Pass, Passes
from stx.pipelines.engine.runs import Start
from stx.pipelines.engine.unit_files import IdSet, UnitResult
from stx.pipelines.planning.plan import DueUnit, Plan
from stx.pipelines.planning.pool import Pool
from stx.pipelines.reranking import candidates
from stx.pipelines.reranking.pairs import IS_CANDIDATE, PairSource, read_pairs
from stx.pipelines.reranking.rows import positives_result, ranking_result
from stx.pipelines.reranking.scorers import Score
from stx.pipelines.reranking.task import RerankTask
from stx.pipelines.retrieval.text_lookup import index_texts, publish_texts
from stx.pipelines.running import stream, unit_table
from stx.pipelines.telemetry.unit_counts import count_scores
from stx_core.store.files.local_disk import scratch_space
from stx_core.store.files.urls import join


def score_stages(task: RerankTask, pool: Pool) -> list[stream.StageSpec]:
    """The actors that score pairs, with all rerankers."""
    settings = {
        "rerankers": task.rerankers,
        "threads": pool.cpus,
        "token_budget": pool.token_budget,
        "reproducible": pool.reproducible,
    }
    return [stage_on(pool, Score, settings, stall_timeout_s=pool.stall_timeout_s)]


def rerank_passes(plan: Plan, task: RerankTask, start: Start) -> Passes:
    """Publish what workers read beside the store, and finish the due units.

    Args:
        plan: of the run.
        task: what is scored.
        start: of the run.
    """
    if not plan.due:
        return {}
    spec, folder = start.spec, join(start.root, "_stx", "runs", start.claim.run, "index")
    texts = {}
    with scratch_space() as scratch:
        for side, (inputs, corpus) in task.corpora.items():
            texts[side] = publish_texts(index_texts(inputs, scratch, corpus, folder), folder)
    pairs = PairSource(
        columns=tuple(task.candidates.schema.names),
        depth=spec.candidates.depth,
        positives=spec.positives,
        queries=texts.get("queries"),
        documents=texts.get("documents"),
    )
    file = candidates.publish(task.candidates, folder)
    units = RerankUnits(pairs, file, task.sources, plan.schemas, spec.top_k)
    yield Pass(plan.due_units(), units.read, plan.stages, units.results)
    return {}


@dataclass(frozen=True)
class RerankUnits:
    """All that readers and writers of a run need; small and picklable.

    Attributes:
        pairs: where they are.
        file: with the candidates, where they were published; empty where they are in a dataset.
        sources: by output its reranker, and whether it is of positives.
        schemas: by output, of its files.
        top_k: candidates of each query to keep; None for all.
    """

    pairs: PairSource
    file: str
    sources: Mapping[str, tuple[str, bool]]
    schemas: Mapping[str, pa.Schema]
    top_k: int | None

    def read(self, due: DueUnit) -> pa.Table:
        """The pairs of a unit, with their texts."""
        unit = due.unit
        pairs = read_pairs(replace(unit, url=self.file or unit.url), self.pairs)
        rerankers = dict.fromkeys(self.sources[output][0] for output in due.keys)
        return unit_table.with_notes(pairs, due=list(rerankers))

    def results(self, due: DueUnit, table: pa.Table) -> Iterator[UnitResult]:
        """The rankings of a unit, and scores of positives."""
        ids = IdSet.of(table[unit_table.ID].filter(table[IS_CANDIDATE]))
        # Beyond the depth, or there twice.
        n_filtered = due.unit.n_rows - (pc.sum(table[IS_CANDIDATE]).as_py() or 0)
        for output, key in due.keys.items():
            reranker, is_of_positives = self.sources[output]
            empty = UnitResult(
                output=output,
                key=key,
                rows=self.schemas[output].empty_table(),
                ids_in=ids,
                ids_out=ids,
                n_filtered=n_filtered,
            )
            result = (
                positives_result(table, reranker, empty=empty)
                if is_of_positives
                else ranking_result(due.unit, table, reranker, empty=empty, top_k=self.top_k)
            )
            yield replace(result, counts=count_scores(result.rows))
