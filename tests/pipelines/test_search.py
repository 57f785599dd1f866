"""Exact search over a snapshot, against brute force in double precision."""

import numpy as np
import pytest

from stx.pipelines import search
from stx.pipelines.encode import run_encode
from stx_core import SentenceTransformer, SparseEncoder
from stx_core.errors import ModelError, SpecError
from stx_core.store.snapshot import open_snapshot

QUERIES = ["plants eat light", "glass is made of sand", "stars"]


def scores_of(queries_QD, documents_ND, similarity):
    if similarity == "euclidean":
        return -np.linalg.norm(queries_QD[:, None] - documents_ND[None], axis=-1)
    if similarity == "cosine":
        queries_QD = queries_QD / np.linalg.norm(queries_QD, axis=1, keepdims=True)
        documents_ND = documents_ND / np.linalg.norm(documents_ND, axis=1, keepdims=True)
    return queries_QD @ documents_ND.T


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_search_finds_what_brute_force_finds(
    corpus, spec_of, tmp_path, static_model, splade_model, monkeypatch, kind, similarity
):
    model_class, folder, dense = {
        "dense": (SentenceTransformer, static_model, {}),
        "sparse": (SparseEncoder, splade_model, {"convert_to_sparse_tensor": False}),
    }[kind]
    model = model_class(str(folder), similarity_fn_name=similarity)
    model.save_pretrained(tmp_path / "model")
    models = {"dense": {"model": str(tmp_path / "model"), "type": kind}}
    run_encode(spec_of(corpus, models=models, inputs={"columns": ["text"]}))
    monkeypatch.setattr(search, "_ROWS_AT_ONCE", 7)  # the best rows come in several batches

    found = search.search_snapshot(str(tmp_path / "out"), QUERIES, top_k=20)

    table = open_snapshot(str(tmp_path / "out")).to_table()
    ids, texts = table["id"].to_pylist(), table["text"].to_pylist()
    queries, documents = (
        np.asarray(encode(texts, **dense), np.float64)
        for encode, texts in ((model.encode_query, QUERIES), (model.encode_document, texts))
    )
    expected = scores_of(queries, documents, similarity)
    for rows, scores in zip(found, expected, strict=True):
        best = sorted(zip(-scores.round(4), ids, strict=True))[:20]
        np.testing.assert_allclose([-row["score"] for row in rows], [s for s, _ in best], atol=1e-3)
        assert {row["id"] for row in rows[:5]} <= {
            name for score, name in zip(scores, ids, strict=True) if score > -best[4][0] - 1e-3
        }
        assert all(row["text"] == texts[ids.index(row["id"])] for row in rows)


def test_equal_scores_are_ordered_by_id(corpus, spec_of, tmp_path, monkeypatch):
    run_encode(spec_of(corpus, inputs={"columns": ["text"], "filter": [["text", "==", "stars"]]}))
    monkeypatch.setattr(search, "_ROWS_AT_ONCE", 1)

    (rows,) = search.search_snapshot(str(tmp_path / "out"), ["plants"], top_k=3)

    every = sorted(open_snapshot(str(tmp_path / "out")).to_table()["id"].to_pylist())
    assert len(every) > 3
    assert [row["id"] for row in rows] == every[:3]


def test_search_refuses_a_model_that_did_not_write_the_snapshot(
    corpus, spec_of, tmp_path, splade_model
):
    run_encode(spec_of(corpus))

    with pytest.raises(ModelError, match="splade"):
        search.search_snapshot(str(tmp_path / "out"), QUERIES, model=str(splade_model))


def test_search_needs_the_name_of_one_of_several_outputs(
    corpus, spec_of, tmp_path, static_model, splade_model
):
    models = {"splade": {"model": str(splade_model), "type": "sparse"}}
    run_encode(spec_of(corpus, models=models))

    with pytest.raises(SpecError, match="dense, splade"):
        search.search_snapshot(str(tmp_path / "out"), QUERIES)


def test_a_column_that_was_not_copied_cannot_be_shown(corpus, spec_of, tmp_path):
    run_encode(spec_of(corpus, inputs={"columns": ["lang"]}))

    with pytest.raises(SpecError, match=r"no column 'url' was copied .*; there is lang"):
        search.search_snapshot(str(tmp_path / "out"), QUERIES, show=["url"])
    (found, *_) = search.search_snapshot(str(tmp_path / "out"), QUERIES, show=["lang"])
    assert found[0].keys() == {"id", "score", "lang"}
