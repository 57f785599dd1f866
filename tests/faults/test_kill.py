"""Kill -9 in the middle of a run, with Ray and real weights: the next start goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx_core.store.snapshot import open_snapshot

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

ROWS = 1920
ROWS_PER_UNIT = 64
WORDS = ["river", "carries", "fine", "sand", "hills", "glass", "melt", "ash", "light", "stone"]


@pytest.fixture
def corpus(tmp_path):
    random = np.random.default_rng(0)
    folder = tmp_path / "corpus"
    folder.mkdir()
    for shard in range(3):
        start = shard * ROWS // 3
        texts = [" ".join(random.choice(WORDS, 60)) for _ in range(ROWS // 3)]
        ids = [f"d{start + i}" for i in range(len(texts))]
        pq.write_table(pa.table({"id": ids, "text": texts}), folder / f"part-{shard}.parquet")
    return folder


@pytest.fixture
def command(corpus, minilm, tmp_path):
    """The real command line: the same one is started again after each death."""
    spec = tmp_path / "encode.yaml"
    spec.write_text(
        json.dumps(
            {
                "inputs": {"path": str(corpus)},
                "models": {"dense": {"model": str(minilm)}},
                "output": {"path": str(tmp_path / "out")},
                "resources": {"runner": "ray", "rows_per_unit": ROWS_PER_UNIT},
            }
        )
    )
    return [sys.executable, "-m", "stx.jobs.cli", "encode", str(spec)]


def start(command):
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def records(root):
    return {path: path.stat().st_mtime_ns for path in root.glob("_stx/runs/*/units/*/*.json")}


def wait_for_records(process, root, n_records):
    deadline = time.monotonic() + 240
    while len(records(root)) < n_records:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"{len(records(root))} records only"
        time.sleep(0.05)


def family(process):
    """Every process that a driver started, Ray's services among them."""
    return psutil.Process(process.pid).children(recursive=True)


def actors(process):
    found = []
    for child in family(process):
        try:
            if "_StageCell" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def end(processes):
    """Ray's services outlive a killed driver for a while: end those that this test started."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=30)


def assert_every_id_once(root):
    rows = open_snapshot(str(root)).to_table(columns=["id", "embedding"])
    assert Counter(rows.column("id").to_pylist()) == Counter(f"d{i}" for i in range(ROWS))
    assert rows.column("embedding").null_count == 0


def assert_a_further_run_does_nothing(command, root):
    before = sorted(root.rglob("*"))
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "nothing to do" in again.stdout
    assert sorted(root.rglob("*")) == before


@pytest.mark.row(1)
def test_a_killed_actor_is_replaced_and_nothing_is_lost(command, tmp_path):
    root = tmp_path / "out"
    process = start(command)
    wait_for_records(process, root, 3)
    killed = actors(process)
    assert killed
    for actor in killed:
        actor.kill()

    output, errors = process.communicate()

    assert process.returncode == 0, errors
    assert "committed version 1" in output
    assert_every_id_once(root)
    assert_a_further_run_does_nothing(command, root)


@pytest.mark.row(4)
def test_a_killed_driver_is_resumed_by_the_next_start(command, tmp_path):
    root = tmp_path / "out"
    process = start(command)
    wait_for_records(process, root, 8)
    started = family(process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    end(started)
    kept = records(root)
    assert 8 <= len(kept) < ROWS // ROWS_PER_UNIT
    with pytest.raises(OSError, match="snapshot"):
        open_snapshot(str(root))

    again = subprocess.run(command, capture_output=True, text=True)

    assert again.returncode == 0, again.stderr
    assert f"finished earlier {len(kept)} units" in again.stdout
    assert kept.items() <= records(root).items()
    epochs = Counter(json.loads(Path(path).read_text())["epoch"] for path in records(root))
    assert epochs == {1: len(kept), 2: ROWS // ROWS_PER_UNIT - len(kept)}
    assert_every_id_once(root)
    assert_a_further_run_does_nothing(command, root)
