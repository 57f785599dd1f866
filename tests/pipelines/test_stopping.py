"""Stopping before the end keeps what is done, says so in the log, and leaves no process behind."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from stx.pipelines.encode import run_encode
from stx.pipelines.encoding.keys import run_hash
from stx.pipelines.planning.corpus import read_unit
from stx_core.errors import SpecError, Stopped
from stx_core.store import log
from stx_core.store.snapshot import open_snapshot

# Each starts processes that load torch: with the slower suites.
pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


def records(root):
    return sorted(root.glob("_stx/runs/*/units/*/*.json"))


def run_state(root):
    (facts,) = log.latest(str(root)).state["runs"].values()
    return facts["state"]


def test_max_units_encodes_that_many_and_the_next_start_goes_on(corpus, spec_of, tmp_path):
    root = tmp_path / "out"
    with pytest.raises(Stopped, match=r"stopped after 2 of \d units"):
        run_encode(spec_of(corpus, resources={"max_units": 2}))
    assert len(records(root)) == 2
    assert run_state(root) == "paused"
    first = {path: path.stat().st_mtime_ns for path in records(root)}

    report = run_encode(spec_of(corpus))

    assert report.committed
    assert first.items() <= {path: path.stat().st_mtime_ns for path in records(root)}.items()
    assert open_snapshot(str(root)).count_rows() == 250


def test_max_units_that_are_enough_end_as_usual(corpus, spec_of):
    assert run_encode(spec_of(corpus, resources={"max_units": 100})).committed


def test_only_the_units_that_are_handed_out_are_read(corpus, spec_of, monkeypatch):
    seen = []

    def read_and_note(unit, *arguments):
        seen.append((unit.url, unit.start))
        return read_unit(unit, *arguments)

    monkeypatch.setattr("stx.pipelines.encoding.units.read_unit", read_and_note)

    with pytest.raises(Stopped):
        run_encode(spec_of(corpus, resources={"max_units": 2}))

    assert seen == [(str(corpus / "part-0.parquet"), start) for start in (0, 40)]


@pytest.mark.parametrize(("order", "first"), [("newest", 1), ("oldest", 2), ("corpus", 0)])
def test_the_files_that_come_first_are_encoded_first(corpus, spec_of, tmp_path, order, first):
    for shard, age in enumerate((200, 100, 300)):
        os.utime(corpus / f"part-{shard}.parquet", (1e9 - age, 1e9 - age))

    with pytest.raises(Stopped):
        run_encode(spec_of(corpus, resources={"max_units": 1, "order": order}))

    done = [json.loads(path.read_text()) for path in records(tmp_path / "out")]
    assert [record["url"] for record in done] == [str(corpus / f"part-{first}.parquet")]


def test_a_deadline_that_leaves_no_time_encodes_nothing(corpus, spec_of, tmp_path):
    with pytest.raises(Stopped, match="stopped after 0 of"):
        run_encode(spec_of(corpus, resources={"deadline": "0.001s"}))

    assert records(tmp_path / "out") == []
    assert run_state(tmp_path / "out") == "paused"


def test_limits_do_not_make_another_run(corpus, spec_of):
    plain = spec_of(corpus)
    limited = spec_of(
        corpus, resources={"max_units": 1, "deadline": "2h", "order": "newest", "supervised": True}
    )

    assert run_hash(plain, {}) == run_hash(limited, {})


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("55m", 3300), ("2h", 7200), ("1.5d", 129600), ("7", 7)]
)
def test_durations_are_understood(corpus, spec_of, text, seconds):
    assert spec_of(corpus, resources={"deadline": text}).resources.deadline_s == seconds


@pytest.mark.parametrize("text", ["soon", "5 weeks", "-3m", ""])
def test_other_durations_are_refused(corpus, spec_of, text):
    with pytest.raises(SpecError, match="write it like 90s, 55m or 2h"):
        spec_of(corpus, resources={"deadline": text})


@pytest.fixture
def command(corpus, static_model, tmp_path):
    """The command line on a slow corpus; further arguments set resources."""

    def build(**resources):
        spec = {
            "inputs": {"path": str(corpus)},
            "models": {"dense": {"model": str(static_model)}},
            "output": {"path": str(tmp_path / "out")},
            "resources": {"rows_per_unit": 1, "supervised": False} | resources,
        }
        path = tmp_path / "encode.yaml"
        path.write_text(json.dumps(spec))
        return [sys.executable, "-m", "stx.jobs.cli", "encode", str(path)]

    return build


@pytest.mark.parametrize(
    ("number", "code", "resources"),
    [
        (signal.SIGTERM, 4, {"runner": "local", "supervised": True}),
        (signal.SIGINT, 130, {"runner": "local"}),
        (signal.SIGTERM, 4, {"actors": 1}),
    ],
)
def test_a_signal_ends_the_run_and_all_its_processes_and_keeps_finished_units(
    command, tmp_path, number, code, resources
):
    root = tmp_path / "out"
    process = subprocess.Popen(command(**resources), stderr=subprocess.PIPE, text=True)
    while len(records(root)) < 3:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    family = psutil.Process(process.pid).children(recursive=True)

    process.send_signal(number)
    _, errors = process.communicate(timeout=60)

    assert process.returncode == code
    # A line of progress may come after it: the run goes on until the process is gone.
    told = f"stx: stopped by {number.name}; finished units are kept, run again to go on"
    assert told in errors.splitlines()
    assert psutil.wait_procs(family, timeout=60)[1] == []
    assert 3 <= len(records(root)) < 250
    assert run_state(root) == "paused"


def test_stopping_as_asked_for_is_exit_code_4(command):
    done = subprocess.run(
        [*command(runner="local"), "--max-units", "2"], capture_output=True, text=True
    )

    assert done.returncode == 4, done.stderr
    assert "stx: stopped after 2 of 250 units" in done.stderr
    # Beside lines of progress.
    assert [line[:4] for line in done.stderr.splitlines() if line[0] != "{"] == ["stx:"]
