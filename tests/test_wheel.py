"""The wheel beside a package of somebody else that is called `pipelines`."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[1]
TYPED_SCRIPT = """
import numpy as np
import pyarrow as pa

import stx
from stx_core import SentenceTransformer, open_snapshot

version: str = stx.__version__
report = stx.encode(inputs="docs/*.parquet", models={"dense": "m"}, output="out")
committed: bool = report.committed
documents: stx.Snapshot = stx.open("out")
table: pa.Table = documents.to_arrow(["id"])
vectors: np.ndarray = documents.to_numpy()
rows: list[dict[str, object]] = documents.search("plants", top_k=3)
model = SentenceTransformer("m")
vectors = model.encode(["a text"])
open_snapshot("out")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    done = subprocess.run([*command, folder], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """Runs a Python that finds the wheel and two foreign packages before all else."""
    site = tmp_path_factory.mktemp("site")
    for name in ("pipelines", "jobs"):
        (site / name).mkdir()
        (site / name / "__init__.py").write_text("WHOSE = 'somebody else'\n")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*install, "--target", site, wheel], check=True)

    def run(*arguments):
        environment = os.environ | {"PYTHONPATH": str(site)}
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=site,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.site = site
    return run


def test_it_holds_two_packages_and_each_file_of_theirs_once(wheel):
    listed = subprocess.run(
        ["git", "ls-files", "stx_core", "stx", "pipelines", "jobs"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("no clone")
    tracked = [name for name in listed.stdout.splitlines() if not (ROOT / name).is_symlink()]
    expected = [
        name if name.startswith("stx") else f"stx/{name}"
        for name in tracked
        if (ROOT / name).exists()
    ]

    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]

    assert sorted(names) == sorted(expected)


@pytest.mark.parametrize("name", ["pipelines", "jobs"])
def test_foreign_packages_keep_their_names(run, name):
    script = f"import stx, stx.functions, {name}; print(stx.__file__, {name}.WHOSE)"

    assert run("-c", script) == f"{run.site}/stx/__init__.py somebody else\n"


def test_its_command_and_its_jobs_run(run, tmp_path, save_static_model):
    weights = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    save_static_model(tmp_path / "model", ["stars", "sand"], weights)
    pq.write_table(pa.table({"id": [1], "text": ["stars"]}), tmp_path / "corpus.parquet")
    command = run.site / "bin/stx"

    helped = run(command, "--help")
    # Supervised, so that a child of it finds the modules too.
    encoded = run(
        command, "encode", tmp_path / "corpus.parquet", tmp_path / "out",
        "--model", tmp_path / "model", "--set", "resources.runner=local",
    )  # fmt: skip

    assert "encode" in helped
    assert f"committed version 1 of {tmp_path / 'out'}" in encoded


def test_scripts_are_checked_against_its_types(run, tmp_path):
    typed, wrong = tmp_path / "typed.py", tmp_path / "wrong.py"
    typed.write_text(TYPED_SCRIPT)
    wrong.write_text("import stx\n\nstx.open(3)\n")
    settings = tmp_path / "mypy.ini"
    # Others' packages are not looked at: torch alone takes minutes.
    others = "torch.*,pyarrow.*,transformers.*,ray.*,scipy.*,pydantic.*"
    skipped = f"[mypy-{others}]\nignore_missing_imports = true\nfollow_imports = skip\n"
    settings.write_text(f"[mypy]\nstrict = true\n{skipped}")
    check = ("-m", "mypy", "--config-file", settings, "--cache-dir", tmp_path / "cache")

    assert run(*check, typed) == "Success: no issues found in 1 source file\n"
    with pytest.raises(AssertionError, match="assert 1 == 0"):
        run(*check, wrong)
