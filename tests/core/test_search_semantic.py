from functools import partial

import numpy as np
import pytest
import torch

from stx_core.search.bitext import bitext_mining
from stx_core.search.paraphrases import paraphrase_mining, paraphrase_mining_embeddings
from stx_core.search.semantic import semantic_search
from stx_core.similarity import cos_sim, dot_score, euclidean_sim, manhattan_sim

rng = np.random.default_rng(5)


def normals(n, width=8):
    return torch.tensor(rng.normal(size=(n, width)), dtype=torch.float32)


def test_equal_scores_come_by_row_for_built_in_and_own_functions():
    queries, corpus = torch.eye(2), torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1], [1, 0]])

    for function in (dot_score, lambda a, b: dot_score(a, b)):
        found = semantic_search(
            queries, corpus, top_k=4, score_function=function, corpus_chunk_size=2
        )

        assert [[hit["corpus_id"] for hit in hits] for hits in found] == [
            [0, 2, 4, 1],
            [1, 3, 0, 2],
        ]


def test_results_are_python_numbers_and_no_more_than_there_are_rows():
    found = semantic_search(normals(1)[0], normals(3), top_k=10)

    assert len(found) == 1
    assert len(found[0]) == 3
    assert {type(hit["corpus_id"]) for hit in found[0]} == {int}
    assert {type(hit["score"]) for hit in found[0]} == {float}
    assert semantic_search(normals(2), normals(0)) == [[], []]


@pytest.mark.parametrize("chunk", [3, 1000])
def test_paraphrases_are_each_pair_once_best_first(chunk):
    embeddings = torch.nn.functional.normalize(normals(40))
    scores = (embeddings.double() @ embeddings.double().T).numpy()
    expected = sorted((-scores[i, j], i, j) for i in range(40) for j in range(i + 1, 40))

    found = paraphrase_mining_embeddings(embeddings, query_chunk_size=chunk, max_pairs=50)

    assert [(i, j) for _, i, j in found] == [(i, j) for _, i, j in expected[:50]]
    assert [row[0] for row in found] == pytest.approx([-row[0] for row in expected[:50]])


def test_paraphrase_mining_embeds_with_the_arguments_it_was_given():
    class Model:
        def encode(self, texts, **settings):
            self.settings = settings
            return torch.tensor([[len(text), 1.0] for text in texts])

    model = Model()

    found = paraphrase_mining(model, ["aa", "bb", "c"], batch_size=3, prompt="query: ", top_k=1)

    assert found[0] == [pytest.approx(1.0), 0, 1]
    assert model.settings["prompt"] == "query: "
    assert (model.settings["batch_size"], model.settings["convert_to_tensor"]) == (3, True)


@pytest.mark.parametrize("margin", ["ratio", "distance", "absolute"])
@pytest.mark.parametrize("direction", ["max", "intersection", "forward", "backward"])
def test_planted_translations_are_found(margin, direction):
    sources = normals(60, 32)
    order = torch.randperm(60)
    targets = sources[order] + 0.1 * normals(60, 32)

    found = bitext_mining(sources, targets, margin=margin, direction=direction)

    assert len(found.scores) == 60
    np.testing.assert_array_equal(order[found.targets], found.sources)
    assert (np.diff(found.scores) <= 0).all()


def margins_by_definition(sources, targets, k):
    x, y = (torch.nn.functional.normalize(side.double()).numpy() for side in (sources, targets))
    cosines = x @ y.T
    forward = np.sort(cosines, axis=1)[:, -k:].mean(axis=1)
    backward = np.sort(cosines, axis=0)[-k:].mean(axis=0)
    return cosines, (forward[:, None] + backward[None]) / 2


def test_margins_are_those_of_the_paper():
    sources, targets = normals(30) + 1, normals(20) + 1
    cosines, means = margins_by_definition(sources, targets, 3)
    expected = {"ratio": cosines / means, "distance": cosines - means, "absolute": cosines}

    for margin, scores in expected.items():
        found = bitext_mining(sources, targets, k=3, margin=margin, direction="forward")

        pairs = found.sources, found.targets
        np.testing.assert_allclose(found.scores, scores[pairs], rtol=1e-5)


def test_pairs_of_low_margin_are_left_out():
    sources, targets = normals(30), normals(20)
    everything = bitext_mining(sources, targets).scores
    border = float(np.median(everything))

    found = bitext_mining(sources, targets, min_score=border)

    assert found.scores.tolist() == everything[everything >= border].tolist()


def test_each_text_is_used_once_by_max():
    found = bitext_mining(normals(50), normals(30))

    assert len(set(found.sources.tolist())) == len(found.sources)
    assert len(set(found.targets.tolist())) == len(found.targets)


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="margin one of ratio"):
        bitext_mining(normals(2), normals(2), margin="sum")
    with pytest.raises(ValueError, match="direction must be"):
        bitext_mining(normals(2), normals(2), direction="both")


@pytest.mark.parametrize("language", ["deu", "fra", "spa"])
def test_real_translations_are_found_by_shared_words_alone(shared_data, language):
    # The small English model knows only names, numbers and loans of other languages: 4 to 9 % of
    # the sentences, where chance is 0.1 %. As in the paper, the margin must beat the plain cosine.
    from stx_core import SentenceTransformer

    texts = [
        (shared_data / f"tatoeba/tatoeba.{language}-eng.{side}").read_text().splitlines()
        for side in (language, "eng")
    ]
    model = SentenceTransformer(str(shared_data / "models/model2vec_semhash_test"))
    sources, targets = (model.encode(side) for side in texts)

    def accuracy(margin):
        found = bitext_mining(sources, targets, margin=margin, direction="forward")
        return float((found.sources == found.targets).mean())

    assert accuracy("ratio") > max(0.03, 1.1 * accuracy("absolute"))


def test_vectors_without_direction_have_no_margin():
    found = bitext_mining(torch.zeros(2, 3), torch.zeros(2, 3), direction="forward")

    assert found.scores.tolist() == [0.0, 0.0]


# --- No rows, odd numbers ------------------------------------------------------------------------

NOTHING = {"numpy": np.array([]), "torch": torch.tensor([]), "list": []}
BY = [cos_sim, dot_score, euclidean_sim, manhattan_sim, lambda a, b: cos_sim(a, b)]


@pytest.mark.parametrize("score", BY)
@pytest.mark.parametrize("kind", NOTHING)
def test_embeddings_of_no_texts_find_nothing(kind, score):
    nothing, some = NOTHING[kind], np.eye(3, dtype=np.float32)

    assert semantic_search(nothing, nothing, score_function=score) == []
    assert semantic_search(nothing, some, score_function=score) == []
    assert semantic_search(some, nothing, score_function=score) == [[], [], []]
    assert paraphrase_mining_embeddings(nothing, score_function=score) == []


@pytest.mark.parametrize("score", BY)
def test_one_sparse_vector_is_a_query(score):
    rows = torch.tensor([[0.0, 1, 2], [3, 0, 0]])

    sparse = semantic_search(rows[0].to_sparse(), rows.to_sparse(), score_function=score)

    dense = semantic_search(rows[0], rows, score_function=score)
    assert [[hit["corpus_id"] for hit in hits] for hits in sparse] == [
        [hit["corpus_id"] for hit in hits] for hits in dense
    ]
    assert semantic_search(torch.zeros(0).to_sparse(), rows.to_sparse(), score_function=score) == []


@pytest.mark.parametrize("layout", [torch.Tensor.clone, torch.Tensor.to_sparse])
@pytest.mark.parametrize("score", BY)
def test_rows_that_are_not_finite_are_refused_by_number(score, layout):
    good, bad = torch.eye(3), torch.eye(3)
    bad[1, 1] = torch.nan
    good, bad = layout(good), layout(bad)

    with pytest.raises(ValueError, match="row 1 of the corpus holds NaN"):
        semantic_search(good, bad, score_function=score)
    with pytest.raises(ValueError, match="row 1 of the queries holds NaN"):
        semantic_search(bad, good, score_function=score)
    with pytest.raises(ValueError, match="row 1 of the embeddings holds NaN"):
        paraphrase_mining_embeddings(bad, score_function=score)


@pytest.mark.parametrize("value", [-1, 0])
@pytest.mark.parametrize("name", ["query_chunk_size", "corpus_chunk_size"])
def test_chunks_have_at_least_one_row(name, value):
    for search in (partial(semantic_search, np.eye(2)), paraphrase_mining_embeddings):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got {value}"):
            search(np.eye(2), **{name: value})


def test_counts_of_results_are_none_or_more():
    rows = np.eye(2)

    for name in ("max_pairs", "top_k"):
        with pytest.raises(ValueError, match=f"{name} must be at least 0, got -1"):
            paraphrase_mining_embeddings(rows, **{name: -1})
        assert paraphrase_mining_embeddings(rows, **{name: 0}) == []
    with pytest.raises(ValueError, match="top_k must be at least 0, got -1"):
        semantic_search(rows, rows, top_k=-1)
    assert semantic_search(rows, rows, top_k=0) == [[], []]


@pytest.mark.parametrize("score", ["cosine", "cos_sim", None, 3])
def test_a_score_function_is_a_function(score):
    with pytest.raises(ValueError, match=r"a function such as cos_sim, dot_score.*got"):
        semantic_search(np.eye(2), np.eye(2), score_function=score)


@pytest.mark.parametrize("nothing", [np.array([]), torch.tensor([])])
def test_no_texts_have_no_translations(nothing):
    some = np.eye(2, dtype=np.float32)

    for sides in ((nothing, nothing), (nothing, some), (some, nothing)):
        assert len(bitext_mining(*sides).scores) == 0
