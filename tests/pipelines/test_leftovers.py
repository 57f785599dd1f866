"""Processes that a killed start left behind are ended by the next one, and no others."""

import json
import subprocess
import sys

import pytest

from stx.pipelines.running import leftovers
from stx.pipelines.running.leftovers import end_leftovers, note_session
from stx_core.store.beat import this_process

SESSION = "session_2026-11-30_12-00-00_123456_4242"


@pytest.fixture
def notes(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(leftovers, "_PATIENCE_S", 2.0)
    return tmp_path


@pytest.fixture
def process():
    """Starts a process that sleeps, with some arguments."""
    started = []

    def start(*arguments, **options):
        command = [sys.executable, "-S", "-c", "import time; time.sleep(60)", *arguments]
        started.append(subprocess.Popen(command, **options))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.wait()


def make_its_start_gone(notes):
    (note,) = notes.glob("stx-ray-*/*.json")
    told = json.loads(note.read_text())
    note.write_text(json.dumps(told | {"writer": told["writer"] | {"started": 1}}))
    return note


def test_a_session_of_a_start_that_is_gone_is_ended_and_forgotten(notes, process):
    left = process(f"--session-dir=/tmp/ray/{SESSION}")
    reads_its_logs = process(f"/tmp/ray/{SESSION}/logs/raylet.out")
    other = process("--session-name=session_of_somebody_else")
    # Agents and workers write their own names over their arguments.
    logs = notes / "ray" / SESSION / "logs"
    logs.mkdir(parents=True)
    with (logs / "agent.out").open("w") as file:
        agent = process(stdout=file, env={"RAY_RAYLET_PID": "1"})
    with (logs / "agent.out").open() as file:
        reader = process(stdin=file)
    note_session(SESSION)
    note = make_its_start_gone(notes)

    assert end_leftovers() == 2

    assert left.wait() != 0
    assert agent.wait() != 0
    assert reader.poll() is None
    assert reads_its_logs.poll() is None
    assert other.poll() is None
    assert end_leftovers() == 0
    assert not note.exists()


def test_a_session_of_a_living_start_is_left_alone(notes, process):
    mine = process(f"--session-name={SESSION}")
    note_session(SESSION)

    assert end_leftovers() == 0

    assert mine.poll() is None
    (note,) = notes.glob("stx-ray-*/*.json")
    assert json.loads(note.read_text())["writer"] == this_process()


def test_a_note_that_cannot_be_read_hides_no_other(notes, process):
    process(f"--session-name={SESSION}")
    note_session(SESSION)
    note = make_its_start_gone(notes)
    for number, text in enumerate(("{", "[]", "{}")):
        note.with_name(f"a{number}.json").write_text(text)

    assert end_leftovers() == 1
