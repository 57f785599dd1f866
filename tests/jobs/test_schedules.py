"""What a schedule does all day: a start that finds nothing to do."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

START = """
import sys
from stx.jobs.cli import main
sys.argv = ["stx", "encode", sys.argv[1]]
try:
    main()
finally:
    heavy = ("torch", "transformers", "ray", "scipy")
    print("loaded", [name for name in heavy if name in sys.modules])
"""


@pytest.fixture
def encoded(tmp_path, save_static_model, stx, monkeypatch):
    """A spec whose dataset is up to date."""
    monkeypatch.setattr("stx.pipelines.running.stopping.exit_on_signals", lambda: None)
    weights = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    model = save_static_model(tmp_path / "model", ["stars"], weights)
    pq.write_table(pa.table({"id": [1], "text": ["stars"]}), tmp_path / "corpus.parquet")
    spec = {
        "inputs": {"path": str(tmp_path / "corpus.parquet")},
        "models": {"dense": {"model": str(model), "dtype": "float32"}},
        "output": {"path": str(tmp_path / "out"), "keep_snapshots": 1},
        "quality": {"zero_vectors": {"refuse": 0.1}},
    }
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    assert stx("encode", path, "--set", "resources.supervised=false")[0] == 0
    return path


def test_a_start_with_nothing_to_do_loads_no_model_and_no_ray(encoded):
    done = subprocess.run(
        [sys.executable, "-c", START, encoded], capture_output=True, text=True, check=True
    )

    assert "nothing to do: version 1" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded []"
