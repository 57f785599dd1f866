"""The S3 server of a test run, in a process of its own.

    python -m tests.servers.s3_process ceph|moto FOLDER

Native code of a test may hold Python's lock while it waits for an answer. The first worker of a
test run that needs the server starts it, and all use it. It ends with the run, however that ends:
it waits for a lock, which the kernel takes from a dead process.
"""

import fcntl
import json
import shutil
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO

from tests.servers import ceph

ADDRESS = "server.json"
RUN_LOCK = "run.lock"

_ACCESS_KEY = "AKTEST"


def lock(path: Path) -> IO[str]:
    """Wait for the lock of a file: ours until it is closed, or this process dies."""
    file = path.open("a")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def start(kind: str, folder: Path, secret_key: str) -> tuple[str, Callable[[], None]]:
    """Start a server; its endpoint, and what ends it."""
    if kind == "ceph":
        cluster = ceph.Ceph(folder, _ACCESS_KEY, secret_key)
        return cluster.endpoint, cluster.kill
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    return f"http://{host}:{port}", server.stop


def main() -> None:
    kind, folder = sys.argv[1], Path(sys.argv[2])
    secret_key = uuid.uuid4().hex
    endpoint, end = start(kind, folder, secret_key)
    address = {"kind": kind, "endpoint": endpoint, "keys": [_ACCESS_KEY, secret_key]}
    unfinished = folder / "unfinished"
    unfinished.write_text(json.dumps(address))
    unfinished.rename(folder / ADDRESS)
    lock(folder / RUN_LOCK)
    end()
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
