"""View of a run for a person: the plan, its progress, the outcome."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from stx.jobs.status import progress_shown
from stx.pipelines.engine.runs import Amount, View
from stx.pipelines.planning.words import counted, duration
from stx_core.store.files.urls import redact

if TYPE_CHECKING:
    from stx.pipelines.planning.plan import Plan
    from stx.pipelines.telemetry.progress import FinishedUnit, Progress
    from stx.pipelines.telemetry.report import Report


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
            self._progress = Progress(
                plan.n_due, plan.n_due_rows, self._cost_per_hour, began=self.began
            )
        progress = self._progress
        with progress_shown(progress, self.began):
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
