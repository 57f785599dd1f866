"""The page of an encode run, beside its snapshot: HTML that needs no other file, and Markdown.

All of it comes from the run's records, whose counts add up, and from the log. Only for the nearest
neighbours of some rows are a few data files read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc

from stx.pipelines.encoding.plan import EncodePlan
from stx.pipelines.engine.job import Committed
from stx.pipelines.quality.neighbours import Version, sample_neighbours
from stx.pipelines.spec.parts import Resources
from stx.pipelines.telemetry import sections
from stx.pipelines.telemetry.report import Report
from stx.pipelines.telemetry.unit_counts import Totals, add_up
from stx_core.page import Section, share
from stx_core.store.files.urls import redact

_ROWS_WITH_NEIGHBOURS = 8
# A vector of float16 numbers that was normalised is as near to 1.
_ROUNDING_OF_NORMS = 1e-3
_PLACES = ("nearest", "second", "third")


@dataclass(frozen=True)
class EncodeRun:
    """A run that a page tells of.

    Attributes:
        plan: of this start.
        report: its numbers.
        committed: the run.
    """

    plan: EncodePlan
    report: Report
    committed: Committed

    def units(self, output: str) -> pa.Table:
        """Records of the snapshot's units; not those of texts that were encoded for several."""
        records = self.committed.records
        records = records.filter(pc.equal(records["output"], output))
        keys = pa.array(self.plan.parts[output].keys, pa.string())
        return records.filter(pc.is_in(records["key"], keys))

    @cached_property
    def totals(self) -> dict[str, Totals]:
        """Counts of the records, by output."""
        return {name: add_up(self.units(name)) for name in self.committed.info.outputs}

    @property
    def cost(self) -> float | None:
        """Of this start, at `resources.cost_per_hour`."""
        resources: Resources = self.committed.spec.resources
        return resources.cost(self.report.seconds)


def with_encode_page(run: EncodeRun) -> Report:
    """Write the page; the report with its cost, and a line that says where the page is."""
    title = f"Encoded: {redact(run.report.output)}, version {run.committed.info.version}"
    notes = [f"Run {run.committed.info.run}, committed {run.committed.info.created}."]
    n_units = len(run.committed.records)
    if earlier := n_units - len(run.committed.fresh):
        notes.append(
            f"{earlier:,} of its {n_units:,} units were finished by earlier starts: they "
            "are in the counts of rows, not in times, speeds and cost."
        )
    notes.append(
        "Lengths and norms are of the rows in files that the run wrote, carried or encoded. All "
        "versions beside each other: history.html, one folder above this page."
    )
    return sections.with_page(
        run.report,
        run.committed.info.version,
        title,
        notes=notes,
        sections=_sections(run),
        cost=run.cost,
    )


def _sections(run: EncodeRun) -> Iterator[Section]:
    yield Section("Summary", ("what", "number"), list(_summary(run)))
    parts = run.report.parts.values()
    outputs = [
        ("computed in", *(run.plan.parts[name].settings.dtype for name in run.report.parts)),
        ("rows", *(part.rows for part in parts)),
        ("files", *(part.files for part in parts)),
        ("size, MB", *(f"{part.size / 1e6:,.1f}" for part in parts)),
        ("quarantined rows", *(part.quarantined for part in parts)),
        ("texts cut, of the rows encoded by this start", *(part.truncated for part in parts)),
    ]
    yield Section("Outputs", ("what", *run.report.parts), outputs)
    yield Section("Changes", ("rows", *run.report.parts), _changes(run))
    yield from sections.throughput(run.committed.fresh, run.committed.began)
    for name, facts in run.committed.info.outputs.items():
        yield from _histograms(run, name, facts["type"])
    units = {name: run.units(name) for name in run.committed.info.outputs}
    for name, facts in run.committed.info.outputs.items():
        yield from _neighbours(run, Version(units[name], facts), name)
    yield from sections.quarantine(run.report.output, units)
    yield sections.stages(run.committed.fresh)
    yield from sections.slowest(run.committed.fresh)
    yield sections.settings(run.committed.spec)
    probes = (part.probe for part in run.plan.parts.values())
    yield sections.environment(run.plan.pool, (probe.device for probe in probes if probe))


def _summary(run: EncodeRun) -> Iterator[tuple[str, object]]:
    report, parts = run.report, run.report.parts.values()
    rows = max((part.encoded_rows for part in parts), default=0)
    tokens = sum(part.encoded_tokens for part in parts)
    yield "rows of the corpus", run.committed.info.rows
    yield "seconds, from start to commit", f"{report.seconds:,.1f}"
    yield "of these streaming, start of the actors counted", f"{report.stream_seconds:,.1f}"
    yield "rows encoded, equal texts of a unit once", rows
    yield "tokens of these rows", tokens
    if report.stream_seconds:
        yield "rows encoded per second", f"{rows / report.stream_seconds:,.0f}"
        yield "tokens encoded per second", f"{tokens / report.stream_seconds:,.0f}"
    for name, totals in run.totals.items():
        if totals.padding is not None:
            yield f"padding in batches: {name}", f"{totals.padding:.2%}"
        if totals.fill:
            yield f"filling up of packed batches: {name}", f"{totals.fill:.2%}"
    if run.cost is not None:
        yield (
            f"cost, at {run.committed.spec.resources.cost_per_hour:g} per hour",
            f"{run.cost:,.4g}",
        )
        if tokens:
            yield "cost of a million tokens", f"{run.cost / tokens * 1e6:,.4g}"


def _changes(run: EncodeRun) -> list[Sequence[object]]:
    """Rows of the snapshot, by where they come from; and those of the one before that are gone."""
    columns = []
    for name, part in run.report.parts.items():
        records = run.committed.records
        records = records.filter(pc.equal(records["output"], name))
        written = _total(run.units(name), "rows_out")
        encoded = _total(records, "rows_out") - _total(records, "rows_carried")
        before = run.plan.state.outputs.get(name, {}).get("rows", 0)
        carried = part.rows - encoded
        columns.append(
            (
                before,
                part.rows,
                part.rows - written,
                written - encoded,
                encoded,
                max(0, before - carried),
            )
        )
    names = (
        "in the version before", "now", "carried over with their files",
        "carried over by text", "encoded", "gone or replaced",
    )  # fmt: skip
    return [(name, *cells) for name, *cells in zip(names, *columns, strict=True)]


def _total(records: pa.Table, name: str) -> int:
    return pc.sum(records[name]).as_py() or 0


def _histograms(run: EncodeRun, name: str, kind: str) -> Iterator[Section]:
    """How long the texts are, and the vectors."""
    totals = run.totals[name]
    tokens, norms = totals.tokens, totals.norms
    cut = _total(run.units(name), "n_truncated")
    extra = [("texts cut", cut), ("share cut", share(cut, tokens.n))]
    yield from sections.histogram(f"Tokens per text: {name}", "texts", tokens, "token", extra=extra)
    if kind == "sparse":
        yield from sections.histogram(
            f"Non-zero numbers per vector: {name}", "vectors", totals.entries, "number"
        )
    elif norms.n and max(norms.high - 1, 1 - norms.low) <= _ROUNDING_OF_NORMS:
        yield Section(f"Norms: {name}", ("what", "number"), [("vectors, each of norm 1", norms.n)])
    else:
        yield from sections.histogram(f"Norms: {name}", "vectors", norms, "norm")


def _neighbours(run: EncodeRun, output: Version, name: str) -> Iterator[Section]:
    """A few rows and the rows nearest to them: a person sees whether they belong together."""
    rows = []
    for row in sample_neighbours(run.report.output, output, _ROWS_WITH_NEIGHBOURS):
        cells = [(redact(id_), f"{cosine:.3f}") for id_, cosine in row.nearest]
        rows.append([redact(row.id), *chain.from_iterable(cells)])
    if rows and len(rows[0]) > 1:
        header = ["row", *chain.from_iterable((place, "cosine") for place in _PLACES)]
        yield Section(f"Nearest rows in a sample: {name}", header[: len(rows[0])], rows)
