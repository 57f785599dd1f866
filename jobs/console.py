"""What a person sees of a run: the plan, its progress, the outcome."""

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stx_core.store.urls import one_line

if TYPE_CHECKING:
    from rich.progress import Progress

    from pipelines.plan import Plan
    from pipelines.report import OutputReport, Report
    from pipelines.runs import Amount
    from pipelines.work import Work

_SECONDS_BETWEEN_LINES = 5.0


def configure_logging() -> None:
    """Log lines of stx to stderr; those of libraries only when something is wrong."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("stx_core").setLevel(logging.INFO)
    logging.getLogger("pipelines").setLevel(logging.INFO)
    # Ray's core prints advice for its developers to the driver's stderr at level "error".
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")


class _OneLine(logging.Formatter):
    """A message stays one line, whatever ids and paths it names; tracebacks keep theirs."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        return one_line(super().formatMessage(record))


class Console:
    """A view of one run: a calm bar on a terminal, one JSON line every few seconds elsewhere."""

    def plan(self, plan: "Plan | Work") -> None:
        """Print what would be done, before anything runs."""
        from pipelines.plan import Plan

        lines = _plan_lines(plan) if isinstance(plan, Plan) else plan.lines
        print("\n".join(map(one_line, lines)), flush=True)

    def watch(self, results: Iterator[dict[str, Any]], plan: "Amount") -> Iterator[dict[str, Any]]:
        """Pass results through and show how far the run is."""
        watched = _bar(results, plan) if sys.stderr.isatty() else _log_lines(results, plan)
        yield from watched

    def report(self, report: "Report") -> None:
        """Print what was done."""
        print("\n".join(map(one_line, _report_lines(report))), flush=True)


def _plan_lines(plan: "Plan") -> Iterator[str]:
    files = len({unit.url for unit in plan.units})
    yield f"plan for {plan.output}"
    yield f"  input    {', '.join(plan.inputs)}: {files:,} files, {plan.n_rows:,} rows"
    for name, part in plan.parts.items():
        yield f"  {name:<8} {part.settings.model} ({part.settings.type}), {part.fingerprint[:12]}"
        yield (
            f"           to do {len(part.due):,} units, {part.rows_due:,} rows"
            f" · carried over {part.n_carried:,} units · finished earlier {part.n_done:,} units"
        )
        if part.source is not None or part.rows_superseded:
            yield (
                f"           about {part.rows_to_encode:,} rows to encode · "
                f"{part.rows_carried:,} carried over · {part.rows_gone:,} deleted or replaced"
            )
        if part.probe is not None:
            yield f"           {_probe_line(part)}"
    if plan.pool is not None:
        yield f"  run on   {plan.pool}"
    if plan.seconds is not None:
        grown = " once all actors are there" if plan.pool and plan.pool.min_actors else ""
        yield f"  time     about {_duration(plan.seconds)}{grown}"
    elif plan.n_due:
        yield "  time     unknown: the actors' device is not on this machine to measure"


def _probe_line(part: Any) -> str:  # noqa: ANN401
    probe = part.probe
    tokens = probe.tokens_per_row * part.rows_to_encode
    shape = "sparse" if probe.dim is None else f"{probe.dim} dimensions"
    limit = "" if probe.max_seq_length is None else f" at {probe.max_seq_length}"
    return (
        f"{shape}, about {tokens:,.0f} tokens ({probe.tokens_per_row:.0f} per row, "
        f"{probe.truncated_share:.1%} of the rows cut{limit})"
    )


def _report_lines(report: "Report") -> Iterator[str]:
    if report.version is None:
        return
    if not report.committed:
        yield f"nothing to do: version {report.version} of {report.output} has all of it"
        yield from report.lines
        return
    yield f"committed version {report.version} of {report.output} in {_duration(report.seconds)}"
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
    where = f"{part.files:,} files, {part.size / 1e6:,.1f} MB"
    if not part.of_texts:
        return f"{part.file_rows:,} rows in {where}"
    return (
        f"{part.rows:,} rows in {where}; {part.quarantined:,} quarantined; "
        f"{part.encoded_rows:,} encoded now, {part.carried_rows:,} carried over by text, "
        f"{part.truncated:,} cut"
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _bar(results: Iterator[dict[str, Any]], plan: "Amount") -> Iterator[dict[str, Any]]:
    with _progress() as progress:
        task = progress.add_task("encoding", total=plan.n_due_rows)
        for result in results:
            progress.advance(task, result["rows"])
            yield result


def _progress() -> "Progress":
    from rich.console import Console as Terminal
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows"),
        TimeRemainingColumn(),
        console=Terminal(stderr=True),
        transient=True,
    )


def _log_lines(results: Iterator[dict[str, Any]], plan: "Amount") -> Iterator[dict[str, Any]]:
    start = last = time.monotonic()
    rows = tokens = quarantined = 0
    for units, result in enumerate(results, start=1):
        rows += result["rows"]
        tokens += result["tokens"]
        quarantined += result["quarantined"]
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            seconds = now - start
            line = {
                "units": units,
                "units_total": plan.n_due,
                "rows": rows,
                "rows_total": plan.n_due_rows,
                "tokens_per_s": round(tokens / seconds),
                "quarantined": quarantined,
                "eta_s": round((plan.n_due_rows - rows) * seconds / rows),
            }
            print(json.dumps(line), file=sys.stderr, flush=True)
        yield result
