"""A real S3 server for tests: Ceph's object gateway, one monitor and one store in memory.

    apt-get install --no-install-recommends radosgw ceph-mon ceph-osd ceph-common

Loopback only. Everything else lives in one folder: no systemd, no container, no authentication
between the daemons.
"""

import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

PROGRAMS = (
    "ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin", "setpriv",
)  # fmt: skip

_START_S = 60

# Small and fast rather than durable: objects in memory, at most 10 GiB of them, one copy, one
# placement group per pool, tiny proposal delays. Without `tcp_nodelay` answers with a body may wait
# 40 ms for the client's kernel. cephx is off, or every daemon would need a key ring. The monitor
# speaks protocol v2 alone.
_CONFIG = """
[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:{mon_port}/0]
public_addr = 127.0.0.1
ms_bind_ipv6 = false
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
run_dir = {folder}
log_file = {folder}/$name.log
admin_socket = {folder}/$name.asok
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
[mon]
mon_data = {folder}/mon
paxos_propose_interval = 0.02
paxos_min_wait = 0.01
[osd]
osd_data = {folder}/osd
osd_objectstore = memstore
memstore_device_bytes = 10737418240
osd_op_num_shards = 2
osd_class_default_list = *
osd_class_load_list = *
[client]
rgw_frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw_data = {folder}/rgw
rgw_enable_apis = s3, admin
rgw_zone = default
rgw_thread_pool_size = 64
rgw_run_sync_thread = false
rgw_enable_usage_log = false
rgw_override_bucket_index_max_shards = 1
rgw_dynamic_resharding = false
ms_mon_client_mode = crc
"""


def is_installed() -> bool:
    """Whether all programs are on the PATH."""
    return all(shutil.which(program) for program in PROGRAMS)


def version() -> str:
    """Such as ``16.2.15``."""
    return subprocess.check_output(["ceph-osd", "--version"], text=True).split()[2]


class Ceph:
    """A running cluster of one; `kill` ends it, and its objects."""

    def __init__(self, folder: Path, access_key: str, secret_key: str) -> None:
        self.folder = folder
        self.port, mon_port = free_ports(2)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._daemons: list[subprocess.Popen[bytes]] = []
        for name in ("mon", "osd", "rgw"):
            (folder / name).mkdir()
        fsid = uuid.uuid4()
        config = _CONFIG.format(fsid=fsid, folder=folder, port=self.port, mon_port=mon_port)
        (folder / "ceph.conf").write_text(config)
        try:
            self._start(str(fsid), f"[v2:127.0.0.1:{mon_port}/0]", access_key, secret_key)
        except BaseException:
            self.kill()
            raise

    def _start(self, fsid: str, monitor: str, access_key: str, secret_key: str) -> None:
        osd = str(uuid.uuid4())
        self._call("monmaptool", "--create", "--fsid", fsid, "--addv", "a", monitor, "monmap")
        self._call("ceph-mon", "-i", "a", "--mkfs", "--monmap", "monmap")
        self._spawn("ceph-mon", "-i", "a")
        self._call("ceph", "osd", "new", osd)
        self._call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._spawn("ceph-osd", "-i", "0")
        keys = (f"--access-key={access_key}", f"--secret-key={secret_key}")
        self._call("radosgw-admin", "user", "create", "--uid=test", "--display-name=test", *keys)
        self._spawn("radosgw", "-n", "client.rgw")
        self._wait()

    def _call(self, *command: str) -> None:
        done = subprocess.run(
            [command[0], "-c", f"{self.folder}/ceph.conf", *command[1:]],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_START_S,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]} {command[1]}: {done.stderr.strip()}")

    def _spawn(self, *command: str) -> None:
        # In the foreground, and killed by the kernel when this process dies: nothing is left
        # behind by a test run that was killed itself.
        with (self.folder / f"{command[0]}.out").open("wb") as output:
            daemon = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", command[0], "-f"]
                + ["-c", f"{self.folder}/ceph.conf", *command[1:]],
                cwd=self.folder,
                stdout=output,
                stderr=output,
            )
        self._daemons.append(daemon)

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(self.endpoint, timeout=5).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"no answer from {self.endpoint}; see {self.folder}/*.log")

    def kill(self) -> None:
        """End all daemons at once, the gateway first: without its store it would wait for ever."""
        for daemon in reversed(self._daemons):
            daemon.kill()
            daemon.wait()
        self._daemons.clear()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on right now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
