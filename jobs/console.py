"""What a person sees of a run: the plan, its progress, the outcome."""

import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from stx.jobs.terminal import Filtered, filtered
from stx.pipelines.planning.words import counted, duration
from stx_core.errors import SpecError
from stx_core.store.files.urls import redact

if TYPE_CHECKING:
    from rich.console import Group

    from stx.pipelines.engine.runs import Amount
    from stx.pipelines.planning.plan import Plan
    from stx.pipelines.telemetry.progress import Progress
    from stx.pipelines.telemetry.report import OutputReport, Report

_SECONDS_BETWEEN_LINES = 10.0
_DRAWN_PER_SECOND = 4
_BAR_WIDTH = 30


def configure_logging() -> None:
    """Log lines of stx to stderr; those of libraries only when something is wrong."""
    handler = _Stderr()
    handler.setFormatter(_OneLine("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("stx_core").setLevel(logging.INFO)
    logging.getLogger("stx.pipelines").setLevel(logging.INFO)
    # Ray's core prints advice for its developers to the driver's stderr at level "error".
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")


class _Stderr(logging.StreamHandler[TextIO]):
    """Asks for stderr each time: the live view stands in for it, and keeps below the log lines."""

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        pass


class _OneLine(logging.Formatter):
    """A message stays one line, whatever ids and paths it names; tracebacks keep theirs."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        return redact(super().formatMessage(record))


class Console:
    """A view of one run: two calm lines on a terminal, a JSON line every few seconds elsewhere.

    Args:
        cost_per_hour: of all that the run uses; None where nobody said.
        began: `time.monotonic` when the command began; None for now.
    """

    def __init__(self, cost_per_hour: float | None = None, began: float | None = None) -> None:
        self.began = began
        self._cost_per_hour = cost_per_hour
        self._plan: Amount | None = None
        self._progress: Progress | None = None

    def plan(self, plan: "Plan") -> None:
        """Print what would be done, before anything runs."""
        print("\n".join(map(redact, plan.lines)), flush=True)

    def watch(self, results: Iterator[dict[str, Any]], plan: "Amount") -> Iterator[dict[str, Any]]:
        """Pass results through and show how far the run is; a plan may have several streams."""
        from stx.pipelines.telemetry.progress import Progress

        if not plan.n_due:
            yield from results
            return
        if self._progress is None or self._plan is not plan:
            self._plan = plan
            self._progress = Progress(plan.n_due, plan.n_due_rows, self._cost_per_hour)
        progress = self._progress
        with _live_view(progress) if _is_live() else _log_lines(progress):
            for result in results:
                progress.add(result)
                yield result

    def report(self, report: "Report") -> None:
        """Print what was done."""
        print("\n".join(map(redact, _report_lines(report))), flush=True)


def _report_lines(report: "Report") -> Iterator[str]:
    if report.version is None:
        return
    if not report.committed:
        yield f"nothing to do: version {report.version} of {report.output} has all of it"
        yield from report.lines
        return
    yield f"committed version {report.version} of {report.output} in {duration(report.seconds)}"
    for name, part in report.parts.items():
        yield f"  {name:<8} {_part_line(part)}"
        for reason, count in sorted(part.reasons.items()):
            yield f"           {count:,} x {reason}"
    tokens = sum(part.encoded_tokens for part in report.parts.values())
    if tokens:
        rows = max(part.encoded_rows for part in report.parts.values())
        yield (
            f"  speed    {rows / report.stream_seconds:,.0f} rows/s, "
            f"{tokens / report.stream_seconds:,.0f} tokens/s, start of the actors counted"
        )
    if report.retries:
        kinds = ", ".join(f"{count:,} x {kind}" for kind, count in sorted(report.retries.items()))
        yield f"  storage  {sum(report.retries.values()):,} calls made again ({kinds})"
    yield from report.lines
    for line in report.warnings:
        yield f"  warning  {line}"


def _part_line(part: "OutputReport") -> str:
    where = f"{counted(part.files, 'file')}, {part.size / 1e6:,.1f} MB"
    if not part.of_texts:
        return f"{counted(part.file_rows, 'row')} in {where}"
    return (
        f"{counted(part.rows, 'row')} in {where}; {part.quarantined:,} quarantined; "
        f"{part.encoded_rows:,} encoded now, {part.carried_rows:,} carried over by text, "
        f"{part.truncated:,} cut"
    )


class _Picture:
    """The live view: two lines, drawn anew from the counts each time."""

    def __init__(self, progress: "Progress") -> None:
        self._progress = progress

    def __rich__(self) -> "Group":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        now = self._progress
        top = Table.grid(padding=(0, 1))
        rows = f"{now.rows:,} / {now.rows_total:,} rows · {now.units:,} / {now.units_total:,} units"
        bar = ProgressBar(total=1.0, completed=now.ratio, width=_BAR_WIDTH)
        top.add_row(Text("  "), bar, Text(rows))
        return Group(top, Text("  " + _facts_line(now), style="dim", overflow="ellipsis"))


def _facts_line(now: "Progress") -> str:
    """What is known beside the number of rows, most wanted first."""
    speed = now.as_dict()
    facts = [
        f"{speed['tokens_per_s']:,} tokens/s" if now.tokens else f"{speed['rows_per_s']:,} rows/s"
    ]
    if not now.units:
        facts = [f"at work on the first units for {duration(now.seconds)}"]
    if now.eta_s is not None:
        spread = "" if now.eta_spread_s is None else f" ± {duration(now.eta_spread_s)}"
        facts.append(f"{duration(now.eta_s)}{spread} left")
    if now.cost is not None:
        facts.append(f"cost {now.cost:,.4g}")
    if now.quarantined:
        facts.append(f"{now.quarantined:,} quarantined")
    facts += [f"{name} {share:.0%}" for name, share in now.shares.items()]
    if now.padding is not None:
        facts.append(f"padding {now.padding:.0%}")
    return " · ".join(facts)


def _is_live() -> bool:
    """Whether stderr is a terminal that can draw over what it has drawn."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb").lower() not in ("dumb", "unknown")


@contextmanager
def _live_view(progress: "Progress") -> Iterator[None]:
    from rich.console import Console as Terminal
    from rich.live import Live

    # It honours NO_COLOR. Its thread also draws while nothing arrives, so that the time moves on.
    # It draws past the filter, and stands in for both streams, so that they need another one.
    stderr = sys.stderr.stream if isinstance(sys.stderr, Filtered) else sys.stderr
    with (
        Live(
            _Picture(progress),
            console=Terminal(file=stderr),
            refresh_per_second=_DRAWN_PER_SECOND,
            transient=True,
        ),
        filtered(),
    ):
        yield


@contextmanager
def _log_lines(progress: "Progress") -> Iterator[None]:
    """A JSON line every few seconds, also while nothing arrives, and one at the end."""
    ended, seconds = threading.Event(), _seconds_between_lines()

    def tell() -> None:
        while not ended.wait(seconds):
            _print_line(progress)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()
        _print_line(progress)


def _print_line(progress: "Progress") -> None:
    print(json.dumps(progress.as_dict()), file=sys.stderr, flush=True)


def _seconds_between_lines() -> float:
    text = os.environ.get("STX_PROGRESS_S", "")
    try:
        seconds = float(text or _SECONDS_BETWEEN_LINES)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < threading.TIMEOUT_MAX:
        raise SpecError(f"STX_PROGRESS_S: {text!r} is no number of seconds; write one above 0")
    return seconds
