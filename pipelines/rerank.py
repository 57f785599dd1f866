"""The rerank job: cross-encoder scores of candidates, and one ranking per reranker by them."""

import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.planning.plan import read_held
from pipelines.planning.pool import Pool, available_cores, make_pool
from pipelines.planning.runner import with_runner
from pipelines.planning.work import Target, Work, digest, finish
from pipelines.reranking import candidates
from pipelines.reranking.pairs import IS_CANDIDATE, PairSource, read_pairs
from pipelines.reranking.rows import positives_rows, ranking_rows
from pipelines.reranking.scorers import Score
from pipelines.reranking.task import RerankTask, find_task
from pipelines.retrieval.text_lookup import TextSource, index_texts, publish_texts
from pipelines.running import cluster, stream, unit_table
from pipelines.running.runs import Start, View, check_output, claimed, finish_units, run_job
from pipelines.spec.retrieval import RerankSpec
from pipelines.telemetry.ranking_report import RankingRun, with_ranking_page
from pipelines.telemetry.report import Report, simple_report
from pipelines.telemetry.unit_counts import count_scores
from pipelines.telemetry.words import counted
from stx_core.evaluation.qrels import read_qrels
from stx_core.store import clock
from stx_core.store.commit import commit_snapshot
from stx_core.store.corpus.units import Unit
from stx_core.store.data_file import read_columns
from stx_core.store.files.apart import refuse_overlap
from stx_core.store.files.local_disk import scratch_space
from stx_core.store.files.retries import take_counts
from stx_core.store.files.s3 import use_options
from stx_core.store.files.urls import join, redact


def run_rerank(spec: RerankSpec, view: View | None = None, *, dry_run: bool = False) -> Report:
    """Score candidates by cross-encoders; commit the new rankings as one snapshot.

    Raises:
        RunActive: another start of the same run is at work.
        StxError: the spec, an input, a model or the store does not allow it. Finished units are
            kept.
    """
    return run_job(spec, view, _plan_and_run, dry_run=dry_run)


def _plan_and_run(spec: RerankSpec, view: View, began: float, *, dry_run: bool) -> Report:
    root = spec.output.path
    texts = [side.paths for side in (spec.queries, spec.documents) if side is not None]
    pairs = [spec.candidates.path, *([spec.positives] if spec.positives else [])]
    refuse_overlap(root, [*pairs, *itertools.chain.from_iterable(texts)])
    task = find_task(spec)
    units = task.found.units
    spec_hash = digest([task.keys, [unit.identity for unit in units]])
    held = read_held(root, spec_hash)
    work = Work(root, units, task.keys, task.facts, task.schemas, held)
    if work.is_current:
        return Report(root, held.version, committed=False)
    spec = with_runner(spec, len(work.due), sum(units[i].n_rows for i in work.due))
    size = cluster.cluster_size(spec.resources.runner, available_cores())
    pool = make_pool(spec.resources, *size)
    cluster.check_fits([_stage(task, pool)], *size)
    work = replace(work, lines=tuple(_lines(spec, task, work, pool)))
    view.plan(work)
    if dry_run:
        return Report(root, None, committed=False)
    check_output(root)
    with claimed(root, spec, spec_hash, held, began) as start:
        streamed, worked = time.monotonic(), clock.now()
        fresh = _stream(spec, task, work, pool, start, view)
        seconds = time.monotonic() - streamed
        records = pa.concat_tables([start.records, fresh])
        info = commit_snapshot(root, start.claim, work.planned, records, work.facts, work.schemas)
    warnings = [*_quarantined(root, records, info.outputs), *_unscored(spec, info.outputs)]
    report = replace(simple_report(info, root, began, fresh, warnings), stream_seconds=seconds)
    timed = fresh.filter(pc.equal(fresh["output"], next(iter(task.rerankers))))
    told = spec, spec.resources, pool, report, info, records, fresh, timed, worked
    return with_ranking_page(RankingRun("Reranked", "candidates", *told))


def _lines(spec: RerankSpec, task: RerankTask, work: Work, pool: Pool) -> Iterator[str]:
    source = task.found.source
    version = f", version {source['version']}, {source['output']}" if "version" in source else ""
    yield f"plan for {work.root}"
    yield f"  pairs    {source['path']}{version}"
    n_rows = sum(unit.n_rows for unit in work.units)
    depth = f"the first {spec.candidates.depth} per query of " if spec.candidates.depth else ""
    units = counted(len(work.units), "unit")
    yield f"           {depth}{n_rows:,} candidates in {units} of whole queries"
    for side, (_, corpus) in task.corpora.items():
        rows = sum(shard.n_rows for shard in corpus.shards)
        yield f"  {side:<9} {counted(rows, 'row')} in {counted(len(corpus.shards), 'file')}"
    for name, settings in task.rerankers.items():
        yield (
            f"  {name:<8} {redact(settings.model)} ({settings.dtype}), "
            f"{task.fingerprint(name)[:12]}"
        )
    yield f"  to do    {counted(work.n_due, 'unit')}, {counted(work.n_due_rows, 'candidate')}"
    yield f"  run on   {pool}"


def _stage(task: RerankTask, pool: Pool) -> stream.StageSpec:
    settings = {
        "rerankers": {name: one.as_dict() for name, one in task.rerankers.items()},
        "threads": pool.cpus,
        "token_budget": pool.token_budget,
        "reproducible": pool.reproducible,
    }
    stall_timeout_s = pool.stall_timeout_s
    return stream.StageSpec(
        Score,
        settings,
        pool.actors,
        pool.cpus,
        pool.gpus,
        min_actors=pool.min_actors,
        custom=pool.custom,
        stall_timeout_s=stall_timeout_s,
    )


@dataclass(frozen=True)
class _Setting:
    """What every reader and writer of a run needs; small and picklable."""

    spec: RerankSpec
    target: Target
    pairs: PairSource
    file: str
    sources: Mapping[str, tuple[str, bool]]
    schemas: Mapping[str, pa.Schema]


def _stream(
    spec: RerankSpec, task: RerankTask, work: Work, pool: Pool, start: Start, view: View
) -> pa.Table:
    """Publish what the workers read beside the store, and finish the due units; their records."""
    folder = join(work.root, "_stx", "runs", start.claim.run, "index")
    texts: dict[str, TextSource] = {}
    if work.due:
        with scratch_space() as scratch:
            for side, (inputs, corpus) in task.corpora.items():
                source = index_texts(inputs, scratch, corpus, folder)
                texts[side] = publish_texts(source, folder)
    setting = _Setting(
        spec,
        Target(work.root, start.claim.run, start.claim.epoch, start.damaged),
        PairSource(
            tuple(task.found.schema.names),
            spec.candidates.depth,
            spec.positives,
            texts.get("queries"),
            texts.get("documents"),
        ),
        candidates.publish(task.found, folder) if work.due else "",
        task.sources,
        work.schemas,
    )
    units = [{"unit": asdict(work.units[index]), "keys": keys} for index, keys in work.due.items()]
    read, write = partial(_read, setting=setting), partial(_write, setting=setting)
    watch = partial(view.watch, plan=work)
    return finish_units(start, units, read, [_stage(task, pool)], write, spec.resources, watch)


def _read(description: Mapping[str, Any], setting: _Setting) -> pa.Table:
    use_options(setting.spec.store.options())
    began = time.perf_counter()
    unit = Unit(**description["unit"])
    pairs = read_pairs(replace(unit, url=setting.file or unit.url), setting.pairs)
    due = dict.fromkeys(setting.sources[output][0] for output in description["keys"])
    return unit_table.with_notes(
        pairs,
        due=list(due),
        seconds={"read": time.perf_counter() - began},
        retries=take_counts(),
    )


def _write(description: Mapping[str, Any], table: pa.Table, setting: _Setting) -> dict[str, Any]:
    use_options(setting.spec.store.options())
    unit = Unit(**description["unit"])
    notes = unit_table.notes(table)
    ids = table[unit_table.ID].filter(table[IS_CANDIDATE])
    seconds = unit_table.seconds_each(table, len(description["keys"]))
    records = []
    for output, key in description["keys"].items():
        name, judged = setting.sources[output]
        schema, top_k = setting.schemas[output], setting.spec.top_k
        found = (
            positives_rows(unit, table, name, schema)
            if judged
            else ranking_rows(unit, key, table, name, schema, top_k)
        )
        record = finish(
            setting.target, unit, output, key, found.rows, ids,
            lost=found.lost, seconds=seconds, counts=count_scores(found.rows), **found.counts,
        )  # fmt: skip
        records.append(asdict(record))
    retries = take_counts()
    for kind, count in notes["retries"].items():
        retries[kind] = retries.get(kind, 0) + count
    return {
        "records": records,
        "retries": retries,
        "rows": unit.n_rows,
        "tokens": sum(record["n_tokens"] for record in records),
        "quarantined": max(record["rows_quarantined"] for record in records),
    }


def _quarantined(
    root: str, records: pa.Table, outputs: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """Candidates that are in no ranking, with an example."""
    for output, facts in outputs.items():
        if not (n_rows := facts["rows_quarantined"]):
            continue
        mine = records.filter(pc.equal(records["output"], output))
        files = [name for name in mine["quarantine_file"].to_pylist() if name]
        example = ""
        if files:
            row = read_columns(join(root, files[0]), ["id", "reason"]).slice(0, 1).to_pylist()[0]
            query, document = row["id"].split("\t", 1)
            example = f", such as query {query!r} and document {document!r} ({row['reason']})"
        yield f"{output}: {n_rows:,} candidates could not be scored{example}; see the quarantine"


def _unscored(spec: RerankSpec, outputs: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Judged pairs that were not scored."""
    if not spec.positives:
        return
    judged = read_qrels(spec.positives)
    pairs = judged.filter(pc.greater(judged["score"], 0)).group_by(["query_id", "doc_id"])
    wanted = len(pairs.aggregate([]))
    for output, facts in outputs.items():
        if facts["type"] == "positives" and facts["file_rows"] < wanted:
            yield (
                f"{output}: {wanted - facts['file_rows']:,} of {wanted:,} positive pairs of "
                f"{redact(spec.positives)} were not scored: the query has no candidates, or the "
                "query or document no text"
            )
