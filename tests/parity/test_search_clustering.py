"""Search, paraphrases and communities against Sentence Transformers, on the same embeddings."""

import inspect

import numpy as np
import pytest
import torch
from sentence_transformers import util as reference

from stx_core import util

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly:UserWarning"),
]
FUNCTIONS = ["cos_sim", "dot_score", "euclidean_sim", "manhattan_sim"]


def embeddings(n, width=24, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=(n, width)), dtype=torch.float32)


@pytest.mark.parametrize(
    "name",
    ["semantic_search", "paraphrase_mining", "paraphrase_mining_embeddings", "community_detection"],
)
def test_arguments_and_defaults_are_the_references(name):
    ours = inspect.signature(getattr(util, name)).parameters
    theirs = inspect.signature(getattr(reference, name)).parameters

    def plain(parameters):
        return [(p.name, getattr(p.default, "__name__", p.default)) for p in parameters.values()]

    assert plain(ours) == plain(theirs)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_semantic_search_equals_the_reference(name, sparse):
    queries, corpus = embeddings(7, seed=1), embeddings(200, seed=2)
    if sparse:
        queries, corpus = (x.clamp_min(0.8).sub(0.8).to_sparse() for x in (queries, corpus))

    ours, theirs = (
        u.semantic_search(queries, corpus, 3, 64, 5, getattr(u, name)) for u in (util, reference)
    )

    assert [[hit["corpus_id"] for hit in hits] for hits in ours] == [
        [hit["corpus_id"] for hit in hits] for hits in theirs
    ]
    for mine, other in zip(ours, theirs, strict=True):
        scores = [hit["score"] for hit in other]
        assert [hit["score"] for hit in mine] == pytest.approx(scores, abs=1e-4)


@pytest.mark.parametrize(("max_pairs", "top_k"), [(500, 100), (30, 100), (500, 3)])
def test_paraphrase_mining_equals_the_reference(max_pairs, top_k):
    rows = embeddings(60)

    ours, theirs = (
        u.paraphrase_mining_embeddings(rows, 16, 25, max_pairs, top_k) for u in (util, reference)
    )

    assert [row[1:] for row in ours] == [row[1:] for row in theirs]
    assert [row[0] for row in ours] == pytest.approx([row[0] for row in theirs], abs=1e-6)


@pytest.mark.parametrize(
    ("threshold", "size", "width"), [(0.75, 10, 3), (0.5, 3, 6), (0.4, 20, 8), (0.9, 1, 4)]
)
def test_communities_equal_the_references(threshold, size, width):
    rows = embeddings(700, width)

    ours, theirs = (
        u.community_detection(rows, threshold, size, batch_size=128) for u in (util, reference)
    )

    assert len(ours) > 1
    assert ours == theirs


def test_communities_of_real_questions_equal_the_references(shared_data):
    path = shared_data / "stackoverflow20k/title_StackOverflow.txt"
    texts = path.read_text().splitlines()[:4000]
    from stx_core import SentenceTransformer

    model = SentenceTransformer(str(shared_data / "models/model2vec_semhash_test"))
    rows = model.encode(texts)

    ours, theirs = (u.community_detection(rows, 0.7, 5) for u in (util, reference))

    assert len(ours) > 10
    assert [set(rows) for rows in ours] == [set(rows) for rows in theirs]
