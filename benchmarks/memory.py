"""Does memory grow with the corpus? Encode N rows and 20 N rows, compare the peaks.

    python benchmarks/memory.py [--rows 20000] [--factor 20] [--runner ray]

Writes two corpora of synthetic English-like text, encodes each with a small static model made here,
samples the resident memory of driver and workers (Ray's own services apart), and prints both peaks
and their ratio. Exit code 1 if the larger corpus needs 10 % more.
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
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

WORDS = 5000
DIMENSIONS = 64
ROWS_PER_SHARD = 1000
# Small, so that the small corpus has shards and units enough for every thread and worker.
ROWS_PER_UNIT = 500
SERVICES = ("raylet", "gcs_server", "dashboard", "log_monitor", "runtime_env_agent", "monitor.py")


def write_model(folder: Path) -> None:
    """A StaticEmbedding model folder with random vectors."""
    (folder / "0_StaticEmbedding").mkdir(parents=True)
    vocabulary = {"[UNK]": 0} | {f"w{i}": i + 1 for i in range(WORDS)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "0_StaticEmbedding" / "tokenizer.json"))
    weights = np.random.default_rng(0).standard_normal((len(vocabulary), DIMENSIONS))
    save_file(
        {"embedding.weight": weights.astype(np.float32)},
        folder / "0_StaticEmbedding" / "model.safetensors",
    )
    module = {
        "idx": 0,
        "name": "0",
        "path": "0_StaticEmbedding",
        "type": "sentence_transformers.models.StaticEmbedding",
    }
    (folder / "modules.json").write_text(json.dumps([module]))


def write_corpus(folder: Path, rows: int) -> None:
    """Shards of random words, 5 to 200 a row."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    for start in range(0, rows, ROWS_PER_SHARD):
        count = min(ROWS_PER_SHARD, rows - start)
        texts = [
            " ".join(f"w{word}" for word in random.integers(0, WORDS, random.integers(5, 200)))
            for _ in range(count)
        ]
        table = pa.table({"id": np.arange(start, start + count), "text": texts})
        pq.write_table(table, folder / f"part-{start // ROWS_PER_SHARD:04d}.parquet")


def peak_memory(command: list[str]) -> dict[str, float]:
    """Run a command; peaks of its own and of its workers' resident memory in MB, and seconds."""
    peaks = {"driver": 0.0, "workers": 0.0}
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    done = threading.Event()

    def watch() -> None:
        root = psutil.Process(process.pid)
        while not done.wait(0.2):
            workers = [_resident(child) / 1e6 for child in _children(root)]
            if sum(workers) > peaks["workers"]:
                peaks["workers"], peaks["processes"] = sum(workers), len(workers)
            peaks["driver"] = max(peaks["driver"], _resident(root) / 1e6)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    done.set()
    watcher.join()
    if code:
        raise SystemExit(f"{' '.join(command)}: exit code {code}")
    return peaks | {"seconds": time.perf_counter() - start}


def _children(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [
            child
            for child in root.children(recursive=True)
            if not any(service in " ".join(child.cmdline()) for service in SERVICES)
        ]
    except psutil.Error:
        return []


def _resident(process: psutil.Process) -> int:
    """Memory of a process alone: pages shared with others (Ray's object store) apart."""
    try:
        memory = process.memory_info()
    except psutil.Error:
        return 0
    return int(memory.rss - memory.shared)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--factor", type=int, default=20)
    parser.add_argument("--runner", choices=["ray", "local"], default="ray")
    arguments = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_model(root / "model")
        for rows in (arguments.rows, arguments.rows * arguments.factor):
            write_corpus(root / f"corpus-{rows}", rows)
            results[rows] = peak_memory(
                [
                    *(sys.executable, "-m", "stx.jobs.cli", "encode"),
                    *(str(root / f"corpus-{rows}"), str(root / f"out-{rows}")),
                    *("--model", str(root / "model")),
                    *("--set", f"resources.runner={arguments.runner}"),
                    *("--set", f"resources.rows_per_unit={ROWS_PER_UNIT}"),
                ]
            )
            print(rows, results[rows], flush=True)
    small, large = (peaks["driver"] + peaks["workers"] for peaks in results.values())
    summary = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "runner": arguments.runner,
        "peaks_mb": results,
        "ratio": round(large / small, 3),
    }
    print(json.dumps(summary))
    return int(large > 1.1 * small)


if __name__ == "__main__":
    sys.exit(main())
