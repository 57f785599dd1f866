"""The encode job: its units, stages and writer, and what is done before and after the stream."""

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import pyarrow as pa

from pipelines.encoding import carry, sources
from pipelines.encoding.duplicates import find_duplicates
from pipelines.encoding.repeated import encode_repeated, with_repeated
from pipelines.encoding.results import Sink, output_facts, output_schemas, vector_field, write_unit
from pipelines.encoding.stages import Encode, EncoderSettings
from pipelines.encoding.tokenizing import Tokenize, actors_needed
from pipelines.planning.corpus import (
    Corpus,
    list_corpus,
    priority,
    read_unit,
    sample_texts,
    with_held_identities,
)
from pipelines.planning.estimate import SAMPLE_ROWS, EncoderProbe, probe_encoders, probe_here
from pipelines.planning.number_format import settled
from pipelines.planning.plan import (
    Held,
    Plan,
    content_hash,
    current_outputs,
    encoder_settings,
    fingerprint,
    is_current,
    make_plan,
    read_held,
)
from pipelines.planning.pool import available_cores, make_pool
from pipelines.planning.runner import with_runner
from pipelines.planning.scope import Scope
from pipelines.planning.time_units import in_microseconds
from pipelines.quality.gate import QualityGate
from pipelines.running import cluster, stream, unit_table
from pipelines.running.retention import give_up_old
from pipelines.running.runs import Start, View, check_output, claimed, finish_units, run_job
from pipelines.spec.encode import EncodeSpec
from pipelines.telemetry.report import Report, output_report
from pipelines.telemetry.run_report import EncodeRun, with_encode_page
from pipelines.telemetry.tracing import span
from stx_core import failpoints
from stx_core.errors import InputError, SpecError
from stx_core.store import clock, ledger, log
from stx_core.store.commit import commit_snapshot
from stx_core.store.corpus.shards import Mark
from stx_core.store.corpus.units import Unit, plan_units
from stx_core.store.files.apart import refuse_overlap
from stx_core.store.files.local_disk import scratch_space
from stx_core.store.files.retries import add_counts, take_counts
from stx_core.store.files.s3 import use_options
from stx_core.store.snapshot import output_schema, snapshot_state

# Share of the snapshot's rows up to which a plan trusts what was measured before.
_FEW_ROWS = 0.05


def run_encode(
    spec: EncodeSpec,
    view: View | None = None,
    *,
    dry_run: bool = False,
    repairs: frozenset[str] = frozenset(),
) -> Report:
    """Bring a dataset up to date with a spec: encode what is due, commit one snapshot.

    When another run commits meanwhile, it is planned again on top of that; finished units are kept.

    Args:
        spec: of the job.
        view: watches the run.
        dry_run: only plan.
        repairs: URLs of shards, to write their damaged files again and nothing else; a rollback
            that holds the current version lets such a run commit.

    Raises:
        RunActive: another start of the same run is at work.
        QualityRefused: a check of the spec refuses what was encoded; it is kept.
        StxError: the spec, the input, a model or the store does not allow it. Finished units are
            kept: the next start goes on from there.
    """
    attempt = partial(_plan_and_run, repairs=repairs)
    return run_job(spec, view, attempt, dry_run=dry_run)


def _plan_and_run(
    spec: EncodeSpec, view: View, started: float, *, dry_run: bool, repairs: frozenset[str]
) -> Report:
    refuse_overlap(spec.output.path, spec.inputs.paths)
    corpus = list_corpus(spec.inputs, spec.backfill)
    if repairs:
        some = tuple(shard for shard in corpus.shards if shard.url in repairs)
        corpus = replace(corpus, shards=some, scope=Scope(urls=repairs))
    failpoints.hit("plan.listed")
    encoders = {name: encoder_settings(model) for name, model in spec.models.items()}
    was_begun = partial(_was_begun, spec, repairs=repairs)
    encoders = settled(encoders, current_outputs(spec.output.path), spec.resources, was_begun)
    spec_hash = _spec_hash(spec, encoders, repairs)
    held = read_held(spec.output.path, spec_hash, corpus.scope)
    corpus = with_held_identities(corpus, held.identities)
    corpus, notes = in_microseconds(corpus, spec.inputs, _schemas_before(spec, held))
    units = plan_units(corpus.shards, spec.resources.rows_per_unit)
    plan = replace(make_plan(spec, units, corpus.schema, encoders, held), notes=notes)
    if is_current(plan, held):
        return Report(spec.output.path, held.version, committed=False)
    spec = with_runner(spec, plan.n_due, plan.n_due_rows)
    if not dry_run:
        # Before models are loaded and actors start: a store that refuses us ends it here.
        check_output(spec.output.path, repairs=bool(repairs))
    with scratch_space() as scratch:
        with span("plan", units=plan.n_due):
            plan = sources.with_sources(plan, spec, corpus, held, spec_hash, scratch)
        plan = _with_pool(plan, spec)
        probes = _remembered(plan, held)
        stage = _stage(plan)
        # Where nothing is measured, few rows are due: maybe none that the model is needed for.
        warm = not dry_run and len(probes) < len(plan.parts)
        with (
            stream.warmed_up(stage, spec.resources.runner) if warm else nullcontext(stage) as stage
        ):
            with span("probe"):
                plan = _with_costs(plan, spec, corpus, probes)
            view.plan(plan)
            if dry_run:
                return Report(spec.output.path, None, committed=False)
            return _run(spec, plan, corpus, held, spec_hash, view, started, stage)


def _schemas_before(spec: EncodeSpec, held: Held) -> dict[str, pa.Schema]:
    """Schemas of the outputs that the current snapshot has."""
    if not held.version:
        return {}
    outputs = snapshot_state(spec.output.path, held.version)["outputs"]
    return {name: output_schema(facts) for name, facts in outputs.items()}


def _spec_hash(
    spec: EncodeSpec, encoders: Mapping[str, EncoderSettings], repairs: frozenset[str]
) -> str:
    prints = {name: fingerprint(one) for name, one in encoders.items()}
    return content_hash(spec, prints, sorted(repairs))


def _was_begun(
    spec: EncodeSpec, encoders: Mapping[str, EncoderSettings], repairs: frozenset[str]
) -> bool:
    """Whether there is an unfinished run of the spec with such encoders."""
    entry = log.latest(spec.output.path)
    spec_hash = _spec_hash(spec, encoders, repairs)
    return entry is not None and bool(log.unfinished_run(entry.state, spec_hash))


def _with_pool(plan: Plan, spec: EncodeSpec) -> Plan:
    """Add the actor pool, checked against the cluster."""
    cpus, gpus = cluster.cluster_size(spec.resources.runner, available_cores())
    planned = replace(plan, pool=make_pool(spec.resources, cpus, gpus))
    # In this process stages take turns.
    others = [] if spec.resources.runner == "local" else _tokenising(planned)
    cluster.check_fits([*others, _stage(planned)], cpus, gpus)
    return planned


def _with_costs(
    plan: Plan, spec: EncodeSpec, corpus: Corpus, probes: Mapping[str, EncoderProbe]
) -> Plan:
    """Add what a sample says of each encoder that nothing is known of."""
    pool = plan.pool
    assert pool is not None
    wanted = {n: part.settings.as_dict() for n, part in plan.parts.items() if n not in probes}
    texts = sample_texts(corpus, spec.inputs, SAMPLE_ROWS) if wanted else []
    # Without actors and children the models are loaded in this process in any case.
    here = pool.runner == "local" and pool.stall_timeout_s is None
    probe = probe_here if here else partial(probe_encoders, stall_timeout_s=pool.stall_timeout_s)
    found = dict(probes) | (probe(wanted, texts, pool.cpus) if wanted else {})
    parts = {name: replace(part, probe=found.get(name)) for name, part in plan.parts.items()}
    if pool.gpus and spec.resources.tokenizers is None:
        cpus, _ = cluster.cluster_size(spec.resources.runner, available_cores())
        free = cpus - 2 * cluster.IO_CPUS - pool.actors * pool.cpus
        pool = replace(pool, tokenizers=actors_needed(found.values(), pool.actors, free, pool.cpus))
    return replace(plan, parts=parts, pool=pool)


def _remembered(plan: Plan, held: Held) -> dict[str, EncoderProbe]:
    """What was measured of encoders that wrote the current snapshot, where few rows are new.

    Loading a model to measure it again would take longer than the run.
    """
    return {
        name: EncoderProbe(**facts["probe"])
        for name, facts in held.outputs.items()
        if facts["fingerprint"] == plan.parts[name].fingerprint
        and plan.parts[name].rows_to_encode <= _FEW_ROWS * facts["rows"]
    }


def _stage(plan: Plan) -> stream.StageSpec:
    pool = plan.pool
    assert pool is not None
    settings = {
        "encoders": {name: part.settings.as_dict() for name, part in plan.parts.items()},
        "threads": pool.cpus,
        "token_budget": pool.token_budget,
        "reproducible": pool.reproducible,
    }
    return stream.StageSpec(
        Encode,
        settings,
        pool.actors,
        pool.cpus,
        pool.gpus,
        min_actors=pool.min_actors,
        custom=pool.custom,
        skip=unit_table.is_encoded,
        stall_timeout_s=pool.stall_timeout_s,
    )


def _tokenising(plan: Plan) -> list[stream.StageSpec]:
    """The stage before the encoders, where there is one."""
    pool = plan.pool
    assert pool is not None
    if not pool.tokenizers:
        return []
    settings = {
        "encoders": {name: part.settings.as_dict() for name, part in plan.parts.items()},
        "threads": pool.cpus,
    }
    return [
        stream.StageSpec(
            Tokenize,
            settings,
            pool.tokenizers,
            pool.cpus,
            skip=unit_table.is_encoded,
            stall_timeout_s=pool.stall_timeout_s,
        )
    ]


def _run(
    spec: EncodeSpec,
    plan: Plan,
    corpus: Corpus,
    held: Held,
    spec_hash: str,
    view: View,
    started: float,
    stage: stream.StageSpec,
) -> Report:
    root = spec.output.path
    with claimed(
        root,
        spec,
        spec_hash,
        held,
        started,
        repairs=spec.backfill is None and not corpus.scope.is_all,
    ) as start:
        claim = start.claim
        plan = sources.publish(plan, claim.run)
        facts = output_facts(plan)
        schemas = output_schemas(corpus.schema, spec.inputs, facts)
        if held.kept:
            _check_schemas(root, held, schemas)
        streaming, began = time.monotonic(), clock.now()
        sink = Sink(root, claim.run, claim.epoch, schemas, facts, start.damaged)
        with span("encode", run=claim.run, units=plan.n_due, rows=plan.n_due_rows):
            fresh = _stream(spec, plan, corpus, sink, view, start, stage)
        stream_seconds = time.monotonic() - streaming
        records = pa.concat_tables([start.records, fresh])
        name, first = next(iter(plan.parts.items()))
        kept = (key for output, key in held.kept if output == name)
        warnings = find_duplicates(root, held, [*first.keys, *kept], records)
        if warnings and spec.output.duplicate_ids == "fail":
            raise InputError(warnings[0])
        planned = {
            name: dict(zip(part.keys, plan.units, strict=True)) for name, part in plan.parts.items()
        }
        keeps = None if corpus.scope.is_all else corpus.scope.keeps
        gate = QualityGate(root, spec.quality, facts)
        with span("commit", run=claim.run):
            info = commit_snapshot(root, claim, planned, records, facts, schemas, keeps, gate)
    retention = give_up_old(spec.output)
    report = Report(
        output=root,
        version=info.version,
        committed=True,
        seconds=time.monotonic() - started,
        stream_seconds=stream_seconds,
        parts={name: output_report(name, facts, fresh) for name, facts in info.outputs.items()},
        retries=take_counts(),
        warnings=[*warnings, *gate.warnings, *retention.warnings],
        lines=retention.lines,
    )
    return with_encode_page(
        EncodeRun(spec, plan, report, info, held.outputs, records, fresh, began)
    )


def _check_schemas(root: str, held: Held, schemas: Mapping[str, pa.Schema]) -> None:
    """The files that a backfill keeps must have the columns of those that it writes."""
    outputs = snapshot_state(root, held.version)["outputs"]
    for name, schema in schemas.items():
        if not schema.equals(before := output_schema(outputs[name])):
            has, gets = (
                ", ".join(f"{field.name}: {field.type}" for field in one if field not in other)
                for one, other in ((before, schema), (schema, before))
            )
            raise SpecError(
                f"backfill: output {name} would get {gets or 'fewer columns'}, the dataset has "
                f"{has or 'fewer'}; copy the same columns, with the same types, or encode the "
                "whole corpus"
            )


def _stream(
    spec: EncodeSpec,
    plan: Plan,
    corpus: Corpus,
    sink: Sink,
    view: View,
    start: Start,
    stage: stream.StageSpec,
) -> pa.Table:
    """Encode the due units; their records."""
    work = [
        {"unit": asdict(plan.units[i]), "keys": {n: plan.parts[n].keys[i] for n in names}}
        for i, names in plan.due.items()
    ]
    ranks = priority(corpus, spec.resources.order)
    work.sort(key=lambda item: ranks[item["unit"]["url"]])
    taken = {name: part.source for name, part in plan.parts.items() if part.source}
    read = partial(_read, schema=corpus.schema, spec=spec)
    write = partial(_write, sink=sink, spec=spec)
    watch = partial(view.watch, plan=plan)
    shared = ledger.RECORDS.empty_table()
    if spec.output.dedupe == "corpus" and len(work) > 1:
        both = partial(read, taken=taken), stage, partial(write, taken=taken)
        shared = encode_repeated(start, work, *both, spec.resources)
        taken = with_repeated(taken, shared, start)
    read, write = partial(read, taken=taken), partial(write, taken=taken)
    stages = [*_tokenising(plan), stage]
    fresh = finish_units(start, work, read, stages, write, spec.resources, watch)
    return pa.concat_tables([shared, fresh])


def _read(
    description: Mapping[str, Any],
    schema: pa.Schema,
    spec: EncodeSpec,
    taken: Mapping[str, carry.Source],
) -> pa.Table:
    use_options(spec.store.options())
    table = read_unit(_unit(description), schema, spec.inputs, spec.output)
    names = list(description["keys"])
    for name in taken.keys() & set(names):
        table = carry.mark(table, name, taken[name], spec.output.path)
    left = {name: carry.texts_to_encode(table, name) for name in names}
    due = [name for name, texts in left.items() if texts.null_count < len(texts)]
    return unit_table.with_notes(table, due=due, retries=take_counts())


def _write(
    description: Mapping[str, Any],
    table: pa.Table,
    sink: Sink,
    spec: EncodeSpec,
    taken: Mapping[str, carry.Source],
) -> dict[str, Any]:
    use_options(spec.store.options())
    # The unit was read in another process, which noted its own.
    add_counts(unit_table.notes(table)["retries"])
    for name in description["keys"]:
        vector = vector_field(sink, name)
        table = carry.complete(table, name, vector, taken.get(name), sink.root)
    result = write_unit(_unit(description), description["keys"], table, sink)
    return {**result, "retries": take_counts()}


def _unit(description: Mapping[str, Any]) -> Unit:
    values = dict(description["unit"])
    mark = values.pop("mark")
    return Unit(**values, mark=None if mark is None else Mark(**mark))
