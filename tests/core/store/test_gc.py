from datetime import UTC, datetime

import pytest

from stx_core.errors import CommitConflict, Fenced, SnapshotExpired, StoreError
from stx_core.store import gc as module
from stx_core.store import ledger, log, snapshot
from stx_core.store.commit import rollback
from stx_core.store.files.filesystem import list_objects, write_new, write_over
from stx_core.store.files.urls import join
from stx_core.store.gc import gc
from stx_core.store.snapshot import (
    open_snapshot,
    read_manifest,
    snapshot_files,
    snapshot_info,
    versions,
)

# Some stores give whole seconds: as if a minute had passed since the last write.
NOW = {"margin_s": -60}
DAY_S = 24 * 3600


@pytest.fixture
def age(monkeypatch):
    """Lets days pass for the store: what exists now seems to have been written `days` earlier."""
    seen = {}
    list_all, one = module.list_objects, module.modified_s

    def pass_days(days):
        for url in [*seen]:
            seen[url] += days * DAY_S
        for each in list_all(pass_days.root):
            seen.setdefault(join(pass_days.root, each.name), days * DAY_S)

    def aged(url, modified):
        return modified - seen.get(url, 0)

    def listing(folder):
        return [
            module.Listed(each.name, each.size, aged(join(folder, each.name), each.modified_s))
            for each in list_all(folder)
        ]

    monkeypatch.setattr(module, "list_objects", listing)
    monkeypatch.setattr(module, "modified_s", lambda url: aged(url, one(url)))
    return pass_days


def names(root, folder):
    return {each.name for each in list_objects(join(root, folder))}


def rewrite(job):
    """A further version with files of its own."""
    claim = log.claim(job.root, "spec")
    records = [job.finish(unit, claim.run) for unit in job.units]
    for each in records:
        ledger.record(job.root, claim.run, each)
    return job.publish(claim, records)


def test_files_of_expired_versions_go_and_those_of_kept_ones_stay(job):
    for _ in range(3):
        rewrite(job)
    kept = {*snapshot_files(job.root), *snapshot_files(job.root, version=2)}

    garbage = gc(job.root, keep=2, **NOW)

    assert garbage.versions == (1,)
    assert {join(job.root, "data", name) for name in names(job.root, "data")} == kept
    assert len(names(job.root, "_stx/segments")) == 2
    assert [each.version for each in versions(job.root)] == [2, 3]
    assert open_snapshot(job.root, version=2).count_rows() == 20
    with pytest.raises(SnapshotExpired, match="version 1 was removed by gc or forget; kept are 2"):
        open_snapshot(job.root, version=1)
    with pytest.raises(SnapshotExpired):
        rollback(job.root, 1)


def test_pages_of_expired_versions_go(job):
    for version in (1, 2, 3):
        rewrite(job)
        write_over(join(job.root, f"_stx/reports/{version}/report.html"), b"page")
    write_over(join(job.root, "_stx/reports/notes.txt"), b"of a person")

    gc(job.root, keep=2, **NOW)

    assert names(job.root, "_stx/reports") == {"2/report.html", "3/report.html", "notes.txt"}


def test_files_that_kept_versions_share_with_expired_ones_stay(job):
    rewrite(job)
    claim = log.claim(job.root, "spec")
    job.publish(claim, [job.finish(job.units[0], claim.run)])

    garbage = gc(job.root, keep=1, **NOW)

    assert len([file for file in garbage.files if file.startswith("data/")]) == 1
    assert open_snapshot(job.root).to_table().num_rows == 20


def test_log_entries_are_never_deleted(job):
    for _ in range(3):
        rewrite(job)

    garbage = gc(job.root, keep=1, **NOW)

    assert not [file for file in garbage.files if "_stx/log" in file]
    assert log.latest(job.root).n == len(names(job.root, "_stx/log")) == 7


def test_young_files_stay(job, age):
    rewrite(job)
    age.root = job.root
    age(2)
    rewrite(job)
    rewrite(job)

    gc(job.root, keep=1)

    # Of the first version, two days old; the second is as expired, but of today.
    assert len(names(job.root, "data")) == 8


def test_what_an_open_or_paused_run_has_written_stays(job):
    rewrite(job)
    going_on = [log.claim(job.root, spec) for spec in ("open", "paused")]
    log.pause(job.root, going_on[1].run, 1)
    for claim in going_on:
        write_over(join(job.root, "_stx/runs", claim.run, "spec.yaml"), b"spec")
        for unit in job.units:
            ledger.record(job.root, claim.run, job.finish(unit, claim.run))

    gc(job.root, keep=1, **NOW)

    for claim in going_on:
        assert ledger.load(job.root, claim.run).num_rows == 4
        assert len([name for name in names(job.root, "data") if claim.run in name]) == 4


def test_the_version_that_an_open_run_builds_on_stays_readable(job):
    rewrite(job)
    slow = log.claim(job.root, "slow")
    for _ in range(2):
        rewrite(job)

    garbage = gc(job.root, keep=1, **NOW)

    assert slow.base == 1
    assert garbage.versions == (2,)
    assert open_snapshot(job.root, version=1).to_table().num_rows == 20


def test_attempts_that_lost_and_files_of_killed_writers_go(job):
    rewrite(job)
    run = snapshot_info(job.root).run
    job.finish(job.units[0], run)
    temporary = f"data/dense/.{'a' * 32}-{run}-1-{'b' * 12}.parquet.{'c' * 32}.tmp"
    write_new(join(job.root, temporary), b"half")

    garbage = gc(job.root, **NOW)

    assert len([file for file in garbage.files if file.startswith("data/")]) == 2
    assert temporary in garbage.files
    assert len(names(job.root, "data")) == 4


def test_files_that_stx_did_not_name_are_left_alone(job):
    rewrite(job)
    write_new(join(job.root, "data/dense/mine.parquet"), b"not of stx")

    gc(job.root, **NOW)

    assert "dense/mine.parquet" in names(job.root, "data")


def test_of_a_finished_run_only_the_spec_stays_while_its_rows_are_served(job):
    rewrite(job)
    first = snapshot_info(job.root).run
    write_new(join(job.root, "_stx/runs", first, "spec.yaml"), b"spec")
    claim = log.claim(job.root, "spec")
    job.publish(claim, [job.finish(job.units[0], claim.run)])

    gc(job.root, keep=1, **NOW)

    assert set(read_manifest(job.root)["run"].to_pylist()) == {first, claim.run}
    assert names(job.root, "_stx/runs") == {f"{first}/spec.yaml"}


def test_an_old_interrupted_run_is_given_up_and_can_publish_nothing(job, age):
    rewrite(job)
    stalled = log.claim(job.root, "stalled")
    records = [job.finish(unit, stalled.run) for unit in job.units]
    for each in records:
        ledger.record(job.root, stalled.run, each)
    age.root = job.root
    age(15)

    garbage = gc(job.root)

    assert garbage.runs == (stalled.run,)
    assert ledger.load(job.root, stalled.run).num_rows == 0
    with pytest.raises(Fenced, match="is abandoned"):
        job.publish(stalled, records)
    assert log.claim(job.root, "stalled").run != stalled.run


def test_a_run_that_beats_is_not_given_up(job, time, age):
    rewrite(job)
    claim = log.claim(job.root, "slow")
    with log.hold(job.root, claim) as holder:
        age.root = job.root
        age(15)
        time.during.append(holder.beat)

        garbage = gc(job.root)

    assert garbage.runs == ()
    assert log.latest(job.root).state["runs"][claim.run]["state"] == "open"


def test_a_paused_run_of_last_week_is_not_given_up(job, age):
    claim = log.claim(job.root, "slow")
    log.pause(job.root, claim.run, claim.epoch)
    age.root = job.root
    age(7)

    assert gc(job.root).runs == ()
    assert log.claim(job.root, "slow").run == claim.run


def test_a_gc_that_has_nothing_to_do_appends_nothing(job):
    for _ in range(2):
        rewrite(job)
    assert gc(job.root, keep=1, **NOW).versions == (1,)
    last = log.latest(job.root)

    again = gc(job.root, keep=1, **NOW)
    young = join(job.root, f"data/dense/{'0' * 32}-20260101T000000-{'0' * 8}-1-aa.parquet")
    write_new(young, b"what a lost attempt left")
    spared = gc(job.root, keep=1)

    assert (again.files, spared.files) == ((), ())
    assert log.latest(job.root) == last
    assert gc(job.root, keep=1, **NOW).files == (young.removeprefix(job.root)[1:],)
    assert log.latest(job.root).n == last.n + 1


def test_the_fence_is_in_the_log_before_anything_is_deleted(job, monkeypatch):
    for _ in range(2):
        rewrite(job)
    before = names(job.root, "data")

    def killed(url):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        gc(job.root, keep=1, **NOW)

    assert names(job.root, "data") == before
    with pytest.raises(SnapshotExpired):
        rollback(job.root, 1)
    monkeypatch.undo()
    assert len([name for name in gc(job.root, keep=1, **NOW).files if "data" in name]) == 4


def test_a_rollback_that_loses_its_number_to_gc_is_refused(job, monkeypatch):
    for _ in range(2):
        rewrite(job)
    create = log.create

    def interrupted(url, body):
        monkeypatch.setattr(log, "create", create)
        gc(job.root, keep=1, **NOW)
        return create(url, body)

    monkeypatch.setattr(log, "create", interrupted)

    with pytest.raises(SnapshotExpired):
        rollback(job.root, 1)
    assert snapshot_info(job.root).version == 2


def test_a_reader_that_gc_overtakes_reads_the_next_version(job, monkeypatch):
    rewrite(job)
    read_segments = snapshot.read_segments

    def overtaken(root, segments):
        monkeypatch.setattr(snapshot, "read_segments", read_segments)
        rewrite(job)
        gc(root, keep=1, **NOW)
        return read_segments(root, segments)

    monkeypatch.setattr(snapshot, "read_segments", overtaken)

    assert open_snapshot(job.root).to_table().num_rows == 20
    monkeypatch.setattr(snapshot, "read_segments", overtaken)
    with pytest.raises(SnapshotExpired):
        open_snapshot(job.root, version=2)


def test_a_run_that_lost_the_race_still_finds_its_base_after_gc(job):
    rewrite(job)
    slow = log.claim(job.root, "slow")
    records = [job.finish(unit, slow.run) for unit in job.units]
    rewrite(job)
    gc(job.root, keep=1, **NOW)

    with pytest.raises(CommitConflict):
        job.publish(slow, records)
    again = log.claim(job.root, "slow")
    assert job.publish(again, records).version == 3


def test_a_dry_run_says_the_same_and_touches_nothing(job):
    for _ in range(3):
        rewrite(job)
    before = list_objects(job.root)

    said = gc(job.root, keep=1, dry_run=True, **NOW)

    assert list_objects(job.root) == before
    assert said == gc(job.root, keep=1, **NOW)
    assert said.files


def test_what_is_no_dataset_is_refused(root):
    with pytest.raises(StoreError, match="no dataset of stx is here"):
        gc(root)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        gc(root, keep=0)


def test_times_of_the_store_are_those_of_now(root):
    write_new(join(root, "a/b"), b"x")

    (found,) = list_objects(root)

    assert (found.name, found.size) == ("a/b", 1)
    assert abs(found.modified_s - datetime.now(UTC).timestamp()) < 300
    # S3 says whole seconds when it is asked about one object.
    assert 0 <= found.modified_s - module.modified_s(join(root, "a/b")) < 1


def test_young_files_are_spared_and_counted(job):
    rewrite(job)
    rewrite(job)

    garbage = gc(job.root, keep=1, margin_s=3600)

    assert garbage.files == ()
    assert garbage.n_spared == len(garbage_names := gc(job.root, keep=1, **NOW).files) > 0
    assert 0 < garbage.next_in_s <= 3600, garbage_names
