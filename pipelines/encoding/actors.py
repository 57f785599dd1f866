"""The stages of an encode run on its actors, and the cost that a sample of the corpus predicts."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from stx.pipelines.encoding.estimate import SAMPLE_ROWS, EncoderProbe, probe_encoders, probe_here
from stx.pipelines.encoding.plan import EncodePlan
from stx.pipelines.encoding.stages import Encode
from stx.pipelines.encoding.tokenizing import Tokenize, actors_needed
from stx.pipelines.engine.job import Planning, pool_for, stage_on
from stx.pipelines.planning.corpus import Corpus, sample_texts
from stx.pipelines.planning.pool import Pool, available_cores
from stx.pipelines.running import cluster, stream, unit_table
from stx.pipelines.running.activity import phase
from stx.pipelines.spec.encode import EncodeSpec
from stx.pipelines.telemetry.tracing import span

# Share of the snapshot's rows up to which a plan trusts what was measured before.
_FEW_ROWS = 0.05


def encode_stages(plan: EncodePlan, pool: Pool) -> list[stream.StageSpec]:
    """The encoders of all outputs, behind the actors that tokenise for them, if there are any."""
    settings = {
        "encoders": {name: part.settings for name, part in plan.parts.items()},
        "threads": pool.cpus,
        "token_budget": pool.token_budget,
        "reproducible": pool.reproducible,
    }
    encode = stage_on(
        pool,
        Encode,
        settings,
        skip=unit_table.is_encoded,
        stall_timeout_s=pool.stall_timeout_s,
    )
    return [tokenize_stage(encode, pool), encode] if pool.tokenizers else [encode]


def tokenize_stage(encode: stream.StageSpec, pool: Pool) -> stream.StageSpec:
    """The actors that tokenise for encoders, as many as the pool says."""
    return stream.StageSpec(
        Tokenize,
        {name: encode.settings[name] for name in ("encoders", "threads")},
        actors=pool.tokenizers,
        cpus=pool.cpus,
        skip=encode.skip,
        stall_timeout_s=encode.stall_timeout_s,
    )


def with_actors(plan: EncodePlan, corpus: Corpus, planning: Planning) -> EncodePlan:
    """The plan with its pool and stages, and what encoding will cost; encoders load meanwhile.

    Args:
        plan: what is due.
        corpus: the input.
        planning: of the run.

    Raises:
        ModelError: a model cannot be loaded.
        SpecError: the cluster has less than what is asked for.
    """
    spec = planning.spec
    pool, (*tokenize, encode) = pool_for(spec.resources, partial(encode_stages, plan))
    # Loading a model to measure it again would take longer than a run of few rows.
    earlier = {
        name: EncoderProbe(**facts["probe"])
        for name, facts in plan.state.outputs.items()
        if facts["fingerprint"] == plan.parts[name].fingerprint
        and plan.parts[name].rows_to_encode <= _FEW_ROWS * facts["rows"]
    }
    # Where nothing is measured, few rows are due: maybe none that the model is needed for.
    if not planning.dry_run and len(earlier) < len(plan.parts):
        encode = planning.stack.enter_context(stream.warmed_up(encode, pool.runner))
    with span("probe"), phase("measuring a sample"):
        plan = with_probes(replace(plan, pool=pool), spec, corpus, earlier)
    if not tokenize and plan.pool and plan.pool.tokenizers:
        tokenize = [tokenize_stage(encode, plan.pool)]
    return replace(plan, stages=(*tokenize, encode))


def with_probes(
    plan: EncodePlan, spec: EncodeSpec, corpus: Corpus, earlier: Mapping[str, EncoderProbe]
) -> EncodePlan:
    """Add what a sample says of each encoder that was not measured earlier.

    Raises:
        ModelError: a model cannot be loaded.
    """
    pool = plan.pool
    assert pool is not None
    probes = dict(earlier)
    if new := {name: part.settings for name, part in plan.parts.items() if name not in earlier}:
        texts = sample_texts(corpus, spec.inputs, SAMPLE_ROWS)
        # Without actors and children the models are loaded in this process in any case.
        if pool.runner == "local" and pool.stall_timeout_s is None:
            probes |= probe_here(new, texts, pool.cpus)
        else:
            probes |= probe_encoders(new, texts, pool.cpus, pool.stall_timeout_s)
    parts = {name: replace(part, probe=probes.get(name)) for name, part in plan.parts.items()}
    if pool.gpus and spec.resources.tokenizers is None:
        cpus, _ = cluster.cluster_size(spec.resources.runner, available_cores())
        free = cpus - 2 * stream.IO_CPUS - pool.actors * pool.cpus
        n_tokenizers = actors_needed(probes.values(), pool.actors, free, pool.cpus)
        pool = replace(pool, tokenizers=n_tokenizers)
    return replace(plan, parts=parts, pool=pool)
