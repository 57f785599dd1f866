import numpy as np
import pytest
import torch

from stx_core.errors import InputError, ModelError
from stx_core.models.modules.bow import BoW
from stx_core.models.modules.sparse_auto_encoder import SparseAutoEncoder
from stx_core.models.modules.splade_pooling import SpladePooling
from stx_core.models.sparse_encoder import SparseEncoder
from stx_core.search.sparse_rows import SparseRows

# torch multiplies COO tensors through CSR ones, and warns of them once per process.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")

VOCAB = ["sun", "sea", "rain", "query:"]
WEIGHTS = {"sun": 1.5, "sea": -2.0, "rain": 0.25, "query:": 8.0}


@pytest.fixture
def model() -> SparseEncoder:
    return SparseEncoder(modules=[BoW(VOCAB, WEIGHTS)], device="cpu")


def test_the_result_is_one_coo_tensor_and_similarity_is_the_dot_product(model):
    embeddings = model.encode(["sun sun", "sea sun"])

    assert embeddings.layout == torch.sparse_coo
    assert embeddings.to_dense().tolist() == [[3, 0, 0, 0], [1.5, -2, 0, 0]]
    assert model.similarity_fn_name == "dot"
    assert model.similarity(embeddings, embeddings).tolist() == [[9, 4.5], [4.5, 6.25]]
    assert model.similarity_pairwise(embeddings, embeddings).tolist() == [9, 6.25]


def test_similarity_is_cosine_when_the_folder_says_so(tmp_path):
    model = SparseEncoder(modules=[BoW(VOCAB)], similarity_fn_name="cosine", device="cpu")
    model.save_pretrained(tmp_path)

    again = SparseEncoder(tmp_path, device="cpu")

    one, other = again.encode(["sun sun", "sun"])
    assert again.similarity_fn_name == "cosine"
    assert again.similarity(one, other).item() == pytest.approx(1.0)


def test_a_similarity_that_does_not_exist_is_refused(model):
    with pytest.raises(ValueError, match="maxsim"):
        model.similarity_fn_name = "maxsim"


def test_embedded_rows_are_sorted_without_zeros_and_counted(model):
    embedded = model.embed(["rain sun sea", "moon", "sun"])

    assert isinstance(embedded.values, SparseRows)
    assert embedded.values.offsets.tolist() == [0, 3, 3, 4]
    assert embedded.values.indices.tolist() == [0, 1, 2, 0]
    assert embedded.values.values.tolist() == [1.5, -2, 0.25, 1.5]
    assert embedded.n_tokens.tolist() == [3, 0, 1]
    assert embedded.n_tokens.dtype == np.int32
    assert embedded.truncated.tolist() == [False] * 3
    assert embedded.failed == {}


def test_embedding_nothing_gives_no_rows(model):
    embedded = model.embed([])

    assert embedded.values.offsets.tolist() == [0]
    assert len(embedded.n_tokens) == 0


def test_embedding_and_encoding_give_the_same_numbers_for_every_batch(model):
    texts = ["sun " * n + "sea " * (n % 3) for n in range(9)]
    expected = model.encode(texts, convert_to_sparse_tensor=False)

    for budget in (1, 7, 10_000):
        rows = model.embed(texts, token_budget=budget).values
        dense = np.zeros((9, 4), np.float32)
        dense[np.repeat(np.arange(9), np.diff(rows.offsets)), rows.indices] = rows.values
        np.testing.assert_array_equal(dense, expected.numpy())


def test_a_task_takes_its_prompt_and_a_given_prompt_wins(tmp_path):
    model = SparseEncoder(modules=[BoW(VOCAB, WEIGHTS)], prompts={"query": "query: "}, device="cpu")

    as_query = model.embed(["sun"], task="query").values
    as_document = model.embed(["sun"], task="document").values
    given = model.embed(["sun"], task="query", prompt="sea ").values

    assert as_query.values.tolist() == [1.5, 8.0]
    assert as_document.values.tolist() == [1.5]
    assert given.values.tolist() == [1.5, -2.0]
    assert model.encode_query("sun").to_dense().tolist() == [1.5, 0, 0, 8]


def test_the_limit_of_a_call_goes_before_the_models(tmp_path):
    SparseEncoder(modules=[BoW(VOCAB, WEIGHTS)], max_active_dims=2, device="cpu").save_pretrained(
        tmp_path
    )
    model = SparseEncoder(tmp_path, device="cpu")

    by_model = model.encode("sun sea rain").to_dense()
    by_call = model.encode("sun sea rain", max_active_dims=1).to_dense()

    assert model.max_active_dims == 2
    assert by_model.tolist() == [1.5, -2, 0, 0]
    assert by_call.tolist() == [0, -2, 0, 0]


def test_an_autoencoder_sets_the_limit_when_nobody_else_does():
    modules = [BoW(VOCAB), SparseAutoEncoder(4, hidden_dim=16, k=3)]

    assert SparseEncoder(modules=modules, device="cpu").max_active_dims == 3
    assert SparseEncoder(modules=modules, device="cpu", max_active_dims=5).max_active_dims == 5


@pytest.mark.parametrize("bad", [0, -1, True, 2.0])
def test_a_limit_that_is_no_positive_integer_is_refused(model, bad):
    with pytest.raises(ValueError, match="positive integer or None"):
        model.encode(["sun"], max_active_dims=bad)
    with pytest.raises(ValueError, match="positive integer or None"):
        SparseEncoder(modules=[BoW(VOCAB)], max_active_dims=bad, device="cpu")


def test_non_string_inputs_are_refused(model):
    with pytest.raises(InputError, match="input 1 is NoneType"):
        model.encode(["sun", None])


def test_texts_come_in_any_container_and_under_the_older_name(model):
    expected = model.encode(["sun", "sea"]).to_dense()

    for texts in (("sun", "sea"), np.array(["sun", "sea"]), iter(["sun", "sea"])):
        assert torch.equal(model.encode(texts).to_dense(), expected)
    assert torch.equal(model.encode(sentences=["sun", "sea"]).to_dense(), expected)


@pytest.mark.parametrize("options", [{"pool": {}}, {"chunk_size": 5}, {"device": ["cpu", "cpu"]}])
def test_several_processes_are_the_work_of_the_job(model, options):
    with pytest.raises(ValueError, match="stx encode"):
        model.encode(["sun"], **options)


def test_unknown_arguments_are_refused(model):
    with pytest.raises(ValueError, match=r"does not know \['normalise'\]"):
        model.encode(["sun"], normalise=True)


@pytest.mark.parametrize("name", ["batch_size", "token_budget"])
def test_batches_of_no_texts_are_refused(model, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        model.encode(["sun"], **{name: 0})


class Exploding(BoW):
    """Runs out of memory on any batch with more than three words."""

    def forward(self, features):
        if len(features["input_ids"]) > 3:
            raise torch.OutOfMemoryError("no memory left")
        return super().forward(features)


def test_a_text_that_does_not_fit_is_an_empty_row_with_a_reason_or_an_error():
    model = SparseEncoder(modules=[Exploding(VOCAB)], device="cpu")
    texts = ["sun", "sea " * 4, "rain"]

    embedded = model.embed(texts)

    assert np.diff(embedded.values.offsets).tolist() == [1, 0, 1]
    assert list(embedded.failed) == [1]
    assert "4 tokens" in embedded.failed[1]
    with pytest.raises(InputError, match=r"input 1: .*4 tokens"):
        model.encode(texts)


class PassingOn(SpladePooling):
    """Counts in the batches that the memory of the logits decides, without any logits."""

    def __init__(self, width):
        super().__init__(embedding_dimension=width)
        self.batches = []

    def forward(self, features):
        self.batches.append(len(features["offsets"]))
        return features


@pytest.mark.parametrize(("width", "batches"), [(30_000, [10]), (1 << 20, [5, 5])])
def test_a_large_vocabulary_makes_smaller_splade_batches(width, batches):
    pooling = PassingOn(width)
    model = SparseEncoder(modules=[BoW(VOCAB), pooling], device="cpu")

    model.embed(["sun " * 100] * 10)

    assert pooling.batches == batches


def test_the_splade_chunk_size_reaches_the_pooling_and_is_not_saved(tmp_path):
    model = SparseEncoder(modules=[BoW(VOCAB), SpladePooling()], device="cpu")

    model.splade_pooling_chunk_size = 16
    model.save_pretrained(tmp_path)

    assert model[1].chunk_size == model.splade_pooling_chunk_size == 16
    assert SparseEncoder(tmp_path, device="cpu").splade_pooling_chunk_size is None


def test_a_chunk_size_without_splade_pooling_is_refused(model):
    assert model.splade_pooling_chunk_size is None
    with pytest.raises(ModelError, match="no SpladePooling"):
        model.splade_pooling_chunk_size = 4
