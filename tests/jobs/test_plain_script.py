"""A job can be called from any script: no child runs the script again."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

# As a person writes it, with no `if __name__ == "__main__":`.
SCRIPT = """
from stx.pipelines.encode import run_encode
from stx.pipelines.spec.file import parse_spec

print("begins")
report = run_encode(parse_spec({
    "inputs": {"path": "corpus.parquet"},
    "models": {"dense": {"model": "model"}},
    "output": {"path": "out"},
    "resources": {"runner": "local"},
}))
print("version", report.version)
"""


def test_a_script_without_a_main_guard_runs_a_job_in_children(tmp_path, save_static_model):
    weights = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    save_static_model(tmp_path / "model", ["stars", "sand"], weights)
    pq.write_table(pa.table({"id": [1], "text": ["stars"]}), tmp_path / "corpus.parquet")
    (tmp_path / "script.py").write_text(SCRIPT)

    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["begins", "version 1"]
    assert "Traceback" not in done.stderr
