"""Several starts, several runs and several commands on one dataset at the same time.

A start that is stopped looks alive to nobody for a minute: some of these tests wait for that.
"""

import copy
from pathlib import Path

import pytest

from tests.faults import check
from tests.faults.corpus import N_UNITS
from tests.faults.job import finish, wait_until_stopped, wake

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]


def data_files(job):
    return sorted(path.name for path in Path(job.root, "data/dense").iterdir())


@pytest.mark.row(6)
def test_a_driver_that_slept_through_a_takeover_publishes_nothing(job):
    job.arm("encode.mid", "SIGSTOP", at=3)
    first = job.start()
    wait_until_stopped(first)
    job.arm("commit.before", "SIGSTOP")
    second = job.start()
    wait_until_stopped(second)
    assert len(job.records()) == N_UNITS

    wake(first)
    fenced = finish(first)

    assert fenced.returncode == 1
    assert "a newer start took over and nothing was published here" in fenced.stderr
    wake(second)
    assert finish(second).returncode == 0
    job.end_check()


@pytest.mark.row(7)
def test_a_driver_stopped_inside_its_commit_is_fenced_by_a_takeover(job):
    job.arm("commit.before", "SIGSTOP", at=1)
    first = job.start()
    wait_until_stopped(first)
    job.arm("commit.before", "SIGSTOP")
    second = job.start()
    wait_until_stopped(second)

    wake(first)
    fenced = finish(first)

    assert fenced.returncode == 1
    assert "a newer start took over and nothing was published here" in fenced.stderr
    wake(second)
    done = finish(second)
    assert done.returncode == 0, done.stderr
    assert f"finished earlier {N_UNITS} units" in done.stdout
    job.end_check()


@pytest.mark.row(7)
def test_a_driver_stopped_inside_its_commit_finds_the_run_committed_by_another(job):
    job.arm("commit.before", "SIGSTOP")
    first = job.start()
    wait_until_stopped(first)
    assert job.run().returncode == 0

    wake(first)
    late = finish(first)

    assert late.returncode == 0, late.stderr
    assert "version 1" in late.stdout
    assert len(check.read_log(job.root)) == 3
    job.end_check()


@pytest.mark.row(8)
def test_of_two_starts_in_the_same_second_each_unit_is_encoded_once(job):
    # Slow enough that both are there together.
    for number in range(N_UNITS):
        (job.tokens / f"encode.mid@{number:05d}=sleep:3").touch()

    both = [job.start(), job.start()]
    ended = [finish(process) for process in both]

    assert [done.returncode for done in ended] == [0, 0], [done.stderr for done in ended]
    said = sorted("committed version 1" in done.stdout for done in ended)
    assert said == [False, True]
    assert "another start is at work" in "".join(done.stdout + done.stderr for done in ended)
    assert len(data_files(job)) == N_UNITS
    job.end_check()


@pytest.fixture
def two_runs(make_job, values, tmp_path):
    """Two runs into one dataset, both stopped right before their commit."""

    def start(first_inputs, second_inputs):
        jobs = []
        for inputs in (first_inputs, second_inputs):
            spec = copy.deepcopy(values)
            spec["inputs"] |= inputs
            job = make_job(spec, expected=None)
            job.arm("commit.before", "SIGSTOP")
            jobs.append(job)
        processes = [job.start() for job in jobs]
        for process in processes:
            wait_until_stopped(process)
        return jobs, processes

    return start


@pytest.mark.row(9)
def test_of_two_runs_over_the_same_files_the_later_commit_plans_again(two_runs, tmp_path):
    (first, second), processes = two_runs({}, {"text_separator": " "})

    wake(processes[0])
    won = finish(processes[0])
    wake(processes[1])
    later = finish(processes[1])

    assert won.returncode == 0, won.stderr
    assert "committed version 1" in won.stdout
    assert later.returncode == 0, later.stderr
    assert "committed version 2" in later.stdout
    assert later.stdout.count("plan for") == 2
    first.reader.stop()
    second.expected = check.clean_run(second.values, tmp_path / "clean")
    second.end_check()


@pytest.mark.row(9)
def test_of_two_backfills_of_different_files_the_later_commit_encodes_nothing_again(
    make_job, values, corpus, tmp_path
):
    for number, path in enumerate(sorted(corpus.iterdir())):
        (corpus / f"part={number}").mkdir()
        path.rename(corpus / f"part={number}" / path.name)
    jobs = []
    for number in ("0", "1"):
        only = {"backfill": {"partitions": [["part", "==", number]]}}
        jobs.append(make_job(values | only, expected=None))
        jobs[-1].arm("commit.before", "SIGSTOP")
    processes = [job.start() for job in jobs]
    for process in processes:
        wait_until_stopped(process)

    ended = []
    for process in processes:
        wake(process)
        ended.append(finish(process))

    assert [done.returncode for done in ended] == [0, 0], [done.stderr for done in ended]
    assert "committed version 2" in ended[1].stdout
    assert ended[1].stdout.count("plan for") == 1
    whole = make_job(values, check.clean_run(values, tmp_path / "clean"))
    done = whole.run()
    assert done.returncode == 0, done.stderr
    assert f"carried over {2 * N_UNITS // 3} units" in done.stdout
    assert len(data_files(whole)) == N_UNITS
    whole.end_check()
