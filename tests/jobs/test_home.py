"""``~`` at the beginning of a path is the home folder, wherever a path is named."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx.pipelines.spec.file import parse_spec
from stx_core.store.files.urls import join, local_path, normal


@pytest.fixture
def home(tmp_path, monkeypatch, save_static_model):
    """A home folder with a corpus and a model; the working directory is another one."""
    folder = tmp_path / "home"
    weights = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    save_static_model(folder / "model", ["stars", "sand"], weights)
    pq.write_table(pa.table({"id": [1, 2], "text": ["stars", "sand"]}), folder / "c.parquet")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setattr("stx.pipelines.running.stopping.exit_on_signals", lambda: None)
    return folder


def test_all_commands_find_and_write_the_same_folder(home, stx, tmp_path):
    local = ["--set", "resources.runner=local", "--set", "resources.supervised=false"]
    spec = {
        "inputs": {"path": "~/c.parquet"},
        "models": {"dense": {"model": "~/model"}},
        "output": {"path": "~/out"},
    }
    (home / "spec.yaml").write_text(json.dumps(spec))
    commands = [
        ["encode", "~/spec.yaml", *local],
        ["encode", "~/c.parquet", "~/out2", "--model", "~/model", *local],
        ["encode", "~/spec.yaml", *local, "--set", "output.path=~/out3"],
        ["show", "~/out"],
        ["search", "~/out", "stars", "--model", "~/model"],
        ["verify", "~/out3"],
        ["rollback", "~/out", "1"],
        ["gc", "~/out", "--dry-run"],
        ["export", "~/out", "~/rows.jsonl", "--format", "jsonl"],
        ["export", "~/out", "~/table.lance", "--format", "lance"],
    ]
    for command in commands:
        code, _, stderr = stx(*command)
        assert code == 0, (command, stderr)

    names = {"out", "out2", "out3", "rows.jsonl", "table.lance"}
    assert names <= {path.name for path in home.iterdir()}
    assert list((tmp_path / "here").iterdir()) == []


def test_what_only_looks_like_a_home_folder_is_a_file(home, tmp_path):
    assert local_path("~") == str(home)
    assert local_path("./~/x") == str(tmp_path / "here/~/x")
    assert local_path("~nobody-of-this-name.txt") == str(tmp_path / "here/~nobody-of-this-name.txt")
    assert normal("s3://bucket/~/x") == "s3://bucket/~/x"
    assert normal("file:///~/x") == "/~/x"
    assert local_path(join("~", "x")) == str(home / "x")


def test_a_spec_holds_the_folder_itself(home):
    values = {
        "inputs": {"path": ["~/a", "s3://b/~"]},
        "models": {"d": {"model": "m"}},
        "output": {"path": "~/o"},
    }

    spec = parse_spec(values)

    assert spec.inputs.path == (f"{home}/a", "s3://b/~")
    assert spec.output.path == f"{home}/o"
