"""`stx bench` on a small model."""

import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx.jobs.bench import bench
from stx.pipelines.bench import run_bench
from stx_core.errors import InputError, SpecError
from stx_core.made_up import made_up_texts


def measure(model, corpus=None, kind="dense", **more):
    options = {
        "n_texts": 40,
        "threads": None,
        "dtypes": ["float32", "bfloat16"],
        "budgets": [256, 512],
        "rounds": 1,
        "max_seq_length": None,
    }
    return run_bench(str(model), corpus, "text", kind, **(options | more))


@pytest.fixture(scope="module")
def measured(tiny_bert):
    """Of each setting."""
    return measure(tiny_bert)


def test_each_setting_is_measured_and_the_advice_is_one_of_them(measured):
    settings = [(speed.dtype, speed.token_budget) for speed in measured.speeds]
    assert sorted(settings) == [
        ("bfloat16", 256), ("bfloat16", 512), ("float32", 256), ("float32", 512),
    ]  # fmt: skip
    assert (measured.best.dtype, measured.best.token_budget) in settings
    assert measured.why_padded is None
    for speed in measured.speeds:
        assert sum(speed.shares.values()) == pytest.approx(1, abs=0.01)
        assert 1 <= speed.padding < 1.5
        assert min(speed.texts_per_second, speed.utilisation) > 0
    mean, least = measured.cosine["bfloat16"]
    assert 0.98 < least <= mean <= 1


def test_inaccurate_half_precision_is_not_advised(measured):
    inaccurate = replace(measured, cosine={"bfloat16": (0.9998, 0.99)})

    assert not inaccurate.is_accurate("bfloat16")
    assert inaccurate.best.dtype == "float32"


@pytest.mark.parametrize("kind", ["sparse", "reranker"])
def test_other_kinds_of_models(kind, splade_model, tmp_path, tiny_tokenizer):
    folder = splade_model
    if kind == "reranker":
        import shutil

        from transformers import BertConfig, BertForSequenceClassification

        folder = tmp_path / "reranker"
        config = BertConfig(
            vocab_size=256, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=64, max_position_embeddings=64, num_labels=1,
        )  # fmt: skip
        BertForSequenceClassification(config).save_pretrained(folder)
        shutil.copytree(tiny_tokenizer, folder, dirs_exist_ok=True)

    found = measure(folder, kind=kind, dtypes=["float32"], budgets=[512])

    assert found.speeds[0].tokens_per_second > 0


def test_texts_come_from_a_corpus(tiny_bert, tmp_path):
    pq.write_table(pa.table({"text": ["one two", "three"] * 10}), tmp_path / "a.parquet")

    found = measure(tiny_bert, str(tmp_path), dtypes=["float32"], budgets=[256], n_texts=20)

    assert found.n_texts == 20
    assert found.tokens["longest"] < 10


def test_a_corpus_of_one_text_is_too_small(tiny_bert, tmp_path):
    pq.write_table(pa.table({"text": ["one"]}), tmp_path / "a.parquet")

    with pytest.raises(InputError, match="no two texts"):
        measure(tiny_bert, str(tmp_path))


def test_an_unknown_kind_is_refused(tiny_bert):
    with pytest.raises(SpecError, match="--type dance: must be one of dense, sparse, reranker"):
        measure(tiny_bert, kind="dance")


def test_the_command_prints_a_table_or_json(tiny_bert, capsys):
    options = {
        "corpus": None, "text_column": "text", "kind": "dense", "texts": 20, "threads": 1,
        "dtype": ["float32"], "token_budget": [256], "rounds": 1, "max_seq_length": None,
    }  # fmt: skip
    bench(str(tiny_bert), **options, as_json=False)
    told = capsys.readouterr().out
    for word in ("machine", "limit", "packed", "tokens/s", "of limit", "token_budget: 256"):
        assert word in told

    bench(str(tiny_bert), **options, as_json=True)
    assert json.loads(capsys.readouterr().out)["speeds"][0]["token_budget"] == 256


def test_made_up_texts_have_lengths_as_on_the_web():
    import numpy as np

    words = np.array([len(text.split()) for text in made_up_texts(4000)])

    assert 55 < np.median(words) < 67
    assert 80 < words.mean() < 100
    assert made_up_texts(3) == made_up_texts(3)
