"""How fast are exports of vectors, and how much memory do they take?

    python benchmarks/export.py [--rows 400000] [--forms vespa:dense,ciff:sparse]

Commits a dataset of random vectors (384 wide; 120 weights a row) with two copied columns, exports
it in each form in a process of its own, and prints rows a second, peak memory and MB written.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa

from stx_core.store import log
from stx_core.store.commit import commit_snapshot
from stx_core.store.corpus.shards import Shard
from stx_core.store.corpus.units import Units, plan_units, unit_key
from stx_core.store.files.filesystem import write_new
from stx_core.store.id_hash import id_hash
from stx_core.store.ledger import Record, to_table
from stx_core.store.manifest import planned_units
from stx_core.store.schema import dense_column, sparse_column, to_parquet

DIM, WEIGHTS, VOCABULARY, ROWS_PER_FILE = 384, 120, 30_000, 4096
FORMS = (
    "vespa:dense,vespa:sparse,pgvector:dense,milvus:dense,milvus:sparse,pinecone:dense,"
    "anserini:sparse,ciff:sparse,huggingface:dense,lance:dense,delta:dense,iceberg:dense,faiss:dense"
)
NAMES = {"lance": "x.lance", "iceberg": "a.b", "ciff": "x.ciff"}
ONE = """
import json, resource, sys, time
from stx.pipelines.export import run_export
start = time.perf_counter()
run_export(sys.argv[1], sys.argv[2], sys.argv[3], output=sys.argv[4])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": round(time.perf_counter() - start, 1), "peak_mb": round(peak)}))
"""


def vectors(output, n_rows, random):
    """A name and a column."""
    if output == "dense":
        matrix = random.standard_normal((n_rows, DIM)).astype(np.float32)
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
        return "embedding", dense_column(matrix)
    step = VOCABULARY // WEIGHTS
    indices = np.arange(WEIGHTS) * step + random.integers(0, step, (n_rows, WEIGHTS))
    values = random.random(n_rows * WEIGHTS) * 2 + 0.01
    ends = np.arange(0, n_rows * WEIGHTS + 1, WEIGHTS)
    return "sparse_embedding", sparse_column(ends, indices.reshape(-1), values)


def write_dataset(root, n_rows):
    """Commit a dataset with the outputs dense and sparse, as a job does."""
    random, claim = np.random.default_rng(0), log.claim(root, "spec")
    shard = Shard("/corpus.jsonl", "etag", "jsonl", n_rows, (0, n_rows), pa.schema([]))
    planned, records, schemas = {"dense": {}, "sparse": {}}, [], {}
    for output, units in planned.items():
        for unit in plan_units([shard], ROWS_PER_FILE):
            key, rows = unit_key(unit, {"output": output}), range(unit.start, unit.stop)
            name, column = vectors(output, unit.n_rows, random)
            ids = pa.array([f"doc-{i:08}" for i in rows])
            urls = [f"https://example.org/{i}" for i in rows]
            table = pa.table({"id": ids, "lang": ["en"] * len(rows), "url": urls, name: column})
            data, units[key], schemas[output] = to_parquet(table), unit, table.schema
            file = f"data/{output}/{key}-{claim.run}-1-{uuid.uuid4().hex[:12]}.parquet"
            write_new(f"{root}/{file}", data)
            ids_hash = f"{id_hash(ids):032x}"
            records.append(
                Record(
                    key=key, output=output, url=unit.url, identity=unit.identity, start=unit.start,
                    stop=unit.stop, file=file, quarantine_file="", rows_in=unit.n_rows,
                    rows_filtered=0, rows_out=unit.n_rows, rows_quarantined=0, reasons={},
                    id_hash_in=ids_hash, id_hash_out=ids_hash, id_hash_quarantined=f"{0:032x}",
                    n_tokens=0, n_truncated=0, size=len(data), checksum="", file_rows=unit.n_rows,
                    quarantine_size=0, quarantine_checksum="", seconds={}, run=claim.run, epoch=1,
                )
            )  # fmt: skip
    known = {"model": "random", "fingerprint": "none", "store_as": "float32"}
    facts = {"dense": known | {"similarity": "cosine"}, "sparse": known | {"similarity": "dot"}}
    units_of = {
        name: planned_units(pa.array(list(units)), Units.of(units.values()))
        for name, units in planned.items()
    }
    commit_snapshot(root, claim, units_of, to_table(records), facts, schemas, None)


def measure(root, form, output, n_rows):
    """Export in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-c",
            ONE,
            root,
            f"{folder}/{NAMES.get(form, 'out')}",
            form,
            output,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        found["rows_per_s"] = round(n_rows / found["seconds"])
        found["mb"] = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file()) >> 20
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--forms", default=FORMS)
    arguments = parser.parse_args()
    forms = {}
    with tempfile.TemporaryDirectory() as root:
        write_dataset(root, arguments.rows)
        for name in arguments.forms.split(","):
            forms[name] = measure(root, *name.split(":"), arguments.rows)
            print(name, forms[name], flush=True)
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(json.dumps({"machine": machine, "rows": arguments.rows, "forms": forms}))


if __name__ == "__main__":
    main()
