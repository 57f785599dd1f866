"""Datasets that hold a ranking."""

import uuid

import pyarrow as pa
import pytest

from stx_core.store import log
from stx_core.store.commit import commit_snapshot
from stx_core.store.corpus.shards import Shard
from stx_core.store.corpus.units import Units, plan_units, unit_key
from stx_core.store.files.filesystem import write_new
from stx_core.store.files.urls import join
from stx_core.store.id_hash import id_hash
from stx_core.store.ledger import Record, to_table
from stx_core.store.manifest import planned_units
from stx_core.store.schema import to_parquet


@pytest.fixture
def publish():
    """Commits a table as a dataset with one output, `rows_per_file` rows in each file."""

    def build(root, table, *, output="ranking", rows_per_file=3):
        root = str(root)
        claim = log.claim(root, "spec")
        shard = Shard("/queries.jsonl", "etag", "jsonl", len(table), (0, len(table)), pa.schema([]))
        planned, records = {}, []
        for unit in plan_units([shard], rows_per_file):
            key = unit_key(unit, {"output": output})
            planned[key] = unit
            part = table.slice(unit.start, unit.n_rows)
            file = f"data/{output}/{key}-{claim.run}-1-{uuid.uuid4().hex[:12]}.parquet"
            data = to_parquet(part)
            write_new(join(root, file), data)
            in_hex = f"{id_hash(part.column(0)):032x}"
            records.append(
                Record(
                    key=key, output=output, url=unit.url, identity=unit.identity, start=unit.start,
                    stop=unit.stop, file=file, quarantine_file="", rows_in=unit.n_rows,
                    rows_filtered=0, rows_out=unit.n_rows, rows_quarantined=0, reasons={},
                    id_hash_in=in_hex, id_hash_out=in_hex, id_hash_quarantined=f"{0:032x}",
                    n_tokens=0, n_truncated=0, size=len(data), checksum="",
                    file_rows=unit.n_rows, quarantine_size=0, quarantine_checksum="", seconds={},
                    run=claim.run, epoch=1,
                )
            )  # fmt: skip
        units = planned_units(pa.array(list(planned), pa.string()), Units.of(planned.values()))
        commit_snapshot(
            root, claim, {output: units}, to_table(records), {output: {"model": "none"}},
            {output: table.schema}, None,
        )  # fmt: skip
        return root

    return build
