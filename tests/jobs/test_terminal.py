"""Names and texts of others reach the terminal as text: no escape, no bell, no turned direction."""

import io
import json
import re
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx.jobs import terminal
from stx.jobs.status import progress_shown
from stx.pipelines.telemetry.progress import Progress

EVIL = "a\x1b[2J\x1b]0;title\x07\x9b31m\u202eb\u2066c\x7f\x08d"
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, save_static_model):
    """A corpus whose file, columns, ids, texts and model are named to steer a terminal."""
    folder = tmp_path_factory.mktemp("terminal")
    weights = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    model = save_static_model(folder / f"model{EVIL}", ["stars", "sand"], weights)
    table = pa.table({"id": [EVIL, "b"], "text": [f"stars {EVIL}", "sand"], EVIL: [EVIL, "x"]})
    pq.write_table(table, folder / f"corpus{EVIL}.parquet")
    spec = folder / "spec.yaml"
    values = {
        "inputs": {"path": f"{folder}/corpus{EVIL}.parquet", "columns": [EVIL]},
        "models": {"dense": {"model": str(model)}},
        "output": {"path": f"{folder}/out{EVIL}"},
        "resources": {"runner": "local", "supervised": False},
    }
    spec.write_text(json.dumps(values))
    return spec, f"{folder}/out{EVIL}"


@pytest.fixture
def quiet(monkeypatch):
    monkeypatch.setattr("stx.pipelines.running.stopping.exit_on_signals", lambda: None)


def test_no_command_sends_what_steers_a_terminal(dataset, stx, quiet):
    spec, out = dataset
    commands = [
        ["encode", spec, "--dry-run"],
        ["encode", spec],
        ["encode", spec],
        ["encode", spec, "--set", f"inputs.{EVIL}=1"],
        ["show", out],
        ["show", out, "--rows", "2"],
        ["show", out, "--files"],
        ["show", out, "--versions"],
        ["show", f"{out}{EVIL}"],
        ["show", out, "--output", EVIL],
        ["search", out, f"stars {EVIL}"],
        ["search", out, "stars", "--show", EVIL],
        ["search", out, "stars", "--show", f"no{EVIL}"],
        ["gc", out, "--dry-run", "--older-than", "0"],
        ["verify", out],
        ["rollback", out, "9"],
        ["nothing\x1b[2J"],
        ["encode", f"no{EVIL}.yaml"],
    ]
    everything = ""
    for command in commands:
        _, printed, errors = stx(*command)
        everything += printed + errors
        assert printed + errors, command
        assert STEERING.search(printed + errors) is None, command
    assert "\\x1b[2J" in everything


def test_what_libraries_print_is_filtered_too(capsys):
    with terminal.filtered():
        sys.stderr.write(f"{EVIL}\n\tnext\n")
        sys.stdout.write("\udcff of a file name\n")

    printed = capsys.readouterr()
    assert STEERING.search(printed.err) is None
    assert printed.err.endswith("\n\tnext\n")
    assert printed.out == "\\udcff of a file name\n"


def test_what_a_terminal_cannot_show_is_escaped():
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")

    terminal.Filtered(narrow).write("Zürich")
    narrow.flush()

    assert narrow.buffer.getvalue() == b"Z\\xfcrich"


def test_the_live_view_draws_and_what_is_printed_beside_it_is_filtered(monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")

    with terminal.filtered(), progress_shown(Progress(2, 10), began=0.0):
        while "rows" not in screen.getvalue():
            time.sleep(0.01)
        sys.stderr.write("name \x07\x1b]8;;http://x\x07\n")

    assert "\x1b[" in screen.getvalue()  # it draws
    assert "\x07" not in screen.getvalue()
    assert "name \\x07\\x1b]8;;http://x\\x07" in screen.getvalue()
