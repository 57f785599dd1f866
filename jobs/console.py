"""View of a run for a person: the plan, its progress, the outcome."""

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stx.jobs.terminal import Filtered, filtered
from stx.pipelines.engine.runs import Amount, View
from stx.pipelines.planning.words import counted, duration
from stx_core.errors import SpecError
from stx_core.store.files.urls import redact

if TYPE_CHECKING:
    from rich.console import Group

    from stx.pipelines.planning.plan import Plan
    from stx.pipelines.telemetry.progress import FinishedUnit, Progress
    from stx.pipelines.telemetry.report import Report

_SECONDS_BETWEEN_LINES = 10.0
_DRAWN_PER_SECOND = 4
_BAR_WIDTH = 30
_DUMB = ("dumb", "unknown")


class Console(View):
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

    def watch(self, results: "Iterator[FinishedUnit]", plan: Amount) -> "Iterator[FinishedUnit]":
        """Pass results through and show how far the run is; a plan may have several streams."""
        from stx.pipelines.telemetry.progress import Progress

        if not plan.n_due:
            yield from results
            return
        if self._progress is None or self._plan is not plan:
            self._plan = plan
            self._progress = Progress(plan.n_due, plan.n_due_rows, self._cost_per_hour)
        progress = self._progress
        # A terminal that can draw over what it has drawn.
        live = sys.stderr.isatty() and os.environ.get("TERM", "dumb").lower() not in _DUMB
        with _live_view(progress) if live else _log_lines(progress):
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
        line = f"{counted(part.files, 'file')}, {part.size / 1e6:,.1f} MB"
        if part.of_texts:
            line = (
                f"{counted(part.rows, 'row')} in {line}; {part.quarantined:,} quarantined; "
                f"{part.encoded_rows:,} encoded now, {part.carried_rows:,} carried over by text, "
                f"{part.truncated:,} cut"
            )
        else:
            line = f"{counted(part.file_rows, 'row')} in {line}"
        yield f"  {name:<8} {line}"
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


@dataclass
class _Picture:
    """The live view: two lines, drawn anew from the counts each time."""

    progress: "Progress"

    def __rich__(self) -> "Group":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        now = self.progress
        top = Table.grid(padding=(0, 1))
        rows = f"{now.rows:,} / {now.rows_total:,} rows · {now.units:,} / {now.units_total:,} units"
        bar = ProgressBar(total=1.0, completed=now.ratio, width=_BAR_WIDTH)
        top.add_row(Text("  "), bar, Text(rows))
        # What is known beside the number of rows, the most important first.
        speed = now.as_dict()
        facts = [
            f"{speed['tokens_per_s']:,} tokens/s"
            if now.tokens
            else f"{speed['rows_per_s']:,} rows/s"
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
        return Group(top, Text("  " + " · ".join(facts), style="dim", overflow="ellipsis"))


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
    text = os.environ.get("STX_PROGRESS_S", "")
    try:
        seconds = float(text or _SECONDS_BETWEEN_LINES)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < threading.TIMEOUT_MAX:
        raise SpecError(f"STX_PROGRESS_S: {text!r} is no number of seconds; write one above 0")
    ended = threading.Event()

    def print_lines() -> None:
        last = False
        while not last:
            last = ended.wait(seconds)
            print(json.dumps(progress.as_dict()), file=sys.stderr, flush=True)

    printer = threading.Thread(target=print_lines, daemon=True)
    printer.start()
    try:
        yield
    finally:
        ended.set()
        printer.join()
