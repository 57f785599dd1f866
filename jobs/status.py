"""What a command is at, while it lasts: on a terminal lines that are drawn over, else JSON."""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from stx.jobs.terminal import STATUS, Filtered, can_draw, filtered
from stx.pipelines.planning.words import duration
from stx.pipelines.running.activity import current_phase
from stx_core.errors import SpecError
from stx_core.store.files.urls import one_line, redact

if TYPE_CHECKING:
    from stx.pipelines.telemetry.progress import Progress

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_DRAWINGS = 0.25
# A command that ends sooner says what it has to say itself.
_FIRST_DRAWING_S = 0.5
_BAR_WIDTH = 30
_TITLE_CHARS = 60
_ASCII = str.maketrans("━╌·–", "#-,-")


def process_began() -> float:
    """`time.monotonic` when this process started: the seconds that a person waits count from there.

    Now, where the system does not say.
    """
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        age_s -= int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return time.monotonic()
    return time.monotonic() - age_s


def title() -> str:
    """The command and what it is about, such as ``stx encode encode.yaml``."""
    words = ["stx", *sys.argv[1:3]]
    return redact(one_line(" ".join(words)))[:_TITLE_CHARS]


class Status:
    """Shows from a thread of its own, from `start` to `stop`, what this process is at.

    Args:
        began: `time.monotonic` when the command began.

    Attributes:
        progress: of the stream of units, while there is one.
    """

    def __init__(self, began: float) -> None:
        self.progress: Progress | None = None
        self._began = began
        self._ended = threading.Event()
        self._interval_s = 0.0 if can_draw(sys.stderr) else _line_interval_s()
        # Past the filter, and open to the terminal while Ray's start closes it to others.
        stderr = sys.stderr.stream if isinstance(sys.stderr, Filtered) else sys.stderr
        self._stderr: TextIO
        try:
            self._stderr = os.fdopen(os.dup(stderr.fileno()), "w", encoding=stderr.encoding)
        except (OSError, ValueError):  # in a notebook, or a test
            self._stderr = stderr
        self._thread = threading.Thread(target=self._show, name="status", daemon=True)

    def start(self) -> None:
        """Begin to show."""
        self._thread.start()

    def stop(self) -> None:
        """Take what is drawn off the terminal."""
        self._ended.set()
        self._thread.join()
        STATUS.clear()
        self._stderr.flush()

    def print_line(self) -> None:
        """Print a JSON line; nothing on a terminal."""
        if not self._interval_s:
            return
        values: dict[str, object] = {}
        if self.progress is not None:
            self.progress.look()
            values |= self.progress.as_dict()
        if (name := current_phase()) and not values.get("rows"):
            values |= {"phase": name, "seconds": round(time.monotonic() - self._began, 1)}
        if values:
            # In one piece: other threads print, too.
            self._stderr.write(json.dumps(values) + "\n")
            self._stderr.flush()

    def _show(self) -> None:
        wait_s = self._interval_s or max(0.0, self._began + _FIRST_DRAWING_S - time.monotonic())
        while not self._ended.wait(wait_s):
            if self._interval_s:
                self.print_line()
            else:
                STATUS.draw(self._stderr, self._picture())
                wait_s = _SECONDS_BETWEEN_DRAWINGS

    def _picture(self) -> list[str]:
        width = _width(self._stderr)
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        hours, minutes = divmod(minutes, 60)
        elapsed = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
        now = self.progress
        if now is None:
            name = current_phase()
            text = f"{title()}{name and f': {name}'} · {elapsed}"
            return [_style(_fit(text, width, self._stderr), "2")]
        now.look()
        rows = f" {now.rows:,} / {now.rows_total:,} rows"
        units = f"{now.units:,} / {now.units_total:,} units"
        n_full = int(_BAR_WIDTH * now.ratio)
        full = _fit(" " + "━" * n_full, width, self._stderr)
        rest = _fit("╌" * (_BAR_WIDTH - n_full), width - len(full), self._stderr)
        counts = _fit(f"{rows} · {units} · {elapsed}", width - len(full) - len(rest), self._stderr)
        facts = _fit("  " + " · ".join(_facts(now)), width, self._stderr)
        return [f"{_style(full, '36')}{_style(rest, '2')}{counts}", _style(facts, "2")]


def _facts(now: "Progress") -> Iterator[str]:
    """What is known beside the number of rows, the most important first."""
    values = now.as_dict()
    if not now.rows:
        name = "" if now.has_begun else current_phase()
        yield name or "at work on the first units"
    elif now.tokens:
        yield f"{values.get('tokens_per_s', 0):,} tokens/s"
    else:
        yield f"{values.get('rows_per_s', 0):,} rows/s"
    if (eta_s := now.eta_s) is not None:
        spread_s = now.eta_spread_s
        # Where it may as well be nothing or twice as much it says nothing.
        if spread_s is None:
            yield f"ETA {duration(eta_s)}"
        elif spread_s <= max(eta_s, 1.0):
            low, high = duration(max(0.0, eta_s - spread_s)), duration(eta_s + spread_s)
            same_unit = low.split()[1] == high.split()[1]
            both = f" ({low.split()[0] if same_unit else low}–{high})"
            yield f"ETA {duration(eta_s)}" + (both if low != high else "")
    if now.cost is not None:
        yield f"cost {now.cost:,.4g}"
    if now.quarantined:
        yield f"{now.quarantined:,} quarantined"
    for name, share in now.shares.items():
        yield f"{name} {share:.0%}"
    if now.padding is not None:
        yield f"padding {now.padding:.0%}"


def _width(stream: TextIO) -> int:
    """Columns of a terminal, but one: some break a line that is full."""
    try:
        columns = (
            int(os.environ.get("COLUMNS", "0")) or os.get_terminal_size(stream.fileno()).columns
        )
    except (ValueError, OSError):
        columns = 0
    return (columns or 80) - 1


def _fit(text: str, width: int, stream: TextIO) -> str:
    """A text that a terminal can show in a line."""
    text = text if len(text) <= width else text[: max(0, width - 1)] + "…" * (width > 0)
    encoding = stream.encoding or "utf-8"
    if not encoding.lower().startswith("utf"):
        text = text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    return text


def _style(text: str, code: str) -> str:
    return text if os.environ.get("NO_COLOR") or not text else f"\x1b[{code}m{text}\x1b[0m"


def _line_interval_s() -> float:
    text = os.environ.get("STX_PROGRESS_S", "")
    try:
        seconds = float(text or _SECONDS_BETWEEN_LINES)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < threading.TIMEOUT_MAX:
        raise SpecError(f"STX_PROGRESS_S: {text!r} is no number of seconds; write one above 0")
    return seconds


_shown: list[Status] = []


@contextmanager
def status_shown(began: float | None = None) -> Iterator[Status]:
    """Show what this process is at while the block lasts, unless that is shown already.

    Args:
        began: `time.monotonic` when the command began; None for now.

    Raises:
        SpecError: ``STX_PROGRESS_S`` is no number of seconds.
    """
    if _shown:
        yield _shown[0]
        return
    status = Status(time.monotonic() if began is None else began)
    with filtered():
        status.start()
        _shown.append(status)
        try:
            yield status
        finally:
            _shown.remove(status)
            status.stop()


@contextmanager
def progress_shown(progress: "Progress", began: float | None) -> Iterator[None]:
    """Show the progress of a stream of units while the block lasts; a JSON line at its end."""
    with status_shown(began) as status:
        status.progress = progress
        try:
            yield
        finally:
            status.print_line()
            status.progress = None
