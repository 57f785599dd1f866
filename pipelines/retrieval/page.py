"""The page of a retrieve or rerank run: how fast it was, how scores lie, what has none."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.engine.job import Committed
from stx.pipelines.planning.pool import Pool
from stx.pipelines.spec.parts import Resources
from stx.pipelines.telemetry import sections
from stx.pipelines.telemetry.report import Report
from stx.pipelines.telemetry.unit_counts import add_up
from stx_core.page import Section
from stx_core.store.files.urls import redact


@dataclass(frozen=True)
class RankingRun:
    """A run that a page tells of.

    Attributes:
        title: the deed, in a word.
        rows_are: name of the rows of its units: queries, candidates.
        pool: where the stages ran.
        report: numbers of this start.
        committed: the run.
        timed: records that the speed is of, one for each row of a unit.
    """

    title: str
    rows_are: str
    pool: Pool
    report: Report
    committed: Committed
    timed: pa.Table

    @property
    def cost(self) -> float | None:
        """Of this start, at `resources.cost_per_hour`."""
        resources: Resources = self.committed.spec.resources
        return resources.cost(self.report.seconds)

    def units(self, output: str) -> pa.Table:
        """Records of an output."""
        return self.committed.records.filter(pc.equal(self.committed.records["output"], output))


def with_ranking_page(run: RankingRun) -> Report:
    """Write the page; the report with its cost, and a line that says where the page is."""
    title = f"{run.title}: {redact(run.report.output)}, version {run.committed.info.version}"
    notes = [f"Run {run.committed.info.run}, committed {run.committed.info.created}."]
    return sections.with_page(
        run.report,
        run.committed.info.version,
        title,
        notes=notes,
        sections=_sections(run),
        cost=run.cost,
    )


def _sections(run: RankingRun) -> Iterator[Section]:
    yield Section("Summary", ("what", "number"), list(_summary(run)))
    parts = run.report.parts.values()
    outputs = [
        ("rows", *(part.file_rows for part in parts)),
        ("files", *(part.files for part in parts)),
        ("size, MB", *(f"{part.size / 1e6:,.1f}" for part in parts)),
        ("quarantined", *(part.quarantined for part in parts)),
    ]
    yield Section("Outputs", ("what", *run.report.parts), outputs)
    yield from sections.throughput(run.timed, run.committed.began, run.rows_are)
    for name in run.committed.info.outputs:
        scores = add_up(run.units(name)).scores
        yield from sections.histogram(f"Scores: {name}", "pairs", scores, "score")
    yield from sections.quarantine(
        run.report.output, {name: run.units(name) for name in run.committed.info.outputs}
    )
    yield sections.stages(run.committed.fresh)
    yield from sections.slowest(run.committed.fresh)
    yield sections.settings(run.committed.spec)
    yield sections.environment(run.pool)


def _summary(run: RankingRun) -> Iterator[tuple[str, object]]:
    yield run.rows_are, run.committed.info.rows
    yield "seconds, from start to commit", f"{run.report.seconds:,.1f}"
    yield "of these streaming, start of the actors counted", f"{run.report.stream_seconds:,.1f}"
    if tokens := pc.sum(run.committed.fresh["n_tokens"]).as_py():
        yield "tokens read", tokens
        yield "tokens per second", f"{tokens / run.report.stream_seconds:,.0f}"
    if run.cost is not None:
        yield (
            f"cost, at {run.committed.spec.resources.cost_per_hour:g} per hour",
            f"{run.cost:,.4g}",
        )
