import json
import logging
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from stx_core.errors import InputError, ModelError
from stx_core.models.device import default_device
from stx_core.models.modules.dense import Dense
from stx_core.models.modules.module import LoadOptions
from stx_core.models.modules.pooling import Pooling
from stx_core.models.modules.transformer import Transformer
from stx_core.models.sentence_transformer import SentenceTransformer

TEXTS = ["the weather is lovely", "so", "", "long text " * 20]


@pytest.fixture(scope="module")
def model(tiny_bert):
    return SentenceTransformer(tiny_bert, device="cpu")


def modules(tiny_bert):
    torch.manual_seed(0)
    return [Transformer.from_checkpoint(tiny_bert, LoadOptions()), Pooling(32), Dense(32, 8)]


# --- Construction --------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [{}, {"model_name_or_path": ""}])
def test_a_name_or_modules_must_be_given(arguments):
    with pytest.raises(ValueError, match="either model_name_or_path or modules"):
        SentenceTransformer(**arguments)


def test_a_name_wins_over_modules(tiny_bert, caplog):
    model = SentenceTransformer(tiny_bert, modules=modules(tiny_bert))

    assert [type(module) for module in model] == [Transformer, Pooling]
    assert "those given are not used" in caplog.text


def test_an_empty_list_of_modules_is_refused():
    with pytest.raises(ValueError, match="at least one module"):
        SentenceTransformer(modules=[])


def test_the_first_module_must_read_texts():
    with pytest.raises(ModelError, match="Dense does not"):
        SentenceTransformer(modules=[Dense(2, 2)])


def test_tokenizer_kwargs_and_processor_kwargs_together_are_refused(tiny_bert):
    with pytest.raises(ValueError, match="older name"):
        SentenceTransformer(tiny_bert, processor_kwargs={}, tokenizer_kwargs={})


def test_the_older_name_of_the_tokenizer_s_arguments_works(tiny_bert):
    model = SentenceTransformer(tiny_bert, tokenizer_kwargs={"model_max_length": 7})

    assert model.max_seq_length == model.get_max_seq_length() == 7


def test_later_modules_follow_the_number_format_of_the_first(tiny_bert, tmp_path):
    SentenceTransformer(modules=modules(tiny_bert)).save_pretrained(tmp_path)

    model = SentenceTransformer(tmp_path, model_kwargs={"torch_dtype": "bfloat16"})

    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.dtype == torch.bfloat16


def test_the_local_rank_chooses_the_cuda_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")

    assert default_device() == torch.device("cuda", 3)


def test_pickles_are_never_written(model, tmp_path):
    with pytest.raises(ValueError, match="pickles"):
        model.save_pretrained(tmp_path, safe_serialization=False)


def test_a_module_of_the_user_s_own_runs_but_cannot_be_saved(tiny_bert, tmp_path):
    class Doubling(nn.Module):
        def forward(self, features):
            return features | {"sentence_embedding": features["sentence_embedding"] * 2}

    own = SentenceTransformer(modules=[*modules(tiny_bert), Doubling()])
    plain = SentenceTransformer(modules=list(own)[:3])

    np.testing.assert_array_equal(own.encode(TEXTS), 2 * plain.encode(TEXTS))
    with pytest.raises(ModelError, match="Doubling, which cannot be saved"):
        own.save_pretrained(tmp_path)


# --- Prompts -------------------------------------------------------------------------------------


def with_prompts(tiny_bert, tmp_path, **config):
    shutil.copytree(tiny_bert, tmp_path / "model")
    (tmp_path / "model/config_sentence_transformers.json").write_text(json.dumps(config))
    return tmp_path / "model"


def test_given_prompts_override_saved_ones_name_by_name(tiny_bert, tmp_path):
    folder = with_prompts(tiny_bert, tmp_path, prompts={"query": "q: ", "style": "s: "})

    model = SentenceTransformer(folder, prompts={"query": "", "new": "n: ", "style": None})

    assert model.prompts == {"query": "", "document": "", "style": "s: ", "new": "n: "}


def test_the_order_of_choice_is_prompt_then_name_then_default(tiny_bert):
    model = SentenceTransformer(tiny_bert, prompts={"a": "A ", "b": "B "}, default_prompt_name="a")

    assert model.resolve_prompt("own", None) == "own"
    assert model.resolve_prompt(None, "b") == "B "
    assert model.resolve_prompt(None, None) == "A "
    assert model.resolve_prompt("", None) == ""


def test_prompt_and_name_together_are_reported_and_the_prompt_wins(model, caplog):
    with caplog.at_level(logging.WARNING):
        assert model.resolve_prompt("own", "query") == "own"
    assert "prompt wins" in caplog.text


def test_an_unknown_prompt_name_lists_those_there_are(model):
    with pytest.raises(ValueError, match=r"'x' is not a prompt; there are \['query', 'document'\]"):
        model.encode("a", prompt_name="x")


def test_an_unknown_default_prompt_name_is_refused(tiny_bert, tmp_path):
    with pytest.raises(ValueError, match="default_prompt_name 'x' is not a prompt"):
        SentenceTransformer(tiny_bert, default_prompt_name="x")
    folder = with_prompts(tiny_bert, tmp_path, default_prompt_name="y")
    with pytest.raises(ValueError, match="default_prompt_name 'y'"):
        SentenceTransformer(folder)


def test_a_passage_prompt_is_not_used_for_documents(tiny_bert):
    model = SentenceTransformer(tiny_bert, prompts={"passage": "p: "})

    assert model.prompt_name_for("document", None, None) == "document"
    assert model.prompt_name_for("query", None, None) == "query"
    assert model.prompt_name_for("query", "own", None) is None
    assert model.prompt_name_for("query", None, "passage") == "passage"


# --- Running -------------------------------------------------------------------------------------


def test_preprocess_gives_one_padded_batch(model):
    features = model.preprocess(["so", "so sunny"], prompt="the ")

    assert features["input_ids"].shape == (2, 5)
    assert features["attention_mask"].sum(1).tolist() == [4, 5]
    assert features["prompt_length"] == 2
    assert model.tokenize(["so"])["input_ids"].shape == (1, 3)


def test_the_features_of_preprocess_are_those_of_forward(model):
    with torch.inference_mode():
        embedding = model(model.preprocess(["so sunny"]))["sentence_embedding"]

    np.testing.assert_allclose(embedding, model.encode(["so sunny"]), atol=1e-6)


@pytest.mark.parametrize("name", ["batch_size", "token_budget"])
@pytest.mark.parametrize("value", [0, -1])
def test_sizes_below_one_are_refused_at_once(name, value, model):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got {value}"):
        model.run(model.to_tokens(TEXTS), lambda features: None, **{name: value})


def test_batch_size_limits_the_rows_of_a_batch(model):
    rows = [len(r) for r, _ in model.run(model.to_tokens(TEXTS), lambda f: None, batch_size=3)]

    assert rows == [3, 1]


def test_a_row_that_does_not_fit_into_memory_is_reported_with_its_number(model):
    def collect(features):
        if features["input_ids"].shape[1] > 20:
            raise torch.OutOfMemoryError("too long")
        return len(features["input_ids"])

    results = dict(
        (tuple(rows.tolist()), output)
        for rows, output in model.run(model.to_tokens(TEXTS), collect)
    )

    assert isinstance(results.pop((3,)), InputError)
    assert sorted(row for rows in results for row in rows) == [0, 1, 2]


def test_running_switches_training_off(model):
    model.train()

    list(model.run(model.to_tokens(["a"]), lambda features: None))

    assert not model.training


def test_a_progress_bar_counts_inputs(model, capfd):
    list(model.run(model.to_tokens(TEXTS), lambda features: None, show_progress_bar=True))

    assert "4/4" in capfd.readouterr().err


def test_further_features_reach_the_modules(model):
    seen = [f["k"] for _, f in model.run(model.to_tokens(["a"]), dict, extra={"k": 5})]

    assert seen == [5]


# --- Processing of one call ----------------------------------------------------------------------


def test_a_call_may_cut_texts_and_leave_special_tokens_out(model):
    short = {"text": {"max_length": 4}}
    bare = {"common": {"add_special_tokens": False}}
    text = "the weather is lovely"

    np.testing.assert_allclose(
        model.encode([text], processing_kwargs=short), model.encode(["the weather"]), atol=1e-6
    )
    assert model.preprocess([text], processing_kwargs=short)["input_ids"].shape == (1, 4)
    assert model.preprocess([text], processing_kwargs=bare)["input_ids"].shape == (1, 4)
    assert model[0].preprocess([text], processing_kwargs=short)["input_ids"].shape == (1, 4)
    assert model.preprocess([text])["input_ids"].shape == (1, 6)
    assert model[0].processing_kwargs == {}


def test_an_unknown_option_of_a_call_is_refused(model):
    with pytest.raises(ModelError, match="processing_kwargs"):
        model.encode(["a"], processing_kwargs={"text": {"max_len": 4}})


def test_pairs_of_texts_are_embedded(model):
    pairs = [("the weather", "is lovely"), ("so", "")]
    tokens = model[0].to_tokens(pairs)

    embedded = model.encode([list(pair) for pair in pairs])

    assert tokens.lengths.tolist() == [7, 4]
    np.testing.assert_allclose(embedded, model.encode(pairs), atol=1e-6)
    assert not np.allclose(embedded[0], model.encode("the weather is lovely"), atol=1e-3)


@pytest.mark.parametrize(
    ("option", "value", "choices"),
    [
        ("output_value", "token_embedding", "sentence_embedding, token_embeddings or None"),
        ("precision", "int4", "float32, int8, uint8, binary, ubinary or None"),
    ],
)
def test_invalid_choice_is_refused_with_the_valid_ones(option, value, choices, model):
    with pytest.raises(
        ValueError, match=f"no {option} is called '{value}'; choose one of {choices}"
    ):
        model.encode(["a"], **{option: value})
    with pytest.raises(ValueError, match="choose one of cosine, dot, euclidean, manhattan"):
        model.similarity_fn_name = "cosin"
    with pytest.raises(ValueError, match="no task is called 'querry'; choose one of query"):
        model.embed(["a"], task="querry")
    with pytest.raises(ValueError, match="device 'gpu' cannot be used"):
        model.encode(["a"], device="gpu")
    with pytest.raises(ValueError, match="device 'gpu' cannot be used"):
        SentenceTransformer(modules=list(model), device="gpu")


def test_all_features_keep_the_leading_dimensions_of_the_embedding(model):
    whole = model.encode(TEXTS, output_value=None)

    cut = model.encode(TEXTS, output_value=None, truncate_dim=5)

    for one, other in zip(cut, whole, strict=True):
        assert torch.equal(one["sentence_embedding"], other["sentence_embedding"][:5])
        assert torch.equal(one["token_embeddings"], other["token_embeddings"])
    with model.truncate_embeddings(3):
        assert model.encode("a", output_value=None)["sentence_embedding"].shape == (3,)
    tokens = model.encode(TEXTS, output_value="token_embeddings", truncate_dim=5)
    assert {t.shape[1] for t in tokens} == {32}
    with pytest.raises(ValueError, match="truncate_dim must be at least 1, got 0"):
        model.encode("a", output_value=None, truncate_dim=0)


def test_token_embeddings_share_the_ranges_of_a_call(model):
    plain = model.encode(TEXTS[:2], output_value="token_embeddings")

    quantised = model.encode(TEXTS[:2], output_value="token_embeddings", precision="int8")

    assert [q.shape for q in quantised] == [tuple(p.shape) for p in plain]
    assert {q.dtype for q in quantised} == {np.dtype(np.int8)}
    assert min(q.min() for q in quantised) == -128


def test_properties_of_a_model_describe_it(model, tiny_bert):
    assert model.config is model.transformers_model.config
    assert model.processor is model.tokenizer
    assert model.modalities == ["text"]
    assert model.supports("text")
    assert not model.supports("image")
    assert not model.supports(("text", "image"))
    assert model.is_singular_input("a")
    assert not model.is_singular_input(["a"])
    assert model.get_backend() == model.backend == "torch"
    assert model._target_device == model.device
    assert model.SUPPORTED_SIMILARITY_FN_NAMES == ("cosine", "dot", "euclidean", "manhattan")
    assert model.evaluate(lambda asked, path: (asked is model, path)) == (True, None)
    assert isinstance(SentenceTransformer.load(str(tiny_bert)), SentenceTransformer)


def test_the_backbone_behind_a_router_is_the_models(tiny_bert):
    from stx_core.models import Router

    route = [Transformer(tiny_bert), Pooling(32)]
    model = SentenceTransformer(modules=[Router({"query": route, "document": route})])

    assert model.transformers_model is route[0].model
    assert model.config.hidden_size == 32


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_other_backends_are_one_clear_error(backend, tiny_bert):
    with pytest.raises(ModelError, match=f"backend '{backend}' is not built in: leave it out"):
        SentenceTransformer(tiny_bert, backend=backend)
    assert SentenceTransformer(tiny_bert, backend="torch", use_auth_token=False).backend == "torch"


# --- Saving --------------------------------------------------------------------------------------


def test_a_saved_model_has_a_card_and_keeps_the_one_that_it_came_with(tiny_bert, tmp_path):
    model = SentenceTransformer(tiny_bert, device="cpu")
    model.model_card_data.set_language("en")
    model.model_card_data.set_license("apache-2.0")
    model.model_card_data.add_tags("mine")

    model.save(str(tmp_path / "a"), model_name="me/mine", train_datasets=["SNLI"])

    card = (tmp_path / "a" / "README.md").read_text()
    for fact in ("language:", "- en", "license: apache-2.0", "- mine", "SNLI", "'me/mine'"):
        assert fact in card
    (tmp_path / "a" / "README.md").write_text("# My own card")
    again = SentenceTransformer(tmp_path / "a", device="cpu")
    again.save_pretrained(tmp_path / "b")
    assert (tmp_path / "b" / "README.md").read_text() == "# My own card"
    again.save_pretrained(tmp_path / "c", create_model_card=False)
    assert not (tmp_path / "c" / "README.md").exists()
    assert again.save(None) is None
    np.testing.assert_array_equal(again.encode(TEXTS), model.encode(TEXTS))


def test_model_card_data_has_the_fields_that_clients_read(model):
    data = model.model_card_data

    assert (data.model_name, data.base_model, data.base_model_revision) == (None, None, None)
    assert data.set_base_model("org/base", "main")
    assert (data.base_model, data.base_model_revision) == ("org/base", "main")
    assert "sentence-transformers" in data.tags
    data.set_model_id("me/mine")
    assert data.model_id == "me/mine"


class Hub:
    """What the hub's client is asked to do."""

    def __init__(self, token=None):
        self.calls.append(("token", token))

    def create_repo(self, repo_id, **options):
        self.calls.append(("create", repo_id, options))
        return type("Url", (), {"repo_id": repo_id})

    def file_exists(self, *args, **options):
        return False

    def upload_folder(self, **options):
        from pathlib import Path

        names = sorted(path.name for path in Path(options.pop("folder_path")).iterdir())
        self.calls.append(("upload", names, options))
        return type("Commit", (), {"commit_url": "commit", "pr_url": "pr"})


def test_a_model_goes_to_the_hub_with_its_card(model, monkeypatch):
    import huggingface_hub

    calls = Hub.calls = []
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)

    assert model.push_to_hub("me/mine", token="t", private=True, commit_message="New") == "commit"
    assert calls[:2] == [
        ("token", "t"),
        ("create", "me/mine", {"private": True, "exist_ok": False}),
    ]
    assert {"README.md", "modules.json", "model.safetensors"} <= set(calls[2][1])
    assert calls[2][2]["commit_message"] == "New"
    assert model.save_to_hub(repo_name="mine", organization="me", exist_ok=True) == "commit"
    assert calls[4] == ("create", "me/mine", {"private": None, "exist_ok": True})
    with pytest.raises(ValueError, match="pickles"):
        model.push_to_hub("me/mine", safe_serialization=False)
