"""The S3 server that tests use: one given by environment, else Ceph, else moto as a stand-in.

STX_TEST_S3_ENDPOINT   a running server, with the usual AWS_* variables for its keys
STX_REQUIRE_CEPH=1     the test run fails unless Ceph was used
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from tests.servers import ceph
from tests.servers.s3_process import ADDRESS, RUN_LOCK, lock

REQUIRE_CEPH = "STX_REQUIRE_CEPH"
ENDPOINT = "STX_TEST_S3_ENDPOINT"

# Where the process of the server says its address; and the lock that keeps it alive.
_FOLDER = pytest.StashKey[Path]()
_ALIVE = pytest.StashKey[IO[str]]()


@dataclass(frozen=True)
class S3Server:
    """A running server with one bucket.

    Attributes:
        kind: ``ceph``, ``moto`` or ``given``.
        endpoint: its URL.
        bucket: made for this test run.
        environment: variables by which any client of S3 finds it, keys included.
    """

    kind: str
    endpoint: str
    bucket: str
    environment: dict[str, str]

    def client(self):
        """A boto3 client, for what stx never does: make buckets, look at requests."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=self.environment.get("AWS_SESSION_TOKEN"),
            region_name=self.environment["AWS_DEFAULT_REGION"],
            config=Config(request_checksum_calculation="when_required"),
        )


def kind() -> str:
    """Which server a test run would use."""
    if os.environ.get(ENDPOINT):
        return "given"
    return "ceph" if ceph.is_installed() else "moto"


def pytest_report_header() -> str:
    described = {
        "given": f"the server at {os.environ.get(ENDPOINT)}",
        "ceph": "Ceph's object gateway, started here",
        "moto": "moto, a reduced stand-in (Ceph is not installed)",
    }
    return f"S3: {described[kind()]}"


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get(REQUIRE_CEPH) == "1" and kind() != "ceph":
        raise pytest.UsageError(f"{REQUIRE_CEPH}=1, but the tests would use S3 by {kind()}")
    if is_worker(config):
        config.stash[_FOLDER] = Path(config.workerinput["s3_folder"])
    else:
        config.stash[_FOLDER] = Path(tempfile.mkdtemp(prefix="stx-s3-"))
        config.stash[_ALIVE] = lock(config.stash[_FOLDER] / RUN_LOCK)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node) -> None:
    """Tell a worker process where to look."""
    node.workerinput["s3_folder"] = str(node.config.stash[_FOLDER])


def pytest_unconfigure(config: pytest.Config) -> None:
    if _ALIVE in config.stash:
        if not (config.stash[_FOLDER] / ADDRESS).exists():
            shutil.rmtree(config.stash[_FOLDER])
        config.stash[_ALIVE].close()


def is_worker(config: pytest.Config) -> bool:
    """Whether this is one of several processes that share the tests of a run."""
    return hasattr(config, "workerinput")


def _lacks_ceph(config: pytest.Config) -> bool:
    required = os.environ.get(REQUIRE_CEPH) == "1" and not is_worker(config)
    return required and not (config.stash[_FOLDER] / ADDRESS).exists()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if _lacks_ceph(session.config) and not exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if _lacks_ceph(config):
        terminalreporter.write_line(f"{REQUIRE_CEPH}=1, but no test used Ceph", red=True)


@pytest.fixture(scope="session")
def s3_server(pytestconfig: pytest.Config) -> S3Server:
    """The server of the test run, with a bucket of this worker's own."""
    server = _given() if kind() == "given" else _shared(pytestconfig.stash[_FOLDER])
    server.client().create_bucket(Bucket=server.bucket)
    return server


def _given() -> S3Server:
    region = os.environ.get("AWS_DEFAULT_REGION", "us-east-1")
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    keys = {name: os.environ[name] for name in names if name in os.environ}
    return _server("given", os.environ[ENDPOINT], keys, region)


def _shared(folder: Path) -> S3Server:
    """The server that the first worker starts."""
    with lock(folder / "start.lock"):
        if not (folder / ADDRESS).exists():
            _start(folder)
    address = json.loads((folder / ADDRESS).read_text())
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    keys = dict(zip(names, address["keys"], strict=True))
    return _server(address["kind"], address["endpoint"], keys)


def _start(folder: Path) -> None:
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.servers.s3_process", kind(), str(folder)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C ends the tests first
        )
    while not (folder / ADDRESS).exists():
        if process.poll() is not None:
            raise RuntimeError((folder / "output").read_text())
        time.sleep(0.02)


def _server(kind: str, endpoint: str, keys: dict[str, str], region: str = "us-east-1") -> S3Server:
    environment = {
        **keys,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_DEFAULT_REGION": region,
        # Nobody asks the metadata service of a cloud for keys.
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return S3Server(kind, endpoint, f"stx-{uuid.uuid4().hex[:12]}", environment)


@pytest.fixture
def s3_root(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place on the server, which the environment names for this test."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3_server.bucket}/{uuid.uuid4().hex}"
