"""A node is lost in the middle of a run, for real: two raylets on this machine, one is killed."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.cluster_utils import Cluster

from stx_core.store.snapshot import open_snapshot

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

ROWS, ROWS_PER_UNIT = 1024, 32
WORDS = ["river", "carries", "fine", "sand", "hills", "glass", "melt", "ash", "light", "stone"]


@pytest.fixture
def cluster():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3})
    yield cluster
    cluster.shutdown()


@pytest.fixture
def command(minilm, tmp_path):
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS, 60)) for _ in range(ROWS)]
    pq.write_table(pa.table({"id": list(range(ROWS)), "text": texts}), tmp_path / "corpus.parquet")
    spec = {
        "inputs": {"path": str(tmp_path / "corpus.parquet")},
        "models": {"dense": {"model": str(minilm)}},
        "output": {"path": str(tmp_path / "out")},
        # Two actors: more than fit on the head beside others, and few enough for it alone.
        "resources": {"rows_per_unit": ROWS_PER_UNIT, "actors": 2, "cpus_per_actor": 1},
    }
    (tmp_path / "encode.yaml").write_text(json.dumps(spec))
    return [sys.executable, "-m", "stx.jobs.cli", "encode", str(tmp_path / "encode.yaml")]


def n_records(root):
    return len(list(root.glob("_stx/runs/*/units/*/*.json")))


@pytest.mark.row(3)
def test_a_run_outlives_a_lost_node(cluster, command, tmp_path):
    lost = cluster.add_node(num_cpus=2)
    process = subprocess.Popen(
        command,
        env=os.environ | {"RAY_ADDRESS": cluster.address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while n_records(tmp_path / "out") < 4:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    cluster.remove_node(lost, allow_graceful=False)
    assert n_records(tmp_path / "out") < ROWS // ROWS_PER_UNIT

    output, errors = process.communicate()

    assert process.returncode == 0, errors
    assert "committed version 1" in output
    ids = open_snapshot(str(tmp_path / "out")).to_table(columns=["id"]).column("id").to_pylist()
    assert sorted(ids) == list(range(ROWS))
