"""Reading and writing the units of a mine run, and its pass over them."""

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from stx.pipelines.engine.job import stage_on
from stx.pipelines.engine.passes import Pass, Passes
from stx.pipelines.engine.runs import Start
from stx.pipelines.engine.unit_files import IdSet, UnitResult
from stx.pipelines.mining.describe import notes
from stx.pipelines.mining.plan import Mining
from stx.pipelines.mining.rows import Sources, read_rows
from stx.pipelines.mining.stage import (
    CANDIDATES,
    POSITIVES,
    STATISTICS,
    STATISTICS_SCHEMA,
    Miner,
    MineStage,
    pack,
    unpack,
)
from stx.pipelines.planning.corpus import Corpus
from stx.pipelines.planning.plan import DueUnit, Plan
from stx.pipelines.planning.pool import Pool
from stx.pipelines.planning.snapshot_files import take_unit
from stx.pipelines.retrieval.query_spans import Spans, find_spans, publish_spans
from stx.pipelines.retrieval.text_lookup import TextSource, index_texts, publish_texts
from stx.pipelines.running import stream
from stx.pipelines.spec.parts import Inputs, Resources
from stx.pipelines.spec.retrieval import MineSpec
from stx_core.errors import InputError
from stx_core.store.data_file import read_columns
from stx_core.store.files.local_disk import scratch_space
from stx_core.store.files.urls import join, redact

# Of a unit's CPU time; reading, hashing ids and writing Parquet have the rest.
_RULES_SHARE = 0.25


def mine_stages(miner: Miner, pool: Pool) -> list[stream.StageSpec]:
    """The actors that judge candidates."""
    settings = {"miner": miner, "threads": pool.cpus if pool.runner == "ray" else None}
    return [stage_on(pool, MineStage, settings, gpus=0)]


def few_actors(spec: MineSpec, cpus: float) -> Resources:
    """Actors of one core each: few, because readers and writers have more to do than the rules.

    Near duplicates are the exception: comparing texts takes longer than all else.
    """
    share = 1.0 if spec.rules.near_duplicate is not None else _RULES_SHARE
    asked = spec.resources
    actors = asked.actors or max(1, int((cpus - 1) * share))
    cpus_per_actor = asked.cpus_per_actor or 1
    values = {"actors": actors, "cpus_per_actor": cpus_per_actor, "gpus_per_actor": 0.0}
    return asked.model_copy(update=values)


def mine_passes(plan: Plan, mining: Mining, miner: Miner, start: Start) -> Passes:
    """Publish what workers read beside the store, and finish the due units.

    Args:
        plan: of the run.
        mining: what is read.
        miner: what is written; without the places of texts.
        start: of the run.

    Returns:
        Notes for the statistics, so that a page can be made again.
    """
    assert plan.pool is not None
    spec, spans = start.spec, _find_spans(mining)
    lines = list(notes(spec, mining, spans.rankings))
    if plan.due:
        folder = join(start.root, "_stx", "runs", start.claim.run, "mine")
        if spec.needs_texts:
            queries = _publish_texts(spec.queries, mining.queries, folder)
            documents = _publish_texts(spec.documents, mining.documents, folder)
            miner = replace(miner, queries=queries, documents=documents)
        units = MineUnits(_publish_sources(spec, mining, spans, folder))
        stages = mine_stages(miner, plan.pool)
        yield Pass(list(plan.due_units()), units.read, stages, units.results)
    return {STATISTICS: {"notes": lines}}


@dataclass(frozen=True)
class MineUnits:
    """What every reader of a run needs; small and picklable."""

    sources: Sources

    def read(self, due: DueUnit) -> pa.Table:
        """Candidates and positives of a unit, and what was left out."""
        rows = read_rows(due.unit, self.sources)
        counts = dict.fromkeys(STATISTICS_SCHEMA.names) | dict(rows.counts)
        return pack(
            {
                CANDIDATES: rows.candidates,
                POSITIVES: rows.positives,
                STATISTICS: pa.Table.from_pylist([counts], STATISTICS_SCHEMA),
            }
        )

    def results(self, due: DueUnit, table: pa.Table) -> Iterator[UnitResult]:
        """All outputs of a unit, as the stage has made them."""
        ids, rows = IdSet.of(take_unit(due.unit, ["query_id"])["query_id"]), unpack(table)
        for output, key in due.keys.items():
            yield UnitResult(output=output, key=key, rows=rows[output], ids_in=ids, ids_out=ids)


@dataclass(frozen=True)
class _Spans:
    """Where queries stand: by ranking, and of the judge's scores of judged pairs."""

    rankings: Mapping[str, Spans]
    scored: Spans | None


def _find_spans(mining: Mining) -> _Spans:
    """Read the query ids of all rankings.

    Raises:
        InputError: rows of a query do not stand together in the first ranking.
        StoreError: a file cannot be read.
    """
    spans = {name: find_spans(ranking.files) for name, ranking in mining.rankings.items()}
    first = next(iter(spans.values()))
    again = np.flatnonzero(first.query[1:] == first.query[:-1])
    if len(again):
        place = int(again[0]) + 1
        url, row = first.files[first.file[place]], int(first.start[place])
        name = read_columns(url, ["query_id"], np.array([row]))["query_id"][0].as_py()
        raise InputError(
            f"{redact(url)} row {row}: query {name!r} has rows elsewhere too ({len(again)} such "
            "queries); give each query one id, and retrieve again"
        )
    scored = None if mining.scored is None else find_spans(mining.scored.files)
    return _Spans(spans, scored)


def _publish_sources(spec: MineSpec, mining: Mining, spans: _Spans, folder: str) -> Sources:
    def publish(name: str, of_ranking: Spans) -> str:
        url = join(folder, f"{name}-{uuid.uuid4().hex}.arrow")
        publish_spans(of_ranking, url)
        return url

    _, *others = spans.rankings
    return Sources(
        depths={name: ranking.depth for name, ranking in mining.rankings.items()},
        spans={name: publish(name, spans.rankings[name]) for name in others},
        scored=publish("positives", spans.scored) if spans.scored else None,
        judge=spec.judging,
        qrels=spec.positives,
        query_type=mining.query_type,
        doc_type=mining.doc_type,
    )


def _publish_texts(inputs: Inputs | None, corpus: Corpus | None, folder: str) -> TextSource | None:
    if inputs is None:
        return None
    with scratch_space() as scratch:
        return publish_texts(index_texts(inputs, scratch, corpus, folder), folder)
