"""A Ray cluster of several nodes on this machine, as `ray start` makes it, with a token."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import psutil
from ray._private.services import get_node_ip_address

from tests.servers.ceph import free_ports

ROOT = Path(__file__).resolve().parents[2]
ADDRESSES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")

# What `ray start --autoscaling-config` takes: nodes of one kind, none of them at the start. The
# provider is Ray's own for tests, which starts raylets on this machine; as "external", because
# Ray's wheel lacks the defaults of its built-in name.
PROVIDER = {
    "type": "external",
    "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
    "launch_multiple": True,
    "disable_node_updaters": True,
}
# What Ray wants to see of a file that `ray up` has worked on.
PREPARED = {
    "upscaling_speed": 100, "auth": {}, "docker": {}, "file_mounts": {}, "rsync_exclude": [],
    "cluster_synced_files": [], "file_mounts_sync_continuously": False, "rsync_filter": [],
    "initialization_commands": [], "setup_commands": [], "head_setup_commands": [],
    "worker_setup_commands": [], "head_start_ray_commands": [], "worker_start_ray_commands": [],
}  # fmt: skip
HEAD_ID = "f" * 51 + "00000"


class Nodes:
    """The processes of one cluster, which has the token `token`."""

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex
        self.token = secrets.token_hex(24)
        # Ray's sockets need a short path.
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        self.failpoints = self.folder / "failpoints"
        self.failpoints.mkdir()
        self.port, dashboard, self.client_port = free_ports(3)
        self.address = f"127.0.0.1:{self.port}"
        self.job_api = f"http://127.0.0.1:{dashboard}"
        others = {name: value for name, value in os.environ.items() if name not in ADDRESSES}
        self.environment = others | {
            "STX_NODES": self.name,
            "STX_FAILPOINTS": str(self.failpoints),
            "RAY_TMPDIR": str(self.folder),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "OMP_NUM_THREADS": "2",
            "RAY_raylet_start_wait_time_s": "120",  # Ray's 30 are few on a busy machine
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def start_head(self, cpus: int, **environment: str) -> None:
        """The first node, with the job API."""
        dashboard = self.job_api.rpartition(":")[2]
        ports = ("--port", str(self.port), "--dashboard-port", dashboard)
        client = ("--ray-client-server-port", str(self.client_port))
        config = self.folder / "autoscaler.json"
        scaling = ("--autoscaling-config", str(config)) if config.exists() else ()
        self._start("--head", *ports, *client, *scaling, cpus=cpus, **environment)

    def start_autoscaled_head(self, node: dict, most: int) -> None:
        """A head without CPUs, and an autoscaler that adds and removes nodes of one kind."""
        provider = PROVIDER | {
            "gcs_address": f"{get_node_ip_address()}:{self.port}",
            "head_node_id": HEAD_ID,
        }
        kinds = {
            "head": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": node, "node_config": {}, "min_workers": 0, "max_workers": most},
        }
        config = {
            "cluster_name": "test",
            "provider": provider,
            "max_workers": most,
            "idle_timeout_minutes": 0.1,
            "available_node_types": {"ray.head.default": kinds["head"], "worker": kinds["worker"]},
            "head_node_type": "ray.head.default",
            **PREPARED,
        }
        (self.folder / "autoscaler.json").write_text(json.dumps(config))
        self.start_head(
            cpus=0,
            RAY_FAKE_CLUSTER="1",
            RAY_enable_autoscaler_v2="1",
            RAY_CLOUD_INSTANCE_ID=HEAD_ID,
            RAY_OVERRIDE_NODE_ID_FOR_TESTING=HEAD_ID,
            AUTOSCALER_UPDATE_INTERVAL_S="1",
        )

    def add(self, name: str, cpus: int) -> None:
        """A further node, with a folder of its own: nodes clear away each other's working dirs."""
        place = ("--temp-dir", str(self.folder / name))
        self._start("--address", self.address, *place, cpus=cpus, STX_NODE=name)

    def _start(self, *options: str, cpus: int, **environment: str) -> None:
        workers = ("--min-worker-port", "0", "--max-worker-port", "0")
        started = subprocess.run(
            ["ray", "start", *options, *workers, "--num-cpus", str(cpus), "--disable-usage-stats"]
            + ["--dashboard-agent-listen-port", "0", "--object-store-memory", "100000000"],
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert started.returncode == 0, started.stdout

    def kill(self, name: str) -> None:
        """End a node without a word: every process of it."""
        self._kill("STX_NODE", name)

    def count(self) -> int:
        """How many nodes are up."""
        raylets = (p for p in self._processes("STX_NODES", self.name) if p.name() == "raylet")
        return sum(1 for _ in raylets)

    def stx(self, *arguments: str | Path, **environment: str | None) -> subprocess.Popen:
        """Start a command on this cluster; None takes a variable away."""
        changed = self.environment | environment
        return subprocess.Popen(
            [sys.executable, "-m", "stx.jobs.cli", *map(str, arguments)],
            env={name: value for name, value in changed.items() if value is not None},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def arm(self, name: str, action: str, times: int) -> None:
        """Let those who come by a failpoint do something."""
        for number in range(times):
            (self.failpoints / f"{name}@{number:06d}={action}").touch()

    def disarm(self) -> None:
        for token in self.failpoints.iterdir():
            token.unlink()

    def close(self) -> None:
        self._kill("STX_NODES", self.name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _kill(self, variable: str, value: str) -> None:
        processes = list(self._processes(variable, value))
        for process in processes:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(processes, timeout=30)

    @staticmethod
    def _processes(variable: str, value: str):
        for process in psutil.process_iter():
            try:
                alive = process.status() != psutil.STATUS_ZOMBIE
                if alive and process.environ().get(variable) == value:
                    yield process
            except psutil.Error:
                continue
