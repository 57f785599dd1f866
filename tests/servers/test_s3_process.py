"""The process of the S3 server: what a test run leaves behind, however it ended."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.servers.s3_process import ADDRESS, RUN_LOCK

ROOT = Path(__file__).parents[2]

# Stands for a test run: it holds the lock, and is killed.
RUN = """
import sys, time
from pathlib import Path
from tests.servers.s3_process import RUN_LOCK, lock
run_lock = lock(Path(sys.argv[1]) / RUN_LOCK)
print("locked", flush=True)
time.sleep(600)
"""


@pytest.fixture
def started():
    """Starts processes of this interpreter, and ends what is left of them."""
    processes = []

    def start(*arguments):
        processes.append(
            subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE)
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_the_server_ends_with_a_test_run_that_was_killed(started, tmp_path):
    folder = tmp_path / "s3"
    folder.mkdir()
    run = started("-c", RUN, str(folder))
    assert run.stdout.readline() == b"locked\n"
    server = started("-m", "tests.servers.s3_process", "moto", str(folder))
    while not (folder / ADDRESS).exists():
        assert server.poll() is None
        time.sleep(0.02)
    assert json.loads((folder / ADDRESS).read_text())["endpoint"].startswith("http://127.0.0.1:")
    assert (folder / RUN_LOCK).exists()

    run.send_signal(signal.SIGKILL)

    assert server.wait(timeout=60) == 0
    assert not folder.exists()
