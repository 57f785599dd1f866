"""The stages of an encode run on its actors, and what a sample of the corpus says of their cost."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial

from stx.pipelines.encoding.estimate import SAMPLE_ROWS, EncoderProbe, probe_encoders, probe_here
from stx.pipelines.encoding.plan import EncodePlan
from stx.pipelines.encoding.stages import Encode
from stx.pipelines.encoding.tokenizing import Tokenize, actors_needed
from stx.pipelines.engine.job import Planning, pool_for, stage_on
from stx.pipelines.planning.corpus import Corpus, sample_texts
from stx.pipelines.planning.pool import Pool, available_cores
from stx.pipelines.running import cluster, stream, unit_table
from stx.pipelines.spec.encode import EncodeSpec
from stx.pipelines.telemetry.tracing import span

# Share of the snapshot's rows up to which a plan trusts what was measured before.
_FEW_ROWS = 0.05


def encode_stages(plan: EncodePlan, pool: Pool) -> list[stream.StageSpec]:
    """The encoders of all outputs, behind the actors that tokenise for them, if there are any."""
    encoders = {name: asdict(part.settings) for name, part in plan.parts.items()}
    settings = {"encoders": encoders, "threads": pool.cpus}
    batches = {"token_budget": pool.token_budget, "reproducible": pool.reproducible}
    skip, stall_timeout_s = unit_table.is_encoded, pool.stall_timeout_s
    encode = stage_on(pool, Encode, settings | batches, skip=skip, stall_timeout_s=stall_timeout_s)
    if not pool.tokenizers:
        return [encode]
    tokenize = stream.StageSpec(
        Tokenize,
        settings,
        pool.tokenizers,
        pool.cpus,
        skip=skip,
        stall_timeout_s=stall_timeout_s,
    )
    return [tokenize, encode]


def with_actors(
    plan: EncodePlan, corpus: Corpus, planning: Planning
) -> tuple[EncodePlan, stream.StageSpec]:
    """The plan with its pool and what encoding will cost, and the encoders, loading already.

    Args:
        plan: what is due.
        corpus: the input.
        planning: of the run.

    Raises:
        ModelError: a model cannot be loaded.
        SpecError: the cluster has less than what is asked for.
    """
    spec = planning.spec
    pool = pool_for(spec.resources, partial(encode_stages, plan))
    plan = replace(plan, pool=pool)
    probes, stage = _earlier_probes(plan), encode_stages(plan, pool)[-1]
    # Where nothing is measured, few rows are due: maybe none that the model is needed for.
    if not planning.dry_run and len(probes) < len(plan.parts):
        stage = planning.stack.enter_context(stream.warmed_up(stage, pool.runner))
    with span("probe"):
        return with_probes(plan, spec, corpus, probes), stage


def _earlier_probes(plan: EncodePlan) -> dict[str, EncoderProbe]:
    """What was measured of encoders that wrote the current snapshot, where few rows are new.

    Loading a model to measure it again would take longer than the run.
    """
    return {
        name: EncoderProbe(**facts["probe"])
        for name, facts in plan.state.outputs.items()
        if facts["fingerprint"] == plan.parts[name].fingerprint
        and plan.parts[name].rows_to_encode <= _FEW_ROWS * facts["rows"]
    }


def with_probes(
    plan: EncodePlan, spec: EncodeSpec, corpus: Corpus, earlier: Mapping[str, EncoderProbe]
) -> EncodePlan:
    """Add what a sample says of each encoder that was not measured earlier.

    Raises:
        ModelError: a model cannot be loaded.
    """
    pool = plan.pool
    assert pool is not None
    unknown = {n: asdict(part.settings) for n, part in plan.parts.items() if n not in earlier}
    texts = sample_texts(corpus, spec.inputs, SAMPLE_ROWS) if unknown else []
    # Without actors and children the models are loaded in this process in any case.
    here = pool.runner == "local" and pool.stall_timeout_s is None
    probe = probe_here if here else partial(probe_encoders, stall_timeout_s=pool.stall_timeout_s)
    probes = dict(earlier) | (probe(unknown, texts, pool.cpus) if unknown else {})
    parts = {name: replace(part, probe=probes.get(name)) for name, part in plan.parts.items()}
    if pool.gpus and spec.resources.tokenizers is None:
        cpus, _ = cluster.cluster_size(spec.resources.runner, available_cores())
        free = cpus - 2 * stream.IO_CPUS - pool.actors * pool.cpus
        n_tokenizers = actors_needed(probes.values(), pool.actors, free, pool.cpus)
        pool = replace(pool, tokenizers=n_tokenizers)
    return replace(plan, parts=parts, pool=pool)
