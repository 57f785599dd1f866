"""A dataset of an earlier stx: xxh3 for content hashes, no page checksums, nothing to be held.

Made once by stx as it was before content hashes were BLAKE2b: two shards encoded in two versions, a
third one added, and one of its two units finished before the run was stopped. The corpus lies in a
store in memory, so that its URLs and times are the same everywhere.
"""

import datetime
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from stx.pipelines.encode import run_encode
from stx.pipelines.encoding import keys
from stx.pipelines.spec.file import parse_spec
from stx.pipelines.verify import encode_again
from stx_core.store.snapshot import open_snapshot, read_manifest, snapshot_info
from stx_core.store.verify import find_problems

GOLDEN = Path(__file__).with_name("golden.tar.xz")


@pytest.fixture
def golden(tmp_path):
    """The dataset; its corpus is at memory://golden."""
    with tarfile.open(GOLDEN) as tar:
        tar.extractall(tmp_path, filter="data")
    memory = fsspec.filesystem("memory")
    for path in sorted((tmp_path / "corpus").iterdir()):
        put(path.name, path.read_bytes())
    yield tmp_path / "dataset"
    memory.rm("/golden", recursive=True)


def put(name, data, year=2026):
    memory = fsspec.filesystem("memory")
    memory.pipe_file(f"/golden/{name}", data)
    memory.store[f"/golden/{name}"].modified = datetime.datetime(year, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture
def spec(golden, static_model, monkeypatch):
    """As it was encoded; what a fingerprint is made of may change, and is not the point here."""
    known = snapshot_info(str(golden)).outputs["dense"]["fingerprint"]
    for module in ("stx.pipelines.encoding.keys", "stx.pipelines.encoding.plan"):
        monkeypatch.setattr(f"{module}.fingerprint", lambda settings: known)
    return parse_spec(
        {
            "inputs": {"path": "memory://golden"},
            "models": {"dense": {"model": str(static_model)}},
            "output": {"path": str(golden)},
            "resources": {"runner": "local", "rows_per_unit": 10, "supervised": False},
        }
    )


def vectors(root, **which):
    table = open_snapshot(str(root), **which).to_table()
    return dict(zip(table["id"].to_pylist(), table["embedding"].to_pylist(), strict=True))


def test_it_opens_and_verifies(golden):
    assert list(find_problems(str(golden))) == []
    assert len(vectors(golden)) == 39
    assert len(vectors(golden, version=1)) == 19


def test_its_unchanged_units_are_named_as_they_are_and_its_unfinished_run_goes_on(golden, spec):
    before = read_manifest(str(golden))
    (finished,) = {path.name for path in (golden / "data/dense").iterdir()} - {
        Path(file).name for file in before["file"].to_pylist()
    }

    report = run_encode(spec)

    after = read_manifest(str(golden))
    assert set(before["file"].to_pylist()) < set(after["file"].to_pylist())
    assert finished in {Path(file).name for file in after["file"].to_pylist()}
    assert (report.version, report.parts["dense"].encoded_rows) == (3, 10)
    assert list(find_problems(str(golden))) == []
    assert not run_encode(spec).committed


def test_rows_of_a_changed_shard_are_encoded_again_because_old_hashes_can_be_forged(golden, spec):
    run_encode(spec)
    table = pq.read_table(golden.parent / "corpus/part-1.parquet")
    for rows in (19, 18):
        pq.write_table(table.slice(0, rows), golden.parent / "changed.parquet")
        put("part-1.parquet", (golden.parent / "changed.parquet").read_bytes(), year=2000 + rows)
        report = run_encode(spec)
        # Then their hashes are new, and the next change costs nothing.
        assert report.parts["dense"].encoded_rows == (19 if rows == 19 else 0)


def test_its_rows_can_be_encoded_again_and_compared(golden, spec, static_model):
    (found,) = encode_again(str(golden), 30, model=str(static_model), seed=0)

    assert (found.n_rows, found.n_foreign, found.unread) == (30, 0, ())
    assert np.all(found.cosines > 0.999)
    assert keys.FORMAT_VERSION == 1
