"""Hard-negative mining beside Sentence Transformers with FAISS, on the same embeddings.

    python benchmarks/mining.py [--queries 20000] [--documents 100000] [--threads 2] [--repeats 3]

Needs sentence-transformers and faiss-cpu. Texts are numbered, and a stand-in for the model looks
their embeddings up in a memory map, so that only mining is measured: search, positives, margin,
choice, output. Each run is a process of its own; the two take turns. Prints the median seconds and
the peak memory that mining adds, and how many of the triplets are the same.
"""

import argparse
import hashlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

WIDTH = 384
METHODS = ("stx", "sentence_transformers")
RULES = {"num_negatives": 5, "absolute_margin": 0.05, "output_format": "triplet"}


class LookUp:
    """A model in the eyes of both miners: the embedding of text "d17" is row 17 of a file."""

    model_card_data = type("Card", (), {"base_model": None})()
    prompts: dict = {}
    similarity_fn_name = "cosine"
    device = "cpu"

    def __init__(self, folder: str) -> None:
        self.rows = {side: np.load(f"{folder}/{side}.npy", mmap_mode="r") for side in "qd"}

    def encode(self, texts, **_):
        numbers = np.fromiter((int(text[1:]) for text in texts), np.int64, len(texts))
        return np.asarray(self.rows[texts[0][0]][numbers])

    encode_query = encode_document = encode

    def get_embedding_dimension(self):
        return WIDTH

    def similarity(self, left, right):
        from sentence_transformers.util import cos_sim

        return cos_sim(left, right)

    def similarity_pairwise(self, left, right):
        from sentence_transformers.util import pairwise_cos_sim

        return pairwise_cos_sim(left, right)


def write_embeddings(folder: str, n_queries: int, n_documents: int) -> None:
    """Unit vectors around 2,000 centres; the positive of query i is document i, near to it."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((2000, WIDTH), np.float32)

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    documents = centres[random.integers(0, len(centres), n_documents)]
    documents += random.standard_normal((n_documents, WIDTH), np.float32)
    queries = documents[:n_queries] + 0.7 * random.standard_normal((n_queries, WIDTH), np.float32)
    np.save(f"{folder}/d.npy", unit(documents))
    np.save(f"{folder}/q.npy", unit(queries))


def mine(method: str, folder: str, threads: int) -> dict:
    """One run in this process."""
    import torch
    from datasets import Dataset

    torch.set_num_threads(threads)
    model = LookUp(folder)
    n_queries, n_documents = len(model.rows["q"]), len(model.rows["d"])
    pairs = {"query": [f"q{i}" for i in range(n_queries)],
             "answer": [f"d{i}" for i in range(n_queries)]}  # fmt: skip
    dataset, corpus = Dataset.from_dict(pairs), [f"d{i}" for i in range(n_documents)]
    options = RULES | {"verbose": False, "corpus": corpus}
    if method == "stx":
        from stx_core.mining.hard_negatives import mine_hard_negatives
    else:
        import faiss
        from sentence_transformers.util import mine_hard_negatives

        faiss.omp_set_num_threads(threads)
        options |= {"use_faiss": True, "faiss_batch_size": 16384}
    before = resident_kb()
    began = time.perf_counter()
    mined = mine_hard_negatives(dataset, model, **options)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    triplets = sorted(zip(mined["query"], mined["answer"], mined["negative"], strict=True))
    return {
        "seconds": seconds,
        "peak_growth_mb": (peak - before) / 1024,
        "triplets": len(triplets),
        "hash": hashlib.sha256(json.dumps(triplets).encode()).hexdigest(),
    }


def resident_kb() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(mine(*arguments.run, arguments.threads)))
        return
    runs: dict[str, list[dict]] = {method: [] for method in METHODS}
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
    with tempfile.TemporaryDirectory() as folder:
        write_embeddings(folder, arguments.queries, arguments.documents)
        for _ in range(arguments.repeats):
            for method in METHODS:
                command = [sys.executable, __file__, "--threads", str(arguments.threads),
                           "--run", method, folder]  # fmt: skip
                done = subprocess.run(
                    command, env=environment, stdout=subprocess.PIPE, text=True, check=True
                )
                runs[method].append(json.loads(done.stdout.splitlines()[-1]))
                print(method, runs[method][-1], file=sys.stderr)
    medians = {
        method: {name: statistics.median(run[name] for run in some)
                 for name in ("seconds", "peak_growth_mb", "triplets")}
        for method, some in runs.items()
    }  # fmt: skip
    ours, theirs = (medians[method] for method in METHODS)
    result = {
        "command": "python benchmarks/mining.py " + " ".join(sys.argv[1:]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {arguments.threads} threads",
        "queries": arguments.queries,
        "documents": arguments.documents,
        "rules": RULES,
        "medians": medians,
        "times_faster": round(theirs["seconds"] / ours["seconds"], 2),
        "share_of_memory": round(ours["peak_growth_mb"] / theirs["peak_growth_mb"], 2),
        "same_triplets": runs[METHODS[0]][0]["hash"] == runs[METHODS[1]][0]["hash"],
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
