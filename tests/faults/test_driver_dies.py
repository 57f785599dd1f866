"""The driver is killed at every step of a run; the same command goes on."""

import signal

import pytest

from tests.faults.corpus import N_UNITS

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


@pytest.mark.row(1)
@pytest.mark.row(2)
@pytest.mark.parametrize(
    ("place", "finished", "files"),
    [("encode.mid", 2, 2), ("ledger.before", 2, 3), ("ledger.after", 3, 3)],
)
def test_a_unit_is_done_with_its_record_and_not_before(job, tmp_path, place, finished, files):
    job.arm(place, "SIGKILL", at=3)

    killed = job.run()

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(job.records()) == finished
    assert len(list((tmp_path / "out/data/dense").glob("*"))) == files
    again = job.run()
    assert again.returncode == 0, again.stderr
    assert f"finished earlier {finished} units" in again.stdout
    assert len(job.records()) == N_UNITS
    assert len(list((tmp_path / "out/data/dense").glob("*"))) == N_UNITS + files - finished
    job.end_check()


@pytest.mark.row(4)
@pytest.mark.parametrize("place", ["plan.listed", "claim.before", "write.before", "commit.before"])
def test_before_the_commit_nothing_is_visible_and_the_next_start_finishes(job, place):
    job.arm(place, "SIGKILL")

    killed = job.run()

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    shown = job.stx("show", job.root)
    assert (shown.returncode, "no snapshot was committed here" in shown.stderr) == (1, True)
    again = job.run()
    assert again.returncode == 0, again.stderr
    assert "committed version 1" in again.stdout
    job.end_check()


@pytest.mark.row(4)
def test_after_the_commit_nothing_is_left_to_do(job):
    job.arm("commit.after", "SIGKILL")

    killed = job.run()

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "version 1" in job.stx("show", job.root).stdout
    job.end_check()


@pytest.mark.row(4)
def test_segments_of_a_start_that_died_are_not_part_of_the_snapshot(job, tmp_path):
    job.arm("segment.after", "SIGKILL")

    killed = job.run()
    again = job.run()

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert again.returncode == 0, again.stderr
    assert len(list((tmp_path / "out/_stx/segments").glob("*"))) == 2
    job.end_check()
