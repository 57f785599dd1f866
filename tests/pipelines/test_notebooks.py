"""The notebooks of the documentation, cell by cell."""

import re
from pathlib import Path

import pytest

from tests.pipelines.test_rerank import save_cross_encoder

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Executes a notebook in an empty folder, with other parameters; gives its variables."""
    monkeypatch.chdir(tmp_path)

    def execute(name, **parameters):
        cells = re.split(r"^# %%", (FOLDER / f"{name}.py").read_text(), flags=re.M)[1:]
        variables = {"__name__": "notebook"}
        for number, cell in enumerate(cells, 1):
            exec(compile(f"# %%{cell}", f"{name}.py, cell {number}", "exec"), variables)
            if 'tags=["parameters"]' in cell:
                assert parameters.keys() <= variables.keys()
                variables |= parameters
        return variables

    return execute


def test_embed_and_search(execute, minilm):
    seen = execute("1-embed-and-search", MODEL=str(minilm))

    assert [rows[0]["id"] for rows in seen["results"]] == ["p01", "p04", "p10"]
    assert seen["similarity"] > 0.99
    assert not seen["again"].committed
    assert (seen["first"].version, seen["newest"].version) == (1, 2)
    assert seen["best"]["id"] == "p10"


def test_retrieve_rerank_mine(execute, minilm, tiny_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reranker")
    reranker = save_cross_encoder(folder / "tiny", tiny_tokenizer, seed=0)

    seen = execute("2-retrieve-rerank-mine", MODEL=str(minilm), RERANKER=reranker)

    ranking = seen["ranking"].to_pylist()
    assert {r["query_id"]: r["doc_id"] for r in ranking if r["rank"] == 1} == seen["answers"]
    pairs = {(row["query_id"], row["doc_id"]) for row in ranking}
    again = seen["reranked"].to_arrow(["query_id", "doc_id", "rank"]).to_pylist()
    assert {(row["query_id"], row["doc_id"]) for row in again} == pairs
    # The tiny reranker is random: where it has the answer first, there are two negatives below it.
    best = {row["query_id"]: row["doc_id"] for row in again if row["rank"] == 1}
    right = {query for query, answer in seen["answers"].items() if best[query] == answer}
    assert right
    for query in right:
        rows = [row for row in seen["triplets"] if row["query"] == seen["questions"][query]]
        assert len(rows) == 2
        answer = seen["documents"][seen["answers"][query]]
        assert {row["positive"] for row in rows} == {answer}
        assert answer not in {row["negative"] for row in rows}


def test_evaluate_and_compare(execute, minilm):
    seen = execute("3-evaluate-and-compare", MODEL=str(minilm))

    differences = {row["measure"]: row for row in seen["compared"].values["differences"]}
    assert differences["nDCG@10"]["difference"] > 0.1
    assert {"q1", "q11"} <= set(seen["gained"])
