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


def test_both_names_of_the_tokenizer_s_arguments_are_one_too_many(tiny_bert):
    with pytest.raises(ValueError, match="older name"):
        SentenceTransformer(tiny_bert, processor_kwargs={}, tokenizer_kwargs={})


def test_the_older_name_of_the_tokenizer_s_arguments_works(tiny_bert):
    model = SentenceTransformer(tiny_bert, tokenizer_kwargs={"model_max_length": 7})

    assert model.max_seq_length == model.get_max_seq_length() == 7


def test_trap_2_later_modules_follow_the_number_format_of_the_first(tiny_bert, tmp_path):
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


def test_trap_5_a_passage_prompt_is_not_used_for_documents(tiny_bert):
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
