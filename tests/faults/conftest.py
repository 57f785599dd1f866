import numpy as np
import pytest
from botocore.credentials import Credentials

from tests.faults import check
from tests.faults.corpus import ROWS_PER_UNIT, WORDS, write_corpus
from tests.faults.job import Job
from tests.faults.proxy import Proxy


@pytest.fixture(scope="session")
def fault_model(tmp_path_factory, save_static_model):
    """A static model of a few words: starts fast, and gives the same bits in any batch."""
    weights = np.random.default_rng(0).standard_normal((len(WORDS) + 1, 8)).astype(np.float32)
    return save_static_model(tmp_path_factory.mktemp("models") / "static", WORDS, weights)


@pytest.fixture
def corpus(tmp_path):
    """Three Parquet shards of four units each."""
    return write_corpus(tmp_path / "corpus")


@pytest.fixture
def values(corpus, fault_model, tmp_path):
    """The spec of a job on local files, with the local runner."""
    return {
        "inputs": {"path": str(corpus)},
        "models": {"dense": {"model": str(fault_model)}},
        "output": {"path": str(tmp_path / "out")},
        # The model in the driver itself: most tests want one process to hurt.
        "resources": {
            "runner": "local",
            "supervised": False,
            "rows_per_unit": ROWS_PER_UNIT,
            "cpus_per_actor": 2,
        },
    }


@pytest.fixture
def expected(values, tmp_path):
    """What a clean run gives."""
    return check.clean_run(values, tmp_path / "clean")


@pytest.fixture
def make_job(tmp_path, stx_process):
    """Builds jobs, and ends what is left of their processes."""
    jobs = []

    def make(values, expected, **environment):
        folder = tmp_path / f"job-{len(jobs)}"
        # Other variables may be for the start of an interpreter.
        is_plain = all(name.startswith("AWS_") for name in environment)
        forked = stx_process if is_plain else None
        jobs.append(Job(folder, values, expected, environment, forked))
        return jobs[-1]

    yield make
    for job in jobs:
        job.close()


@pytest.fixture
def job(make_job, values, expected):
    """The job on local files."""
    return make_job(values, expected)


@pytest.fixture
def proxy(s3_server):
    """A faulty network before the S3 server; it has no rules yet."""
    known = s3_server.environment
    keys = Credentials(known["AWS_ACCESS_KEY_ID"], known["AWS_SECRET_ACCESS_KEY"])
    running = Proxy(s3_server.endpoint, keys)
    yield running
    running.close()
