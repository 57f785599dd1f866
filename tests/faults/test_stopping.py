"""A clean stop: SIGTERM, a deadline, a number of units."""

import signal

import pytest

from tests.faults import check
from tests.faults.corpus import N_UNITS
from tests.faults.job import finish, wait_until_stopped, wake

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


@pytest.fixture
def job(job):
    """A stop ends the workers where they stand, maybe in the middle of a write."""
    job.killed = True
    return job


@pytest.mark.row(5)
@pytest.mark.parametrize("place", ["encode.mid", "ledger.after"])
def test_a_terminated_run_pauses_with_its_finished_units_kept(job, place):
    job.arm(place, "SIGSTOP", at=4)
    process = job.start()
    wait_until_stopped(process)
    finished = len(job.records())
    process.send_signal(signal.SIGTERM)
    wake(process)

    stopped = finish(process)

    assert stopped.returncode == 4, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert check.read_log(job.root)[-1]["kind"] == "pause"
    assert len(job.records()) in (finished, finished + 1)
    again = job.run()
    assert again.returncode == 0, again.stderr
    assert len(job.records()) == N_UNITS
    job.end_check()


@pytest.mark.row(5)
def test_a_run_that_may_do_five_units_does_five_and_the_next_start_the_rest(job):
    first = job.run("--max-units", "5")

    assert first.returncode == 4, first.stderr
    assert len(job.records()) == 5
    again = job.run()
    assert again.returncode == 0, again.stderr
    assert "finished earlier 5 units" in again.stdout
    job.end_check()


@pytest.mark.row(5)
def test_a_run_past_its_deadline_stops_and_the_next_start_finishes(job):
    for number in range(1, N_UNITS + 1):
        (job.tokens / f"encode.mid@{number:05d}=sleep:2").touch()

    late = job.run("--deadline", "12s")
    finished = len(job.records())

    assert late.returncode == 4, late.stderr
    assert finished < N_UNITS
    again = job.run()
    assert again.returncode == 0, again.stderr
    assert len(job.records()) == N_UNITS
    job.end_check()
