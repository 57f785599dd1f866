"""Programs that load a model by the name of Sentence Transformers: they get what stx encodes."""

import numpy as np
import pytest

from stx_core import CrossEncoder, SparseEncoder
from tests.clients.conftest import TEXTS


def test_langchain(minilm, same):
    huggingface = pytest.importorskip("langchain_huggingface")
    embeddings = huggingface.HuggingFaceEmbeddings(model_name=str(minilm))

    same(embeddings.embed_documents(TEXTS))
    same([embeddings.embed_query(text) for text in TEXTS])


def test_llama_index(minilm, same):
    huggingface = pytest.importorskip("llama_index.embeddings.huggingface")
    embedding = huggingface.HuggingFaceEmbedding(model_name=str(minilm), device="cpu")

    same(embedding.get_text_embedding_batch(TEXTS))
    same([embedding.get_query_embedding(text) for text in TEXTS])


def test_txtai(minilm, expected):
    txtai = pytest.importorskip("txtai")
    embeddings = txtai.Embeddings(path=str(minilm), method="sentence-transformers")

    embeddings.index(TEXTS)

    ((row, score),) = embeddings.search(TEXTS[1], 1)
    assert row == 1
    assert score == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(embeddings.transform(TEXTS[0]), expected[0], atol=1e-5)


def test_chroma(minilm, same):
    functions = pytest.importorskip("chromadb.utils.embedding_functions")
    embed = functions.SentenceTransformerEmbeddingFunction(model_name=str(minilm))

    same(embed(TEXTS))


def test_lancedb(minilm, same):
    lancedb = pytest.importorskip("lancedb.embeddings")
    function = lancedb.get_registry().get("sentence-transformers").create(name=str(minilm))

    same(function.generate_embeddings(TEXTS))
    assert function.ndims() == 384


def test_semhash_by_its_plug_in_point(model):
    semhash = pytest.importorskip("semhash")
    records = [*TEXTS, TEXTS[1] + "."]

    result = semhash.SemHash.from_records(records=records, model=model).self_deduplicate(0.95)

    assert sorted(result.selected) == sorted(TEXTS)


class TestHaystack:
    @pytest.fixture
    def components(self):
        return pytest.importorskip(
            "haystack_integrations.components.embedders.sentence_transformers"
        )

    @pytest.fixture
    def documents(self):
        from haystack import Document

        return [Document(content=text) for text in TEXTS]

    def test_text_embedder(self, components, minilm, same):
        embedder = components.SentenceTransformersTextEmbedder(model=str(minilm))
        embedder.warm_up()

        same([embedder.run(text=text)["embedding"] for text in TEXTS])

    def test_document_embedder(self, components, documents, minilm, same):
        embedder = components.SentenceTransformersDocumentEmbedder(model=str(minilm))
        embedder.warm_up()

        same([each.embedding for each in embedder.run(documents=documents)["documents"]])

    def test_sparse_document_embedder(self, components, documents, splade_model):
        embedder = components.SentenceTransformersSparseDocumentEmbedder(model=str(splade_model))
        embedder.warm_up()

        embedded = embedder.run(documents=documents)["documents"]

        expected = SparseEncoder(str(splade_model)).encode(TEXTS, convert_to_tensor=True).to_dense()
        for row, each in zip(expected, embedded, strict=True):
            values = np.zeros(len(row), np.float32)
            values[each.sparse_embedding.indices] = each.sparse_embedding.values
            np.testing.assert_allclose(values, row.numpy(), atol=1e-5)

    def test_similarity_ranker(self, documents, cross_encoder):
        rankers = pytest.importorskip(
            "haystack_integrations.components.rankers.sentence_transformers"
        )
        ranker = rankers.SentenceTransformersSimilarityRanker(
            model=str(cross_encoder), scale_score=False
        )
        ranker.warm_up()

        ranked = ranker.run(query="plants", documents=documents)["documents"]

        pairs = [("plants", each.content) for each in ranked]
        scores = CrossEncoder(str(cross_encoder)).predict(pairs)
        assert list(scores) == sorted(scores, reverse=True)


class TestBeir:
    def test_dense_search(self, minilm, model):
        models = pytest.importorskip("beir.retrieval.models")
        from beir.retrieval.search.dense import DenseRetrievalExactSearch

        search = DenseRetrievalExactSearch(models.SentenceBERT(str(minilm)), batch_size=16)
        corpus = {f"d{i}": {"title": "", "text": text} for i, text in enumerate(TEXTS)}

        queries = {"q0": TEXTS[2], "q1": TEXTS[0]}

        rankings = search.search(corpus, queries, top_k=2, score_function="cos_sim")

        similarities = model.similarity(model.encode([*queries.values()]), model.encode(TEXTS))
        for row, ranking in zip(similarities.tolist(), rankings.values(), strict=True):
            scores = {name: row[int(name[1:])] for name in ranking}
            assert ranking == pytest.approx(scores, abs=1e-5)
        assert "d2" in rankings["q0"]
        assert "d0" in rankings["q1"]

    def test_reranker(self, cross_encoder):
        reranking = pytest.importorskip("beir.reranking.models")
        pairs = [("plants", text) for text in TEXTS]

        scores = reranking.CrossEncoder(str(cross_encoder)).predict(pairs, show_progress_bar=False)

        expected = CrossEncoder(str(cross_encoder)).predict(pairs)
        np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_mteb_wraps_a_model(model, same):
    mteb = pytest.importorskip("mteb")
    from datasets import Dataset
    from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper
    from torch.utils.data import DataLoader

    wrapper = SentenceTransformerEncoderWrapper(model)
    inputs = DataLoader(Dataset.from_dict({"text": TEXTS}), batch_size=2)
    task = mteb.get_task("STSBenchmark").metadata

    encoded = wrapper.encode(inputs, task_metadata=task, hf_split="test", hf_subset="default")

    same(encoded)
    assert wrapper.mteb_model_meta.embed_dim == 384
