"""Old versions that a commit gives up: which ones go, and that nothing else does."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx.pipelines.encode import run_encode
from stx_core.errors import SnapshotExpired, SpecError, Stopped
from stx_core.store import log
from stx_core.store.files.filesystem import list_objects
from stx_core.store.snapshot import open_snapshot, read_manifest, snapshot_info

DAY_S = 24 * 3600


def add_shard(corpus, name):
    table = pa.table({"id": [name], "text": ["stars"], "lang": ["en"]})
    pq.write_table(table, corpus / f"{name}.parquet")


def replace_shard(corpus, text):
    table = pa.table({"id": ["r"], "text": [text], "lang": ["en"]})
    pq.write_table(table, corpus / "replaced.parquet")


def grow_old(root, days):
    """As if all that is there now had been written so many days ago."""
    for path in root.rglob("*"):
        if path.is_file():
            then = path.stat().st_mtime - days * DAY_S
            os.utime(path, (then, then))


def kept(root):
    return sorted(map(int, log.latest(str(root)).state["kept"]))


def data_files(root):
    return {f"data/{each.name}" for each in list_objects(f"{root}/data")}


def test_a_commit_gives_up_versions_beyond_the_newest(corpus, spec_of, tmp_path):
    root = tmp_path / "out"
    spec = spec_of(corpus, output={"keep_snapshots": 2})
    for text in ("stars", "sand", "glass"):
        replace_shard(corpus, text)
        report = run_encode(spec)
        grow_old(root, 2)

    assert kept(root) == [2, 3]
    assert "versions given up: 1; " in report.lines[0]
    assert open_snapshot(str(root), version=2).count_rows() == 251
    with pytest.raises(SnapshotExpired):
        open_snapshot(str(root), version=1)


def test_files_that_the_kept_versions_share_with_old_ones_stay(corpus, spec_of, tmp_path):
    root = tmp_path / "out"
    spec = spec_of(corpus, output={"keep_snapshots": 1})
    for text in ("stars", "sand"):
        replace_shard(corpus, text)
        run_encode(spec)
        grow_old(root, 2)

    assert kept(root) == [2]
    assert data_files(root) == set(read_manifest(str(root))["file"].to_pylist())
    # All but one file are of the version that is gone.
    assert open_snapshot(str(root)).to_table().num_rows == 251


def test_young_files_of_old_versions_stay_until_a_later_commit(corpus, spec_of, tmp_path):
    root = tmp_path / "out"
    spec = spec_of(corpus, output={"keep_snapshots": 1})
    for text in ("stars", "sand"):
        replace_shard(corpus, text)
        run_encode(spec)
    assert kept(root) == [2]
    assert len(data_files(root)) == snapshot_info(str(root)).outputs["dense"]["files"] + 1

    grow_old(root, 2)
    replace_shard(corpus, "glass")
    run_encode(spec)

    # That of version 1 went; that of version 2, too, is older than a day.
    assert data_files(root) == set(read_manifest(str(root))["file"].to_pylist())


def test_versions_that_were_current_within_keep_for_stay(corpus, spec_of, tmp_path):
    root = tmp_path / "out"
    spec = spec_of(corpus, output={"keep_for": "30d"})
    for days, name in ((20, "a"), (20, "b"), (20, "c"), (0, "d")):
        add_shard(corpus, name)
        run_encode(spec)
        grow_old(root, days)

    # Committed 60, 40, 20 and 0 days ago: the second was current until 20 days ago.
    assert kept(root) == [2, 3, 4]


def test_a_version_goes_only_when_number_and_time_agree(corpus, spec_of, tmp_path):
    root = tmp_path / "out"
    spec = spec_of(corpus, output={"keep_for": "30d", "keep_snapshots": 3})
    for name in "abcde":
        add_shard(corpus, name)
        run_encode(spec)
        grow_old(root, 40)

    assert kept(root) == [3, 4, 5]


def test_a_run_that_may_go_on_keeps_the_version_it_builds_on(corpus, spec_of, tmp_path):
    root = tmp_path / "out"
    spec = spec_of(corpus, output={"keep_snapshots": 1})
    run_encode(spec)
    for name in ("a", "b"):
        add_shard(corpus, name)
    with pytest.raises(Stopped):
        run_encode(spec_of(corpus, inputs={"columns": ["lang"]}, resources={"max_units": 1}))

    run_encode(spec)

    assert kept(root) == [1, 2]


def test_without_retention_settings_no_version_is_removed(corpus, spec_of, tmp_path):
    for name in "abc":
        add_shard(corpus, name)
        report = run_encode(spec_of(corpus))
        grow_old(tmp_path / "out", 400)

    assert kept(tmp_path / "out") == [1, 2, 3]
    assert [line.split()[0] for line in report.lines] == ["report"]


def test_a_start_with_nothing_to_do_gives_up_nothing(corpus, spec_of, tmp_path):
    for name in "ab":
        add_shard(corpus, name)
        run_encode(spec_of(corpus))
    before = log.latest(str(tmp_path / "out")).n

    report = run_encode(spec_of(corpus, output={"keep_snapshots": 1}))

    assert not report.committed
    assert log.latest(str(tmp_path / "out")).n == before


def test_files_that_cannot_be_deleted_are_a_warning_and_the_commit_stands(
    corpus, spec_of, tmp_path, monkeypatch
):
    def refuse(url):
        raise PermissionError(13, "Permission denied", url)

    spec = spec_of(corpus, output={"keep_snapshots": 1})
    replace_shard(corpus, "stars")
    run_encode(spec)
    grow_old(tmp_path / "out", 2)
    replace_shard(corpus, "sand")
    monkeypatch.setattr("stx_core.store.gc.remove", refuse)

    report = run_encode(spec)

    assert (report.version, report.committed) == (2, True)
    (warning,) = report.warnings
    assert "old versions were not removed" in warning
    assert "Permission denied" in warning


@pytest.mark.parametrize("bad", [{"keep_snapshots": 0}, {"keep_for": "a month"}])
def test_invalid_retention_settings_are_refused(corpus, spec_of, bad):
    with pytest.raises(SpecError, match="output.keep_"):
        spec_of(corpus, output=bad)
