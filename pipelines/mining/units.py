"""Reading and writing the units of a mine run, and its pass over them."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from stx.pipelines.engine.passes import Pass, Passes
from stx.pipelines.engine.runs import Start
from stx.pipelines.engine.unit_files import IdSet, UnitResult
from stx.pipelines.mining.describe import notes
from stx.pipelines.mining.plan import Mining
from stx.pipelines.mining.rows import Sources, read_rows
from stx.pipelines.mining.stage import CANDIDATES, POSITIVES, STATISTICS, Miner, pack, unpack
from stx.pipelines.planning.plan import DueUnit, Plan
from stx.pipelines.planning.snapshot_files import take_unit
from stx.pipelines.retrieval.query_spans import (
    Spans,
    find_spans,
    publish_spans,
    refuse_scattered,
)
from stx.pipelines.retrieval.text_lookup import index_texts, publish_texts
from stx.pipelines.spec.retrieval import MineSpec
from stx_core.store.files.local_disk import scratch_space
from stx_core.store.files.urls import join


def mine_passes(plan: Plan, mining: Mining, miner: Miner, start: Start) -> Passes:
    """Publish what workers read beside the store, and finish the due units.

    Args:
        plan: of the run.
        mining: what is read.
        miner: what is written; without the places of texts.
        start: of the run.

    Returns:
        Notes for the statistics, so that a page can be made again.

    Raises:
        InputError: rows of a query do not stand together in the first ranking.
        StoreError: a file cannot be read.
    """
    spec = start.spec
    spans = {name: find_spans(ranking.files) for name, ranking in mining.rankings.items()}
    refuse_scattered(next(iter(spans.values())))
    scored = None if mining.scored is None else find_spans(mining.scored.files)
    lines = list(notes(spec, mining, spans))
    if plan.due:
        folder = join(start.root, "_stx", "runs", start.claim.run, "mine")
        if spec.needs_texts:
            texts = {}
            with scratch_space() as scratch:
                for side, (inputs, corpus) in mining.corpora.items():
                    index = index_texts(inputs, scratch, corpus, folder)
                    texts[side] = publish_texts(index, folder)
            miner = replace(miner, queries=texts.get("queries"), documents=texts.get("documents"))
        units = MineUnits(_publish_sources(spec, mining, spans, scored=scored, folder=folder))
        stages = [
            replace(stage, settings={**stage.settings, "miner": miner}) for stage in plan.stages
        ]
        yield Pass(plan.due_units(), units.read, stages, units.results)
    return {STATISTICS: {"notes": lines}}


@dataclass(frozen=True)
class MineUnits:
    """All that readers of a run need; small and picklable."""

    sources: Sources

    def read(self, due: DueUnit) -> pa.Table:
        """Candidates and positives of a unit, and how many were left out."""
        rows = read_rows(due.unit, self.sources)
        return pack(
            {
                CANDIDATES: rows.candidates,
                POSITIVES: rows.positives,
                STATISTICS: pa.Table.from_pylist([asdict(rows.left_out)]),
            }
        )

    def results(self, due: DueUnit, table: pa.Table) -> Iterator[UnitResult]:
        """All outputs of a unit, as the stage has made them."""
        ids, rows = IdSet.of(take_unit(due.unit, ["query_id"])["query_id"]), unpack(table)
        for output, key in due.keys.items():
            yield UnitResult(output=output, key=key, rows=rows[output], ids_in=ids, ids_out=ids)


def _publish_sources(
    spec: MineSpec,
    mining: Mining,
    spans: Mapping[str, Spans],
    *,
    scored: Spans | None,
    folder: str,
) -> Sources:
    """Put the spans where workers find them, but for those of the first ranking: it is the units.

    Args:
        spec: of the job.
        mining: what is read.
        spans: of the queries, by ranking.
        scored: of the judge's scores of judged pairs.
        folder: where to.
    """
    _, *looked_up = spans
    return Sources(
        depths={name: ranking.depth for name, ranking in mining.rankings.items()},
        spans={name: publish_spans(spans[name], folder, name) for name in looked_up},
        scored=publish_spans(scored, folder, "positives") if scored else None,
        judge=spec.judging,
        qrels=spec.positives,
        query_type=mining.query_type,
        doc_type=mining.doc_type,
    )
