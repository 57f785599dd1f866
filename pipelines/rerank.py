"""The rerank job: cross-encoder scores of candidates, and one ranking per reranker by them."""

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import candidates, cluster, stream, unit_table
from pipelines.candidates import Found, find_candidates
from pipelines.corpus import Corpus, list_corpus
from pipelines.pairs import IS_CANDIDATE, IS_POSITIVE, PairSource, read_pairs
from pipelines.plan import Pool, available_cores, fingerprint, make_pool, read_held, resolved
from pipelines.rankings import codes, first_of_query, pairs_schema, ranking_schema, ranks
from pipelines.report import Report, simple_report
from pipelines.results import quarantine_rows, rejected_of
from pipelines.retrieval_spec import RerankSpec
from pipelines.runs import Start, View, claimed, finish_units, until_committed
from pipelines.scorers import ORGANISATION, RerankerSettings, Score
from pipelines.spec import Inputs
from pipelines.text_lookup import TextSource, index_texts, publish_texts
from pipelines.work import Lost, Target, Work, digest, finish
from stx_core.errors import SpecError
from stx_core.evaluation.qrels import read_qrels
from stx_core.store import create
from stx_core.store.commit import commit_snapshot
from stx_core.store.data_file import read_columns
from stx_core.store.filesystem import file_info
from stx_core.store.retries import take_counts
from stx_core.store.s3 import use_options
from stx_core.store.units import Unit, unit_key
from stx_core.store.urls import join, redact

_POSITIVES = "-positives"

# Part of every key: raise it when the same work would give other files.
_FORMAT = 1


@dataclass(frozen=True)
class _Task:
    """What is to be scored, and by what.

    Attributes:
        found: the candidates.
        corpora: where texts are, by side: ``queries``, ``documents``; absent if not needed.
        rerankers: settings by name.
        asked: what else decides the rankings, as JSON values.
    """

    found: Found
    corpora: Mapping[str, tuple[Inputs, Corpus]]
    rerankers: Mapping[str, RerankerSettings]
    asked: Mapping[str, Any]

    @property
    def sources(self) -> dict[str, tuple[str, bool]]:
        """By output: its reranker, and whether it is of positives."""
        positives = [True] if self.asked["positives"] else []
        return {
            name + _POSITIVES * of_positives: (name, of_positives)
            for of_positives in [False, *positives]
            for name in self.rerankers
        }

    @property
    def schemas(self) -> dict[str, pa.Schema]:
        """By output, of its files."""
        kinds = [self.found.schema.field(name).type for name in ("query_id", "doc_id")]
        ranking = ranking_schema(*kinds)
        for field in (pa.field("before_rank", pa.int32()), pa.field("before_score", pa.float32())):
            ranking = ranking.append(field)
        pairs = pairs_schema(*kinds)
        return {name: pairs if judged else ranking for name, (_, judged) in self.sources.items()}

    def fingerprint(self, reranker: str) -> str:
        """Hash of what decides a reranker's results, beside the candidates."""
        return digest([fingerprint(self.rerankers[reranker]), dict(self.asked)])

    @property
    def keys(self) -> dict[str, tuple[str, ...]]:
        """By output, one of each unit."""
        return {
            output: tuple(
                unit_key(unit, {"output": output, "by": self.fingerprint(name)})
                for unit in self.found.units
            )
            for output, (name, _) in self.sources.items()
        }

    @property
    def facts(self) -> dict[str, dict[str, Any]]:
        """What a snapshot remembers of each output."""
        return {
            output: {
                "type": "positives" if judged else "ranking",
                "fingerprint": self.fingerprint(name),
                "model": redact(self.rerankers[name].model),
                "settings": self.rerankers[name].as_dict(),
                "top_k": self.asked["top_k"],
                "candidates": self.found.source | {"depth": self.asked["depth"]},
            }
            for output, (name, judged) in self.sources.items()
        }


def run_rerank(spec: RerankSpec, view: View | None = None, *, dry_run: bool = False) -> Report:
    """Score candidates by cross-encoders; commit the new rankings as one snapshot.

    Raises:
        RunActive: another start of the same run is at work.
        StxError: the spec, an input, a model or the store does not allow it. Finished units are
            kept.
    """
    began = time.monotonic()
    use_options(spec.store.options())
    watcher = view or View()
    report: Report = until_committed(lambda: _plan_and_run(spec, watcher, began, dry_run=dry_run))
    return report


def _plan_and_run(spec: RerankSpec, view: View, began: float, *, dry_run: bool) -> Report:
    root = spec.output.path
    task = _find_task(spec)
    units = task.found.units
    spec_hash = digest([task.keys, [unit.identity for unit in units]])
    held = read_held(root, spec_hash)
    work = Work(root, units, task.keys, task.facts, task.schemas, held)
    if work.is_current:
        return Report(root, held.version, committed=False)
    size = cluster.cluster_size(spec.resources.runner, available_cores())
    pool = make_pool(spec.resources, *size)
    cluster.check_fits([_stage(task, pool)], *size)
    work = replace(work, lines=tuple(_lines(spec, task, work, pool)))
    view.plan(work)
    if dry_run:
        return Report(root, None, committed=False)
    create.probe(root)
    with claimed(root, spec, spec_hash, held.version, held.run, began) as start:
        streamed = time.monotonic()
        fresh = _stream(spec, task, work, pool, start, view)
        seconds = time.monotonic() - streamed
        records = pa.concat_tables([start.records, fresh])
        info = commit_snapshot(root, start.claim, work.planned, records, work.facts, work.schemas)
    warnings = [*_quarantined(root, records, info.outputs), *_unscored(spec, info.outputs)]
    return replace(simple_report(info, root, began, fresh, warnings), stream_seconds=seconds)


def _find_task(spec: RerankSpec) -> _Task:
    found = find_candidates(spec.candidates, spec.resources.rows_per_unit)
    corpora = {}
    for side, column, inputs in (
        ("queries", "query", spec.queries),
        ("documents", "document", spec.documents),
    ):
        if inputs is not None:
            corpora[side] = (inputs, list_corpus(inputs))
        elif column not in found.schema.names or (side == "documents" and spec.positives):
            raise SpecError(
                f"{side}: needed for the texts, as "
                + (f"{redact(spec.candidates.path)} has no column {column!r}"
                   if column not in found.schema.names else "positives are documents by id")
                + f"; set {side}.path"
            )  # fmt: skip
    rerankers = {
        name: RerankerSettings(**resolved(model, ORGANISATION))
        for name, model in spec.rerankers.items()
    }
    asked = {
        "top_k": spec.top_k,
        "depth": spec.candidates.depth,
        "positives": spec.positives and file_info(spec.positives).identity,
        "texts": {side: _identity(*each) for side, each in corpora.items()},
        "types": {field.name: str(field.type) for field in found.schema},
        "format": _FORMAT,
    }
    return _Task(found, corpora, rerankers, asked)


def _identity(inputs: Inputs, corpus: Corpus) -> list[Any]:
    shards = digest([[shard.url, shard.identity] for shard in corpus.shards])
    return [inputs.model_dump(mode="json", exclude={"path", "columns"}), shards]


def _lines(spec: RerankSpec, task: _Task, work: Work, pool: Pool) -> Iterator[str]:
    source = task.found.source
    version = f", version {source['version']}, {source['output']}" if "version" in source else ""
    yield f"plan for {work.root}"
    yield f"  pairs    {source['path']}{version}"
    n_rows = sum(unit.n_rows for unit in work.units)
    depth = f"the first {spec.candidates.depth} per query of " if spec.candidates.depth else ""
    yield f"           {depth}{n_rows:,} candidates in {len(work.units):,} units of whole queries"
    for side, (_, corpus) in task.corpora.items():
        rows = sum(shard.n_rows for shard in corpus.shards)
        yield f"  {side:<9} {rows:,} rows in {len(corpus.shards):,} files"
    for name, settings in task.rerankers.items():
        yield f"  {name:<8} {redact(settings.model)}, {task.fingerprint(name)[:12]}"
    yield f"  to do    {work.n_due:,} units, {work.n_due_rows:,} candidates"
    yield f"  run on   {pool}"


def _stage(task: _Task, pool: Pool) -> stream.StageSpec:
    settings = {
        "rerankers": {name: one.as_dict() for name, one in task.rerankers.items()},
        "threads": pool.cpus,
        "token_budget": pool.token_budget,
    }
    stall_timeout_s = pool.stall_timeout_s
    return stream.StageSpec(
        Score, settings, pool.actors, pool.cpus, pool.gpus, stall_timeout_s=stall_timeout_s
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
    spec: RerankSpec, task: _Task, work: Work, pool: Pool, start: Start, view: View
) -> pa.Table:
    """Publish what the workers read beside the store, and finish the due units; their records."""
    folder = join(work.root, "_stx", "runs", start.claim.run, "index")
    texts: dict[str, TextSource] = {}
    if work.due:
        with tempfile.TemporaryDirectory(prefix="stx-") as scratch:
            for side, (inputs, corpus) in task.corpora.items():
                source = index_texts(inputs, scratch, corpus, folder)
                texts[side] = publish_texts(source, folder)
    setting = _Setting(
        spec,
        Target(work.root, start.claim.run, start.claim.epoch),
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
    records = []
    for output, key in description["keys"].items():
        rows, lost, counts = _finished(unit, output, key, table, setting)
        ids = table[unit_table.ID].filter(table[IS_CANDIDATE])
        record = finish(
            setting.target, unit, output, key, rows, ids,
            lost=lost, seconds=notes["seconds"], **counts,
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


def _finished(
    unit: Unit, output: str, key: str, table: pa.Table, setting: _Setting
) -> tuple[pa.Table, Lost, dict[str, int]]:
    """Rows of an output's file, what it does not have of the unit, and counts of tokens."""
    name, judged = setting.sources[output]
    rejected = rejected_of(table, name)
    good, is_candidate = rejected.is_null(), table[IS_CANDIDATE]
    n_filtered = unit.n_rows - (pc.sum(is_candidate).as_py() or 0)
    if judged:
        # The rows that are bad are in the quarantine of the ranking.
        rows = table.filter(pc.and_(table[IS_POSITIVE], good))
        nothing = Lost(
            quarantine_rows(unit, key, table[:0], rejected[:0]), rejected[:0], n_filtered
        )
        return _as_output(rows, name, setting.schemas[output]), nothing, {}
    bad = pc.and_(is_candidate, rejected.is_valid())
    bad_rows = table.filter(bad)
    quarantined = quarantine_rows(unit, key, bad_rows, rejected.filter(bad.combine_chunks()))
    lost = Lost(quarantined, bad_rows[unit_table.ID].combine_chunks(), n_filtered)
    ranking = _ranked(table.filter(pc.and_(is_candidate, good)), name, setting.spec.top_k)
    scored = table.filter(good)
    counts = {
        "n_tokens": pc.sum(scored[f"{name}.n_tokens"]).as_py() or 0,
        "n_truncated": pc.sum(scored[f"{name}.truncated"]).as_py() or 0,
    }
    return _as_output(ranking, name, setting.schemas[output]), lost, counts


def _ranked(table: pa.Table, name: str, top_k: int | None) -> pa.Table:
    """The best candidates of each query, best first; of equal scores the lower id first."""
    table = table.append_column("_place", pa.array(codes(table["query_id"])))
    order = [("_place", "ascending"), (f"{name}.score", "descending"), ("doc_id", "ascending")]
    keys = table.select([column for column, _ in order])
    table = table.take(pc.sort_indices(keys, order))
    return table if top_k is None else first_of_query(table, "_place", top_k)


def _as_output(table: pa.Table, name: str, schema: pa.Schema) -> pa.Table:
    columns = {
        "query_id": table["query_id"],
        "doc_id": table["doc_id"],
        "rank": pa.array(ranks(codes(table["query_id"]))),
        "score": table[f"{name}.score"],
        "before_rank": table["rank"],
        "before_score": table["score"],
    }
    return pa.table([columns[field.name] for field in schema], schema=schema)


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
        if output.endswith(_POSITIVES) and facts["file_rows"] < wanted:
            yield (
                f"{output}: {wanted - facts['file_rows']:,} of {wanted:,} positive pairs of "
                f"{redact(spec.positives)} were not scored: the query has no candidates, or the "
                "query or document no text"
            )
