"""Code and pickles of a model are used only if the spec, or the person at the command, says so."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file

from stx.pipelines.encode import run_encode
from stx.pipelines.encoding.stored_encoder import stored_encoder
from stx.pipelines.search import search_snapshot
from stx.pipelines.verify import encode_again
from stx_core.errors import ModelError, StoreError
from stx_core.models.contents import refuse_foreign_code

CODE = """
from pathlib import Path

from transformers import BertModel

Path({trace!r}).touch()


class Model(BertModel):
    pass
"""


@pytest.fixture
def bait(tiny_bert, tmp_path, monkeypatch):
    """A model folder whose code leaves a file behind when it runs, and that file."""
    # transformers copies the code to where it can be imported from.
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder, trace = tmp_path / "bait", tmp_path / "code-was-here"
    shutil.copytree(tiny_bert, folder)
    (folder / "modeling_bait.py").write_text(CODE.format(trace=str(trace)))
    set_code(folder, "modeling_bait.Model")
    return folder, trace


def set_code(folder, reference):
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": reference}
    (folder / "config.json").write_text(json.dumps(config))


def test_code_of_a_model_folder_does_not_run_unasked(bait, corpus, spec_of):
    folder, trace = bait

    with pytest.raises(ModelError, match="names model code of its own"):
        run_encode(spec_of(corpus, models={"dense": {"model": str(folder)}}))

    assert not trace.exists()


def search(out, **trust):
    return search_snapshot(out, ["plants"], **trust)


def verify(out, **trust):
    return list(encode_again(out, 3, **trust))


@pytest.mark.parametrize("use", [search, verify])
def test_a_snapshot_cannot_decide_that_its_models_code_runs(use, bait, corpus, spec_of, tmp_path):
    folder, trace = bait
    asked = {"model": str(folder), "trust_remote_code": True}
    run_encode(spec_of(corpus, models={"dense": asked}))
    assert trace.exists()  # the bait works
    trace.unlink()

    with pytest.raises(ModelError, match="--trust-remote-code"):
        use(str(tmp_path / "out"))

    assert not trace.exists()
    assert use(str(tmp_path / "out"), trust_remote_code=True)


@pytest.mark.parametrize("use", [search, verify])
def test_a_snapshot_cannot_decide_that_pickles_are_loaded(
    use, static_model, corpus, spec_of, tmp_path
):
    folder, out = tmp_path / "pickled", str(tmp_path / "out")
    shutil.copytree(static_model, folder)
    weights = folder / "0_StaticEmbedding/model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    run_encode(spec_of(corpus, models={"dense": {"model": str(folder), "allow_pickle": True}}))

    with pytest.raises(ModelError, match="--allow-pickle"):
        use(out)

    assert use(out, allow_pickle=True)


GOOD = {
    "model": "m", "type": "dense", "revision": None, "files": "0" * 64, "task": "document",
    "prompt": None, "max_seq_length": None, "dtype": "auto", "normalize": False,
    "truncate_dim": None, "store_as": "float32", "max_active_dims": None,
    "trust_remote_code": False, "allow_pickle": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        (None, "settings"),
        ([], "settings"),
        (GOOD | {"trust_remote_code": "no"}, "settings.trust_remote_code"),
        (GOOD | {"model": ["m"]}, "settings.model"),
        (GOOD | {"type": "reranker"}, "settings.type"),
        ({key: value for key, value in GOOD.items() if key != "files"}, "settings.files"),
    ],
)
def test_damaged_settings_of_a_snapshot_are_one_line(settings, where):
    with pytest.raises(StoreError, match=rf"^out: what it says of its model .* {where}: .*$"):
        stored_encoder(
            {"settings": settings}, "out", model=None, trust_remote_code=True, allow_pickle=True
        )


def test_trusted_code_must_lie_in_the_folder_that_is_hashed(bait, corpus, spec_of):
    folder, trace = bait
    set_code(folder, "someone/else--modeling_bait.Model")
    asked = {"model": str(folder), "trust_remote_code": True}

    with pytest.raises(ModelError, match="code of another repository"):
        run_encode(spec_of(corpus, models={"dense": asked}))

    assert not trace.exists()


@pytest.mark.parametrize("name", ["tokenizer_config.json", "0_Transformer/config.json"])
def test_foreign_code_is_found_in_every_config_file(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"auto_map": {"AutoTokenizer": [None, "a/b--tok.Fast"]}}))

    with pytest.raises(ModelError, match=name):
        refuse_foreign_code(tmp_path)
