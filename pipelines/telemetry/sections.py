"""Parts of the pages that tell of a run, from its records: no data file is read for them."""

import json
import math
import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version as installed

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from stx.pipelines.planning.pool import Pool, available_cores
from stx.pipelines.spec.file import public_values
from stx.pipelines.telemetry.progress import by_stage
from stx.pipelines.telemetry.report import Report, write_page
from stx.pipelines.telemetry.unit_counts import FINISHED, read_json
from stx_core.charts import bar_chart
from stx_core.errors import StoreError
from stx_core.histogram import Histogram, Lengths
from stx_core.page import Section, html_page, markdown_page, share
from stx_core.store.data_file import read_columns
from stx_core.store.files.urls import join, redact

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


def with_page(
    report: Report,
    version: int,
    title: str,
    notes: Sequence[str],
    sections: Iterable[Section],
    cost: float | None = None,
) -> Report:
    """Write the page of a version; the report with its cost, and a line that says where.

    The snapshot is there already: a page that cannot be written is a warning.

    Args:
        report: of the start that committed the version.
        version: it.
        title: of the page.
        notes: lines below it.
        sections: may read from the store.
        cost: of the start; None where nobody said.
    """
    if cost is not None:
        report = replace(report, lines=[*report.lines, f"  cost     {cost:,.4g}"])
    try:
        parts = list(sections)
        pages = {
            ending: make(title, notes, parts)
            for ending, make in (("md", markdown_page), ("html", html_page))
        }
        url = write_page(report.output, version, pages)
    except (StoreError, OSError) as error:
        return replace(report, warnings=[*report.warnings, f"no report written: {error}"])
    return replace(report, lines=[*report.lines, f"  report   {redact(url)}"])


def throughput(records: pa.Table, began: float, rows_are: str = "rows") -> Iterator[Section]:
    """Tokens over time; where nothing read tokens, rows. What was carried over is not counted.

    Args:
        records: of units that this start finished.
        began: when the first one did, in seconds since 1970.
        rows_are: what their rows are called.
    """
    times = (counts.get(FINISHED, math.nan) for counts in read_json(records, "counts"))
    finished = np.fromiter(times, np.float64, len(records))
    has_time = np.isfinite(finished)
    if not has_time.any():
        return
    # Clocks of machines differ a little: nothing is finished before the run began.
    seconds = np.maximum(finished[has_time], began) - began
    n_intervals = min(_INTERVALS, -(-len(seconds) // _UNITS_PER_INTERVAL))
    step = max(float(seconds.max()) / n_intervals, 1e-3)
    at = np.minimum(seconds // step, n_intervals - 1).astype(int)
    rows, tokens = (
        np.bincount(at, computed(records, *names).to_numpy()[has_time], n_intervals)
        for names in (("rows_out", "rows_carried"), ("n_tokens", "tokens_carried"))
    )
    if not rows.any() and not tokens.any():
        return
    name, numbers = ("tokens", tokens) if tokens.any() else (rows_are, rows)
    chart = bar_chart(
        "Throughput over time",
        {name: dict(enumerate(numbers.tolist()))},
        lambda place: place * step,
        "{:,.1f}".format,
        axes=("seconds since the first unit was begun", f"{name} per second"),
        caption=[(f"The {name} of a unit count when it is finished.", "")],
    )
    speeds = {f"{rows_are}/s": rows, "tokens/s": tokens}
    columns = {name: counts for name, counts in speeds.items() if counts.any()}
    lines = [
        (f"{place * step:,.1f}", *(f"{counts[place] / step:,.0f}" for counts in columns.values()))
        for place in range(n_intervals)
    ]
    yield Section("Throughput", ("from second", *columns), lines, chart)


def computed(records: pa.Table, count: str, carried: str) -> pa.ChunkedArray:
    """(units,) what was computed of a count, without what was carried over by text."""
    return pc.subtract(records[count], records[carried])


def histogram(
    heading: str,
    what: str,
    counts: Histogram,
    unit: str,
    *,
    extra: Sequence[tuple[str, object]] = (),
) -> Iterator[Section]:
    """Distribution of numbers: a chart and a table; nothing of no numbers.

    Args:
        heading: of the section.
        what: is counted.
        counts: of it.
        unit: of one of the numbers, a word whose plural ends in s.
        extra: more rows of the table.
    """
    if not counts.n:
        return
    whole = isinstance(counts, Lengths)

    # Bins are a tenth of their numbers wide.
    exact, about = (",.0f", ",.0f") if whole else (",.4f", ",.2g")

    def label(edge: float) -> str:
        return f"{math.ceil(edge):,}" if whole else f"{edge:.3g}"

    rows = [
        (what, counts.n),
        ("mean", f"{counts.mean:,.2f}" if whole else format(counts.mean, exact)),
        ("lowest", format(counts.low, exact)),
        *((f"{part:.0%}, about", format(counts.quantile(part), about)) for part in _QUANTILES),
        ("highest", format(counts.high, exact)),
        *extra,
    ]
    axes = (f"{unit}s", f"{what} per {unit}") if whole else (unit, f"{what} per 1 of the {unit}")
    chart = bar_chart(heading, {what: counts.bins}, counts.edge, label, axes=axes)
    yield Section(heading, ("what", "number"), rows, chart)


def quarantine(root: str, records: Mapping[str, pa.Table]) -> Iterator[Section]:
    """Counts of quarantined rows by reason; some of the rows by id, none with its text.

    Args:
        root: the dataset.
        records: of the snapshot's units, by output.
    """
    rows = []
    for output, units in records.items():
        reasons: Counter[str] = Counter()
        for counts in read_json(units, "reasons"):
            reasons.update(counts)
        rows += [(output, reason, count) for reason, count in reasons.most_common()]
    if not rows:
        return
    yield Section("Quarantined rows", ("output", "reason", "rows"), rows)
    # The first rows of each reason, of the first files.
    samples: list[Sequence[object]] = []
    seen: Counter[str] = Counter()
    units = pa.concat_tables(records.values())
    bad = units.filter(pc.greater(units["rows_quarantined"], 0))
    for record in bad.slice(0, _SAMPLED_FILES).to_pylist():
        head = np.arange(min(record["rows_quarantined"], _SAMPLED_ROWS))
        url = join(root, record["quarantine_file"])
        for row in read_columns(url, _SAMPLE_COLUMNS, head).to_pylist():
            seen[row["reason"]] += 1
            if seen[row["reason"]] <= _SAMPLES:
                samples.append([redact(str(row[name])) for name in _SAMPLE_COLUMNS])
    yield Section("Some of them", _SAMPLE_COLUMNS, samples)


def stages(fresh: pa.Table) -> Section:
    """Time of the workers by stage; of the records of this start."""
    seconds = by_stage(read_json(fresh, "seconds"))
    total = sum(seconds.values())
    rows = [(stage, f"{spent:,.1f}", share(spent, total)) for stage, spent in seconds.items()]
    return Section("Time by stage", ("stage", "seconds", "share"), rows)


def slowest(fresh: pa.Table) -> Iterator[Section]:
    """Units that took longest, of the records of this start."""
    if not len(fresh):
        return
    totals = np.fromiter((sum(s.values()) for s in read_json(fresh, "seconds")), np.float64)
    chosen = np.argsort(-totals, kind="stable")[:_SLOWEST]
    slowest = fresh.take(pa.array(chosen))
    tokens = computed(slowest, "n_tokens", "tokens_carried").to_pylist()
    rows = [
        (
            f"{redact(row['url'])} rows {row['start']}-{row['stop']}",
            row["output"],
            f"{totals[place]:,.2f}",
            n_tokens,
            ", ".join(f"{stage} {spent:.2f}" for stage, spent in by_stage([seconds]).items()),
        )
        for place, row, n_tokens, seconds in zip(
            chosen, slowest.to_pylist(), tokens, read_json(slowest, "seconds"), strict=True
        )
    ]
    yield Section(
        "Slowest units", ("unit", "output", "seconds", "tokens computed", "of these seconds"), rows
    )


def settings(spec: BaseModel) -> Section:
    """The spec, key by key, but for whom it tells."""
    rows = list(_flat("", public_values(spec, exclude_none=True)))
    return Section("Settings", ("key", "value"), rows)


def _flat(prefix: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else name, inner)
    else:
        yield prefix, redact(value if isinstance(value, str) else json.dumps(value))


def environment(pool: Pool | None, devices: Iterable[str] = ()) -> Section:
    """Versions and machine.

    Args:
        pool: where the stages ran.
        devices: of the models.
    """
    rows = [
        ("python", platform.python_version()),
        *((package, installed(package)) for package in PACKAGES),
        ("system", platform.platform()),
        ("cores of the driver", str(available_cores())),
        ("run on", str(pool)),
    ]
    if names := ", ".join(sorted(set(devices))):
        rows.append(("device of the sample", names))
    return Section("Environment", ("what", "value"), rows)
