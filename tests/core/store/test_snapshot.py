import hashlib
import os
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx_core.errors import CommitConflict, Fenced, Pinned, SpecError, StoreError
from stx_core.store import commit, ledger, log, manifest
from stx_core.store.commit import commit_snapshot, release, rollback
from stx_core.store.files.filesystem import connect, list_sizes, write_new
from stx_core.store.files.urls import join
from stx_core.store.gc import gc
from stx_core.store.log_state import pinned_version
from stx_core.store.schema import dense_matrix, to_parquet
from stx_core.store.snapshot import (
    open_snapshot,
    read_manifest,
    snapshot_files,
    snapshot_info,
    versions,
)

VECTORS = pa.schema(
    [("id", pa.string()), ("embedding", pa.list_(pa.field("element", pa.float32()), 2))]
)
LOCAL = pytest.mark.parametrize("root", ["local"], indirect=True)


@pytest.fixture
def committed(job):
    claim = log.claim(job.root, "spec")
    job.publish(claim, job.finish_all(claim.run))
    return job


def test_a_committed_snapshot_gives_its_rows_in_corpus_order(committed):
    dataset = open_snapshot(committed.root)
    table = dataset.to_table()

    assert dataset.schema == VECTORS
    assert table["id"].to_pylist() == [
        f"/corpus/{name}.parquet:{row}" for name in "ab" for row in range(10)
    ]
    np.testing.assert_array_equal(
        dense_matrix(table["embedding"])[:, 0], np.repeat([0, 1, 2, 3], 5)
    )


def test_a_snapshot_knows_what_it_holds(committed):
    info = snapshot_info(committed.root)

    assert (info.version, info.rows) == (1, 20)
    dense = info.outputs["dense"]
    assert dense["model"] == "tiny"
    assert (dense["rows"], dense["files"], dense["rows_quarantined"]) == (20, 4, 0)
    assert dense["bytes"] == sum(list_sizes(join(committed.root, "data")).values())
    assert dense["id_hash"] == info.id_hash
    assert "schema" not in dense


def test_files_that_no_record_names_are_not_read(committed):
    committed.finish(committed.units[0], "zombie")

    assert open_snapshot(committed.root).count_rows() == 20


def test_the_manifest_lists_each_unit(committed):
    table = read_manifest(committed.root)

    assert table.schema == manifest.MANIFEST
    assert table["start"].to_pylist() == [0, 5, 0, 5]
    assert set(table["key"].to_pylist()) == set(committed.planned()["dense"])


def test_before_the_first_commit_there_is_no_snapshot(job):
    log.claim(job.root, "spec")

    with pytest.raises(StoreError, match="no snapshot was committed here"):
        open_snapshot(job.root)


def test_one_of_several_outputs_must_be_named(job):
    claim = log.claim(job.root, "spec")
    both = ("dense", "second")
    job.publish(claim, job.finish_all(claim.run, both), both)

    with pytest.raises(SpecError, match=r"several outputs; name one \(--output\): dense, second"):
        open_snapshot(job.root)
    with pytest.raises(SpecError, match="no output 'third'"):
        open_snapshot(job.root, output="third")
    assert open_snapshot(job.root, output="second").count_rows() == 20


def test_a_ranking_need_not_be_named_beside_the_scores_of_its_positives(job):
    claim = log.claim(job.root, "spec")
    both = ("dense", "judged")
    job.publish(claim, job.finish_all(claim.run, both), both, judged="positives")

    assert open_snapshot(job.root).files == open_snapshot(job.root, output="dense").files


def test_older_versions_stay_readable(committed):
    claim = log.claim(committed.root, "spec")
    committed.publish(claim, [], units=committed.units[:1])

    assert snapshot_info(committed.root).version == 2
    assert open_snapshot(committed.root).count_rows() == 5
    assert open_snapshot(committed.root, version=1).count_rows() == 20
    with pytest.raises(StoreError, match="no version 7; kept are 1, 2"):
        open_snapshot(committed.root, version=7)


def test_units_of_the_base_are_carried_over_by_their_key(committed):
    before = read_manifest(committed.root)
    claim = log.claim(committed.root, "spec")
    fresh = committed.finish(committed.units[0], claim.run)

    committed.publish(claim, [fresh])

    after = read_manifest(committed.root)
    same = [a == b for a, b in zip(before.to_pylist(), after.to_pylist(), strict=True)]
    assert same == [False, True, True, True]
    assert open_snapshot(committed.root).count_rows() == 20


def test_an_unfinished_run_is_not_published(job):
    claim = log.claim(job.root, "spec")
    records = job.finish_all(claim.run)

    with pytest.raises(StoreError, match="1 of 4 units are not done"):
        job.publish(claim, records[1:])
    assert log.latest(job.root).state["snapshot"] is None


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"rows_out": 4, "rows_quarantined": 0}, "4 out"),
        ({"id_hash_out": f"{1:032x}"}, "ids"),
        ({"stop": 4, "rows_in": 4, "rows_out": 4}, "was planned"),
        ({"size": 1}, "says 1; restore the file"),
        ({"file": "data/dense/gone.parquet"}, "no bytes found"),
    ],
)
def test_a_record_that_does_not_fit_is_not_published(job, wrong, problem):
    claim = log.claim(job.root, "spec")
    first, *rest = job.finish_all(claim.run)

    with pytest.raises(StoreError, match=problem):
        job.publish(claim, [replace(first, **wrong), *rest])
    assert log.latest(job.root).state["snapshot"] is None


def test_two_units_cannot_name_one_file(job):
    claim = log.claim(job.root, "spec")
    first, second, *rest = job.finish_all(claim.run)

    with pytest.raises(StoreError, match="same file"):
        job.publish(claim, [first, replace(second, file=first.file, size=first.size), *rest])


def test_outputs_made_from_different_rows_are_not_published(job):
    claim = log.claim(job.root, "spec")
    both = ("dense", "second")
    *records, last = job.finish_all(claim.run, both)
    fewer = replace(
        last,
        rows_in=4,
        rows_filtered=1,
        rows_out=4,
        id_hash_in=f"{1:032x}",
        id_hash_out=f"{1:032x}",
    )

    with pytest.raises(StoreError, match="made from different rows"):
        job.publish(claim, [*records, fewer], both)


def test_quarantined_rows_count_and_their_file_must_exist(job):
    claim = log.claim(job.root, "spec")
    first, *rest = job.finish_all(claim.run)
    bad = replace(
        first,
        rows_out=4,
        rows_quarantined=1,
        reasons={"null_text": 1},
        quarantine_file="quarantine/q.parquet",
        quarantine_size=4,
        id_hash_out=f"{(int(first.id_hash_out, 16) - 5) % 2**128:032x}",
        id_hash_quarantined=f"{5:032x}",
    )

    with pytest.raises(StoreError, match=r"quarantine/q\.parquet: no bytes found"):
        job.publish(claim, [bad, *rest])
    write_new(join(job.root, "quarantine/q.parquet"), b"rows")
    info = job.publish(claim, [bad, *rest])

    assert info.rows == 20
    assert (info.outputs["dense"]["rows"], info.outputs["dense"]["rows_quarantined"]) == (19, 1)


def test_a_unit_without_rows_has_no_file(job):
    claim = log.claim(job.root, "spec")
    first, *rest = job.finish_all(claim.run)
    zero = f"{0:032x}"
    empty = replace(
        first, file="", size=0, rows_in=0, rows_filtered=5, rows_out=0, id_hash_in=zero,
        id_hash_out=zero,
    )  # fmt: skip

    job.publish(claim, [empty, *rest])

    assert open_snapshot(job.root).count_rows() == 15


def test_a_snapshot_of_nothing_has_its_schema(job):
    job.publish(log.claim(job.root, "spec"), [], units=[])

    assert open_snapshot(job.root).to_table() == VECTORS.empty_table()
    assert snapshot_info(job.root).rows == 0


def test_committing_twice_gives_the_same_snapshot(job):
    claim = log.claim(job.root, "spec")
    records = job.finish_all(claim.run)

    first = job.publish(claim, records)

    assert job.publish(claim, records) == first
    assert log.latest(job.root).n == 2


def test_a_stalled_start_is_fenced_and_its_records_are_used_by_the_next(job):
    stale = log.claim(job.root, "spec")
    records = job.finish_all(stale.run)
    for record in records:
        ledger.record(job.root, stale.run, record)
    fresh = log.claim(job.root, "spec")

    with pytest.raises(Fenced):
        job.publish(stale, records)
    info = job.publish(fresh, list(ledger.to_records(ledger.load(job.root, fresh.run))))

    assert (info.run, info.version) == (stale.run, 1)


def test_a_run_that_was_overtaken_conflicts(job):
    slow = log.claim(job.root, "slow")
    fast = log.claim(job.root, "fast")
    records = job.finish_all(slow.run)
    job.publish(fast, job.finish_all(fast.run))

    with pytest.raises(CommitConflict):
        job.publish(slow, records)
    assert snapshot_info(job.root).run == fast.run


def test_a_damaged_or_missing_segment_is_an_error(job, tmp_path):
    claim = log.claim(job.root, "spec")
    job.publish(claim, job.finish_all(claim.run))
    segments = log.latest(job.root).state["snapshot"]["segments"]

    with pytest.raises(StoreError, match="checksum does not match"):
        manifest.read_segments(job.root, [{**segments[0], "sha256": "0"}])
    with pytest.raises(StoreError, match="segment of the manifest is missing"):
        manifest.read_segments(job.root, [{**segments[0], "file": "_stx/segments/x.parquet"}])


def test_large_manifests_are_cut_by_shard(job, monkeypatch):
    monkeypatch.setattr(manifest, "_ROWS_PER_SEGMENT", 5)
    claim = log.claim(job.root, "spec")
    record = job.finish(job.units[0], claim.run)
    rows = many_rows(record)

    segments = manifest.write_segments(job.root, claim.run, 1, rows)

    assert len(segments) == 8
    assert sorted(each for s in segments for each in s["buckets"]) == list(range(manifest.BUCKETS))
    for segment in segments:
        table = manifest.read_segments(job.root, [segment])
        assert len(table) == segment["rows"]
        assert {manifest.bucket(url) for url in table["url"].to_pylist()} <= set(segment["buckets"])
    whole = manifest.read_segments(job.root, segments)
    assert whole == rows.sort_by([("url", "ascending"), ("start", "ascending")])


def many_rows(record, **changes):
    """Manifest rows of 20 shards of 2 units; `changes` of the first unit of the first shard."""
    records = [
        replace(record, url=f"/c/{shard}", key=f"{shard}-{part}", start=part)
        for shard in range(20)
        for part in range(2)
    ]
    records[0] = replace(records[0], **changes)
    return ledger.to_table(records).select(manifest.MANIFEST.names)


def test_only_segments_whose_rows_changed_are_written_again(job, monkeypatch):
    monkeypatch.setattr(manifest, "_ROWS_PER_SEGMENT", 5)
    record = job.finish(job.units[0], "run-1")
    before = manifest.write_segments(job.root, "run-1", 1, many_rows(record))
    rows = many_rows(record, n_tokens=31)

    after = manifest.write_segments(job.root, "run-2", 1, rows, before)

    new = [segment for segment in after if segment not in before]
    assert [manifest.bucket("/c/0") in segment["buckets"] for segment in new] == [True]
    assert manifest.read_segments(job.root, after).sort_by("key") == rows.sort_by("key")


def test_segments_of_a_stx_that_knew_no_statistics_are_read(job):
    rows = ledger.to_table([job.finish(job.units[0], "run-1")]).select(manifest.MANIFEST.names)
    data = to_parquet(rows.drop_columns(["quality"]))
    write_new(join(job.root, "_stx/segments/old.parquet"), data)
    segment = {"file": "_stx/segments/old.parquet", "sha256": hashlib.sha256(data).hexdigest()}

    found = manifest.read_segments(job.root, [segment])

    assert found.schema == manifest.MANIFEST
    assert found["quality"].to_pylist() == [None]
    assert found.drop_columns(["quality"]) == rows.drop_columns(["quality"])


@LOCAL
def test_a_dataset_can_be_moved(tmp_path, job):
    claim = log.claim(job.root, "spec")
    job.publish(claim, job.finish_all(claim.run))
    shutil.move(job.root, tmp_path / "elsewhere")

    assert open_snapshot(str(tmp_path / "elsewhere")).count_rows() == 20


@LOCAL
def test_each_file_can_be_read_by_itself(committed, tmp_path):
    for name in read_manifest(committed.root)["file"].to_pylist():
        assert pq.read_table(os.path.join(committed.root, name)).schema.equals(VECTORS)


@LOCAL
def test_no_temporary_files_stay_behind(committed):
    names = [name for _, _, files in os.walk(committed.root) for name in files]

    assert names
    assert not [name for name in names if name.startswith(".")]


def test_publishing_checks_before_it_writes_anything(job, monkeypatch):
    claim = log.claim(job.root, "spec")
    monkeypatch.setattr(commit, "write_segments", lambda *args: pytest.fail("wrote a segment"))

    with pytest.raises(StoreError):
        job.publish(claim, [])


def test_the_files_of_a_snapshot_are_listed_as_urls(job):
    claim = log.claim(job.root, "spec")
    both = ("dense", "second")
    records = job.finish_all(claim.run, both)
    job.publish(claim, records, both)

    urls = [join(job.root, record.file) for record in records]

    assert snapshot_files(job.root) == urls
    assert snapshot_files(job.root, output="second") == urls[4:]
    with pytest.raises(SpecError, match="no output 'third'"):
        snapshot_files(job.root, output="third")


def test_two_outputs_of_the_same_encoder_share_their_files(job, as_planned):
    claim = log.claim(job.root, "spec")
    records = ledger.to_table(job.finish_all(claim.run))
    planned = {name: as_planned(job.planned()["dense"]) for name in ("one", "two")}

    commit_snapshot(
        job.root, claim, planned, records, dict.fromkeys(planned, job.about),
        dict.fromkeys(planned, VECTORS),
    )  # fmt: skip

    assert open_snapshot(job.root, output="one").count_rows() == 20
    assert open_snapshot(job.root, output="two").count_rows() == 20
    assert len(snapshot_files(job.root)) == 4


def only(name):
    """Of the two shards, the one that a run does not speak about."""
    return lambda url: url != f"/corpus/{name}.parquet"


def units_of(job, name):
    return [unit for unit in job.units if not only(name)(unit.url)]


def backfill(job, claim, name):
    """Encode one shard again and leave the other one alone."""
    units = units_of(job, name)
    records = [job.finish(unit, claim.run) for unit in units]
    return job.publish(claim, records, units=units, keeps=only(name))


def runs_by_shard(root):
    rows = read_manifest(root).select(["url", "run"]).to_pylist()
    return {row["url"][8]: row["run"] for row in rows}


def test_a_backfill_changes_its_shards_and_keeps_the_others(committed):
    first = snapshot_info(committed.root).run
    claim = log.claim(committed.root, "a again")

    info = backfill(committed, claim, "a")

    assert (info.version, info.rows) == (2, 20)
    assert runs_by_shard(committed.root) == {"a": claim.run, "b": first}


def test_backfills_of_different_shards_build_on_each_other(committed):
    slow, fast = (log.claim(committed.root, spec) for spec in ("slow", "fast"))
    backfill(committed, fast, "b")

    info = backfill(committed, slow, "a")

    assert (info.version, info.rows) == (3, 20)
    assert runs_by_shard(committed.root) == {"a": slow.run, "b": fast.run}


def test_of_two_backfills_of_the_same_shard_the_slower_one_conflicts(committed):
    slow, fast = (log.claim(committed.root, spec) for spec in ("slow", "fast"))
    backfill(committed, fast, "a")

    with pytest.raises(CommitConflict):
        backfill(committed, slow, "a")
    assert runs_by_shard(committed.root)["a"] == fast.run


def test_a_rebase_does_not_bring_back_rows_that_the_winner_deleted(committed):
    slow, fast = (log.claim(committed.root, spec) for spec in ("slow", "fast"))
    committed.publish(fast, [], units=units_of(committed, "a"))

    info = backfill(committed, slow, "a")

    assert info.rows == 10
    assert set(runs_by_shard(committed.root)) == {"a"}


def test_a_backfill_with_another_encoder_is_refused(committed):
    claim = log.claim(committed.root, "other model")
    committed.about["fingerprint"] = "g"

    with pytest.raises(CommitConflict, match=r"has the outputs dense \(f\), this run writes dense"):
        backfill(committed, claim, "a")


def test_a_rollback_makes_an_older_version_current_again(committed):
    committed.publish(log.claim(committed.root, "less"), [], units=committed.units[:1])
    assert open_snapshot(committed.root).count_rows() == 5

    info = rollback(committed.root, 1)

    assert (info.version, info.rows) == (3, 20)
    assert open_snapshot(committed.root).count_rows() == 20
    assert open_snapshot(committed.root, version=2).count_rows() == 5
    assert log.latest(committed.root).kind == "rollback"
    assert [each.version for each in versions(committed.root)] == [1, 2, 3]


def test_a_rollback_to_the_current_version_publishes_nothing_but_holds_it(committed):
    assert rollback(committed.root, 1).version == 1
    held = log.latest(committed.root)

    assert rollback(committed.root, 1).version == 1

    assert pinned_version(held.state) == 1
    assert log.latest(committed.root) == held


def test_a_rollback_holds_its_version_until_it_is_released(committed):
    started = log.claim(committed.root, "started before")
    records = committed.finish_all(started.run)
    rollback(committed.root, 1)

    with pytest.raises(Pinned, match="holds version 1"):
        log.claim(committed.root, "started after")
    with pytest.raises(Pinned, match="--release"):
        committed.publish(started, records)

    assert release(committed.root) == 1
    assert release(committed.root) is None
    assert committed.publish(started, records).version == 2
    assert log.claim(committed.root, "started after").base == 2


def test_gc_leaves_a_hold_as_it_is(committed):
    rollback(committed.root, 1)

    gc(committed.root, keep=1, margin_s=0)

    assert pinned_version(log.latest(committed.root).state) == 1


def test_a_rollback_to_a_version_that_never_was_or_lost_a_file_is_refused(committed):
    claim = log.claim(committed.root, "a again")
    backfill(committed, claim, "a")
    filesystem, _ = connect(committed.root)
    (lost,) = set(snapshot_files(committed.root, version=1)[:1])
    filesystem.rm_file(connect(lost)[1])

    with pytest.raises(StoreError, match="no version 9; kept are 1, 2"):
        rollback(committed.root, 9)
    with pytest.raises(StoreError, match="no bytes found"):
        rollback(committed.root, 1)
    assert snapshot_info(committed.root).version == 2


def test_a_run_that_plans_on_a_version_which_was_rolled_back_conflicts(committed):
    committed.publish(log.claim(committed.root, "less"), [], units=committed.units[:1])
    claim = log.claim(committed.root, "again")
    rollback(committed.root, 1)
    release(committed.root)

    with pytest.raises(CommitConflict):
        committed.publish(claim, committed.finish_all(claim.run))
