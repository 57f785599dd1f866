"""Hard-negative mining beside Sentence Transformers with FAISS, on the same embeddings.

    python benchmarks/mining.py [--queries 20000] [--documents 100000] [--threads 2] [--repeats 3]
                                [--rescored]

Needs sentence-transformers and faiss-cpu. Texts are numbered, and a stand-in for the model looks
their embeddings up in a file, so that only mining is measured: search, positives, margin, choice,
output; with --rescored a stand-in for a cross-encoder scores all candidates, too. Each run is a
process of its own, and the methods take turns; one of them is the bare matrix product of all
queries with all documents, which is the floor of any exact search by products. Prints the median
seconds and the peak memory that mining adds (of which the stand-in's file is no part), where our
time goes, and how many of the triplets are the same.
"""

import argparse
import hashlib
import json
import mmap
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from functools import wraps
from pathlib import Path

import numpy as np

WIDTH = 384
METHODS = ("stx", "sentence_transformers", "products")
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
        rows = self.rows[texts[0][0]]
        found = np.empty((len(numbers), WIDTH), np.float32)
        for start in range(0, len(numbers), 8192):
            found[start : start + 8192] = rows[numbers[start : start + 8192]]
            # Else the pages of the file would count as memory of whoever mines.
            rows._mmap.madvise(mmap.MADV_DONTNEED)
        return found

    encode_query = encode_document = encode

    def get_embedding_dimension(self):
        return WIDTH

    def similarity(self, left, right):
        from sentence_transformers.util import cos_sim

        return cos_sim(left, right)

    def similarity_pairwise(self, left, right):
        from sentence_transformers.util import pairwise_cos_sim

        return pairwise_cos_sim(left, right)


class Judge:
    """A cross-encoder in the eyes of both miners: a number that depends on the pair alone."""

    def predict(self, pairs, convert_to_tensor=False, **_):
        import torch

        numbers = np.fromiter(
            (int(a[1:]) * 2_654_435_761 + int(b[1:]) * 40_503 for a, b in pairs),
            np.int64, len(pairs),
        )  # fmt: skip
        # A prime far above the candidates of a query: equal scores have no order in the reference.
        scores = (numbers % 16_777_213 / 16_777_213).astype(np.float32)
        return torch.from_numpy(scores) if convert_to_tensor else scores


class Phases:
    """Seconds spent in some functions of ours, less what other ones of them take inside."""

    def __init__(self) -> None:
        self.seconds = defaultdict(float)
        self._open = []

    def watch(self, phase: str, owner, name: str) -> None:
        function = getattr(owner, name)

        @wraps(function)
        def timed(*arguments, **options):
            began = time.perf_counter()
            self._open.append(0.0)
            try:
                return function(*arguments, **options)
            finally:
                spent = time.perf_counter() - began
                self.seconds[phase] += spent - self._open.pop()
                if self._open:
                    self._open[-1] += spent

        setattr(owner, name, timed)

    def watch_mining(self, model) -> None:
        from stx_core.mining import hard_negatives, nearest
        from stx_core.search import dense
        from stx_core.search.proxies import Proxies
        from stx_core.search.selection import Selection

        self.watch("stand-in for the model", model, "encode_query")
        self.watch("stand-in for the model", model, "encode_document")
        self.watch("read pairs", hard_negatives, "read_pairs")
        self.watch("matrix product", Proxies, "between")
        self.watch("prepare operands", Proxies, "__init__")
        self.watch("prepare operands", Proxies, "of_block")
        self.watch("selection", Selection, "add")
        self.watch("exact scores", dense, "_score_candidates")
        self.watch("exact scores", nearest, "scores_of_rows")
        self.watch("merge blocks", nearest, "merge_top_k")
        self.watch("judge and lay out", hard_negatives, "reasons")
        self.watch("judge and lay out", hard_negatives, "_mined")
        self.watch("else", hard_negatives, "mine_hard_negatives")


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


def products(folder: str, threads: int) -> dict:
    """Seconds of the matrix product of all queries with all documents, and no more."""
    import torch

    torch.set_num_threads(threads)
    queries, documents = (torch.from_numpy(np.load(f"{folder}/{side}.npy")) for side in "qd")
    seconds = {}
    for kind in (torch.bfloat16, torch.float32):
        left, right = queries.to(kind), documents.to(kind)
        out = torch.empty(1024, 8192, dtype=kind)
        torch.mm(left[:1024], right[:8192].T, out=out[: len(left), : len(right)])
        began = time.perf_counter()
        for start in range(0, len(left), 1024):
            some = left[start : start + 1024]
            for first in range(0, len(right), 8192):
                part = right[first : first + 8192]
                buffer = out.view(-1)[: len(some) * len(part)].view(len(some), len(part))
                torch.mm(some, part.T, out=buffer)
        seconds[str(kind).removeprefix("torch.")] = time.perf_counter() - began
    return seconds


def mine(method: str, folder: str, threads: int, rescored: bool = False) -> dict:
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
    phases = Phases()
    if rescored:
        options["cross_encoder"] = Judge()
    if method == "stx":
        from stx_core.mining import hard_negatives

        phases.watch_mining(model)
        mine_hard_negatives = hard_negatives.mine_hard_negatives
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
        "phases": dict(phases.seconds),
        "hash": hashlib.sha256(json.dumps(triplets).encode()).hexdigest(),
    }


def resident_kb() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def run(method: str, folder: str, arguments: argparse.Namespace) -> dict:
    """One run in a process of its own."""
    command = [
        sys.executable,
        __file__,
        "--threads",
        str(arguments.threads),
        "--run",
        method,
        folder,
    ]
    command += ["--rescored"] if arguments.rescored else []
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
    load = os.getloadavg()[0]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1]) | {"load_before": round(load, 2)}
    print(method, result, file=sys.stderr)
    return result


def medians(runs: list[dict], names: list[str]) -> dict:
    return {name: round(statistics.median(run.get(name, 0.0) for run in runs), 3) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rescored", action="store_true")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        method, folder = arguments.run
        if method == "products":
            print(json.dumps(products(folder, arguments.threads)))
        else:
            print(json.dumps(mine(method, folder, arguments.threads, arguments.rescored)))
        return
    runs: dict[str, list[dict]] = {method: [] for method in METHODS}
    with tempfile.TemporaryDirectory() as folder:
        write_embeddings(folder, arguments.queries, arguments.documents)
        for _ in range(arguments.repeats):
            for method in METHODS:
                runs[method].append(run(method, folder, arguments))
    names = ["seconds", "peak_growth_mb", "triplets"]
    ours, theirs = (medians(runs[method], names) for method in METHODS[:2])
    phases = [one["phases"] for one in runs["stx"]]
    hashes = {one["hash"] for method in METHODS[:2] for one in runs[method]}
    result = {
        "command": "python benchmarks/mining.py " + " ".join(sys.argv[1:]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {arguments.threads} threads",
        "load_before_each_run": {
            method: [one["load_before"] for one in some] for method, some in runs.items()
        },
        "queries": arguments.queries,
        "documents": arguments.documents,
        "rules": RULES,
        "rescored": arguments.rescored,
        "medians": {"stx": ours, "sentence_transformers": theirs},
        "seconds_of_each_run": {
            method: [round(one["seconds"], 2) for one in runs[method]] for method in METHODS[:2]
        },
        "phases_of_stx": medians(phases, sorted({name for one in phases for name in one})),
        "matrix_product_alone": medians(runs["products"], ["bfloat16", "float32"]),
        "times_faster": round(theirs["seconds"] / ours["seconds"], 2),
        "share_of_memory": round(ours["peak_growth_mb"] / theirs["peak_growth_mb"], 2),
        "same_triplets": len(hashes) == 1,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
