"""Started in a folder that somebody else filled, no command runs code of it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx.pipelines.running.safe_path import child_environment, safe_entries, safe_environment

# Names that Python, our children or Ray's workers load; each notes that it ran.
NAMES = ("numpy", "torch", "pyarrow", "ray", "stx_core", "tokenizers", "psutil", "sitecustomize")
STX = Path(sys.executable).with_name("stx")


@pytest.fixture
def hostile(tmp_path, save_static_model):
    """A model folder with Python files in it, and a corpus."""
    folder = tmp_path / "model"
    weights = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    save_static_model(folder, ["stars", "sand"], weights)
    for name in NAMES:
        line = f"open({str(tmp_path / 'ran')!r}, 'a').write(__file__)"
        (folder / f"{name}.py").write_text(line)
    pq.write_table(pa.table({"id": [1, 2], "text": ["stars", "sand"]}), tmp_path / "corpus.parquet")
    return folder


def encode(command, folder, *options, **environment):
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*command, "encode", "../corpus.parquet", "../out", "--model", ".", *options],
        cwd=folder,
        env=kept | environment,
        capture_output=True,
        text=True,
    )
    ran = folder.parent / "ran"
    return done, ran.read_text() if ran.exists() else ""


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["resources.runner=local"], id="supervised"),
        pytest.param(
            ["resources.runner=ray", "resources.actors=1", "resources.cpus_per_actor=1"],
            id="ray",
            marks=pytest.mark.faults,
        ),
    ],
)
def test_a_command_started_in_a_model_folder_runs_nothing_of_it(hostile, options):
    done, ran = encode([STX], hostile, *(word for key in options for word in ("--set", key)))

    assert done.returncode == 0, done.stderr
    assert "committed version 1" in done.stdout
    assert ran == ""


@pytest.mark.parametrize(
    ("command", "variables"),
    [
        ([STX], {"PYTHONPATH": f"{os.pathsep}/nowhere"}),
        ([sys.executable, "-m", "stx.jobs.cli"], {}),
    ],
)
def test_neither_an_empty_entry_nor_dash_m_lets_the_folder_in(hostile, command, variables):
    # Python itself reads this one, before a line of ours.
    (hostile / "sitecustomize.py").unlink()

    here = ("--set", "resources.runner=local", "--set", "resources.supervised=false")

    done, ran = encode(command, hostile, *here, **variables)

    assert done.returncode == 0, done.stderr
    assert ran == ""


def test_the_current_folder_stays_where_it_is_named_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f".{os.pathsep}")
    link = tmp_path.parent / "link"
    link.symlink_to(tmp_path)
    assert safe_entries(["", ".", str(tmp_path), str(link), "/usr/lib"]) == ["/usr/lib"]

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert safe_entries([str(tmp_path), "/usr/lib"]) == [str(tmp_path), "/usr/lib"]


def test_a_clone_runs_its_own_modules():
    root = Path(__file__).parents[2]

    done = subprocess.run(
        [sys.executable, "-S", "-c", "import stx.jobs, sys; print(sys.path[0])"],
        cwd=root,
        capture_output=True,
        text=True,
    )

    assert Path(done.stdout.strip()) == root, done.stderr


def test_the_environment_is_restored_after_safe_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}/lib")

    with safe_environment():
        inside = dict(os.environ)

    assert (inside["PYTHONSAFEPATH"], inside["PYTHONPATH"]) == ("1", "/lib")
    assert "PYTHONSAFEPATH" not in os.environ
    assert os.environ["PYTHONPATH"] == f"{os.pathsep}/lib"
    assert str(tmp_path) not in child_environment()["PYTHONPATH"].split(os.pathsep)
