"""What a person sees of a run, on a terminal and in a log."""

import json
import logging
import math
import os
import pty
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from stx.jobs.console import Console
from stx.pipelines.running.activity import InFlight, set_in_flight
from stx.pipelines.telemetry.progress import FinishedUnit, Progress, by_stage
from stx_core.errors import SpecError

KEYS = [
    "run", "units", "units_total", "rows", "rows_total", "tokens", "quarantined", "seconds",
    "rows_per_s", "tokens_per_s", "eta_s", "eta_spread_s", "cost", "padding", "stages", "phase",
]  # fmt: skip


@dataclass
class Amount:
    n_due: int = 4
    n_due_rows: int = 40


def unit(rows=10, tokens=100, quarantined=1, **counts):
    seconds = {"read": 1.0, "encode.dense": 6.0, "encode.splade": 2.0, "write": 1.0}
    record = SimpleNamespace(run="r1", seconds=seconds, counts=counts)
    return FinishedUnit((record,), rows, tokens, quarantined)


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_log_gets_one_line_at_the_end_with_all_counts(capsys):
    results = [unit(run_tokens=90, run_places=100), unit(run_tokens=60, run_places=100)]

    assert list(Console(3600.0).watch(iter(results), Amount())) == results

    (line,) = lines(capsys)
    # Two units say nothing of a spread.
    assert list(line) == [key for key in KEYS if key not in ("eta_spread_s", "phase")]
    assert (line["run"], line["units"], line["rows"], line["tokens"]) == ("r1", 2, 20, 200)
    assert (line["units_total"], line["rows_total"], line["quarantined"]) == (4, 40, 2)
    assert line["stages"] == {"read": 0.1, "encode": 0.8, "write": 0.1}
    assert line["padding"] == 0.25
    # An hour costs 3600, so a second costs 1.
    assert line["cost"] == pytest.approx(line["seconds"], abs=0.1)


def test_a_log_gets_lines_while_a_unit_takes_long(capsys, monkeypatch):
    monkeypatch.setenv("STX_PROGRESS_S", "0.05")

    def slow():
        yield unit()
        time.sleep(0.4)
        yield unit()

    list(Console().watch(slow(), Amount()))

    told = lines(capsys)
    assert len(told) >= 3
    assert [line["rows"] for line in told][-2:] == [10, 20]
    assert all([key for key in KEYS if key in line] == list(line) for line in told)
    assert all(None not in line.values() and {} not in line.values() for line in told)
    assert not {"cost", "padding"} & told[0].keys()


def test_a_run_that_fails_gets_its_last_line_too(capsys):
    def failing():
        yield unit()
        raise OSError("gone")

    n_threads = threading.active_count()

    with pytest.raises(OSError, match="gone"):
        list(Console().watch(failing(), Amount()))

    assert [line["rows"] for line in lines(capsys)] == [10]
    assert threading.active_count() == n_threads


def test_two_streams_of_one_plan_are_counted_together(capsys):
    console, plan = Console(), Amount()

    for _ in range(2):
        list(console.watch(iter([unit(), unit()]), plan))

    first, second = lines(capsys)
    assert (first["units"], second["units"], second["rows"]) == (2, 4, 40)
    assert second["seconds"] >= first["seconds"]


def test_a_run_with_nothing_due_says_nothing(capsys):
    assert list(Console().watch(iter(()), Amount(0, 0))) == []

    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("value", ["often", "0", "-1", "nan"])
def test_a_wrong_interval_is_refused(monkeypatch, value):
    monkeypatch.setenv("STX_PROGRESS_S", value)

    with pytest.raises(SpecError, match="STX_PROGRESS_S: .* is no number of seconds"):
        list(Console().watch(iter([unit()]), Amount()))


def test_eta_follows_from_the_speed_so_far(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress(4, 40)
    assert progress.eta_s is None
    always = ["units", "units_total", "rows", "rows_total", "seconds"]
    assert list(progress.as_dict()) == always

    # Actors start for 10 seconds, the unit takes 10 more.
    now[0] += 20
    progress.add(unit())

    assert progress.eta_s == pytest.approx(30)
    assert progress.ratio == 0.25
    told = progress.as_dict()
    assert (told["seconds"], told["rows_per_s"], told["tokens_per_s"]) == (20, 1, 10)


def test_eta_counts_down_within_a_unit_and_has_a_spread(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress(100, 1000)
    for seconds in (9, 11, 9, 11):
        now[0] += seconds
        progress.add(FinishedUnit((), rows=10, tokens=0, quarantined=0))

    assert progress.eta_s == pytest.approx(960)
    # 4 units of 1 s from their mean each: a standard error of sqrt(4 * 4 / 3) / 40 s per row.
    assert progress.eta_spread_s == pytest.approx(2 * 960 * math.sqrt(16 / 3) / 40)
    now[0] += 8
    assert progress.eta_s == pytest.approx(952)


@pytest.fixture
def in_flight():
    yield set_in_flight
    set_in_flight(None)


def test_rows_within_a_unit_are_counted_and_give_an_eta(monkeypatch, in_flight):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress(2, 200, began=-30.0)
    in_flight(InFlight(0.0, 0))
    progress.look()
    etas = []

    for second in range(1, 9):
        now[0] = 2.0 * second
        in_flight(InFlight(10.0 * second + 0.5, 100 * second))
        progress.look()
        etas.append(progress.eta_s)

    # Two intervals say nothing of the rest; then 0.2 s for each row that is left.
    assert etas[:2] == [None, None]
    assert etas[2:] == pytest.approx([34, 32, 30, 28, 26, 24])
    assert progress.eta_spread_s == pytest.approx(0)
    assert (progress.units, progress.rows, progress.tokens) == (0, 80, 800)
    now[0] += 1  # a batch is at work: no news of the speed
    assert progress.as_dict()["rows_per_s"] == 5
    # One elapsed time: the command's.
    assert progress.seconds == 47


def test_counts_never_go_back(in_flight):
    progress = Progress(2, 20)
    in_flight(InFlight(8.0, 80))
    progress.look()

    in_flight(InFlight(3.0, 30))  # a node was lost
    progress.look()
    seen = progress.rows, progress.tokens
    progress.add(unit())

    assert seen == (8, 80)
    assert (progress.units, progress.rows, progress.tokens) == (1, 10, 100)


def test_the_eta_forgets_how_slow_the_start_was(monkeypatch, in_flight):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress(1, 100_000)
    rows = 0
    for rows_per_second in [1] * 100 + [100] * 600:
        now[0] += 1
        rows += rows_per_second
        in_flight(InFlight(float(rows), 0))
        progress.look()

    # Over all of the time it would be 464 s.
    assert progress.eta_s == pytest.approx((100_000 - rows) / 100, rel=0.02)


def test_seconds_of_several_outputs_are_one_stage():
    parts = [{"read": 1.0, "encode.a": 2.0}, {"encode.b": 3.0, "write": 4.0}]

    assert by_stage(parts) == {"read": 1.0, "encode": 5.0, "write": 4.0}


SCRIPT = """
import logging, time
from stx.jobs.console import Console
from stx.jobs.logs import configure_logging
from tests.jobs.test_console import Amount, unit
configure_logging()
def results():
    time.sleep(0.6)
    for _ in range(2):
        yield unit()
        logging.getLogger("stx.pipelines").info("a line from a stage")
        time.sleep(0.6)
list(Console().watch(results(), Amount()))
"""


PHASES = """
import sys, time
from stx.jobs import exit_codes
from stx.pipelines.running.activity import phase
sys.argv = ["stx", "encode", "my.yaml"]
def work():
    with phase("starting Ray"):
        time.sleep(1.6)
        print("the plan")
        time.sleep(0.6)
    sys.exit(3)
exit_codes.run_application(work)
"""


def on_a_terminal(script=SCRIPT, code=0, **environment):
    """What a script writes to a terminal of 100 columns, and its exit code."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"} | environment,
    )
    os.close(theirs)
    parts = []
    while True:
        try:
            parts.append(os.read(ours, 65536))
        except OSError:  # the other end is closed
            break
        if not parts[-1]:
            break
    os.close(ours)
    assert process.wait() == code
    return b"".join(parts).decode()


@pytest.fixture(scope="module")
def written():
    return on_a_terminal()


def test_a_terminal_gets_a_view_that_is_redrawn_a_few_times_a_second(written):
    assert "at work on the first units" in written
    assert "10 / 40 rows · 1 / 4 units" in written
    assert re.search(r"tokens/s · ETA \d+ s", written)
    assert "1 quarantined · read 10% · encode 80% · write 10%" in written
    # 1.8 seconds at 4 a second, one for each end, and one more after each log line.
    assert 3 <= written.count("/ 40 rows") <= 15
    assert "{" not in written
    # A log line stands alone: what was drawn before it is gone, and it comes once for each unit.
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)
    assert len(re.findall(r"[\r\n]INFO stx.pipelines: a line from a stage\r?\n", plain)) == 2


def test_a_terminal_says_what_a_command_is_at_before_and_after_its_output():
    written = on_a_terminal(PHASES, 3, NO_COLOR="1")

    status = r"stx encode my.yaml: starting Ray · 0:0[0-9]"
    before, _, after = written.partition("the plan\r\n")
    assert re.search(status, before)
    assert re.search(status, after)
    # The lines make room for what is written, and are gone in the end.
    assert before.endswith("\r\x1b[J")
    assert after.endswith("\r\x1b[J")


def test_no_color_is_respected(written):
    coloured = r"\x1b\[[0-9;]*3[0-9][0-9;]*m"

    assert re.search(coloured, written)
    assert not re.search(coloured, on_a_terminal(NO_COLOR="1"))


def test_a_dumb_terminal_gets_the_lines_of_a_log():
    written = on_a_terminal(TERM="dumb")

    assert "\x1b" not in written
    told = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
    assert [line["rows"] for line in told] == [20]


def test_log_lines_go_to_the_stderr_of_the_moment(monkeypatch, capsys):
    from stx.jobs.logs import _Stderr

    handler = _Stderr()
    logger = logging.getLogger("stx_alone")
    logger.addHandler(handler)

    logger.warning("seen")

    assert capsys.readouterr().err == "seen\n"


def test_the_keys_are_documented():
    text = (Path(__file__).parents[2] / "docs/seeing.md").read_text()

    cells = re.findall(r"(?m)^\| ((?:`\w+`(?:, )?)+) \|", text.partition("## Afterwards")[0])
    assert [key for cell in cells for key in re.findall(r"`(\w+)`", cell)] == KEYS
