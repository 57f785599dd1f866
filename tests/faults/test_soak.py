"""A randomised soak: one run, many faults, and the end check.

make soak                      another seed each time; it is printed first
make soak SEED=7 FAULTS=50     the same faults at the same ledger records again
"""

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.faults import check
from tests.faults.corpus import shard
from tests.faults.job import Job, is_stopped, wait_until
from tests.faults.proxy import Proxy

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

FAULTS = int(os.environ.get("FAULTS") or 50)
SEED = int(os.environ.get("SEED") or random.SystemRandom().randrange(10**6))

ROWS_PER_UNIT = 4
UNITS_PER_FAULT = 3
LAST = ("segment.after", "commit.before", "commit.after")

IN_A_UNIT = ("read.before", "encode.mid", "write.before", "ledger.before")
AT_THE_START = ("plan.listed", "claim.before")
NETWORK = {
    "lose": {},
    "delay": {"value": 4},
    "cut_up": {"value": 50},
    "blackhole": {},
    "status 500": {"value": 500, "code": "InternalError", "times": 2},
    "status 503": {"value": 503, "code": "SlowDown", "times": 2},
    "status 409": {"value": 409, "code": "ConditionalRequestConflict"},
}


@dataclass(frozen=True)
class Fault:
    """What happens once so many ledger records exist."""

    records: int
    kind: str


def kinds(store: str) -> list[str]:
    """All faults that a store can be met with."""
    everywhere = [f"kill {place}" for place in IN_A_UNIT + AT_THE_START]
    everywhere += ["kill now", "stop and go", "terminate"]
    if store == "local":
        return [*everywhere, "kill link.before", "fail:28", "fail:5", "flip record"]
    return everywhere + [f"network {kind} {what}" for kind in NETWORK for what in ("data", "units")]


def draw_schedule(store: str, seed: int, n_faults: int) -> list[Fault]:
    """The same faults at the same records for the same seed."""
    draw = random.Random(f"{store} {seed}")
    possible = kinds(store)
    n_units = n_faults * UNITS_PER_FAULT
    places = sorted(draw.sample(range(1, n_units - UNITS_PER_FAULT), n_faults - len(LAST)))
    return [Fault(records, draw.choice(possible)) for records in places]


class Soak:
    """The run, started again after each death."""

    def __init__(self, job: Job, proxy: Proxy | None) -> None:
        self.job = job
        self.proxy = proxy
        self.process = None
        self.starts = 0
        self.fired: dict[str, int] = {}

    def go_on(self) -> None:
        """Start the run if it is dead, let it run if it stands still."""
        if self.process is None or self.process.poll() is not None:
            if self.process is not None:
                self.process.communicate()
            self.process = self.job.start()
            self.starts += 1
        else:
            os.kill(self.process.pid, signal.SIGCONT)

    def stop_at(self, records: int) -> None:
        """Let the run go on until it stands still with so many records."""
        while len(self.job.records()) < records:
            self.job.disarm()
            self.job.arm("ledger.after", "SIGSTOP", at=records - len(self.job.records()))
            self.go_on()
            wait_until(lambda: self.ended() or is_stopped(self.process))
        self.job.disarm()

    def ended(self) -> bool:
        """Whether the process is gone. It must not be through: faults are still to come."""
        code = self.process.poll()
        assert code != 0, self.process.communicate()
        return code is not None

    def hurt(self, fault: Fault, draw: random.Random) -> None:
        """Inject a fault, let the run go on, and wait until it has fired."""
        verb, *rest = fault.kind.split(" ")
        if verb == "network":
            self._network(" ".join(rest[:-1]), rest[-1])
        elif fault.kind == "stop and go":
            time.sleep(0.2)
        elif fault.kind == "flip record":
            flip(draw.choice(sorted(Path(self.job.root).glob("_stx/runs/*/units/*/*.json"))))
        elif fault.kind in ("kill now", "terminate"):
            self._signal(signal.SIGKILL if verb == "kill" else signal.SIGTERM)
        elif verb == "kill":
            self._place(rest[0], "SIGKILL")
        else:
            self._place("link.before", fault.kind)
        self.fired[fault.kind] = self.fired.get(fault.kind, 0) + 1

    def _signal(self, number: int) -> None:
        self.job.killed = True
        if self.process.poll() is None:
            self.process.send_signal(number)
            os.kill(self.process.pid, signal.SIGCONT)
        self.process.wait()

    def _place(self, place: str, action: str) -> None:
        self.job.arm(place, action)
        if place in AT_THE_START and self.process.poll() is None:
            self._signal(signal.SIGKILL)
        before = self.job.fired(place)
        self.go_on()
        wait_until(lambda: self.job.fired(place) > before)
        if action == "SIGKILL":
            self.process.wait()

    def _network(self, kind: str, what: str) -> None:
        mode, settings = kind.split(" ")[0], NETWORK[kind]
        rule = self.proxy.add(mode, method="PUT", key=f"/{what}/", **settings)
        self.go_on()
        wait_until(lambda: rule.fired or self.ended())
        self.proxy.rules.remove(rule)
        assert rule.fired


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


@pytest.fixture
def long_values(values, corpus):
    """A corpus of as many units as the schedule needs."""
    for path in corpus.iterdir():
        path.unlink()
    n_rows = FAULTS * UNITS_PER_FAULT * ROWS_PER_UNIT // 3
    for number in range(3):
        table = shard(number * n_rows, n_rows)
        pq.write_table(table, corpus / f"part-{number}.parquet", row_group_size=ROWS_PER_UNIT)
    resources = values["resources"] | {"rows_per_unit": ROWS_PER_UNIT}
    return values | {"resources": resources}


def soak(store: str, job: Job, proxy: Proxy | None, say: Callable[[str], None]) -> None:
    """Run through the schedule, finish, check."""
    schedule = draw_schedule(store, SEED, FAULTS)
    say(f"soak on {store}: SEED={SEED} FAULTS={FAULTS}")
    say("; ".join(f"{fault.records}: {fault.kind}" for fault in schedule))
    draw = random.Random(SEED)
    run = Soak(job, proxy)
    for fault in schedule:
        run.stop_at(fault.records)
        run.hurt(fault, draw)
    for place in LAST:
        run._place(place, "SIGKILL")
        run.fired[place] = 1
    run.go_on()
    assert run.process.wait() == 0, run.process.communicate()[1]
    n_fired = sum(run.fired.values())
    say(f"{n_fired} faults fired in {run.starts} starts: {run.fired}")
    assert n_fired >= FAULTS
    job.end_check()


@pytest.fixture
def say(capsys):
    """Prints past pytest's capture: a soak that hangs must have said its seed."""

    def line(text: str) -> None:
        with capsys.disabled():
            print(text, flush=True)  # noqa: T201

    return line


def test_soak_on_local_files(make_job, long_values, tmp_path, say):
    expected = check.clean_run(long_values, tmp_path / "clean")

    soak("local", make_job(long_values, expected), None, say)


def test_soak_on_s3(make_job, long_values, tmp_path, s3_root, s3_server, proxy, say):
    expected = check.clean_run(long_values, tmp_path / "clean")
    spec = long_values | {
        "output": {"path": f"{s3_root}/out"},
        "store": {"request_timeout": 2, "connect_timeout": 2},
    }
    behind = s3_server.environment | {"AWS_ENDPOINT_URL": proxy.endpoint}

    soak("s3", make_job(spec, expected, **behind), proxy, say)
