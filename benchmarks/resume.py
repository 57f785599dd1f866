"""How long does a start take to see what an interrupted run has done, and in how much memory?

    python benchmarks/resume.py [--units 200000]

Writes a corpus of one-row units and the ledger of a run that was killed near its end: a record for
each unit but the last thousand, folded as a driver folds them but for the last half thousand. Then
`stx encode --dry-run` plans the rest, here and for a hundredth of the units; the difference is what
the units cost, the rest is the start of Python and the sample that the model encodes. Exit code 1
if it is 20 s, or 1 KB a unit, or more.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from stx.pipelines.encoding.keys import run_hash, unit_keys
from stx.pipelines.models.settings import encoder_settings, fingerprint
from stx.pipelines.planning.corpus import list_corpus
from stx.pipelines.spec.file import parse_spec
from stx_core.store import ledger, log
from stx_core.store.corpus.units import plan_units
from stx_core.store.sealed import seal

UNITS_PER_SHARD = 1000
DUE = 1000
NOT_FOLDED = 500


def write_model(folder: Path) -> None:
    """The smallest StaticEmbedding model."""
    module = folder / "0_StaticEmbedding"
    module.mkdir(parents=True)
    Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]")).save(str(module / "tokenizer.json"))
    save_file({"embedding.weight": np.ones((1, 8), np.float32)}, module / "model.safetensors")
    entry = {
        "idx": 0,
        "name": "0",
        "path": "0_StaticEmbedding",
        "type": "sentence_transformers.models.StaticEmbedding",
    }
    (folder / "modules.json").write_text(json.dumps([entry]))


def write_corpus(folder: Path, units: int) -> None:
    folder.mkdir(parents=True)
    for start in range(0, units, UNITS_PER_SHARD):
        ids = np.arange(start, start + UNITS_PER_SHARD)
        table = pa.table({"id": ids, "text": [f"text {i}" for i in ids]})
        pq.write_table(table, folder / f"part-{start // UNITS_PER_SHARD:05d}.parquet")


def write_ledger(values: dict, root: Path) -> None:
    """The records of a run that was killed near its end."""
    spec = parse_spec(values)
    corpus = list_corpus(spec.inputs)
    encoder = encoder_settings(spec.models["dense"])
    claim = log.claim(str(root), run_hash(spec, {"dense": encoder}))
    units = list(plan_units(corpus.shards, 1))
    keys = unit_keys(
        spec, units, corpus.schema, output="dense", output_fingerprint=fingerprint(encoder)
    ).to_pylist()
    folds = ledger.Folds(str(root), claim.run, claim.epoch)
    for number, (unit, key) in enumerate(zip(units[:-DUE], keys[:-DUE], strict=True)):
        record = synthetic_record(unit, key, claim)
        path = root / "_stx/runs" / claim.run / "units" / key[:2] / f"{key}.0.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(seal(asdict(record))))  # not synced: this is quicker to make
        # The start looks whether the file is there and as long as the record says.
        file = root / record.file
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as sparse:
            sparse.truncate(record.size)
        if number < len(units) - DUE - NOT_FOLDED:
            folds.add(record)
    log.pause(str(root), claim.run, claim.epoch)


def synthetic_record(unit, key: str, claim: log.Claim) -> ledger.Record:
    id_hash, nothing = f"{int(key, 16) % 2**128:032x}", f"{0:032x}"
    return ledger.Record(
        **{field: 0 for field, kind in ledger.Record.__annotations__.items() if kind is int}
        | {"key": key, "output": "dense", "url": unit.url, "identity": unit.identity}
        | {"start": unit.start, "stop": unit.stop, "rows_in": 1, "rows_out": 1, "file_rows": 1}
        | {"file": f"data/dense/{key}-{claim.run}-1-0123456789ab.parquet", "quarantine_file": ""}
        | {"reasons": {}, "seconds": {"read": 0.012345, "encode": 0.5, "write": 0.012345}}
        | {"id_hash_in": id_hash, "id_hash_out": id_hash, "id_hash_quarantined": nothing}
        | {
            "size": 4000,
            "checksum": key,
            "quarantine_checksum": "",
            "run": claim.run,
            "epoch": claim.epoch,
        }
    )


def plan(values: dict, folder: Path) -> dict[str, float]:
    """Time and peak memory of the real command."""
    path = folder / "encode.yaml"
    path.write_text(json.dumps(values))
    command = [sys.executable, "-m", "stx.jobs.cli", "encode", str(path), "--dry-run"]
    start, peak, cpu, done = time.perf_counter(), 0, 0.0, threading.Event()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def watch() -> None:
        nonlocal peak, cpu
        own = psutil.Process(process.pid)
        while not done.wait(0.02):
            try:
                memory, times = own.memory_info(), own.cpu_times()
            except psutil.Error:
                return
            peak = max(peak, memory.rss - memory.shared)
            cpu = max(cpu, times.user + times.system)

    watcher = threading.Thread(target=watch)
    watcher.start()
    printed, _ = process.communicate()
    done.set()
    watcher.join()
    assert process.returncode == 0, printed
    assert f"to do {DUE:,} units" in printed, printed
    seconds = time.perf_counter() - start
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "peak_mb": round(peak / 1e6, 1),
    }


def measure(units: int, folder: Path) -> dict[str, float]:
    write_model(folder / "model")
    write_corpus(folder / "corpus", units)
    values = {
        "inputs": {"path": str(folder / "corpus")},
        "models": {"dense": {"model": str(folder / "model"), "dtype": "float32"}},
        "output": {"path": str(folder / "out")},
        "resources": {"runner": "local", "rows_per_unit": 1},
    }
    write_ledger(values, folder / "out")
    result = plan(values, folder)
    print(units, result, flush=True)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, default=200_000)
    units = parser.parse_args().units
    few = max(2 * UNITS_PER_SHARD, units // 100)
    with tempfile.TemporaryDirectory() as name:
        small = measure(few, Path(name, "small"))
        large = measure(units, Path(name, "large"))
    planning_s = large["seconds"] - small["seconds"]
    per_unit = (large["peak_mb"] - small["peak_mb"]) * 1e6 / (units - few)
    summary = {
        "command": "python benchmarks/resume.py",
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "dry_run": {f"{few} units": small, f"{units} units": large},
        "planning_s": round(planning_s, 1),
        "bytes_per_unit": round(per_unit),
    }
    print(json.dumps(summary))
    return int(planning_s >= 20 or per_unit >= 1000)


if __name__ == "__main__":
    sys.exit(main())
