"""Datasets and unfinished runs of earlier states of stx: they open, verify and go on.

`tests/golden/make.py` made them, an archive for each state, called by its commit.
"""

from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from stx_core.store import ledger, log
from stx_core.store.snapshot import open_snapshot, read_manifest, snapshot_info
from stx_core.store.verify import find_problems
from tests.golden.make import ROOT, Units, run_job, unpack

ARCHIVES = sorted((Path(__file__).parents[1] / "golden").glob("*.tar.xz"))
COMMITTED = ("encode", "queries", "retrieve", "rerank", "mine")
STOPPED = (
    *("encode-stopped", "backfill-stopped", "retrieve-stopped"),
    *("merge-stopped", "rerank-stopped", "mine-stopped"),
)


class Lake:
    """What an archive holds, in the store in memory and in a folder."""

    def __init__(self, archive, folder):
        self.datasets, self.models = unpack(archive, folder), folder / "models"

    def run(self, name):
        facts, units = self.datasets[name], Units()
        return run_job(facts["job"], facts["spec"], self.models, units), units.n_finished


@pytest.fixture(scope="module", params=ARCHIVES, ids=lambda path: path.name.split(".")[0])
def lake(request, tmp_path_factory):
    yield Lake(request.param, tmp_path_factory.mktemp("earlier"))
    fsspec.filesystem("memory").rm("/earlier", recursive=True)


def stored(name):
    """Content of all objects of a dataset but its pages, which tell when they were made."""
    memory = fsspec.filesystem("memory")
    paths = memory.find(f"/earlier/{name}")
    return {path: memory.cat_file(path) for path in paths if "/_stx/reports/" not in path}


def keys(name):
    """Keys of the current snapshot, none without one."""
    entry = log.latest(f"{ROOT}/{name}")
    if entry.state["snapshot"] is None:
        return set()
    return set(read_manifest(f"{ROOT}/{name}")["key"].to_pylist())


def records(name, run):
    table = ledger.load(f"{ROOT}/{name}", run)
    return {row["key"]: row for row in table.to_pylist()}


def leaves(column):
    """The arrays of values and lengths that a nested column is made of."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_struct(array.type):
        for child in array.flatten():
            yield from leaves(child)
    elif isinstance(array, (pa.ListArray, pa.FixedSizeListArray)):
        yield array.value_lengths() if isinstance(array, pa.ListArray) else array.is_null()
        yield from leaves(array.flatten())
    else:
        yield array


def rows(name, **which):
    return open_snapshot(f"{ROOT}/{name}", **which).to_table()


def same_kind(left, right):
    """Hashes where both are of one kind: they were xxh3 once, and are BLAKE2b now."""
    same = pc.equal(pc.utf8_length(left), pc.utf8_length(right))
    return left.filter(same), right.filter(same)


def assert_same_rows(name, other):
    outputs = snapshot_info(f"{ROOT}/{other}").outputs
    assert snapshot_info(f"{ROOT}/{name}").outputs.keys() == outputs.keys()
    for output in outputs:
        ours, theirs = rows(name, output=output), rows(other, output=output)
        assert ours.schema == theirs.schema
        assert len(ours) == len(theirs)
        for column in ours.column_names:
            for left, right in zip(leaves(ours[column]), leaves(theirs[column]), strict=True):
                if column == "content_hash":
                    left, right = same_kind(left, right)
                if pa.types.is_floating(left.type):
                    # Other machines, and other batches, add in another order.
                    np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5, err_msg=column)
                else:
                    assert left.equals(right), (output, column)


@pytest.mark.parametrize("name", COMMITTED)
def test_a_committed_dataset_verifies_and_is_current(lake, name):
    facts, before = lake.datasets[name], stored(name)

    assert list(find_problems(f"{ROOT}/{name}")) == []
    assert sorted(read_manifest(f"{ROOT}/{name}")["key"].to_pylist()) == facts["keys"]
    report, n_finished = lake.run(name)

    assert (report.version, report.committed, n_finished) == (facts["version"], False, 0)
    assert stored(name) == before


def test_all_versions_of_a_dataset_can_be_read(lake):
    n_rows = [len(rows("encode", output="dense", version=version)) for version in (1, 2, 3)]
    facts = [snapshot_info(f"{ROOT}/encode", version).outputs["dense"] for version in (1, 2, 3)]
    n_bad = [each["rows_quarantined"] for each in facts]

    assert [sum(both) for both in zip(n_rows, n_bad, strict=True)] == [145, 175, 175]
    assert min(n_bad) > 0


@pytest.mark.parametrize("name", STOPPED)
def test_an_unfinished_run_finishes_what_is_missing_and_nothing_else(lake, name):
    facts, root = lake.datasets[name], f"{ROOT}/{name}"
    run, twin = facts["run"], facts["equal_to"]
    carried, before = keys(name), records(name, run)
    wanted = keys(twin) | records(twin, snapshot_info(f"{ROOT}/{twin}").run).keys()
    assert list(find_problems(root)) == [] or not carried
    assert sorted(row["file"] for row in before.values()) == facts["finished"]

    report, n_finished = lake.run(name)

    after = records(name, run)
    assert report.committed
    assert snapshot_info(root).run == run
    assert {key: after[key] for key in before} == before
    assert after.keys() - before.keys() == wanted - carried - before.keys()
    assert {after[key]["epoch"] for key in after.keys() - before.keys()} == {2}
    assert 0 < n_finished <= len(after) - len(before)
    assert list(find_problems(root)) == []
    assert_same_rows(name, twin)
    assert log.latest(root).state["runs"][run]["spec_hash"] == facts["run_hash"]
    assert not lake.run(name)[0].committed
