"""The jobs end to end over a real collection, and the reference's evaluator on the same model."""

import json
import re
from collections import Counter

import numpy as np
import pytest
import yaml
from sentence_transformers import SentenceTransformer as Reference
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from stx.pipelines.flow import FlowSpec, read_steps
from stx.pipelines.spec.file import parse_spec
from stx_core.evaluation.qrels import read_qrels
from tests.parity.test_evaluation import read_texts
from tests.pipelines.test_rerank import judges  # noqa: F401  (a fixture)


@pytest.fixture
def collection(shared_data, save_static_model, tmp_path):
    """Cranfield, and a model with a random vector for each of its words: fast, and not bad."""
    folder = shared_data / "cranfield"
    counts = Counter(re.findall("[a-z]+", (folder / "corpus.jsonl").read_text().lower()))
    words = sorted(counts)
    random = np.random.default_rng(0)
    weights = random.standard_normal((len(words) + 1, 256)).astype(np.float32)
    weights[1:] *= np.array([[1 / np.sqrt(counts[word])] for word in words], np.float32)
    return folder, save_static_model(tmp_path / "words", words, weights)


def flow(folder, model, splade, judge, tmp_path):
    """Dense and sparse rankings of Cranfield, their fusion, a reranking, and measures of all."""
    texts = {"id_column": "_id", "text_column": "text"}
    at = {name: str(tmp_path / name) for name in ("corpus", "queries", "rankings", "reranked")}

    def encode(name, task):
        models = {"dense": {"model": str(model), "task": task},
                  "splade": {"model": str(splade), "type": "sparse", "task": task,
                             "max_active_dims": 64}}  # fmt: skip
        where = {"path": str(folder / f"{name}.jsonl"), **texts}
        if name == "corpus":
            where |= {"text_column": ["title", "text"], "text_separator": " "}
        return {"encode": {"inputs": where, "models": models, "output": {"path": at[name]}}}

    where = {"dense": "rankings", "splade": "rankings", "hybrid": "rankings", "judge": "reranked"}
    evaluate = [
        {"evaluate": {"ranking": at[dataset], "output": name,
                      "qrels": str(tmp_path / "qrels.tsv"),
                      "measures": ["nDCG@10", "R@100", "P@10"],
                      "json_file": str(tmp_path / f"{name}.json")}}
        for name, dataset in where.items()
    ]  # fmt: skip
    steps = [
        encode("corpus", "document"),
        encode("queries", "query"),
        {"retrieve": {"queries": {"path": at["queries"]}, "corpus": {"path": at["corpus"]},
                      "k": 100, "fusion": {}, "output": {"path": at["rankings"]},
                      "resources": {"rows_per_group": 500}}},
        {"rerank": {"candidates": {"path": at["rankings"], "output": "dense", "depth": 10},
                    "queries": {"path": str(folder / "queries.jsonl"), **texts},
                    "documents": {"path": str(folder / "corpus.jsonl"), **texts,
                                  "text_column": "title"},
                    "rerankers": {"judge": {"model": judge}},
                    "output": {"path": at["reranked"]}}},
        *evaluate,
    ]  # fmt: skip
    return {"resources": {"runner": "local", "supervised": False}, "steps": steps}


@pytest.mark.timeout(300)
def test_a_flow_over_a_real_collection_measures_what_the_reference_does(
    collection,
    splade_model,
    judges,  # noqa: F811
    tmp_path,
):
    folder, model = collection
    relevant = {}
    for row in read_qrels(str(folder / "qrels.test.tsv")).to_pylist():
        if row["score"] > 0:
            relevant.setdefault(row["query_id"], set()).add(row["doc_id"])
    # The reference knows relevant or not, no grades.
    pairs = [f"{query}\t{doc}\t1" for query, docs in relevant.items() for doc in sorted(docs)]
    lines = ["query-id\tcorpus-id\tscore", *pairs]
    (tmp_path / "qrels.tsv").write_text("\n".join(lines) + "\n")
    values = yaml.safe_load(
        yaml.safe_dump(flow(folder, model, splade_model, judges["small"], tmp_path))
    )
    for step in read_steps(parse_spec(values, kind=FlowSpec)):
        step.run(step.spec)

    documents = read_texts(folder / "corpus.jsonl")
    queries = read_texts(folder / "queries.jsonl")
    reference = InformationRetrievalEvaluator(
        queries, documents, relevant, precision_recall_at_k=[100], show_progress_bar=False
    )
    theirs = reference(Reference(str(model), device="cpu"))
    ours = {
        name: json.loads((tmp_path / f"{name}.json").read_text())["measures"]
        for name in ("dense", "splade", "hybrid", "judge")
    }
    assert ours["dense"]["R@100"] == pytest.approx(theirs["cosine_recall@100"], abs=1e-4)
    assert ours["dense"]["nDCG@10"] == pytest.approx(theirs["cosine_ndcg@10"], abs=1e-4)
    assert ours["dense"]["nDCG@10"] > 0.1
    # Random weights find little, but something: and fused with a good ranking stay a ranking.
    assert 0 < ours["splade"]["nDCG@10"] < ours["dense"]["nDCG@10"]
    assert ours["hybrid"]["R@100"] > ours["splade"]["R@100"]
    # A judge that knows nothing shuffles ten good candidates, and loses none of them.
    at_ten = {name: values["P@10"] for name, values in ours.items()}
    assert at_ten["judge"] == pytest.approx(at_ten["dense"], abs=1e-9)
    assert ours["judge"]["nDCG@10"] < ours["dense"]["nDCG@10"]
