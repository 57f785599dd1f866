"""`stx gc` and `stx rollback` at the worst moments of a run, and of a reader."""

import os
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stx_core.errors import SnapshotExpired
from stx_core.store.snapshot import open_snapshot
from tests.faults import check
from tests.faults.corpus import ROWS_PER_UNIT, shard
from tests.faults.job import finish, wait_until_stopped, wake

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]

AT_ONCE = ("--keep", "1", "--older-than", "0")


def change_corpus(corpus, first):
    """Other rows in one of the files: one more version is due."""
    pq.write_table(shard(first), corpus / "part-1.parquet", row_group_size=ROWS_PER_UNIT)


def grow_old(root):
    """As if all files had been written a week ago; gc spares what is younger than its fence."""
    then = time.time() - 7 * 24 * 3600
    for path in Path(root).rglob("*"):
        os.utime(path, (then, then))


def collect(job, *options):
    done = job.stx("gc", job.root, *AT_ONCE, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.row(28)
def test_gc_beside_a_run_spares_what_the_run_wrote_and_what_it_builds_on(
    make_job, values, expected, corpus, tmp_path
):
    job = make_job(values, expected)
    assert job.run().returncode == 0
    change_corpus(corpus, 5000)
    assert job.run().returncode == 0
    change_corpus(corpus, 6000)
    job.arm("commit.before", "SIGSTOP")
    process = job.start()
    wait_until_stopped(process)
    grow_old(job.root)

    said = collect(job)
    wake(process)
    done = finish(process)

    assert "versions   1" in said
    assert done.returncode == 0, done.stderr
    assert "committed version 3" in done.stdout
    job.expected = check.clean_run(values, tmp_path / "clean-again")
    job.end_check()


@pytest.mark.row(7)
@pytest.mark.row(28)
def test_a_run_that_gc_gave_up_inside_its_commit_publishes_nothing(job):
    job.arm("commit.before", "SIGSTOP")
    process = job.start()
    wait_until_stopped(process)
    grow_old(job.root)

    said = collect(job, "--abandon-after", "0")
    wake(process)
    fenced = finish(process)

    assert "given up" in said
    assert fenced.returncode == 1
    assert "nothing was published" in fenced.stderr
    assert job.run().returncode == 0
    job.end_check()


@pytest.mark.row(28)
@pytest.mark.parametrize("place", ["gc.after_fence", "gc.mid"])
def test_a_gc_that_was_killed_leaves_a_sound_dataset_and_the_next_one_finishes(
    make_job, values, expected, corpus, tmp_path, place
):
    job = make_job(values, expected)
    for first in (5000, 6000):
        assert job.run().returncode == 0
        change_corpus(corpus, first)
    assert job.run().returncode == 0
    grow_old(job.root)
    before = len(list((tmp_path / "out/data").rglob("*.parquet")))
    job.arm(place, "SIGKILL", at=1 if place == "gc.after_fence" else 3)

    killed = job.stx("gc", job.root, *AT_ONCE)

    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(SnapshotExpired):
        open_snapshot(job.root, version=1)
    collect(job)
    # Of the three versions one is left; each had a file of four units of its own.
    assert len(list((tmp_path / "out/data").rglob("*.parquet"))) == before - 8
    job.expected = check.clean_run(values, tmp_path / "clean-again")
    job.end_check()


@pytest.mark.row(29)
def test_a_rollback_beside_a_run_is_not_undone_by_it(make_job, values, expected, corpus, tmp_path):
    job = make_job(values, expected)
    assert job.run().returncode == 0
    change_corpus(corpus, 5000)
    assert job.run().returncode == 0
    change_corpus(corpus, 6000)
    job.arm("commit.before", "SIGSTOP")
    process = job.start()
    wait_until_stopped(process)

    rolled = job.stx("rollback", job.root, "1")
    wake(process)
    done = finish(process)

    assert rolled.returncode == 0, rolled.stderr
    # What was rolled back is held: neither this run nor the next one brings it back.
    assert done.returncode == 6, done.stderr
    assert job.run().returncode == 6
    assert job.stx("rollback", job.root, "--release").returncode == 0
    again = job.run()
    assert again.returncode == 0, again.stderr
    assert "committed version 4" in again.stdout
    job.expected = check.clean_run(values, tmp_path / "clean-again")
    job.end_check()
