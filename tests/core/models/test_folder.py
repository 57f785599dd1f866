import os
import shutil

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from stx_core.errors import ModelError
from stx_core.models import folder as model_folder
from stx_core.models.contents import fingerprint_files
from stx_core.models.folder import (
    inside,
    load_weights,
    read_json,
    resolve_folder,
    save_weights,
    write_json,
)

ORG = "sentence-transformers"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The hub's client: remembers what was asked for."""
    asked = {}

    def download(name, **options):
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr(model_folder, "snapshot_download", download)
    return asked


def test_a_local_folder_is_used_as_it_is_and_the_hub_is_not_asked(hub, tmp_path):
    assert resolve_folder(tmp_path, default_org=ORG) == tmp_path
    assert hub == {}


@pytest.mark.parametrize(
    ("name", "asked_for"),
    [
        ("all-MiniLM-L6-v2", f"{ORG}/all-MiniLM-L6-v2"),
        ("BAAI/bge-m3", "BAAI/bge-m3"),
        ("bert-base-uncased", "bert-base-uncased"),
        ("BERT-base-uncased", "BERT-base-uncased"),
    ],
)
def test_short_names_belong_to_the_default_organisation(name, asked_for, hub):
    resolve_folder(name, default_org=ORG, revision="v1", local_files_only=True)

    assert hub["name"] == asked_for
    assert hub["revision"] == "v1"
    assert hub["local_files_only"] is True


def test_pickles_are_downloaded_only_on_request(hub):
    resolve_folder("a/b", default_org=ORG)
    assert "*.bin" in hub["ignore_patterns"]

    resolve_folder("a/b", default_org=ORG, allow_pickle=True)
    assert "*.bin" not in hub["ignore_patterns"]
    assert "*.onnx" in hub["ignore_patterns"]


@pytest.mark.parametrize("name", ["./missing", "/missing/model", "a/b/c", "~/missing"])
def test_a_missing_path_is_not_looked_up_on_the_hub(name, hub):
    with pytest.raises(ModelError, match="there is no folder"):
        resolve_folder(name, default_org=ORG)
    assert hub == {}


def test_a_file_is_not_a_model(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(ModelError, match="is a file"):
        resolve_folder(tmp_path / "file", default_org=ORG)


def test_a_model_that_is_neither_here_nor_reachable_says_so(monkeypatch):
    def offline(name, **options):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(model_folder, "snapshot_download", offline)

    with pytest.raises(ModelError, match=r"no local folder 'nothing'.*not downloaded before"):
        resolve_folder("nothing", default_org=ORG)


def test_the_real_client_reports_a_missing_download(tmp_path):
    assert model_folder.snapshot_download is huggingface_hub.snapshot_download

    with pytest.raises(ModelError, match="was not downloaded before"):
        resolve_folder(
            "nothing", default_org=ORG, local_files_only=True, cache_folder=str(tmp_path)
        )


@pytest.mark.parametrize("path", ["/etc", "../x", "a/../../x", "a\\b", "c:/x"])
def test_paths_out_of_the_folder_are_refused(path, tmp_path):
    with pytest.raises(ModelError, match="must be relative and stay inside"):
        inside(tmp_path, path)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "other").mkdir()
    os.symlink(tmp_path / "other", tmp_path / "model/1_Pooling")

    with pytest.raises(ModelError, match="outside of it"):
        inside(tmp_path / "model", "1_Pooling")


@pytest.mark.parametrize("module", ["", "query_0_SparseStaticEmbedding"])
def test_links_of_a_download_cache_stay_inside_its_repository(tmp_path, module):
    folder = tmp_path / "models--org--name/snapshots/abc" / module
    blobs = tmp_path / "models--org--name/blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    os.symlink(blobs, folder / "linked")
    os.symlink(tmp_path, folder / "away")

    assert inside(folder, "linked") == folder / "linked"
    with pytest.raises(ModelError, match="outside of it"):
        inside(folder, "away")


def test_json_survives_writing_and_reading(tmp_path):
    write_json(tmp_path / "a.json", {"Ü": [1, None]})

    assert read_json(tmp_path / "a.json") == {"Ü": [1, None]}


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "is missing"), ("{", "not valid JSON"), ("[1]", "expected a JSON object")],
)
def test_a_bad_json_file_is_named(content, message, tmp_path):
    if content is not None:
        (tmp_path / "a.json").write_text(content)

    with pytest.raises(ModelError, match=rf"a\.json.*{message}"):
        read_json(tmp_path / "a.json")


def test_weights_survive_saving_and_loading(tmp_path):
    weights = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.ones(1, dtype=torch.bfloat16)}

    save_weights(tmp_path, weights)

    loaded = load_weights(tmp_path, allow_pickle=False)
    assert all(torch.equal(loaded[key], weights[key]) for key in weights)


def test_pickled_weights_need_the_option_by_name(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin")

    with pytest.raises(ModelError, match="allow_pickle=True"):
        load_weights(tmp_path, allow_pickle=False)
    assert torch.equal(load_weights(tmp_path, allow_pickle=True)["a"], torch.ones(2))


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(ModelError, match=r"model\.safetensors is missing"):
        load_weights(tmp_path, allow_pickle=True)


def test_a_pickle_that_would_run_code_is_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"a": Evil()}, tmp_path / "pytorch_model.bin")

    with pytest.raises(ModelError, match="is not a plain file of weights"):
        load_weights(tmp_path, allow_pickle=True)
    assert not (tmp_path / "ran").exists()


def test_each_changed_byte_of_weights_or_settings_changes_the_fingerprint(tiny_bert, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(tiny_bert, folder)
    before = fingerprint_files(folder)
    assert before == fingerprint_files(tiny_bert)

    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert fingerprint_files(folder) != before
        (folder / name).write_bytes(content)
    assert fingerprint_files(folder) == before


def test_a_renamed_file_changes_the_fingerprint(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    before = fingerprint_files(tmp_path)

    (tmp_path / "a.json").rename(tmp_path / "b.json")

    assert fingerprint_files(tmp_path) != before


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        ".gitattributes",
        ".git/config",
        "onnx/model.onnx",
        "openvino/openvino_model.xml",
        "optimizer.pt",
        "trainer_state.json",
        "checkpoint-5/model.safetensors",
        "pytorch_model.bin",
    ],
)
def test_files_that_change_no_output_leave_the_fingerprint(name, tiny_bert, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(tiny_bert, folder)

    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x")

    assert fingerprint_files(folder) == fingerprint_files(tiny_bert)


def test_pickled_weights_count_where_there_are_no_others(tmp_path):
    before = fingerprint_files(tmp_path)

    (tmp_path / "pytorch_model.bin").write_bytes(b"1")

    assert fingerprint_files(tmp_path) != before


def test_cut_weights_are_an_error_that_names_the_file(tmp_path):
    save_weights(tmp_path, {"weight": torch.zeros(4, 4)})
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-40])

    with pytest.raises(ModelError, match=r"model\.safetensors is damaged .* fetch it again"):
        load_weights(tmp_path, allow_pickle=False)
