"""What a model folder consists of: everything that is read lies in it, and is hashed."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from stx_core import SentenceTransformer, SparseEncoder
from stx_core.errors import ModelError
from stx_core.models import contents
from stx_core.models.contents import check_contents, files_of, fingerprint_files
from stx_core.models.modules.dense import Dense
from stx_core.models.modules.normalize import Normalize
from stx_core.models.modules.pooling import Pooling
from stx_core.models.modules.router import Router
from stx_core.models.modules.static_embedding import StaticEmbedding
from tests.core.models.opened import Opened

# peft asks transformers by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

TEXTS = ["the weather is lovely today", "he drove to the stadium"]


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def encode(folder, kind=SentenceTransformer, **options):
    return kind(str(folder), device="cpu", **options).encode(TEXTS)


@pytest.fixture
def folder(tiny_bert, tmp_path):
    """A copy of a plain checkpoint that a test may change."""
    shutil.copytree(tiny_bert, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def dense(tiny_bert, tmp_path):
    """A dense model of four modules, saved."""
    torch.manual_seed(0)
    backbone = SentenceTransformer(str(tiny_bert), device="cpu")[0]
    modules = [backbone, Pooling(32), Dense(32, 16), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(tmp_path / "dense")
    return tmp_path / "dense"


@pytest.fixture
def adapter(tiny_bert, tmp_path):
    """A LoRA adapter with random weights on a copy of the tiny BERT, `base` beside it."""
    peft = pytest.importorskip("peft")
    from transformers import BertModel

    shutil.copytree(tiny_bert, tmp_path / "base")
    base = BertModel.from_pretrained(tmp_path / "base", add_pooling_layer=False)
    config = peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False)
    peft.get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def other_weights(path):
    """Change the weights in a file."""
    save_file({key: value + 1 for key, value in load_file(path).items()}, path, {"format": "pt"})


def shard(folder, name="part.safetensors"):
    """Name the weights by an index."""
    keys = list(load_file(folder / "model.safetensors"))
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").rename(folder / name)
    index = {"metadata": {}, "weight_map": dict.fromkeys(keys, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


# --- Hashed --------------------------------------------------------------------------------------


def moved(dense, name):
    """The dense layer in a folder of another name."""
    entries = json.loads((dense / "modules.json").read_text())
    (dense / name).parent.mkdir(parents=True, exist_ok=True)
    (dense / entries[2]["path"]).rename(dense / name)
    entries[2]["path"] = name
    (dense / "modules.json").write_text(json.dumps(entries))


@pytest.mark.parametrize(
    "name",
    [
        ".hidden", "runs", "logs", "eval", "checkpoint-5", "onnx", "openvino", "scaler.2",
        "a.md", "x/__pycache__", "coreml/", "optimizer.1", "LICENSE", ".git/objects",
        "runs/deep/er",
    ],
)  # fmt: skip
def test_weights_of_a_module_count_whatever_its_folder_is_called(name, dense):
    moved(dense, name)
    before, vectors = fingerprint_files(dense), encode(dense)

    other_weights(dense / name / "model.safetensors")

    assert fingerprint_files(dense) != before
    assert np.abs(encode(dense) - vectors).max() > 0.01


@pytest.mark.parametrize(
    "name", ["runs/part.safetensors", ".part.safetensors", "eval/x.safetensors"]
)
def test_shards_count_whatever_their_index_calls_them(name, folder):
    shard(folder, name)
    before, vectors = fingerprint_files(folder), encode(folder)

    other_weights(folder / name)

    assert fingerprint_files(folder) != before
    assert np.abs(encode(folder) - vectors).max() > 0.01


def test_weights_that_a_config_names_count(folder):
    (folder / "runs").mkdir()
    (folder / "model.safetensors").rename(folder / "runs/own.safetensors")
    change(folder / "config.json", transformers_weights="runs/own.safetensors")
    before, vectors = fingerprint_files(folder), encode(folder)

    other_weights(folder / "runs/own.safetensors")

    assert fingerprint_files(folder) != before
    assert np.abs(encode(folder) - vectors).max() > 0.01


def test_a_pickle_that_is_loaded_counts_though_other_safetensors_lie_beside_it(dense):
    place = next(dense.glob("2_*"))
    (place / "model.safetensors").rename(place / "unused.safetensors")
    weights = load_file(place / "unused.safetensors")
    torch.save(weights, place / "pytorch_model.bin")
    before = fingerprint_files(dense)

    torch.save({key: value + 1 for key, value in weights.items()}, place / "pytorch_model.bin")

    assert fingerprint_files(dense) != before


def test_modules_of_routers_in_routers_count(save_static_model, tmp_path):
    inner = StaticEmbedding.from_folder(
        save_static_model(tmp_path / "s", ["a"], np.ones((2, 4), np.float32)) / "0_StaticEmbedding",
        contents_options(),
    )
    nested = Router({"query": [Router({"one": [inner]})], "document": [inner]})
    SentenceTransformer(modules=[nested], device="cpu").save_pretrained(tmp_path / "model")
    (weights,) = {path.parent for path in (tmp_path / "model").rglob("query*/*/model.safetensors")}
    renamed = weights.with_name("runs")
    weights.rename(renamed)
    change(
        renamed.parent / "router_config.json",
        types={"runs": "sentence_transformers.models.StaticEmbedding"},
        structure={"one": ["runs"]},
    )
    before = fingerprint_files(tmp_path / "model")
    SentenceTransformer(str(tmp_path / "model"), device="cpu")

    other_weights(renamed / "model.safetensors")

    assert fingerprint_files(tmp_path / "model") != before


def contents_options():
    from stx_core.models.modules.module import LoadOptions

    return LoadOptions()


def test_the_base_of_an_adapter_counts_wherever_it_lies(adapter, tmp_path):
    before, vectors = fingerprint_files(adapter), encode(adapter)

    other_weights(tmp_path / "base/model.safetensors")

    assert fingerprint_files(adapter) != before
    assert np.abs(encode(adapter) - vectors).max() > 0.01


def test_code_and_chat_templates_count_though_hidden(folder):
    for name in (".code.py", "additional_chat_templates/.hidden.jinja"):
        before = fingerprint_files(folder)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
        assert fingerprint_files(folder) != before, name


@pytest.fixture
def table_model(tiny_tokenizer, tmp_path):
    """A sparse static module whose weights are a JSON table with the name of a text."""
    place = tmp_path / "idf/0_SparseStaticEmbedding"
    shutil.copytree(tiny_tokenizer, place)
    (place / "config.json").write_text('{"path": "README.md"}')
    (place / "README.md").write_text('{"weather": 2.0, "today": 1.5}')
    entry = {
        "idx": 0, "name": "0", "path": place.name,
        "type": "sentence_transformers.sparse_encoder.models.SparseStaticEmbedding",
    }  # fmt: skip
    (tmp_path / "idf/modules.json").write_text(json.dumps([entry]))
    (tmp_path / "idf/config_sentence_transformers.json").write_text(
        '{"model_type": "SparseEncoder"}'
    )
    return tmp_path / "idf"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what was opened")
@pytest.mark.parametrize("name", ["folder", "dense", "adapter", "table_model", "static", "sharded"])
def test_every_file_that_loading_opens_is_hashed(name, request, tmp_path, save_static_model):
    kind = SparseEncoder if name == "table_model" else SentenceTransformer
    if name == "static":
        place = save_static_model(tmp_path / "static", ["a"], np.ones((2, 4), np.float32))
    elif name == "sharded":
        place = request.getfixturevalue("folder")
        shard(place, "runs/part.safetensors")
        (place / "generation_config.json").write_text("{}")
    else:
        place = request.getfixturevalue(name)
    (place / "LICENSE").write_text("free")
    hashed = set(files_of(place).values())
    if name == "adapter":
        hashed |= set(files_of(tmp_path / "base").values())
    watch = Opened(tmp_path)

    encode(place, kind)

    opened = watch.files()
    # The card is read to be saved again; no number comes from it.
    assert opened - {place / "README.md"} <= hashed
    assert any(path.suffix in (".safetensors", ".md") for path in opened)


# --- Inside --------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["../elsewhere.safetensors", "{}/elsewhere.safetensors"])
def test_shards_outside_of_the_folder_are_refused(where, folder, tmp_path):
    shutil.copy(folder / "model.safetensors", tmp_path / "elsewhere.safetensors")
    shard(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("part.safetensors", where.format(tmp_path)))

    with pytest.raises(ModelError, match="must be relative and stay inside"):
        encode(folder)
    with pytest.raises(ModelError, match="must be relative and stay inside"):
        fingerprint_files(folder)


def test_weights_that_a_config_names_outside_are_refused(folder, tmp_path):
    (folder / "model.safetensors").rename(tmp_path / "x.safetensors")
    change(folder / "config.json", transformers_weights="../x.safetensors")

    with pytest.raises(ModelError, match="must be relative and stay inside"):
        encode(folder)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "additional_chat_templates"]
)
def test_links_that_leave_the_folder_are_refused(name, folder, tmp_path):
    if name == "additional_chat_templates":
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jinja").write_text("x")
    else:
        (folder / name).rename(tmp_path / name)
    os.symlink(tmp_path / name, folder / name)

    with pytest.raises(ModelError, match=rf"{name}.* is a link to .*, outside of the folder"):
        encode(folder)


def test_links_in_a_module_alone_are_refused_too(dense, tmp_path):
    place = next(dense.glob("2_*"))
    (place / "model.safetensors").rename(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", place / "model.safetensors")

    with pytest.raises(ModelError, match="outside of the folder"):
        Dense.load(place)


def test_links_inside_the_folder_are_read(dense):
    place = next(dense.glob("2_*"))
    vectors = encode(dense)
    place.rename(dense / "runs")
    os.symlink("runs", place)
    before = fingerprint_files(dense)
    assert np.array_equal(encode(dense), vectors)

    other_weights(dense / "runs/model.safetensors")

    assert fingerprint_files(dense) != before


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("through_a_link", [False, True])
def test_a_download_of_the_hub_is_loaded_and_has_the_fingerprint_of_its_files(
    shared, through_a_link, dense, tmp_path
):
    cache = tmp_path / "cache"
    blobs = cache / "models--a--b/blobs"
    snapshot = cache / "models--a--b/snapshots" / ("0" * 40)
    (cache / "blobs").mkdir(parents=True)
    blobs.mkdir(parents=True)
    if shared:
        (cache / "blobs/.huggingface-shared-blobs").write_text("1\n")
    for number, path in enumerate(path for path in dense.rglob("*") if path.is_file()):
        link = snapshot / path.relative_to(dense)
        link.parent.mkdir(parents=True, exist_ok=True)
        place = cache / "blobs" if shared else blobs
        shutil.copy(path, place / f"{number}x")
        if shared:
            os.symlink(f"../../blobs/{number}x", blobs / str(number))
        os.symlink(
            os.path.relpath(blobs / (str(number) if shared else f"{number}x"), link.parent), link
        )
    found = snapshot
    if through_a_link:
        os.symlink(snapshot, tmp_path / "mine")
        found = tmp_path / "mine"

    assert fingerprint_files(found) == fingerprint_files(dense)
    assert np.array_equal(encode(found), encode(dense))


def test_a_folder_that_the_hub_filled_with_links_to_its_cache_is_loaded(folder, tmp_path):
    blobs = tmp_path / "hub/models--a--b/blobs"
    blobs.mkdir(parents=True)
    vectors = encode(folder)
    (folder / "model.safetensors").rename(blobs / "53aa")
    os.symlink(blobs / "53aa", folder / "model.safetensors")

    assert np.array_equal(encode(folder), vectors)


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab_file": "{}/vocab.txt"},
        {"vocab_file": "../vocab.txt"},
        {"tokenizer_file": "{}/vocab.txt"},
        {"fast_tokenizer_files": ["../tokenizer.4.0.json"]},
        {"fast_tokenizer_files": ["{}/tokenizer.4.0.json"]},
        {"vocab": "{}/vocab.txt"},
        {"merges": "vocab.txt"},
        {"gguf_file": "model.gguf"},
        {"tokenizer_object": "x"},
    ],
)
def test_a_tokenizer_that_names_other_places_is_refused(changes, folder, tmp_path):
    for name in ("vocab.txt", "tokenizer.4.0.json"):
        (tmp_path / name).write_text("{}")
    text = json.dumps(changes).replace("{}", str(tmp_path))
    change(folder / "tokenizer_config.json", **json.loads(text))

    with pytest.raises(ModelError, match=next(iter(changes)) + "|stay inside"):
        encode(folder)


def test_traces_of_where_a_tokenizer_was_trained_are_no_places(folder, tmp_path):
    (tmp_path / "here.json").write_text("{}")
    vectors = encode(folder)
    change(
        folder / "tokenizer_config.json",
        tokenizer_file="/home/user/.cache/huggingface/transformers/0f5a.json",
        special_tokens_map_file=str(tmp_path / "here.json"),
        name_or_path=str(tmp_path / "here.json"),
    )

    assert np.array_equal(encode(folder), vectors)


def test_an_index_that_names_a_pickle_needs_the_permission_for_pickles(folder):
    weights = load_file(folder / "model.safetensors")
    vectors = encode(folder)
    shard(folder, "part.safetensors")
    (folder / "part.safetensors").unlink()
    torch.save(weights, folder / "part.bin")
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("part.safetensors", "part.bin"))

    with pytest.raises(ModelError, match="part.bin, which is no safetensors file.*allow_pickle"):
        encode(folder)
    assert np.array_equal(encode(folder, allow_pickle=True), vectors)


def test_the_base_of_an_adapter_may_not_climb_out(adapter):
    change(adapter / "adapter_config.json", base_model_name_or_path="../base")

    with pytest.raises(ModelError, match="leaves the folder"):
        encode(adapter)


def test_code_of_a_base_elsewhere_is_not_run_though_the_adapter_is_trusted(adapter, tmp_path):
    trace = tmp_path / "ran"
    (tmp_path / "base/evil.py").write_text(f"open({str(trace)!r}, 'w')")
    change(tmp_path / "base/config.json", auto_map={"AutoModel": "evil.Evil"})

    with pytest.raises(ModelError, match="which is not run"):
        encode(adapter, trust_remote_code=True)

    assert not trace.exists()


def test_code_that_lies_outside_is_refused_though_the_folder_is_trusted(folder, tmp_path):
    trace = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(trace)!r}, 'w')")
    change(folder / "config.json", auto_map={"AutoModel": "../evil.Evil"})

    with pytest.raises(ModelError, match="stay inside"):
        encode(folder, trust_remote_code=True)

    assert not trace.exists()


@pytest.mark.parametrize("kind", ["folder", "table_model"])
def test_trust_in_remote_code_is_never_asked_for_on_the_terminal(kind, request, monkeypatch):
    place = request.getfixturevalue(kind)
    config = next(place.rglob("tokenizer_config.json"))
    change(config, auto_map={"AutoTokenizer": ["tok.Evil", None]}, tokenizer_class="EvilTokenizer")
    (config.parent / "tok.py").write_text("class Evil: pass")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))

    with pytest.raises(ModelError, match="tokenizer code of its own"):
        encode(place, SparseEncoder if kind == "table_model" else SentenceTransformer)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_a_folder_that_lacks_a_file_is_one_line(name, folder):
    (folder / name).unlink()

    if name == "tokenizer_config.json":  # the rest says enough
        assert encode(folder).shape == (2, 32)
        return
    with pytest.raises(ModelError, match=r"\A[^\n]*(vocabulary|config\.json)[^\n]*\Z"):
        encode(folder)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_a_malformed_index_is_one_line(content, folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)

    with pytest.raises(ModelError, match=r"\A[^\n]*\Z"):
        encode(folder)


def test_the_fingerprints_of_ordinary_folders_are_those_of_before(minilm, shared_data):
    # Else everybody would have to encode everything again.
    model2vec = shared_data / "models/model2vec_semhash_test"

    assert fingerprint_files(minilm).startswith("c4a57a7f2011f2562b4fb34246d45976f6bb611ae181")
    assert fingerprint_files(model2vec).startswith("d4ecc247dab1817de0004dd1c435e7cb7a82555acc")


def test_checking_a_folder_reads_no_weights(folder, monkeypatch):
    monkeypatch.setattr(contents.hashlib, "file_digest", lambda *_: pytest.fail("hashed"))

    check_contents(folder, allow_pickle=False, trust_remote_code=False)
