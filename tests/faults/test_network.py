"""Between stx and a real S3 server is a network that loses, cuts, delays and refuses."""

import pytest

from tests.faults import check
from tests.faults.corpus import N_UNITS

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]

RECORD = r"/units/.*\.json$"
LOG = r"/_stx/log/.*\.json$"
DATA = r"/data/.*\.parquet$"


@pytest.fixture
def s3_job(make_job, values, expected, s3_root, s3_server, proxy):
    """The job with its output behind the proxy; time-outs are short, or the tests were long."""
    spec = values | {
        "output": {"path": f"{s3_root}/out"},
        "store": {"request_timeout": 3, "connect_timeout": 3},
    }
    return make_job(spec, expected, **s3_server.environment | {"AWS_ENDPOINT_URL": proxy.endpoint})


def kinds(job):
    return [entry["kind"] for entry in check.read_log(job.root)]


@pytest.mark.row(10)
@pytest.mark.parametrize(
    ("key", "at"), [(RECORD, 3), (LOG, 1), (LOG, 2)], ids=["record", "claim", "commit"]
)
def test_a_write_whose_answer_was_lost_counts_once(s3_job, proxy, key, at):
    rule = proxy.add("lose", method="PUT", key=key, at=at)

    done = s3_job.run()

    assert done.returncode == 0, done.stderr
    assert rule.fired == 1
    assert kinds(s3_job) == ["claim", "commit"]
    assert len(s3_job.records()) == N_UNITS
    s3_job.end_check()


@pytest.mark.row(11)
@pytest.mark.parametrize(
    ("key", "at"), [(RECORD, 3), (LOG, 1), (LOG, 2)], ids=["record", "claim", "commit"]
)
def test_a_write_that_lands_after_the_client_gave_up_counts_once(s3_job, proxy, key, at):
    rule = proxy.add("delay", method="PUT", key=key, at=at, value=5)

    done = s3_job.run()

    assert done.returncode == 0, done.stderr
    assert rule.fired == 1
    assert kinds(s3_job) == ["claim", "commit"]
    s3_job.end_check()


@pytest.mark.row(12)
@pytest.mark.parametrize("mode", ["cut_up", "cut_down"])
def test_a_connection_reset_in_the_middle_leaves_no_short_object(s3_job, proxy, mode):
    method = "PUT" if mode == "cut_up" else "GET"
    rules = [
        proxy.add(mode, method=method, key=key, at=2, value=100) for key in (DATA, LOG, RECORD)
    ]

    done = s3_job.run()

    assert done.returncode == 0, done.stderr
    assert rules[0].fired == 1
    s3_job.end_check()


@pytest.mark.row(12)
def test_a_short_read_of_the_corpus_is_not_taken_for_the_file(
    make_job, values, expected, corpus, s3_root, s3_server, proxy
):
    client = s3_server.client()
    prefix = s3_root.split("/", 3)[3]
    for path in sorted(corpus.iterdir()):
        client.upload_file(str(path), s3_server.bucket, f"{prefix}/corpus/{path.name}")
    spec = values | {
        "inputs": {"path": f"{s3_root}/corpus"},
        "store": {"request_timeout": 3, "connect_timeout": 3},
    }
    behind = s3_server.environment | {"AWS_ENDPOINT_URL": proxy.endpoint}
    job = make_job(spec, expected, **behind)
    rule = proxy.add("cut_down", method="GET", key=r"/corpus/.*\.parquet$", share=0.4, times=8,
                     value=60)  # fmt: skip

    done = job.run()

    assert done.returncode == 0, done.stderr
    assert rule.fired >= 3
    job.end_check()


@pytest.mark.row(13)
def test_a_network_that_swallows_requests_ends_in_a_time_out_and_not_in_a_hang(s3_job, proxy):
    rules = [
        proxy.add("blackhole", method="PUT", key=DATA, at=3),
        proxy.add("blackhole", method="PUT", key=RECORD, at=3),
        proxy.add("blackhole", method="GET", key="list-type", at=2),
    ]

    done = s3_job.run()

    assert done.returncode == 0, done.stderr
    assert [rule.fired for rule in rules] == [1, 1, 1]
    s3_job.end_check()


@pytest.mark.row(13)
def test_a_slow_network_is_only_slow(s3_job, proxy):
    rule = proxy.add("latency", share=0.3, times=None, value=1)

    done = s3_job.run()

    assert done.returncode == 0, done.stderr
    assert rule.fired > 10
    s3_job.end_check()


@pytest.mark.row(14)
def test_a_store_that_says_slow_down_is_asked_again_and_the_report_says_so(s3_job, proxy):
    slow = proxy.add("status", share=0.3, times=None, value=503, code="SlowDown")
    broken = proxy.add("status", share=0.1, times=None, value=500, code="InternalError")

    done = s3_job.run()

    assert done.returncode == 0, done.stderr
    assert slow.fired > 10
    assert broken.fired > 1
    assert "calls made again" in done.stdout
    s3_job.end_check()


@pytest.mark.row(14)
def test_a_conflict_between_conditional_writes_is_no_lost_race(s3_job, proxy):
    rules = [
        proxy.add("status", method="PUT", key=key, at=at, value=409,
                  code="ConditionalRequestConflict")
        for key, at in ((RECORD, 2), (LOG, 1), (LOG, 2))
    ]  # fmt: skip

    done = s3_job.run()

    assert done.returncode == 0, done.stderr
    assert [rule.fired for rule in rules] == [1, 1, 1]
    assert kinds(s3_job) == ["claim", "commit"]
    s3_job.end_check()


@pytest.mark.row(15)
def test_expired_credentials_end_the_run_with_one_line_and_a_resume_works(s3_job, proxy):
    proxy.add("status", method="PUT", key=DATA, at=4, times=None, value=403, code="ExpiredToken")

    refused = s3_job.run()

    assert refused.returncode == 1
    assert "ExpiredToken; check the credentials" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert len(s3_job.records()) == 3
    proxy.rules.clear()
    again = s3_job.run()
    assert again.returncode == 0, again.stderr
    assert "finished earlier 3 units" in again.stdout
    s3_job.end_check()


@pytest.mark.row(16)
@pytest.mark.parametrize("fault", ["bucket", "denied"])
def test_an_output_that_cannot_be_written_is_refused_before_a_model_is_loaded(
    make_job, values, expected, s3_root, s3_server, proxy, fault
):
    root = f"{s3_root}/out"
    if fault == "bucket":
        root = "s3://no-such-bucket-here/out"
    else:
        proxy.add("status", method="PUT", times=None, value=403, code="AccessDenied")
    spec = values | {"output": {"path": root}}
    behind = s3_server.environment | {"AWS_ENDPOINT_URL": proxy.endpoint}
    job = make_job(spec, expected, **behind)

    refused = job.run()

    assert refused.returncode == 1
    assert root in refused.stderr
    # Beside lines of progress.
    assert [line[:4] for line in refused.stderr.splitlines() if line[0] != "{"] == ["stx:"]
    assert "plan for" not in refused.stdout


@pytest.mark.row(17)
def test_a_store_that_ignores_the_condition_is_refused(s3_job, proxy):
    rule = proxy.add("strip", method="PUT", times=None, header="If-None-Match")

    refused = s3_job.run()

    assert refused.returncode == 1
    assert rule.fired >= 2
    assert "If-None-Match is ignored" in refused.stderr
    assert len(s3_job.records()) == 0
    proxy.rules.clear()
    assert s3_job.run().returncode == 0
    s3_job.end_check()
