"""The page of an encode run, beside its snapshot: HTML that needs no other file, and Markdown.

All of it comes from the run's records, whose counts add up, and from the log; no data file is read.
"""

import json
import math
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version as installed
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.planning.plan import Plan
from pipelines.planning.pool import available_cores
from pipelines.spec.encode import EncodeSpec
from pipelines.telemetry.progress import by_stage
from pipelines.telemetry.report import Report, write_page
from pipelines.telemetry.unit_counts import FINISHED, Totals, add_up, read_json
from stx_core.errors import StoreError
from stx_core.histogram import Histogram, Lengths
from stx_core.page import Section, bar_chart, html_page, markdown_page, share
from stx_core.store.data_file import read_columns
from stx_core.store.files.urls import join, redact
from stx_core.store.snapshot import SnapshotInfo

PACKAGES = ("stx", "torch", "transformers", "tokenizers", "pyarrow", "numpy", "ray")

# Of the throughput: fewer where a run has few units, whose results come all at once.
_INTERVALS, _UNITS_PER_INTERVAL = 20, 3
_QUANTILES = (0.25, 0.5, 0.75, 0.95)
_SLOWEST = 10
_SAMPLES = 3
_SAMPLED_FILES = 20
_SAMPLED_ROWS = 1000
# Not `detail`, which may quote the row.
_SAMPLE_COLUMNS = ("reason", "file", "row", "id", "column")


@dataclass(frozen=True)
class EncodeRun:
    """What a report tells of.

    Attributes:
        spec: what was asked for.
        plan: of this start.
        report: its numbers.
        info: the snapshot that it committed.
        before: outputs of the snapshot before; {} for none.
        records: of all starts of the run, see `ledger.RECORDS`.
        fresh: of this start.
        began: when its first unit did, in seconds since 1970.
    """

    spec: EncodeSpec
    plan: Plan
    report: Report
    info: SnapshotInfo
    before: Mapping[str, Mapping[str, Any]]
    records: pa.Table
    fresh: pa.Table
    began: float

    def units(self, output: str) -> pa.Table:
        """Records of the snapshot's units; not those of texts that were encoded for several."""
        mine = _of(self.records, output)
        return mine.filter(
            pc.is_in(mine["key"], pa.array(self.plan.parts[output].keys, pa.string()))
        )

    @cached_property
    def totals(self) -> dict[str, Totals]:
        """What the records count, by output."""
        return {name: add_up(self.units(name)) for name in self.info.outputs}

    @property
    def cost(self) -> float | None:
        """Of this start, at `resources.cost_per_hour`."""
        price = self.spec.resources.cost_per_hour
        return None if price is None else price * self.report.seconds / 3600


def with_page(run: EncodeRun) -> Report:
    """Write the page; the report with a line that says where.

    The snapshot is there already: a page that cannot be written is a warning.
    """
    report, root = run.report, run.report.output
    title = f"Encoded: {redact(root)}, version {run.info.version}"
    try:
        sections = list(_sections(run))
        pages = {
            ending: make(title, list(_notes(run)), sections)
            for ending, make in (("md", markdown_page), ("html", html_page))
        }
        url = write_page(root, run.info.version, pages)
    except (StoreError, OSError) as error:
        return replace(report, warnings=[*report.warnings, f"no report written: {error}"])
    lines = [] if run.cost is None else [f"  cost     {run.cost:,.4g}"]
    lines.append(f"  report   {redact(url)}")
    return replace(report, lines=[*report.lines, *lines])


def _notes(run: EncodeRun) -> Iterator[str]:
    yield f"Run {run.info.run}, committed {run.info.created}."
    earlier = len(run.records) - len(run.fresh)
    if earlier:
        yield (
            f"{earlier:,} of its {len(run.records):,} units were finished by earlier starts: they "
            "are in the counts of rows, not in times, speeds and cost."
        )


def _sections(run: EncodeRun) -> Iterator[Section]:
    yield Section("Summary", ("what", "number"), list(_summary(run)))
    yield Section("Outputs", ("what", *run.report.parts), _outputs(run))
    yield Section("Changes", ("rows", *run.report.parts), _changes(run))
    yield from _throughput(run)
    for name, facts in run.info.outputs.items():
        yield from _histograms(run, name, facts["type"])
    yield from _quarantine(run)
    yield Section("Time by stage", ("stage", "seconds", "share"), _stages(run.fresh))
    yield from _slowest(run.fresh)
    yield Section("Settings", ("key", "value"), list(_settings(run.spec)))
    yield Section("Environment", ("what", "value"), list(_environment(run.plan)))


def _summary(run: EncodeRun) -> Iterator[tuple[str, object]]:
    report, parts = run.report, run.report.parts.values()
    texts = max((part.encoded_rows for part in parts), default=0)
    tokens = sum(part.encoded_tokens for part in parts)
    yield "rows of the corpus", run.info.rows
    yield "seconds, from plan to commit", f"{report.seconds:,.1f}"
    yield "of these streaming, start of the actors counted", f"{report.stream_seconds:,.1f}"
    yield "texts encoded", texts
    yield "tokens encoded", tokens
    if report.stream_seconds:
        yield "texts per second", f"{texts / report.stream_seconds:,.0f}"
        yield "tokens per second", f"{tokens / report.stream_seconds:,.0f}"
    for name, totals in run.totals.items():
        if totals.padding is not None:
            yield f"padding in batches: {name}", f"{totals.padding:.2%}"
    if run.cost is not None:
        yield f"cost, at {run.spec.resources.cost_per_hour:g} per hour", f"{run.cost:,.4g}"
        if tokens:
            yield "cost of a million tokens", f"{run.cost / tokens * 1e6:,.4g}"


def _outputs(run: EncodeRun) -> list[Sequence[object]]:
    parts = run.report.parts.values()
    return [
        ("rows", *(part.rows for part in parts)),
        ("files", *(part.files for part in parts)),
        ("size, MB", *(f"{part.size / 1e6:,.1f}" for part in parts)),
        ("quarantined rows", *(part.quarantined for part in parts)),
        ("texts cut, of those encoded", *(part.truncated for part in parts)),
    ]


def _changes(run: EncodeRun) -> list[Sequence[object]]:
    """Rows of the snapshot, by where they come from; and those of the one before that are gone."""
    columns = [_changes_of(run, name) for name in run.report.parts]
    names = (
        "in the version before", "now", "carried over with their files",
        "carried over by text", "encoded", "gone or replaced",
    )  # fmt: skip
    return [(name, *cells) for name, *cells in zip(names, *columns, strict=True)]


def _changes_of(run: EncodeRun, name: str) -> tuple[int, ...]:
    all_records = _of(run.records, name)
    written = _total(run.units(name), "rows_out")
    encoded = _total(all_records, "rows_out") - _total(all_records, "rows_carried")
    before = run.before.get(name, {}).get("rows", 0)
    now = run.report.parts[name].rows
    kept = now - encoded
    return before, now, now - written, written - encoded, encoded, max(0, before - kept)


def _total(records: pa.Table, name: str) -> int:
    return pc.sum(records[name]).as_py() or 0


def _throughput(run: EncodeRun) -> Iterator[Section]:
    """Tokens over time; of models without tokens, rows."""
    told = (each.get(FINISHED, math.nan) for each in read_json(run.fresh, "counts"))
    finished = np.fromiter(told, np.float64, len(run.fresh))
    known = np.isfinite(finished)
    if not known.any():
        return
    # Clocks of machines differ a little: nothing is finished before the run began.
    seconds = np.maximum(finished[known], run.began) - run.began
    n_intervals = min(_INTERVALS, -(-len(seconds) // _UNITS_PER_INTERVAL))
    step = max(float(seconds.max()) / n_intervals, 1e-3)
    at = np.minimum(seconds // step, n_intervals - 1).astype(int)
    rows, tokens = (
        np.bincount(at, run.fresh[name].to_numpy()[known], n_intervals)
        for name in ("rows_out", "n_tokens")
    )
    name, numbers = ("tokens", tokens) if tokens.any() else ("rows", rows)
    chart = f"<p>Height: {name} per second, of units that were finished then.</p>\n" + bar_chart(
        "Throughput over time",
        {name: dict(enumerate(numbers.tolist()))},
        lambda place: place * step,
        lambda edge: f"{edge:,.1f} s",
    )
    lines = [
        (f"{place * step:,.1f}", f"{rows[place] / step:,.0f}", f"{tokens[place] / step:,.0f}")
        for place in range(n_intervals)
    ]
    yield Section("Throughput", ("from second", "rows/s", "tokens/s"), lines, chart)


def _histograms(run: EncodeRun, name: str, kind: str) -> Iterator[Section]:
    """How long the texts are, and the vectors."""
    totals = run.totals[name]
    tokens = totals.tokens
    cut = _total(run.units(name), "n_truncated")
    extra = [("texts cut", cut), ("share cut", share(cut, tokens.n))]
    yield from _histogram(f"Tokens per text: {name}", "texts", tokens, extra)
    if kind == "sparse":
        yield from _histogram(f"Non-zero numbers per vector: {name}", "vectors", totals.entries)
    else:
        yield from _histogram(f"Norms: {name}", "vectors", totals.norms)


def _histogram(
    heading: str, what: str, counts: Histogram, extra: Sequence[tuple[str, object]] = ()
) -> Iterator[Section]:
    if not counts.n:
        return
    whole = isinstance(counts, Lengths)

    def said(edge: float) -> str:
        return f"{math.ceil(edge):,}" if whole else f"{edge:.3g}"

    def number(value: float) -> str:
        return f"{value:,.0f}" if whole else f"{value:,.4f}"

    def about(value: float) -> str:
        # Bins are a tenth of their numbers wide.
        return f"{value:,.0f}" if whole else f"{value:,.2g}"

    rows = [
        (what, counts.n),
        ("mean", f"{counts.mean:,.2f}" if whole else number(counts.mean)),
        ("lowest", number(counts.low)),
        *((f"{part:.0%}, about", about(counts.quantile(part))) for part in _QUANTILES),
        ("highest", number(counts.high)),
        *extra,
    ]
    chart = bar_chart(heading, {what: counts.bins}, counts.edge, said)
    yield Section(heading, ("what", "number"), rows, chart)


def _quarantine(run: EncodeRun) -> Iterator[Section]:
    """How many rows were quarantined and why; some of them by id, none with its text."""
    rows = []
    for name in run.info.outputs:
        reasons: Counter[str] = Counter()
        for counts in read_json(run.units(name), "reasons"):
            reasons.update(counts)
        rows += [(name, reason, count) for reason, count in reasons.most_common()]
    if rows:
        yield Section("Quarantined rows", ("output", "reason", "rows"), rows)
        yield Section("Some of them", _SAMPLE_COLUMNS, list(_samples(run)))


def _samples(run: EncodeRun) -> Iterator[Sequence[object]]:
    """The first rows of each reason, of the first files."""
    bad = run.records.filter(pc.greater(run.records["rows_quarantined"], 0))
    seen: Counter[str] = Counter()
    for record in bad.slice(0, _SAMPLED_FILES).to_pylist():
        head = np.arange(min(record["rows_quarantined"], _SAMPLED_ROWS))
        url = join(run.report.output, record["quarantine_file"])
        for row in read_columns(url, _SAMPLE_COLUMNS, head).to_pylist():
            seen[row["reason"]] += 1
            if seen[row["reason"]] <= _SAMPLES:
                yield [redact(str(row[name])) for name in _SAMPLE_COLUMNS]


def _stages(fresh: pa.Table) -> list[Sequence[object]]:
    seconds = by_stage(read_json(fresh, "seconds"))
    total = sum(seconds.values())
    return [(stage, f"{each:,.1f}", share(each, total)) for stage, each in seconds.items()]


def _slowest(fresh: pa.Table) -> Iterator[Section]:
    if not len(fresh):
        return
    totals = np.fromiter((sum(each.values()) for each in read_json(fresh, "seconds")), np.float64)
    chosen = np.argsort(-totals, kind="stable")[:_SLOWEST]
    slowest = fresh.take(pa.array(chosen))
    rows = [
        (
            f"{redact(row['url'])} rows {row['start']}-{row['stop']}",
            row["output"],
            f"{totals[place]:,.2f}",
            row["n_tokens"],
            ", ".join(f"{stage} {each:.2f}" for stage, each in by_stage([seconds]).items()),
        )
        for place, row, seconds in zip(
            chosen, slowest.to_pylist(), read_json(slowest, "seconds"), strict=True
        )
    ]
    yield Section("Slowest units", ("unit", "output", "seconds", "tokens", "of these"), rows)


def _settings(spec: EncodeSpec) -> Iterator[tuple[str, str]]:
    yield from _flat("", spec.model_dump(mode="json", exclude_none=True))


def _flat(prefix: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else name, inner)
    else:
        yield prefix, redact(value if isinstance(value, str) else json.dumps(value))


def _environment(plan: Plan) -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    for package in PACKAGES:
        yield package, installed(package)
    yield "system", platform.platform()
    yield "cores of the driver", str(available_cores())
    yield "run on", str(plan.pool)
    devices = {part.probe.device for part in plan.parts.values() if part.probe is not None}
    yield "device of the sample", ", ".join(sorted(devices))


def _of(records: pa.Table, output: str) -> pa.Table:
    return records.filter(pc.equal(records["output"], output))
