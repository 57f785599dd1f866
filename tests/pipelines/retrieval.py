"""Small datasets to search in, and what a slow search in float64 finds in them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stx.pipelines.encode import run_encode
from stx.pipelines.spec.file import parse_spec
from stx.pipelines.spec.retrieval import RetrieveSpec
from stx_core.store.schema import dense_matrix, sparse_csr
from stx_core.store.snapshot import open_snapshot
from tests.pipelines.conftest import texts

N_DOCUMENTS, N_QUERIES = 200, 30
LOCAL = {"runner": "local", "rows_per_unit": 64, "supervised": False}


def encode(folder, name, ids, words, models, columns=None):
    """Encode texts into a dataset; a few of them are equal, so that scores tie."""
    source = folder / f"{name}.parquet"
    table = {"id": ids, "text": words} | (columns or {})
    pq.write_table(pa.table(table), source, row_group_size=50)
    values = {
        "inputs": {"path": str(source), "columns": list(columns or {})},
        "models": models,
        "output": {"path": str(folder / name)},
        "resources": LOCAL,
        # Tests put other corpora in the place of one, and empty ones.
        "quality": {"accept": True},
    }
    run_encode(parse_spec(values))
    return str(folder / name)


def lake(folder, static_model, splade_model=None):
    """A corpus and queries with dense, and maybe sparse, vectors."""
    models = {"dense": {"model": str(static_model)}}
    if splade_model is not None:
        models["splade"] = {"model": str(splade_model), "type": "sparse"}
    documents = texts(N_DOCUMENTS, seed=1)
    documents[150:160] = documents[:10]
    # Not in the order of the ids: ties must be decided by id, not by place.
    ids = [f"d{(i * 37) % N_DOCUMENTS:03}" for i in range(N_DOCUMENTS)]
    parity = [i % 2 for i in range(N_DOCUMENTS)]
    corpus = encode(folder, "corpus", ids, documents, models, {"side": parity})
    asked = {name: model | {"task": "query"} for name, model in models.items()}
    names = [f"q{i}" for i in range(N_QUERIES - 1)] + ["d007"]
    side = [i % 2 for i in range(N_QUERIES)]
    queries = encode(folder, "queries", names, texts(N_QUERIES, seed=2), asked, {"side": side})
    return corpus, queries


def spec_for(folder, corpus, queries, **changes):
    values = {
        "queries": {"path": queries},
        "corpus": {"path": corpus},
        "k": 7,
        "output": {"path": str(folder / "ranking")},
        "resources": {"runner": "local", "rows_per_unit": 8, "rows_per_group": 60},
    }
    return parse_spec(values | changes, kind=RetrieveSpec)


def vectors(path, output):
    """Ids, float64 vectors and the column `side` of a dataset."""
    table = open_snapshot(path, output=output).to_table()
    if "embedding" in table.column_names:
        matrix = dense_matrix(table["embedding"]).astype(np.float64)
    else:
        offsets, indices, values = sparse_csr(table["sparse_embedding"])
        matrix = np.zeros((len(table), 512))
        rows = np.repeat(np.arange(len(table)), np.diff(offsets))
        matrix[rows, indices] = values
    return table["id"].to_pylist(), matrix, np.array(table["side"].to_pylist())


def scores(left, right, similarity):
    if similarity == "euclidean":
        return -np.sqrt(((left[:, None] - right[None]) ** 2).sum(-1))
    if similarity == "manhattan":
        return -np.abs(left[:, None] - right[None]).sum(-1)
    if similarity == "cosine":
        left, right = (
            x / np.maximum(np.linalg.norm(x, axis=1), 1e-30)[:, None] for x in (left, right)
        )
    return (left[:, None] * right[None]).sum(-1)


def slow_ranking(corpus, queries, output, similarity, k, *, same=False, exclude=False):
    """{query: [(document, rank, float32 score), …]} by a full comparison in float64."""
    doc_ids, documents, doc_side = vectors(corpus, output)
    query_ids, wanted, query_side = vectors(queries, output)
    table = scores(wanted, documents, similarity).astype(np.float32)
    found = {}
    for row, query in enumerate(query_ids):
        hits = [
            (-score, doc)
            for doc, score, side in zip(doc_ids, table[row].tolist(), doc_side, strict=True)
            if not (same and side != query_side[row])
            and not (exclude and doc == query)
            and not (output == "splade" and score == 0)
        ]
        found[query] = [
            (doc, rank, -score) for rank, (score, doc) in enumerate(sorted(hits)[:k], 1)
        ]
    return found


def read_ranking(path, output):
    found = {}
    for row in open_snapshot(path, output=output).to_table().to_pylist():
        hit = (row["doc_id"], row["rank"], row["score"])
        found.setdefault(row["query_id"], []).append(hit)
    return found


def assert_same(found, expected):
    """The same documents in the same order; scores to the last bits of float32."""
    assert found.keys() == {query for query, hits in expected.items() if hits}
    for query, hits in found.items():
        wanted = expected[query]
        assert [hit[:2] for hit in hits] == [hit[:2] for hit in wanted], query
        np.testing.assert_allclose(
            [hit[2] for hit in hits], [hit[2] for hit in wanted], rtol=1e-6, atol=1e-7
        )
