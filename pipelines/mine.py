"""The mine job: hard negatives out of committed rankings, by whole queries.

Tables only: nothing is searched or encoded, so other rules cost one more pass over the rankings.
"""

import itertools
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.mining.plan import Mining, find_mining
from pipelines.mining.report import read_summary, summary_lines, write_reports
from pipelines.mining.rows import Sources, n_repeated, positive_pairs, read_rows, to_candidates
from pipelines.mining.stage import (
    CANDIDATES,
    POSITIVES,
    STATISTICS,
    STATISTICS_SCHEMA,
    Miner,
    MineStage,
    pack,
    schemas,
    unpack,
)
from pipelines.planning.corpus import Corpus
from pipelines.planning.plan import read_held
from pipelines.planning.pool import Pool, available_cores, make_pool
from pipelines.planning.runner import with_runner
from pipelines.planning.work import Target, Work, digest, finish, take_unit
from pipelines.retrieval.query_spans import Spans, find_spans, publish_spans, query_hashes
from pipelines.retrieval.rankings import ranking_schema
from pipelines.retrieval.text_lookup import TextSource, index_texts, publish_texts
from pipelines.running import cluster, stream, unit_table
from pipelines.running.runs import Start, View, check_output, claimed, finish_units, run_job
from pipelines.spec.parts import Inputs
from pipelines.spec.retrieval import MineSpec
from pipelines.telemetry.report import Report, simple_report
from stx_core.errors import InputError
from stx_core.store.commit import commit_snapshot
from stx_core.store.corpus.units import Unit
from stx_core.store.data_file import read_columns
from stx_core.store.files.apart import refuse_overlap
from stx_core.store.files.local_disk import scratch_space
from stx_core.store.files.retries import take_counts
from stx_core.store.files.s3 import use_options
from stx_core.store.files.urls import join, redact
from stx_core.store.id_hash import id_hash

# Of a unit's CPU time; reading, hashing ids and writing Parquet have the rest.
_RULES_SHARE = 0.25


def run_mine(spec: MineSpec, view: View | None = None, *, dry_run: bool = False) -> Report:
    """Find hard negatives for every query; commit them, and the rows of formats, as one snapshot.

    Raises:
        RunActive: another start of the same run is at work.
        StxError: the spec, a dataset or the store does not allow it. Finished units are kept.
    """
    return run_job(spec, view, _plan_and_run, dry_run=dry_run)


def _plan_and_run(spec: MineSpec, view: View, began: float, *, dry_run: bool) -> Report:
    root = spec.output.path
    texts = [side.paths for side in (spec.queries, spec.documents) if side is not None]
    rankings = [each.path for each in spec.candidates.values()]
    refuse_overlap(root, [*rankings, spec.positives, *itertools.chain.from_iterable(texts)])
    mining = find_mining(spec)
    miner = Miner(spec.rules.to_core(), spec.formats, spec.scores, None, None)
    kinds = schemas(miner, _candidates_schema(spec, mining))
    prints = {name: mining.fingerprint(name) for name in kinds}
    spec_hash = digest([prints, [unit.identity for unit in mining.units]])
    held = read_held(root, spec_hash)
    work = Work(root, mining.units, mining.keys(prints), mining.facts(spec, prints), kinds, held)
    if work.is_current:
        report = Report(root, held.version, committed=False)
        return report if dry_run else _with_summary(report)
    due = work.due
    spec = with_runner(spec, len(due), sum(mining.units[index].n_rows for index in due))
    size = cluster.cluster_size(spec.resources.runner, available_cores())
    pool = _pool(spec, size[0])
    cluster.check_fits([_stage(miner, pool)], *size)
    work = replace(work, lines=tuple(_lines(spec, mining, work, pool)))
    view.plan(work)
    if dry_run:
        return Report(root, None, committed=False)
    check_output(root)
    with claimed(root, spec, spec_hash, held, began) as start:
        spans = _find_spans(mining)
        work = replace(work, facts=_with_notes(work, list(_notes(spec, mining, spans))))
        fresh = _stream(spec, mining, miner, work, spans, pool, start, view)
        records = pa.concat_tables([start.records, fresh])
        info = commit_snapshot(root, start.claim, work.planned, records, work.facts, work.schemas)
    return _with_summary(simple_report(info, root, began, fresh))


def _with_notes(work: Work, notes: list[str]) -> dict[str, dict[str, Any]]:
    """Facts of the outputs; the statistics remember the notes, so that a page can be remade."""
    return {
        name: {**facts, "notes": notes} if name == STATISTICS else dict(facts)
        for name, facts in work.facts.items()
    }


def _with_summary(report: Report) -> Report:
    """The report of a start, with the numbers of the snapshot; its page is written again."""
    summary = read_summary(report.output, report.version or 0)
    url = write_reports(report.output, summary)
    lines = (*summary_lines(summary), f"  report   {redact(url)}")
    return replace(report, lines=lines, warnings=tuple(summary.notes))


def _candidates_schema(spec: MineSpec, mining: Mining) -> pa.Schema:
    schema = ranking_schema(mining.query_type, mining.doc_type)
    nothing = {name: schema.empty_table() for name in mining.rankings}
    return to_candidates(nothing, spec.judging).schema


def _lines(spec: MineSpec, mining: Mining, work: Work, pool: Pool) -> Iterator[str]:
    yield f"plan for {work.root}"
    for name, each in mining.rankings.items():
        rows = sum(file.rows for file in each.files)
        depth = "" if each.depth is None else f", the best {each.depth} of each query"
        yield (
            f"  {name:<8} {redact(each.path)}, version {each.version}, output {each.output}: "
            f"{rows:,} candidates{depth}"
        )
    yield f"  judge    {spec.judging}; positives {redact(spec.positives)}"
    yield f"  rules    {_told(spec)}"
    yield f"  outputs  {', '.join(work.schemas)}"
    yield f"  to do    {len(work.due):,} of {len(work.units):,} units of whole queries"
    yield f"  run on   {pool}"


def _told(spec: MineSpec) -> str:
    """The rules that are set, and always how many negatives."""
    changed = {"num_negatives": spec.rules.num_negatives} | spec.rules.model_dump(
        exclude_defaults=True
    )
    return ", ".join(f"{name} {value}" for name, value in changed.items())


def _pool(spec: MineSpec, cpus: float) -> Pool:
    """Actors of one core each: few, because readers and writers have more to do than the rules.

    Near duplicates are the exception: comparing texts takes longer than all else.
    """
    share = 1.0 if spec.rules.near_duplicate is not None else _RULES_SHARE
    asked = spec.resources
    wanted = {
        "cpus_per_actor": asked.cpus_per_actor or 1,
        "actors": asked.actors or max(1, int((cpus - 1) * share)),
    }
    return make_pool(asked.model_copy(update=wanted), cpus, 0)


def _stage(miner: Miner, pool: Pool) -> stream.StageSpec:
    settings = {"miner": miner, "threads": pool.cpus if pool.runner == "ray" else None}
    return stream.StageSpec(
        MineStage,
        settings,
        pool.actors,
        pool.cpus,
        0,
        min_actors=pool.min_actors,
        custom=pool.custom,
    )


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
    spans = {name: find_spans(each.files) for name, each in mining.rankings.items()}
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


def _notes(spec: MineSpec, mining: Mining, spans: _Spans) -> Iterator[str]:
    """What a reader should know of the result: what was left out, what was not looked at."""
    if not spec.rules.to_core().needs_texts:
        yield (
            "rules.same_content is off: a copy of a positive under another id may be among the "
            "negatives; name queries and documents, and set it to true"
        )
    pairs = positive_pairs(spec.positives)
    where = redact(spec.positives)
    if repeated := n_repeated(spec.positives):
        yield f"{repeated:,} positive pairs of {where} stand there more than once; each counts once"
    first, *others = spans.rankings.values()
    asked = query_hashes(pairs["query_id"].unique())
    if lost := int((~np.isin(asked, first.query)).sum()):
        yield (
            f"{lost:,} of {len(asked):,} queries of {where} have no candidates in "
            f"{next(iter(mining.rankings))}; they were left out"
        )
    for name, other in zip(list(mining.rankings)[1:], others, strict=True):
        if lost := int((~np.isin(np.unique(other.query), first.query)).sum()):
            yield (
                f"{lost:,} queries of {name} have no candidates in {next(iter(mining.rankings))}, "
                "the first ranking; they were left out"
            )


@dataclass(frozen=True)
class _Setting:
    """What every reader and writer of a run needs; small and picklable."""

    spec: MineSpec
    target: Target
    sources: Sources


def _stream(
    spec: MineSpec,
    mining: Mining,
    miner: Miner,
    work: Work,
    spans: _Spans,
    pool: Pool,
    start: Start,
    view: View,
) -> pa.Table:
    """Finish the due units; their records."""
    if not work.due:
        return start.records.slice(0, 0)
    folder = join(work.root, "_stx", "runs", start.claim.run, "mine")
    miner = _with_texts(spec, mining, miner, folder)
    setting = _Setting(
        spec,
        Target(work.root, start.claim.run, start.claim.epoch, start.damaged),
        _published(spec, mining, spans, folder),
    )
    units = [{"unit": asdict(work.units[index]), "keys": keys} for index, keys in work.due.items()]
    read, write = partial(_read_unit, setting=setting), partial(_write_unit, setting=setting)
    watch = partial(view.watch, plan=work)
    return finish_units(start, units, read, [_stage(miner, pool)], write, spec.resources, watch)


def _published(spec: MineSpec, mining: Mining, spans: _Spans, folder: str) -> Sources:
    def publish(name: str, some: Spans) -> str:
        url = join(folder, f"{name}-{uuid.uuid4().hex}.arrow")
        publish_spans(some, url)
        return url

    first = next(iter(spans.rankings))
    return Sources(
        {name: each.depth for name, each in mining.rankings.items()},
        {name: publish(name, some) for name, some in spans.rankings.items() if name != first},
        publish("positives", spans.scored) if spans.scored else None,
        spec.judging,
        spec.positives,
        mining.query_type,
        mining.doc_type,
    )


def _with_texts(spec: MineSpec, mining: Mining, miner: Miner, folder: str) -> Miner:
    """The miner with the places of all texts that it needs."""
    if not spec.needs_texts:
        return miner

    def find(inputs: Inputs | None, corpus: Corpus | None) -> TextSource | None:
        if inputs is None:
            return None
        with scratch_space() as scratch:
            return publish_texts(index_texts(inputs, scratch, corpus, folder), folder)

    return replace(
        miner,
        queries=find(spec.queries, mining.queries),
        documents=find(spec.documents, mining.documents),
    )


def _read_unit(description: Mapping[str, Any], setting: _Setting) -> pa.Table:
    use_options(setting.spec.store.options())
    began = time.perf_counter()
    rows = read_rows(Unit(**description["unit"]), setting.sources)
    counts = dict.fromkeys(STATISTICS_SCHEMA.names) | dict(rows.counts)
    packed = pack(
        {
            CANDIDATES: rows.candidates,
            POSITIVES: rows.positives,
            STATISTICS: pa.Table.from_pylist([counts], STATISTICS_SCHEMA),
        }
    )
    seconds = {"read": time.perf_counter() - began}
    return unit_table.with_notes(packed, seconds=seconds, retries=take_counts())


def _write_unit(
    description: Mapping[str, Any], table: pa.Table, setting: _Setting
) -> dict[str, Any]:
    use_options(setting.spec.store.options())
    unit, notes = Unit(**description["unit"]), unit_table.notes(table)
    ids = take_unit(unit, ["query_id"])["query_id"]
    rows = unpack(table)
    seconds = unit_table.seconds_each(table, len(description["keys"]))
    how: dict[str, Any] = {"hashed": id_hash(ids), "seconds": seconds}
    records = [
        asdict(finish(setting.target, unit, output, key, rows[output], ids, **how))
        for output, key in description["keys"].items()
    ]
    counts = take_counts()
    for kind, count in notes["retries"].items():
        counts[kind] = counts.get(kind, 0) + count
    return {
        "records": records,
        "retries": counts,
        "rows": unit.n_rows,
        "tokens": 0,
        "quarantined": 0,
    }
