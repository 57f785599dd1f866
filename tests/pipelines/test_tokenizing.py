"""Tokenising in a stage of its own: the same vectors, and as many actors as the GPUs need."""

import numpy as np
import pytest

from stx.pipelines.encode import run_encode
from stx.pipelines.encoding import token_column
from stx.pipelines.encoding.estimate import EncoderProbe
from stx.pipelines.encoding.stages import Encoder
from stx.pipelines.encoding.tokenizing import Tokenize, actors_needed
from stx.pipelines.models.settings import encoder_settings
from stx.pipelines.spec.parts import Model
from stx_core.store.snapshot import open_snapshot

TEXTS = ["the weather is lovely", None, "so sunny outside", "the weather is lovely", "so sunny"]


def table_of(texts):
    import pyarrow as pa

    from stx.pipelines.running import unit_table

    table = pa.table({"_text": pa.array(texts, pa.string())})
    return unit_table.with_notes(table, due=["dense"], seconds={})


def test_the_tokens_of_a_column_are_those_of_the_model(tiny_bert):
    settings = encoder_settings(Model(model=str(tiny_bert), dtype="float32", prompt="query: "))
    table = Tokenize({"dense": settings}, 1)(table_of(TEXTS))

    found = token_column.tokens_of(table, "dense", "document", np.array([0, 2, 4]))

    expected = Encoder(settings).tokens([TEXTS[row] for row in (0, 2, 4)])
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.type_ids, expected.type_ids)
    np.testing.assert_array_equal(found.offsets, expected.offsets)
    np.testing.assert_array_equal(found.truncated, expected.truncated)
    assert (found.prompt_length, found.task) == (expected.prompt_length, expected.task)
    assert table["dense.tokens"].null_count == 1


def vectors(root, output="dense"):
    table = open_snapshot(str(root), output=output).to_table()
    column = next(name for name in table.column_names if "embedding" in name)
    return dict(zip(table["id"].to_pylist(), table[column].to_pylist(), strict=True))


def resources(runner, tokenizers):
    if runner == "local":
        return {"runner": runner, "tokenizers": tokenizers}
    return {"runner": runner, "actors": 1, "cpus_per_actor": 1, "tokenizers": tokenizers}


@pytest.mark.parametrize("runner", ["local", pytest.param("ray", marks=pytest.mark.faults)])
def test_vectors_are_the_same_with_tokenising_actors(
    runner, corpus, spec_of, tmp_path, tiny_bert, splade_model
):
    models = {
        "dense": {"model": str(tiny_bert), "prompt": "text: "},
        "splade": {"model": str(splade_model), "type": "sparse"},
    }
    found = []
    for tokenizers in (0, 1):
        root = tmp_path / f"out{tokenizers}"
        run_encode(
            spec_of(
                corpus,
                models=models,
                output={"path": str(root)},
                resources=resources(runner, tokenizers),
            )
        )
        found.append([vectors(root, "dense"), vectors(root, "splade")])

    assert found[0] == found[1]
    assert len(found[0][0]) == 250


def probe(tokens, tokenised, device="cuda"):
    return EncoderProbe(384, "cosine", 512, device, 100, 0, tokens, tokenised)


@pytest.mark.parametrize(
    ("probes", "gpus", "free", "expected"),
    [
        ([probe(1e6, 5e5)], 1, 100, 2),
        ([probe(1e6, 5e5)], 4, 100, 8),
        ([probe(1e6, 5e5)], 4, 7, 3),
        ([probe(1e4, 5e5)], 1, 100, 1),
        ([probe(1e6, 5e5), probe(3e6, 5e5)], 1, 100, 4),
        ([probe(1e6, 5e5, "cpu")], 3, 100, 3),
        ([None], 2, 100, 2),
        ([probe(1e6, 5e5)], 1, 1, 0),
    ],
)
def test_as_many_actors_tokenise_as_the_gpus_need(probes, gpus, free, expected):
    assert actors_needed(probes, gpus, free, 2) == expected
