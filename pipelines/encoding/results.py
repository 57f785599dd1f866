"""A unit's finished table to files: per output the good rows, the quarantined ones, the record."""

import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.encoding import carry
from pipelines.planning.plan import Plan
from pipelines.quality.statistics import measure
from pipelines.running import unit_table
from pipelines.spec.parts import Inputs
from pipelines.telemetry.unit_counts import TRUNCATED_CARRIED, count_rows
from stx_core.store import ledger
from stx_core.store.corpus.units import Unit
from stx_core.store.data_file import NO_FILE, write_table
from stx_core.store.id_hash import id_hash
from stx_core.store.schema import QUARANTINE, dense_type, sparse_type, with_exact_ids

VECTOR_COLUMN = {"dense": "embedding", "sparse": "sparse_embedding"}


@dataclass(frozen=True)
class Sink:
    """Where the units of one run go; small and picklable, every writer has a copy.

    Attributes:
        root: the dataset.
        run: the run's id.
        epoch: which start of the run this is.
        schemas: Arrow schema of each output's files, fixed by the plan.
        facts: see `output_facts`.
        damaged: see `ledger.record`.
    """

    root: str
    run: str
    epoch: int
    schemas: Mapping[str, pa.Schema]
    facts: Mapping[str, Mapping[str, Any]]
    damaged: Collection[str] = ()


def output_facts(plan: Plan) -> dict[str, dict[str, Any]]:
    """What a snapshot remembers of each output: enough to encode a query the same way."""
    facts = {}
    for name, part in plan.parts.items():
        assert part.probe is not None  # set by the plan
        probe = asdict(part.probe)
        facts[name] = {
            "type": part.settings.type,
            "model": part.settings.model,
            "fingerprint": part.fingerprint,
            "dim": probe["dim"],
            "similarity": probe["similarity"],
            "store_as": part.settings.store_as,
            "settings": part.settings.as_dict(),
            "probe": probe,
        }
    return facts


def output_schemas(
    corpus: pa.Schema, inputs: Inputs, facts: Mapping[str, Mapping[str, Any]]
) -> dict[str, pa.Schema]:
    """Schema of each output's files: id, copied columns, the vector, what is known of the text."""
    id_type = corpus.field(inputs.id_column).type if inputs.id_column else pa.string()
    copied = [corpus.field(name) for name in inputs.columns if name in corpus.names]
    schemas = {}
    for name, known in facts.items():
        sparse = known["type"] == "sparse"
        vector = sparse_type() if sparse else dense_type(known["dim"], known["store_as"])
        columns = pa.schema(
            [
                pa.field("id", id_type),
                *copied,
                pa.field(VECTOR_COLUMN[known["type"]], vector),
                pa.field("n_tokens", pa.int32()),
                pa.field("truncated", pa.bool_()),
                pa.field("content_hash", pa.string()),
            ]
        )
        schemas[name] = with_exact_ids(columns, "id")
    return schemas


def vector_field(sink: Sink, output: str) -> pa.Field:
    """The column that an output's vectors are written to."""
    return sink.schemas[output].field(VECTOR_COLUMN[sink.facts[output]["type"]])


def write_unit(unit: Unit, keys: dict[str, str], table: pa.Table, sink: Sink) -> dict[str, Any]:
    """Write the due outputs of a unit and make it done.

    A unit is done when its ledger record exists. A record that another attempt created first is
    taken, and this attempt's file stays behind unnamed.

    Args:
        unit: the unit.
        keys: unit key by due output.
        table: as the stages left it, with the results of every due output.
        sink: where to write.

    Returns:
        Plain values for the driver: the records, and counts for the progress view.
    """
    seconds = unit_table.seconds_each(table, len(keys))
    records = [_write_output(unit, name, key, table, sink, seconds) for name, key in keys.items()]
    return {
        "records": [asdict(record) for record in records],
        "rows": unit.n_rows,
        "tokens": sum(record.n_tokens - record.tokens_carried for record in records),
        "quarantined": sum(record.rows_quarantined for record in records),
    }


def _write_output(
    unit: Unit,
    name: str,
    key: str,
    table: pa.Table,
    sink: Sink,
    seconds: Mapping[str, float],
) -> ledger.Record:
    start = time.perf_counter()
    notes = unit_table.notes(table)
    rejected = rejected_of(table, name)
    good, bad = table.filter(rejected.is_null()), table.filter(rejected.is_valid())
    stem = f"{key}-{sink.run}-{sink.epoch}-{uuid.uuid4().hex[:12]}.parquet"
    written = quarantined = NO_FILE
    if good.num_rows:
        rows = _output_rows(good, name, sink.schemas[name])
        written = write_table(sink.root, f"data/{name}/{stem}", rows, _metadata(name, sink))
    if bad.num_rows:
        rows = quarantine_rows(unit, key, bad, rejected.filter(rejected.is_valid()))
        quarantined = write_table(sink.root, f"quarantine/{stem}", rows, {})
    record = ledger.Record(
        key=key,
        output=name,
        url=unit.url,
        identity=unit.identity,
        start=unit.start,
        stop=unit.stop,
        file=written.name,
        quarantine_file=quarantined.name,
        rows_in=notes["rows_in"],
        rows_filtered=notes["n_filtered"],
        rows_out=good.num_rows,
        rows_quarantined=bad.num_rows,
        reasons=count_reasons(rejected),
        id_hash_in=notes["id_hash_in"],
        id_hash_out=_hex(good),
        id_hash_quarantined=_hex(bad),
        n_tokens=pc.sum(good.column(f"{name}.n_tokens")).as_py() or 0,
        n_truncated=pc.sum(good.column(f"{name}.truncated")).as_py() or 0,
        size=written.size,
        checksum=written.checksum,
        file_rows=written.rows,
        quarantine_size=quarantined.size,
        quarantine_checksum=quarantined.checksum,
        seconds={**seconds, "write": time.perf_counter() - start},
        run=sink.run,
        epoch=sink.epoch,
        rows_carried=carry.n_carried(good, name),
        tokens_carried=carry.tokens_carried(good, name),
        quality=_quality(good, name, rejected),
        counts={
            **count_rows(good, name),
            TRUNCATED_CARRIED: carry.truncated_carried(good, name),
        },
    )
    return ledger.record(sink.root, sink.run, record, sink.damaged)


def _quality(good: pa.Table, name: str, rejected: pa.Array) -> dict[str, Any]:
    texts, hashes = good.column(unit_table.TEXT), good.column(unit_table.HASH)
    not_finite = count_reasons(rejected).get("not_finite", 0)
    return measure(texts, hashes, good.column(f"{name}.vector"), not_finite).to_json()


def rejected_of(table: pa.Table, output: str) -> pa.Array:
    """Why a row is not in an output: rejected when read, else by this output's encoder."""
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


def _output_rows(good: pa.Table, output: str, schema: pa.Schema) -> pa.Table:
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
    return pa.table(columns, schema=schema)


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


def count_reasons(rejected: pa.Array) -> dict[str, int]:
    """Rejected rows by reason."""
    reasons = rejected.field("reason").filter(rejected.is_valid())
    return {item["values"]: item["counts"] for item in reasons.value_counts().to_pylist()}


def _hex(rows: pa.Table) -> str:
    return f"{id_hash(rows.column(unit_table.ID)):032x}"


def _metadata(name: str, sink: Sink) -> dict[str, str]:
    """Key-value metadata of a file: so that a file that was copied away still says what it is."""
    facts = sink.facts[name]
    return {
        "stx.output": name,
        "stx.run": sink.run,
        "stx.model": str(facts["model"]),
        "stx.fingerprint": str(facts["fingerprint"]),
        "stx.similarity": str(facts["similarity"]),
    }
