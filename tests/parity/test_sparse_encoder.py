"""Sparse encoders in every published layout, with small random weights, against the reference."""

import functools
import json
import shutil
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer as ReferenceDenseModel
from sentence_transformers import SparseEncoder as Reference
from sentence_transformers.base.modules import Router as ReferenceRouter
from sentence_transformers.base.modules import Transformer as ReferenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling as ReferencePooling
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder as ReferenceSae
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding as ReferenceStatic
from sentence_transformers.sparse_encoder.modules import SpladePooling as ReferenceSplade
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, BertModel

from stx_core.errors import ModelError
from stx_core.models.sparse_encoder import SparseEncoder

# torch warns once per process, so in whichever test comes first: it multiplies COO tensors through
# CSR ones, and the reference builds COO tensors without a word on checking them.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly:UserWarning"),
]

# The inputs of the quickstart.
TEXTS = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
VOCABULARY = 30522


def backbone(folder: Path, minilm: Path, kind: type = BertForMaskedLM) -> Path:
    """A plain checkpoint with random weights, wide enough apart that relu has work to do."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    kind(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm, model_max_length=64).save_pretrained(folder)
    return folder


@functools.cache
def both(folder: Path) -> tuple[Reference, SparseEncoder]:
    """The reference and ours, loaded once; no test changes them."""
    return Reference(str(folder), device="cpu"), SparseEncoder(folder, device="cpu")


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


@pytest.fixture(scope="module")
def plain(tmp_path_factory, minilm) -> Path:
    """Layout of naver/splade-cocondenser-ensembledistil before it had a modules.json."""
    return backbone(tmp_path_factory.mktemp("plain"), minilm)


@pytest.fixture(scope="module")
def published(tmp_path_factory, plain) -> Path:
    """Layout of naver/splade-cocondenser-ensembledistil since 5.0, by hand."""
    folder = tmp_path_factory.mktemp("published") / "model"
    shutil.copytree(plain, folder)
    types = "sentence_transformers.sparse_encoder.models"
    write(
        folder / "modules.json",
        [
            {"idx": 0, "name": "0", "path": "", "type": f"{types}.MLMTransformer"},
            {"idx": 1, "name": "1", "path": "1_SpladePooling", "type": f"{types}.SpladePooling"},
        ],
    )
    write(folder / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": False})
    write(
        folder / "1_SpladePooling/config.json",
        {
            "pooling_strategy": "max",
            "activation_function": "relu",
            "word_embedding_dimension": None,
        },
    )
    write(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "SparseEncoder",
            "__version__": {"sentence_transformers": "5.0.0"},
            "prompts": {"query": "", "document": ""},
            "default_prompt_name": None,
            "similarity_fn_name": "dot",
        },
    )
    return folder


@pytest.fixture(scope="module")
def resaved(tmp_path_factory, published) -> Path:
    """The same, as the reference saves it today."""
    folder = tmp_path_factory.mktemp("resaved")
    Reference(str(published), device="cpu").save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def log1p_sum(tmp_path_factory, plain) -> Path:
    """OpenSearch v3's activation, with sum pooling and prompts."""
    folder = tmp_path_factory.mktemp("log1p")
    transformer = ReferenceTransformer(str(plain), transformer_task="fill-mask")
    model = Reference(
        modules=[transformer, ReferenceSplade("sum", "log1p_relu")],
        device="cpu",
        prompts={"query": "find: ", "document": "text: "},
        max_active_dims=40,
    )
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def inference_free(tmp_path_factory, plain, shared_data) -> Path:
    """Layout of the OpenSearch doc models: idf weights for queries, SPLADE for documents."""
    folder = tmp_path_factory.mktemp("inference_free")
    idf = shared_data / "models/opensearch_idf/idf.zhichao.json"
    tokenizer = AutoTokenizer.from_pretrained(plain)
    router = ReferenceRouter.for_query_document(
        query_modules=[ReferenceStatic.from_json(str(idf), tokenizer, frozen=True)],
        document_modules=[
            ReferenceTransformer(str(plain), transformer_task="fill-mask"),
            ReferenceSplade("max"),
        ],
    )
    Reference(modules=[router], device="cpu").save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def inference_free_5_0(tmp_path_factory, inference_free) -> Path:
    """The same in the spelling of 5.0 to 5.3."""
    folder = tmp_path_factory.mktemp("inference_free_old") / "model"
    shutil.copytree(inference_free, folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "sentence_transformers.models.Router"
    write(folder / "modules.json", modules)
    config = json.loads((folder / "router_config.json").read_text())
    old = "sentence_transformers.sparse_encoder.models"
    config["types"] = {
        key: f"{old}.MLMTransformer" if "Transformer" in key else f"{old}.{key.split('_')[-1]}"
        for key in config["types"]
    }
    write(folder / "router_config.json", config)
    return folder


@pytest.fixture(scope="module")
def csr(tmp_path_factory, minilm) -> Path:
    """Layout of tomaarsen/csr-mxbai-embed-large-v1-nq: a dense model and an autoencoder."""
    folder = tmp_path_factory.mktemp("csr")
    transformer = ReferenceTransformer(str(backbone(folder / "plain", minilm, BertModel)))
    sae = ReferenceSae(16, hidden_dim=64, k=6, normalize=True)
    with torch.no_grad():
        sae.pre_bias.normal_()
    Reference(
        modules=[transformer, ReferencePooling(16, "mean"), sae],
        similarity_fn_name="cosine",
        device="cpu",
    ).save_pretrained(str(folder / "model"))
    return folder / "model"


LAYOUTS = [
    "plain",
    "published",
    "resaved",
    "log1p_sum",
    "inference_free",
    "inference_free_5_0",
    "csr",
]


@pytest.fixture(params=LAYOUTS)
def folder(request) -> Path:
    return request.getfixturevalue(request.param)


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    ours, theirs = ours.to_dense(), theirs.to_dense()
    assert theirs.count_nonzero() > 0
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-6)


def test_every_layout_gives_the_numbers_of_the_reference(folder):
    theirs, ours = both(folder)

    for method in ("encode", "encode_query", "encode_document"):
        expected = getattr(theirs, method)(TEXTS)
        result = getattr(ours, method)(TEXTS)
        assert_close(result, expected)
        assert_close(ours.similarity(result, result), theirs.similarity(expected, expected))
        assert ours.sparsity(result)["sparsity_ratio"] == pytest.approx(
            theirs.sparsity(expected)["sparsity_ratio"]
        )
    assert ours.get_embedding_dimension() == theirs.get_embedding_dimension()
    assert ours.similarity_fn_name == theirs.similarity_fn_name
    assert ours.max_active_dims == theirs.max_active_dims
    assert ours.max_seq_length == theirs.max_seq_length


def test_the_reference_gives_our_numbers_from_the_folder_that_we_save(folder, tmp_path):
    _, ours = both(folder)

    ours.save_pretrained(tmp_path)
    theirs = Reference(str(tmp_path), device="cpu")

    assert_close(ours.encode_document(TEXTS), theirs.encode_document(TEXTS))
    assert_close(ours.encode_query(TEXTS), theirs.encode_query(TEXTS))
    assert theirs.similarity_fn_name == ours.similarity_fn_name
    assert theirs.max_active_dims == ours.max_active_dims


@pytest.mark.parametrize("k", [1, 3, 20])
@pytest.mark.parametrize("layout", ["published", "csr"])
def test_active_dimensions_of_a_call_go_before_those_of_the_model(request, layout, k):
    folder = request.getfixturevalue(layout)
    theirs, ours = both(folder)

    result = ours.encode(TEXTS, max_active_dims=k)

    assert_close(result, theirs.encode(TEXTS, max_active_dims=k))
    assert result.to_dense().count_nonzero(dim=1).max() <= k


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("tensor", [True, False])
@pytest.mark.parametrize("inputs", [TEXTS, TEXTS[0], []], ids=["three", "one", "none"])
def test_containers_and_shapes_are_those_of_the_reference(published, inputs, tensor, sparse):
    options = {"convert_to_tensor": tensor, "convert_to_sparse_tensor": sparse}

    theirs, ours = (model.encode(inputs, **options) for model in both(published))

    assert type(ours) is type(theirs)
    assert len(ours) == len(theirs)
    is_tensor = isinstance(theirs, torch.Tensor)
    for one, other in zip(*([ours], [theirs]) if is_tensor else (ours, theirs), strict=True):
        assert (one.shape, one.dtype, one.layout) == (other.shape, other.dtype, other.layout)
        torch.testing.assert_close(one.to_dense(), other.to_dense(), atol=1e-5, rtol=0)


def test_half_precision_stays_in_the_tensor(published):
    options = {"device": "cpu", "model_kwargs": {"dtype": "bfloat16"}}

    theirs = Reference(str(published), **options).encode(TEXTS)
    ours = SparseEncoder(published, **options).encode(TEXTS)

    assert ours.dtype == theirs.dtype == torch.bfloat16
    exact = SparseEncoder(published, device="cpu").encode(TEXTS).to_dense()
    far = [float((one.to_dense().float() - exact).abs().mean()) for one in (ours, theirs)]
    assert 0 < far[0] <= 1.1 * far[1]


def test_decoding_and_intersections_agree(published):
    theirs, ours = both(published)
    embeddings = theirs.encode(TEXTS, max_active_dims=30)

    for top_k in (None, 5):
        expected, result = theirs.decode(embeddings, top_k), ours.decode(embeddings, top_k)
        assert [dict(row) for row in result] == [pytest.approx(dict(row)) for row in expected]
        assert ours.decode(embeddings[0], top_k) == result[0]
    assert_close(
        ours.intersection(embeddings[0], embeddings), theirs.intersection(embeddings[0], embeddings)
    )


def test_prompts_are_those_of_the_reference(log1p_sum):
    theirs, ours = both(log1p_sum)

    assert ours.prompts == theirs.prompts
    assert_close(
        ours.encode(TEXTS, prompt_name="document"), theirs.encode(TEXTS, prompt_name="document")
    )
    assert_close(ours.encode(TEXTS, prompt="so: "), theirs.encode(TEXTS, prompt="so: "))
    assert_close(ours.encode_query(TEXTS, prompt=""), theirs.encode_query(TEXTS, prompt=""))


def test_texts_of_very_different_lengths_agree_whatever_the_batches(published):
    texts = ["sun", "", "rain and " * 60, *TEXTS, "the sea " * 9]
    theirs, ours = both(published)
    expected = theirs.encode(texts, batch_size=2)

    for options in ({}, {"batch_size": 2}, {"token_budget": 1}, {"token_budget": 40}):
        assert_close(ours.encode(texts, **options), expected)


def test_a_plain_checkpoint_without_masked_lm_head_is_refused(tmp_path, minilm):
    folder = backbone(tmp_path, minilm, BertModel)

    with pytest.raises(ModelError, match=r"BertModel.*needs a \*ForMaskedLM.*untrained head"):
        SparseEncoder(folder, device="cpu")


@pytest.mark.parametrize("with_model_type", [True, False])
def test_a_dense_model_is_refused(tmp_path, minilm, with_model_type):
    folder = tmp_path / "dense"
    transformer = ReferenceTransformer(str(backbone(tmp_path / "plain", minilm, BertModel)))
    ReferenceDenseModel(
        modules=[transformer, ReferencePooling(16, "mean")], device="cpu"
    ).save_pretrained(str(folder))
    path = folder / "config_sentence_transformers.json"
    config = json.loads(path.read_text())
    if not with_model_type:
        del config["model_type"]
    write(path, config)

    with pytest.raises(ModelError, match=r"SentenceTransformer, not a SparseEncoder.*untrained"):
        SparseEncoder(folder, device="cpu")
