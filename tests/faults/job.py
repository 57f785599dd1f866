"""One encode job as the fault tests run it: the real command line in processes of its own."""

import copy
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil

from stx.pipelines.encode import run_encode
from stx.pipelines.spec.file import parse_spec
from stx_core.store.files.filesystem import list_sizes
from stx_core.store.files.urls import LOCAL, join, scheme
from tests.faults import check
from tests.servers.forked import ForkedCommands

PATIENCE_S = 240


class Job:
    """A spec, where it writes, and every process that was started for it.

    Args:
        folder: for the spec and the failpoint tokens.
        values: the spec.
        expected: of a clean run.
        environment: added to that of the processes.
        forked: runs the commands that nothing is done to from outside; None: interpreters of
            their own, as `start` takes them.
    """

    def __init__(
        self,
        folder: Path,
        values: dict,
        expected: check.Expected,
        environment: dict[str, str] | None = None,
        forked: ForkedCommands | None = None,
    ) -> None:
        self.forked = forked
        folder.mkdir(parents=True, exist_ok=True)
        self.root: str = values["output"]["path"]
        self.values = values
        self.expected = expected
        self.name = uuid.uuid4().hex
        self.tokens = folder / "failpoints"
        self.tokens.mkdir(exist_ok=True)
        self.spec = folder / "encode.yaml"
        self.spec.write_text(json.dumps(values))
        self.environment = {
            "STX_FAILPOINTS": str(self.tokens),
            "STX_FAULT_JOB": self.name,
            "OMP_NUM_THREADS": "2",
            **(environment or {}),
        }
        self.killed = False
        self._numbers = itertools.count(1)
        self.reader = check.Reader(self.root)
        self.reader.start()

    def arm(self, name: str, action: str, at: int = 1) -> None:
        """Hurt whoever comes by this failpoint as the `at`-th from now."""
        self.killed = self.killed or action == "SIGKILL"
        for step in ["pass"] * (at - 1) + [action]:
            # Numbers are never used twice: taken tokens are kept, and counted.
            (self.tokens / f"{name}@{next(self._numbers):06d}={step}").touch()

    def disarm(self) -> None:
        """Take the tokens away that nobody came for."""
        for token in self.tokens.glob("*@*"):
            if not token.name.startswith("used."):
                token.unlink()

    def fired(self, name: str) -> int:
        """How often an armed place hurt somebody."""
        tokens = [token.name for token in self.tokens.glob(f"used.{name}@*")]
        return sum(not token.endswith("=pass") for token in tokens)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "stx.jobs.cli", *arguments]

    def start(self, *options: str) -> subprocess.Popen:
        """Start the run, or go on with it."""
        return subprocess.Popen(
            self.command("encode", str(self.spec), *options),
            env=os.environ | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *options: str) -> subprocess.CompletedProcess:
        """Start the run and wait for its end."""
        return self.stx("encode", str(self.spec), *options)

    def stx(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run a command and wait for its end."""
        if self.forked is not None:
            return self.forked(*arguments, environment=os.environ | self.environment)
        return subprocess.run(
            self.command(*arguments),
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    def records(self) -> dict[str, int]:
        """Ledger records that exist, with their sizes."""
        sizes = list_sizes(join(self.root, "_stx", "runs"))
        return {name: size for name, size in sizes.items() if "/units/" in name}

    def wait_for_records(self, n_records: int, process: subprocess.Popen) -> None:
        wait_until(lambda: len(self.records()) >= n_records, process)

    def processes(self) -> list[psutil.Process]:
        """What is alive of all that was started for this job, Ray's services among them."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return (
                process.status() != psutil.STATUS_ZOMBIE
                and process.environ().get("STX_FAULT_JOB") == self.name
            )
        except psutil.Error:
            return False

    def close(self) -> None:
        """End what is left: Ray's services outlive a killed driver for a while."""
        self.reader.end()
        processes = self.processes()
        for process in processes:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(processes, timeout=30)

    def end_check(self) -> None:
        """Look at everything, once a start has succeeded: a further one must find nothing to do."""
        self.disarm()
        wait_until(lambda: not self.processes())
        again = run_encode(parse_spec(copy.deepcopy(self.values)))
        assert not again.committed, "a further start found something to do"
        self.reader.look()
        self.reader.stop()
        check.check_rows(self.root, self.expected)
        check.check_files(self.root)
        check.check_log(self.root)
        if scheme(self.root) == LOCAL and not self.killed:
            check.check_no_temporary_files(self.root)


def finish(process: subprocess.Popen) -> subprocess.CompletedProcess:
    """Wait for a process; what it printed."""
    output, errors = process.communicate(timeout=PATIENCE_S)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def wait_until(condition, process: subprocess.Popen | None = None) -> None:
    """Wait for something; a process that should not end meanwhile may be named."""
    for _ in ticks():
        if condition():
            return
        assert process is None or process.poll() is None, finish(process).stderr


def wait_until_stopped(process: subprocess.Popen) -> None:
    """Wait until a failpoint has stopped the process."""
    wait_until(lambda: is_stopped(process), process)


def is_stopped(process: subprocess.Popen) -> bool:
    """Whether it stands still. (That the token was taken is a moment too early.)"""
    return psutil.Process(process.pid).status() == psutil.STATUS_STOPPED


def wake(process: subprocess.Popen) -> None:
    os.kill(process.pid, signal.SIGCONT)


def ticks() -> Iterator[None]:
    """Short waits, for as long as there is patience."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        yield
        time.sleep(0.05)
    raise AssertionError(f"waited for {PATIENCE_S} s in vain")
