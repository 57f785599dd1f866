"""``stx submit`` against a real cluster that asks for a token."""

import json
import shlex
import signal
import time
from pathlib import Path

import pytest

from stx_core.store.snapshot import open_snapshot
from tests.faults.check import read_log
from tests.faults.corpus import N_UNITS
from tests.faults.job import finish, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster(nodes):
    nodes.start_head(cpus=3)
    return nodes


@pytest.fixture
def submit(cluster, spec_file):
    """Starts `stx submit` of the spec; what it prints must not hold the token."""
    started = []

    def start(*options, **environment):
        address = ("--address", cluster.job_api)
        started.append(cluster.stx("submit", spec_file, *address, *options, **environment))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def done(cluster, process):
    """Wait for the end of a command."""
    result = finish(process)
    assert cluster.token not in result.stdout + result.stderr
    return result


def at_work(process):
    """Wait for the plan in the log of a job."""
    for line in process.stdout:
        if line.startswith("plan for"):
            return
    raise AssertionError(process.stderr.read())


def test_a_job_is_submitted_its_log_comes_and_the_next_one_has_the_next_number(
    cluster, submit, values, tmp_path
):
    first = done(cluster, submit("--metadata", "team=search"))
    second = done(cluster, submit("--no-wait"))

    assert first.returncode == 0, first.stderr
    assert f"committed version 1 of {values['output']['path']}" in first.stdout
    line, submitted, ended = first.stderr.splitlines()
    words = shlex.split(line)
    name = words[words.index("--submission-id") + 1]
    assert words[:3] == ["ray", "job", "submit"]
    assert json.loads(words[words.index("--metadata-json") + 1])["team"] == "search"
    assert (submitted, ended) == (f"stx: submitted {name}", f"stx: {name} ended with exit code 0")
    assert second.stdout == f"{name.removesuffix('-1')}-2\n"


def test_the_exit_code_is_that_of_the_job(cluster, submit, tmp_path):
    cases = {
        2: ["inputs.text_column=body"],
        3: ["output.max_quarantined=0.001", f"output.path={tmp_path / 'three'}"],
        4: ["resources.max_units=1", f"output.path={tmp_path / 'four'}"],
    }
    jobs = {
        code: submit(*(word for override in overrides for word in ("--set", override)))
        for code, overrides in cases.items()
    }

    ended = {code: done(cluster, process) for code, process in jobs.items()}

    assert {code: result.returncode for code, result in ended.items()} == {2: 2, 3: 3, 4: 4}
    assert "body" in ended[2].stdout
    assert all("Traceback" not in result.stdout + result.stderr for result in ended.values())


def test_a_second_start_attaches_and_ctrl_c_leaves_the_job_alone_until_it_comes_twice(
    cluster, submit, values
):
    cluster.arm("ledger.after", "sleep:60", times=1)
    first = submit()
    at_work(first)
    second = submit()
    at_work(second)

    first.send_signal(signal.SIGINT)
    left = done(cluster, first)
    second.send_signal(signal.SIGINT)
    wait_until(lambda: "goes on" in second.stderr.readline(), second)
    second.send_signal(signal.SIGINT)
    stopped = done(cluster, second)
    cluster.disarm()

    assert left.returncode == 130
    assert "ray job stop --address" in left.stderr
    assert stopped.returncode == 4
    assert "was stopped; finished units are kept" in stopped.stderr
    # Ray has sent the signal: the run says in its log that it rests.
    assert read_log(values["output"]["path"])[-1]["kind"] == "pause"


def test_a_job_can_be_stopped_by_its_spec(cluster, submit):
    assert "no job of this spec is at work" in done(cluster, submit("--stop")).stderr
    cluster.arm("ledger.after", "sleep:60", times=1)
    job = submit()
    at_work(job)

    stopped = done(cluster, submit("--stop"))
    cluster.disarm()

    assert stopped.returncode == 0
    assert "is stopped" in stopped.stderr
    assert done(cluster, job).returncode == 4


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"RAY_AUTH_TOKEN": "0" * 48}, "the cluster refuses this token (403)"),
        ({"RAY_AUTH_MODE": "disabled"}, "the cluster asks for a token (401)"),
    ],
)
def test_a_missing_or_wrong_token_is_one_line(cluster, submit, environment, says):
    refused = done(cluster, submit(**environment))

    assert refused.returncode == 1
    assert says in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.row(3)
def test_a_job_outlives_a_lost_node_and_its_output_is_complete(cluster, submit, values):
    cluster.add("lost", cpus=2)
    cluster.arm("encode.mid", "sleep:1", times=N_UNITS)
    root = values["output"]["path"]
    resources = ("runner=ray", "actors=2", "cpus_per_actor=1")
    job = submit(*(word for item in resources for word in ("--set", f"resources.{item}")))
    wait_until(lambda: n_records(root) >= 2 or job.poll() is not None)
    assert job.poll() is None, done(cluster, job).stdout
    cluster.kill("lost")
    assert n_records(root) < N_UNITS

    ended = done(cluster, job)

    cluster.disarm()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    ids = open_snapshot(root).to_table(columns=["id"]).column("id").to_pylist()
    lost = sum(1 for number in range(192) if number % 64 % 32 == 5)
    assert len(set(ids)) == len(ids) == 192 - lost


def n_records(root):
    return len(list(Path(root).glob("_stx/runs/*/units/*/*.json")))


def test_an_address_where_nothing_answers_is_one_line(nodes, spec_file):
    began = time.monotonic()

    failed = finish(nodes.stx("submit", spec_file, "--address", "http://127.0.0.1:1"))

    assert failed.returncode == 1
    assert "http://127.0.0.1:1: Ray's job API cannot be reached" in failed.stderr
    assert len(failed.stderr.splitlines()) == 1
    assert time.monotonic() - began < 30
