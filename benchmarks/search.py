"""Exact top-k beside faiss, Sentence Transformers and numpy, on the same embeddings.

    python benchmarks/search.py [--rows 100000] [--queries 1000] [--top-k 100] [--threads 2]

Needs faiss-cpu and sentence-transformers. Embeddings are clustered and of length 1 (200 centres),
compared by dot product. All methods take turns, so that a noisy moment hits each of them; each runs
once more in a process of its own for its peak memory. Only stx promises the order of a float64
brute force; `agree` says how many of the rows of the others are the same.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np
import torch

METHODS = ("stx", "faiss", "sentence_transformers", "numpy")


def embeddings(rows: int, queries: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Corpus (rows, width) and queries (queries, width)."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((200, width), np.float32)

    def some(count: int) -> np.ndarray:
        result = centres[random.integers(0, 200, count)]
        result += random.standard_normal((count, width), np.float32)
        return result / np.linalg.norm(result, axis=1, keepdims=True)

    return some(rows), some(queries)


def method(name: str, corpus: np.ndarray, queries: np.ndarray, k: int, threads: int) -> Callable:
    """A function without arguments that returns the rows found, (Q, k)."""
    if name == "stx":
        from stx_core.search.dense import dense_top_k

        return lambda: dense_top_k(queries, corpus, k, "dot").rows
    if name == "faiss":
        import faiss

        faiss.omp_set_num_threads(threads)
        index = faiss.IndexFlatIP(corpus.shape[1])
        index.add(corpus)
        return lambda: index.search(queries, k)[1]
    if name == "sentence_transformers":
        from sentence_transformers import util

        left, right = torch.from_numpy(queries), torch.from_numpy(corpus)

        def reference() -> np.ndarray:
            found = util.semantic_search(left, right, top_k=k, score_function=util.dot_score)
            return np.array([[hit["corpus_id"] for hit in hits] for hits in found])

        return reference

    def plain() -> np.ndarray:
        found = []
        for start in range(0, len(queries), 100):
            scores = queries[start : start + 100] @ corpus.T
            top = np.argpartition(-scores, k, axis=1)[:, :k]
            order = np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1)
            found.append(np.take_along_axis(top, order, axis=1))
        return np.concatenate(found)

    return plain


def peak_mb(name: str, arguments: argparse.Namespace) -> float:
    """How far a process of its own grows by one search, in MB."""
    sizes = [f"--{key.replace('_', '-')}={value}" for key, value in vars(arguments).items()]
    command = [sys.executable, __file__, *(size for size in sizes if "only" not in size)]
    result = subprocess.run(
        [*command, f"--only={name}"], capture_output=True, text=True, check=True
    )
    return float(result.stdout)


def grow_mb(search: Callable) -> float:
    def peak() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0])

    Path("/proc/self/clear_refs").write_text("5")  # the peak so far counts no more
    before = peak()
    search()
    return (peak() - before) / 1024


def matrix_units() -> str:
    """What the processor multiplies bfloat16 with: it decides how fast a first pass is."""
    from stx_core.machine import cpu_class

    kind = cpu_class()
    return "none" if kind == "other" else kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--top-k", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=METHODS, help="print how memory grows in one search")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    corpus, queries = embeddings(arguments.rows, arguments.queries, arguments.width)
    if arguments.only:
        print(grow_mb(method(arguments.only, corpus, queries, arguments.top_k, arguments.threads)))
        return
    searches = {
        name: method(name, corpus, queries, arguments.top_k, arguments.threads) for name in METHODS
    }
    rows = {name: search() for name, search in searches.items()}
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    for _ in range(arguments.rounds):
        for name, search in searches.items():
            start = time.perf_counter()
            search()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    summary = {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {arguments.threads} threads",
        "cores": sorted(os.sched_getaffinity(0)),
        "matrix_units": matrix_units(),
        "versions": {
            name: metadata.version(name)
            for name in ("torch", "numpy", "faiss-cpu", "sentence-transformers")
        },
        "settings": {key: value for key, value in vars(arguments).items() if key != "only"},
        "ms": {name: round(1000 * median) for name, median in medians.items()},
        "all_ms": {name: [round(1000 * s) for s in times] for name, times in seconds.items()},
        "times_stx": {name: round(median / medians["stx"], 2) for name, median in medians.items()},
        "agree": {name: round(float((rows[name] == rows["stx"]).mean()), 5) for name in METHODS},
        "peak_growth_mb": {name: round(peak_mb(name, arguments), 1) for name in METHODS},
        "load": os.getloadavg()[0],
    }
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
