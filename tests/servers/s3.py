"""The S3 server that tests use: one given by environment, else Ceph, else moto as a stand-in.

STX_TEST_S3_ENDPOINT   a running server, with the usual AWS_* variables for its keys
STX_REQUIRE_CEPH=1     the test run fails unless Ceph was used
"""

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers import ceph

REQUIRE_CEPH = "STX_REQUIRE_CEPH"
ENDPOINT = "STX_TEST_S3_ENDPOINT"

_used: list[str] = []


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
        "moto": "moto, a reduced stand-in in this process (Ceph is not installed)",
    }
    return f"S3: {described[kind()]}"


def pytest_configure() -> None:
    if os.environ.get(REQUIRE_CEPH) == "1" and kind() != "ceph":
        raise pytest.UsageError(f"{REQUIRE_CEPH}=1, but the tests would use S3 by {kind()}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if os.environ.get(REQUIRE_CEPH) == "1" and "ceph" not in _used and not exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if os.environ.get(REQUIRE_CEPH) == "1" and "ceph" not in _used:
        terminalreporter.write_line(f"{REQUIRE_CEPH}=1, but no test used Ceph", red=True)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server with an empty bucket, for the whole test run."""
    start = {"given": _given, "ceph": _start_ceph, "moto": _start_moto}[kind()]
    running = start(tmp_path_factory.mktemp("s3"))
    server = next(running)
    server.client().create_bucket(Bucket=server.bucket)
    _used.append(server.kind)
    yield server
    next(running, None)


def _given(folder: Path) -> Iterator[S3Server]:
    region = os.environ.get("AWS_DEFAULT_REGION", "us-east-1")
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    found = {key: os.environ[key] for key in keys if key in os.environ}
    yield _server("given", os.environ[ENDPOINT], found, region)


def _start_ceph(folder: Path) -> Iterator[S3Server]:
    keys = {"AWS_ACCESS_KEY_ID": "AKTEST", "AWS_SECRET_ACCESS_KEY": uuid.uuid4().hex}
    cluster = ceph.Ceph(folder, *keys.values())
    yield _server("ceph", cluster.endpoint, keys)
    cluster.kill()


def _start_moto(folder: Path) -> Iterator[S3Server]:
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "AKTEST", "AWS_SECRET_ACCESS_KEY": uuid.uuid4().hex}
    yield _server("moto", f"http://{host}:{port}", keys)
    running.stop()


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
