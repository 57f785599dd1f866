"""Retrieval by real MiniLM over a real collection: our measures and the reference's evaluator."""

import json

import numpy as np
import pyarrow as pa
import pytest
from sentence_transformers import SentenceTransformer as Reference
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from stx_core.evaluation.measures import evaluate
from stx_core.evaluation.qrels import read_qrels
from stx_core.models.sentence_transformer import SentenceTransformer
from stx_core.store.schema import QRELS, RANKING

# Ours by theirs. AP@100 is the same only where no query has more than 100 relevant documents.
NAMES = {
    "nDCG@10": "cosine_ndcg@10",
    "RR@10": "cosine_mrr@10",
    "AP@100": "cosine_map@100",
    "R@100": "cosine_recall@100",
    "P@10": "cosine_precision@10",
    "Success@1": "cosine_accuracy@1",
}

# Of the 256 tokens that the model reads: a tenth of the time, and the same comparison.
MAX_TOKENS = 16


def read_texts(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["_id"]: f"{row.get('title', '')} {row['text']}".strip() for row in rows}


@pytest.fixture(scope="module")
def cranfield(shared_data):
    """The judged documents, the queries and the judgements of Cranfield."""
    folder = shared_data / "cranfield"
    qrels = read_qrels(str(folder / "qrels.test.tsv"))
    judged = set(qrels["doc_id"].to_pylist())
    texts = read_texts(folder / "corpus.jsonl")
    documents = {name: text for name, text in texts.items() if name in judged}
    return documents, read_texts(folder / "queries.jsonl"), qrels


def rank(model, documents, queries, k):
    """Exact search the slow way: all scores, sorted."""
    scores = model.encode(list(queries.values())) @ model.encode(list(documents.values())).T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    document_ids = np.array(list(documents))
    for query, rows, row_scores in zip(queries, best, scores, strict=True):
        yield pa.table(
            [[query] * k, document_ids[rows], np.arange(1, k + 1), row_scores[rows]], schema=RANKING
        )


@pytest.mark.timeout(300)
def test_measures_equal_those_of_the_references_evaluator(cranfield, minilm):
    documents, queries, qrels = cranfield
    # The reference knows relevant or not, no grades.
    binary = qrels.set_column(2, QRELS.field("score"), pa.array(np.ones(len(qrels), np.int32)))
    relevant = {}
    for row in binary.to_pylist():
        relevant.setdefault(row["query_id"], set()).add(row["doc_id"])
    reference, model = (
        Reference(str(minilm), device="cpu"),
        SentenceTransformer(minilm, device="cpu"),
    )
    reference.max_seq_length = model.max_seq_length = MAX_TOKENS
    evaluator = InformationRetrievalEvaluator(
        queries, documents, relevant, precision_recall_at_k=[10, 100], write_csv=False
    )

    expected = evaluator(reference)
    found = evaluate(rank(model, documents, queries, 100), binary, list(NAMES))

    assert len(found.query_ids) == 225
    assert found.means == pytest.approx(
        {ours: expected[theirs] for ours, theirs in NAMES.items()}, abs=1e-4
    )
