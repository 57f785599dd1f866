"""Rankings to mine from, made of small datasets, and what the core finds in the same vectors."""

from itertools import combinations_with_replacement

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from stx.pipelines.retrieve import run_retrieve
from stx.pipelines.spec.file import parse_spec
from stx.pipelines.spec.retrieval import MineSpec
from stx_core.mining.hard_negatives import mine_hard_negatives
from stx_core.store.schema import dense_matrix
from stx_core.store.snapshot import open_snapshot
from tests.pipelines.retrieval import encode, spec_for

N_DOCUMENTS, N_QUERIES = 120, 20


def different_texts(n_rows, words, offset=0):
    """Texts of different words each: a mean of word vectors does not know their order."""
    bags = list(combinations_with_replacement(words, 3))
    np.random.default_rng(0).shuffle(bags)
    return [" ".join(bag) for bag in bags[offset : offset + n_rows]]


def lake(folder, model, words):
    """A corpus, queries, their texts as files, and a file of judged pairs."""
    documents = different_texts(N_DOCUMENTS, words)
    queries = different_texts(N_QUERIES, words, offset=N_DOCUMENTS)
    doc_ids = [f"d{(i * 37) % N_DOCUMENTS:03}" for i in range(N_DOCUMENTS)]
    query_ids = [f"q{i:02}" for i in range(N_QUERIES)]
    models = {"dense": {"model": str(model)}}
    corpus = encode(folder, "corpus", doc_ids, documents, models)
    asked = {name: each | {"task": "query"} for name, each in models.items()}
    encoded = encode(folder, "queries", query_ids, queries, asked)
    judged = near_pairs(known_vectors(encoded), known_vectors(corpus))
    (folder / "qrels.tsv").write_text(qrels(judged))
    return corpus, encoded, judged


def known_vectors(path):
    """Ids and vectors, by id."""
    table = open_snapshot(path, output="dense").to_table()
    return dict(zip(table["id"].to_pylist(), dense_matrix(table["embedding"]), strict=True))


def near_pairs(queries, documents):
    """One to three positives of each query, the first among the best ten, the last further away."""
    names = list(documents)
    matrix = np.stack(list(documents.values()))
    matrix = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    pairs = []
    for number, (query, vector) in enumerate(queries.items()):
        order = np.argsort(-(matrix @ vector), kind="stable")
        places = (number % 10, 15 + number, 60)[: 1 + number % 3]
        pairs += [(query, names[order[place]]) for place in places]
    return pairs


def qrels(pairs):
    lines = [f"{query}\t{document}\t1" for query, document in pairs]
    return "query-id\tcorpus-id\tscore\n" + "\n".join(lines) + "\n"


def retrieve(folder, corpus, queries, name="ranking", **changes):
    """A ranking with the scores of judged pairs; units of three queries."""
    spec = spec_for(folder, corpus, queries, **{
        "k": 40,
        "output": {"path": str(folder / name)},
        "resources": {"runner": "local", "rows_per_unit": 3, "rows_per_group": 50},
    } | changes)  # fmt: skip
    run_retrieve(spec)
    return spec.output.path


def mine_spec(folder, ranking, judged, **changes):
    values = {
        "candidates": {"dense": {"path": ranking}},
        "positives": str(judged),
        "queries": {"path": str(folder / "queries.parquet")},
        "documents": {"path": str(folder / "corpus.parquet")},
        "output": {"path": str(folder / "mined")},
        "resources": {"runner": "local", "rows_per_unit": 100},
    }
    return parse_spec(values | changes, kind=MineSpec)


def read(path, output):
    return open_snapshot(path, output=output).to_table()


class Known:
    """A model that knows the vectors of a dataset by their texts."""

    similarity_fn_name = "cosine"
    device = "cpu"

    def __init__(self, folder, corpus, queries):
        self.vectors = {}
        for name, path in (("corpus", corpus), ("queries", queries)):
            table = pq.read_table(folder / f"{name}.parquet", columns=["id", "text"])
            texts = dict(
                zip(*(table[column].to_pylist() for column in table.column_names), strict=True)
            )
            self.vectors |= {texts[id_]: row for id_, row in known_vectors(path).items()}

    def encode_query(self, texts, **_):
        return np.stack([self.vectors[text] for text in texts])

    encode_document = encode_query


def core_triplets(folder, corpus, queries, judged, **rules):
    """(query, positive, negative, scores) by `mine_hard_negatives`, in memory."""
    tables = {
        name: pq.read_table(folder / f"{name}.parquet", columns=["id", "text"])
        for name in ("corpus", "queries")
    }
    texts = {
        name: dict(zip(*(table[column].to_pylist() for column in ("id", "text")), strict=True))
        for name, table in tables.items()
    }
    pairs = pa.table(
        {
            "query": [texts["queries"][query] for query, _ in judged],
            "answer": [texts["corpus"][document] for _, document in judged],
        }
    )
    mined = mine_hard_negatives(
        Dataset(pairs), Known(folder, corpus, queries), corpus=tables["corpus"]["text"].to_pylist(),
        output_format="triplet", output_scores=True, verbose=False, **rules,
    )  # fmt: skip
    return [tuple(row.values()) for row in mined]
