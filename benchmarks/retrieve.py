"""Does retrieving stay flat in memory while the corpus grows, and what will a large one cost?

    python benchmarks/retrieve.py [--queries 8192] [--small 32768] [--large 327680] [--threads 2]

Synthetic unit vectors of 384 numbers are committed as datasets; `stx retrieve` then runs on them
with the local runner, each size in a process of its own. Prints seconds and peak memory of both
sizes, their ratio, pairs per second, and what 200,000 queries x 1,000,000 documents would take at
that rate on this machine and on more actors. Exit code 1 if memory grows by more than a tenth.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import uuid

import numpy as np
import pyarrow as pa
import xxhash

WIDTH = 384
ROWS_PER_FILE = 4096
GROUP = 16_384


def publish(root: str, prefix: str, n_rows: int, seed: int) -> None:
    """Commit synthetic vectors as `stx encode` would."""
    from stx_core.store import ledger, log
    from stx_core.store.commit import commit_snapshot
    from stx_core.store.corpus.shards import Shard
    from stx_core.store.corpus.units import Units, plan_units, unit_key
    from stx_core.store.files.filesystem import write_new
    from stx_core.store.id_hash import id_hash
    from stx_core.store.manifest import planned_units
    from stx_core.store.schema import dense_column, dense_type, to_parquet

    random = np.random.default_rng(seed)
    schema = pa.schema([("id", pa.string()), ("embedding", dense_type(WIDTH))])
    shard = Shard("/synthetic.parquet", "etag", "parquet", n_rows, (0, n_rows), pa.schema([]))
    claim = log.claim(root, "spec")
    planned, records = {}, []
    for unit in plan_units([shard], ROWS_PER_FILE):
        vectors = random.standard_normal((unit.n_rows, WIDTH), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        ids = pa.array([f"{prefix}{row:09}" for row in range(unit.start, unit.stop)])
        data = to_parquet(pa.table([ids, dense_column(vectors)], schema=schema))
        key = unit_key(unit, {"seed": seed})
        file = f"data/dense/{key}-{claim.run}-1-{uuid.uuid4().hex[:12]}.parquet"
        write_new(f"{root}/{file}", data)
        hashed = f"{id_hash(ids):032x}"
        planned[key] = unit
        zeros = {name: 0 for name, kind in ledger.Record.__annotations__.items() if kind is int}
        record = zeros | {
            "key": key, "output": "dense", "url": unit.url, "identity": unit.identity,
            "start": unit.start, "stop": unit.stop, "file": file, "quarantine_file": "",
            "rows_in": unit.n_rows, "rows_out": unit.n_rows, "file_rows": unit.n_rows,
            "reasons": {}, "id_hash_in": hashed, "id_hash_out": hashed,
            "id_hash_quarantined": f"{0:032x}", "size": len(data),
            "checksum": xxhash.xxh3_128_hexdigest(data), "quarantine_checksum": "",
            "seconds": {}, "run": claim.run, "epoch": claim.epoch,
        }  # fmt: skip
        records.append(ledger.Record(**record))
    facts = {
        "type": "dense", "model": "synthetic", "fingerprint": "synthetic", "dim": WIDTH,
        "similarity": "cosine", "store_as": "float32", "settings": {"files": "synthetic"},
    }  # fmt: skip
    units = planned_units(pa.array(list(planned)), Units.of(planned.values()))
    commit_snapshot(
        root, claim, {"dense": units}, ledger.to_table(records), {"dense": facts},
        {"dense": schema},
    )  # fmt: skip


def retrieve(folder: str, size: int, threads: int) -> dict:
    """One run in this process."""
    from stx.pipelines.retrieve import run_retrieve
    from stx.pipelines.spec.file import parse_spec
    from stx.pipelines.spec.retrieval import RetrieveSpec

    values = {
        "queries": {"path": f"{folder}/queries"},
        "corpus": {"path": f"{folder}/corpus-{size}"},
        "k": 100,
        "output": {"path": f"{folder}/ranking-{size}"},
        "resources": {"runner": "local", "rows_per_unit": 4096, "rows_per_group": GROUP,
                      "cpus_per_actor": threads},
    }  # fmt: skip
    report = run_retrieve(parse_spec(values, kind=RetrieveSpec))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": round(report.seconds, 1), "peak_mb": round(peak_mb, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=8192)
    parser.add_argument("--small", type=int, default=32_768)
    parser.add_argument("--large", type=int, default=327_680)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(retrieve(arguments.run[0], int(arguments.run[1]), arguments.threads)))
        return
    sizes, runs = (arguments.small, arguments.large), {}
    with tempfile.TemporaryDirectory() as folder:
        publish(f"{folder}/queries", "q", arguments.queries, 1)
        for size in sizes:
            publish(f"{folder}/corpus-{size}", "d", size, 2)
            command = [sys.executable, __file__, "--threads", str(arguments.threads), "--run",
                       folder, str(size)]  # fmt: skip
            environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
            done = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, text=True, check=True
            )
            runs[size] = json.loads(done.stdout)
    seconds = runs[arguments.large]["seconds"] - runs[arguments.small]["seconds"]
    rate = arguments.queries * (arguments.large - arguments.small) / seconds
    hours = 200_000 * 1_000_000 / rate / 3600
    ratio = runs[arguments.large]["peak_mb"] / runs[arguments.small]["peak_mb"]
    sizes_asked = asdict_of(arguments)
    print(json.dumps({
        "command": "python benchmarks/retrieve.py " + " ".join(sys.argv[1:]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {arguments.threads} threads",
        "load": round(os.getloadavg()[0], 1),
        "sizes": sizes_asked,
        "runs": {str(size): run for size, run in runs.items()},
        "memory_ratio": round(ratio, 3),
        "pairs_per_s": round(rate),
        "200k_x_1m_hours": {"here": round(hours, 2), "32 such actors": round(hours / 32, 3)},
    }, indent=1))  # fmt: skip
    sys.exit(ratio > 1.1)


def asdict_of(arguments: argparse.Namespace) -> dict:
    return {name: value for name, value in vars(arguments).items() if name != "run"}


if __name__ == "__main__":
    main()
