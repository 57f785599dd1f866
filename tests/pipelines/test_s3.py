"""The encode job with its corpus and its dataset on S3."""

import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from stx.pipelines.encode import run_encode
from stx_core.errors import StoreError
from stx_core.store.files import retries
from stx_core.store.files.filesystem import connect, list_names, list_sizes, write_new
from stx_core.store.files.s3 import S3Options, use_options
from stx_core.store.files.urls import join
from stx_core.store.snapshot import open_snapshot, snapshot_info

N_ROWS = 250


class StopAfter:
    """A view that interrupts the run after some units."""

    def __init__(self, units=None):
        self.units, self.results, self.plans = units, [], []

    def plan(self, plan):
        self.plans.append(plan)

    def watch(self, results, plan):
        for result in results:
            self.results.append(result)
            yield result
            if len(self.results) == self.units:
                raise KeyboardInterrupt


@pytest.fixture
def lake(corpus, s3_root):
    """The corpus on S3, beside an empty place for the dataset."""
    for path in corpus.iterdir():
        write_new(join(s3_root, "in", path.name), path.read_bytes())
    return s3_root


@pytest.fixture
def s3_spec(spec_of, lake):
    def build(**parts):
        parts["output"] = {"path": join(lake, "out")} | parts.get("output", {})
        return spec_of(join(lake, "in"), **parts)

    yield build
    use_options(S3Options())


def vectors(root):
    rows = open_snapshot(root).to_table(columns=["id", "embedding"]).to_pylist()
    return {row["id"]: row["embedding"] for row in rows}


def assert_equals_a_local_run(root, corpus, spec_of, tmp_path):
    run_encode(spec_of(corpus), StopAfter())
    expected, found = vectors(str(tmp_path / "out")), vectors(root)
    assert found.keys() == expected.keys()
    np.testing.assert_array_equal([found[i] for i in expected], list(expected.values()))


def test_an_interrupted_run_goes_on_and_equals_a_local_one(
    s3_spec, lake, corpus, spec_of, tmp_path
):
    with pytest.raises(KeyboardInterrupt):
        run_encode(s3_spec(), StopAfter(2))
    view = StopAfter()

    report = run_encode(s3_spec(), view)

    part = view.plans[0].parts["dense"]
    assert (part.n_done, len(view.results)) == (2, len(part.keys) - 2)
    assert report.committed
    assert_equals_a_local_run(join(lake, "out"), corpus, spec_of, tmp_path)


def test_a_second_run_writes_nothing(s3_spec, lake):
    run_encode(s3_spec(), StopAfter())
    before = list_sizes(lake), list_names(join(lake, "out", "_stx", "log"))

    report = run_encode(s3_spec(), StopAfter())

    assert (report.version, report.committed) == (1, False)
    assert (list_sizes(lake), list_names(join(lake, "out", "_stx", "log"))) == before


def test_a_dry_run_touches_nothing(s3_spec, lake):
    run_encode(s3_spec(), StopAfter(), dry_run=True)

    assert list_names(join(lake, "out", "_stx")) == []


def command(lake, model, tmp_path, **resources):
    spec = tmp_path / "encode.yaml"
    spec.write_text(
        json.dumps(
            {
                "inputs": {"path": join(lake, "in")},
                "models": {"dense": {"model": str(model)}},
                "output": {"path": join(lake, "out")},
                "resources": {"rows_per_unit": 64, **resources},
            }
        )
    )
    return [sys.executable, "-m", "stx.jobs.cli", "encode", str(spec)]


@pytest.mark.faults  # starts many processes: with the slower suites
@pytest.mark.timeout(300)
def test_two_drivers_of_one_spec_at_the_same_time_give_one_snapshot(lake, static_model, tmp_path):
    encode = command(lake, static_model, tmp_path, runner="local")

    drivers = [
        subprocess.Popen(encode, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ends = [(driver.communicate(), driver.returncode) for driver in drivers]

    assert 0 in [code for _, code in ends], ends
    assert {code for _, code in ends} <= {0, 1}, ends
    assert snapshot_info(join(lake, "out")).version == 1
    ids = open_snapshot(join(lake, "out")).to_table(columns=["id"]).column("id").to_pylist()
    assert Counter(ids) == Counter(f"d{i}" for i in range(N_ROWS))


def test_a_missing_bucket_is_refused_before_a_model_is_loaded(s3_spec, monkeypatch):
    monkeypatch.setattr("stx.pipelines.encoding.actors.with_probes", None)

    with pytest.raises(StoreError, match="make the bucket first"):
        run_encode(s3_spec(output={"path": "s3://absent-bucket-of-nobody/out"}), StopAfter())


def test_a_denied_write_is_refused_before_a_model_is_loaded(s3_server, lake, s3_spec, monkeypatch):
    if s3_server.kind == "moto":
        pytest.skip("moto enforces no policies")
    monkeypatch.setattr("stx.pipelines.encoding.actors.with_probes", None)
    bucket = s3_server.bucket
    prefix = lake.split("/", 3)[3]
    statement = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:PutObject",
        "Resource": f"arn:aws:s3:::{bucket}/{prefix}/out/*",
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    s3_server.client().put_bucket_policy(Bucket=bucket, Policy=policy)

    try:
        with pytest.raises(StoreError, match="check the credentials"):
            run_encode(s3_spec(), StopAfter())
    finally:
        s3_server.client().delete_bucket_policy(Bucket=bucket)


def test_repeated_storage_calls_are_in_the_report(s3_spec, lake, monkeypatch):
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    client, _ = connect(lake)
    info, failures = client.info, [TimeoutError("slow"), TimeoutError("slow")]
    retries.take_counts()

    def sometimes_slow(path):
        if failures:
            raise failures.pop()
        return info(path)

    monkeypatch.setattr(client, "info", sometimes_slow)

    report = run_encode(s3_spec(), StopAfter())

    assert report.retries["timeout"] == 2
