"""A unit's finished table as the results of its outputs: good rows, quarantined ones, counts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.encoding import carry
from stx.pipelines.encoding.describe import check_schemas, plan_lines
from stx.pipelines.encoding.estimate import EncoderProbe
from stx.pipelines.encoding.plan import EncodePlan
from stx.pipelines.engine.passes import Facts, to_facts
from stx.pipelines.engine.unit_files import IdSet, UnitResult
from stx.pipelines.models.settings import VECTOR_COLUMN, EncoderSettings
from stx.pipelines.quality.statistics import measure
from stx.pipelines.running import unit_table
from stx.pipelines.spec.parts import Inputs
from stx.pipelines.telemetry.unit_counts import count_rows
from stx_core.store.corpus.units import Unit
from stx_core.store.log_state import OutputFacts
from stx_core.store.schema import QUARANTINE, SPARSE_TYPE, dense_type, with_exact_ids
from stx_core.store.snapshot import snapshot_schemas


@dataclass(frozen=True)
class EncodedFacts:
    """Facts of an output that a snapshot keeps.

    Attributes:
        type: of the vectors.
        model: local folder or hub name.
        fingerprint: of the encoder.
        dim: width of dense vectors; None for sparse ones.
        similarity: name of the model's similarity function.
        store_as: number format of the files.
        settings: of the encoder.
        probe: measured when the run was planned.
    """

    type: str
    model: str
    fingerprint: str
    dim: int | None
    similarity: str
    store_as: str
    settings: EncoderSettings
    probe: EncoderProbe


def with_outputs(
    plan: EncodePlan, inputs: Inputs, corpus: pa.Schema, notes: Sequence[str]
) -> EncodePlan:
    """The plan with facts and schemas of its outputs, and its lines.

    Args:
        plan: with pool and probes.
        inputs: the spec's part.
        corpus: schema of the input.
        notes: lines about it.

    Raises:
        SpecError: a backfill would give files other columns than those that it keeps have.
    """
    facts = output_facts(plan)
    schemas = output_schemas(corpus, inputs, facts)
    if plan.state.kept:
        check_schemas(snapshot_schemas(plan.root, plan.state.version), schemas)
    lines = tuple(plan_lines(plan, inputs.paths, notes))
    return replace(plan, facts=facts, schemas=schemas, lines=lines)


def output_facts(plan: EncodePlan) -> Facts:
    """Facts of each output for the snapshot, enough to encode a query the same way.

    See `EncodedFacts`.
    """
    facts = {}
    for name, part in plan.parts.items():
        assert part.probe is not None  # set by the plan
        encoded = EncodedFacts(
            type=part.settings.type,
            model=part.settings.model,
            fingerprint=part.fingerprint,
            dim=part.probe.dim,
            similarity=part.probe.similarity,
            store_as=part.settings.store_as,
            settings=part.settings,
            probe=part.probe,
        )
        facts[name] = to_facts(encoded)
    return facts


def output_schemas(corpus: pa.Schema, inputs: Inputs, facts: Facts) -> dict[str, pa.Schema]:
    """Schema of each output's files: id, copied columns, the vector, the text's counts and hash."""
    id_type = corpus.field(inputs.id_column).type if inputs.id_column else pa.string()
    copied = [corpus.field(name) for name in inputs.columns if name in corpus.names]
    schemas = {}
    for name, of_output in facts.items():
        width = of_output["dim"]
        vector = SPARSE_TYPE if width is None else dense_type(width, of_output["store_as"])
        columns = pa.schema(
            [
                pa.field("id", id_type),
                *copied,
                pa.field(VECTOR_COLUMN[of_output["type"]], vector),
                pa.field("n_tokens", pa.int32()),
                pa.field("truncated", pa.bool_()),
                pa.field("content_hash", pa.string()),
            ]
        )
        schemas[name] = with_exact_ids(columns, "id")
    return schemas


def output_result(
    unit: Unit,
    table: pa.Table,
    *,
    output: str,
    key: str,
    schema: pa.Schema,
    facts: OutputFacts,
) -> UnitResult:
    """The result of a unit for an output.

    Args:
        unit: the unit.
        table: as the stages left it, with the output's results, see `carry.complete`.
        output: its name.
        key: of the unit for it.
        schema: of its files.
        facts: see `output_facts`.
    """
    notes = unit_table.notes(table)
    rejected = rejected_of(table, output)
    good, bad = table.filter(rejected.is_null()), table.filter(rejected.is_valid())
    sources = {
        "id": unit_table.ID,
        "embedding": f"{output}.vector",
        "sparse_embedding": f"{output}.vector",
        "n_tokens": f"{output}.n_tokens",
        "truncated": f"{output}.truncated",
        "content_hash": unit_table.HASH,
    }
    columns = [
        good.column(sources.get(field.name, unit_table.COPIED + field.name)) for field in schema
    ]
    reasons = rejected.filter(rejected.is_valid()).field("reason")
    statistics = measure(
        good.column(unit_table.TEXT),
        good.column(unit_table.HASH),
        good.column(f"{output}.vector"),
        pc.sum(pc.equal(reasons, "not_finite")).as_py() or 0,
    )
    carried = carry.carried_counts(good, output)
    return UnitResult(
        output=output,
        key=key,
        rows=pa.table(columns, schema=schema),
        ids_in=IdSet(notes["rows_in"], int(notes["id_hash_in"], 16)),
        ids_out=IdSet.of(good.column(unit_table.ID)),
        ids_quarantined=IdSet.of(bad.column(unit_table.ID)),
        quarantined=quarantine_rows(unit, key, bad, rejected.filter(rejected.is_valid())),
        n_filtered=notes["n_filtered"],
        n_tokens=pc.sum(good.column(f"{output}.n_tokens")).as_py() or 0,
        n_truncated=pc.sum(good.column(f"{output}.truncated")).as_py() or 0,
        rows_carried=carried.rows,
        tokens_carried=carried.tokens,
        quality=statistics.to_json(),
        counts=count_rows(good, output) | {"truncated_carried": carried.truncated},
        # A file that was copied away still says where its vectors come from.
        metadata={
            "stx.model": facts["model"],
            "stx.fingerprint": facts["fingerprint"],
            "stx.similarity": facts["similarity"],
        },
    )


def rejected_of(table: pa.Table, output: str) -> pa.Array:
    """Reasons why rows are not in an output: rejected when read, else by this output's encoder."""
    read = table.column(unit_table.REJECTED).combine_chunks()
    encoded = table.column(f"{output}.rejected").combine_chunks()
    if encoded.null_count == len(encoded):
        return read
    return unit_table.rejections(
        [
            tuple(item.values()) if item else None
            for item in (a or b for a, b in zip(read.to_pylist(), encoded.to_pylist(), strict=True))
        ]
    )


def quarantine_rows(unit: Unit, key: str, bad: pa.Table, reasons: pa.Array) -> pa.Table:
    """Rows of a unit's table as those of its quarantine file."""
    reason, column, detail = reasons.flatten()
    values = {
        "unit": pa.repeat(key, bad.num_rows),
        "file": pa.repeat(unit.url, bad.num_rows),
        "row": bad.column(unit_table.ROW),
        "id": bad.column(unit_table.ID).cast(pa.string()),
        "column": column,
        "reason": reason,
        "detail": detail,
    }
    return pa.table([values[field.name] for field in QUARANTINE], schema=QUARANTINE)
