"""The page of a dataset's versions: rows, size, time, cost and quality, one beside the other.

`_stx/reports/history.json` has the numbers, `history.html` beside it shows them. Each commit reads
the one and writes both, whatever the number of versions: only the newest are kept. Versions that
the file lacks (of rollback and forget, of a run that committed at the same time, all where it was
lost) come from the log, which knows all but times and costs. Numbers of versions that gc removed
stay.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter

from stx.pipelines.telemetry.report import Report
from stx_core.charts import COLOURS, line_chart
from stx_core.errors import StoreError
from stx_core.page import Section, html_page
from stx_core.store import log
from stx_core.store.files.filesystem import read_bytes, write_over
from stx_core.store.files.parallel import parallel
from stx_core.store.files.urls import join, one_line, redact
from stx_core.store.log_state import current_version
from stx_core.store.snapshot import SnapshotInfo, to_info

# A year of nights: some 300 KB of numbers.
_VERSIONS = 365
# That are read from the log at once, one request each.
_FROM_LOG = 100
_IN_TABLE = 50
# What stays below is nothing, but for rounding.
_NOISE = 1e-6
_HEADER = (
    "version", "committed, UTC", "by", "output", "rows", "rows computed", "tokens computed", "MB",
    "quarantined", "seconds", "cost",
)  # fmt: skip


@dataclass(frozen=True)
class OutputFigures:
    """Numbers of an output of a version.

    Attributes:
        rows: that can be read.
        bytes: of its files.
        quarantined: rows.
        computed: rows that the version's run did not carry over; None where nobody knows.
        tokens: of these; None where nobody knows.
        checks: values of `quality`; None for what is no number.
    """

    rows: int
    bytes: int
    quarantined: int
    computed: int | None = None
    tokens: int | None = None
    checks: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Figures:
    """Numbers of a version.

    Attributes:
        version: from 1.
        created: when, by the clock of that machine.
        kind: of the entry of the log: ``commit``, ``rollback``, ``forget`` …
        outputs: by name.
        seconds: of the start that committed it; None where nobody knows.
        cost: of that start; None where nobody said.
    """

    version: int
    created: str
    kind: str
    outputs: Mapping[str, OutputFigures]
    seconds: float | None = None
    cost: float | None = None


_FILE = TypeAdapter(list[Figures])

Number = Callable[[OutputFigures], float | None]
# Heading and unit of the charts that have a line for each output.
_CHARTS: tuple[tuple[str, str, Number], ...] = (
    ("Rows", "rows", lambda output: output.rows),
    ("Rows computed", "rows", lambda output: output.computed),
    ("Tokens computed", "tokens", lambda output: output.tokens),
    ("Size", "bytes", lambda output: output.bytes),
    ("Rows in quarantine", "rows", lambda output: output.quarantined),
)


def history_url(root: str, ending: str = "html") -> str:
    """URL of the page of a dataset's versions; ``json`` for its numbers."""
    return join(root, "_stx", "reports", f"history.{ending}")


def with_history(
    report: Report, info: SnapshotInfo, records: pa.Table, cost: float | None
) -> Report:
    """Add a version to the history of its dataset; a failure is a warning, as of any page.

    Args:
        report: of the start that committed the version.
        info: the version.
        records: of all starts of the run, see `ledger.RECORDS`.
        cost: of the start; None where nobody said.
    """
    outputs = {
        name: _with_computed(output, records.filter(pc.equal(records["output"], name)))
        for name, output in _outputs(info).items()
    }
    newest = Figures(
        info.version, info.created, "commit",
        outputs=outputs, seconds=report.seconds, cost=cost,
    )  # fmt: skip
    root = report.output
    try:
        figures = _complete(root, [*_read(root), newest])
        write_over(history_url(root, "json"), _FILE.dump_json(figures))
        title = f"History: {redact(root)}"
        page = html_page(title, list(_notes(figures)), list(_sections(figures)))
        write_over(history_url(root), page.encode())
    except (StoreError, OSError) as error:
        problem = one_line(str(error))
        return replace(report, warnings=[*report.warnings, f"no history written: {problem}"])
    return report


def _outputs(info: SnapshotInfo) -> dict[str, OutputFigures]:
    """What the log knows of the outputs of a version."""
    return {
        name: OutputFigures(
            rows=facts["rows"],
            bytes=facts["bytes"],
            quarantined=facts["rows_quarantined"],
            checks=facts.get("quality", {}).get("checks", {}),
        )
        for name, facts in info.outputs.items()
    }


def _with_computed(output: OutputFigures, records: pa.Table) -> OutputFigures:
    """Add the rows and tokens that a run did not carry over, given the output's records."""
    sums = {
        name: pc.sum(records[name]).as_py() or 0
        for name in ("rows_out", "rows_carried", "n_tokens", "tokens_carried")
    }
    return replace(
        output,
        computed=sums["rows_out"] - sums["rows_carried"],
        tokens=sums["n_tokens"] - sums["tokens_carried"],
    )


def _read(root: str) -> list[Figures]:
    """The numbers of earlier versions; none where they are lost or cannot be understood."""
    try:
        return _FILE.validate_json(read_bytes(history_url(root, "json")))
    except (FileNotFoundError, ValueError):
        return []


def _complete(root: str, figures: Sequence[Figures]) -> list[Figures]:
    """The newest versions in their order, with those that only the log knows."""
    by_version = {version.version: version for version in figures}
    last = log.latest(root)
    kept = {int(version): entry for version, entry in last.state["kept"].items()} if last else {}
    # Where a dataset was deleted and made again, the file may know later versions of the old one.
    current = current_version(last.state) if last else 0
    newest = sorted(v for v in by_version.keys() | kept if v <= current)[-_VERSIONS:]
    lacking = [version for version in newest if version not in by_version][-_FROM_LOG:]
    for entry in parallel(lambda version: log.read_entry(root, kept[version]), lacking):
        if snapshot := entry.state["snapshot"]:
            info = to_info(snapshot)
            by_version[info.version] = Figures(
                info.version, info.created, entry.kind, outputs=_outputs(info)
            )
    return [by_version[version] for version in newest if version in by_version]


def _notes(figures: Sequence[Figures]) -> Iterator[str]:
    first, last = figures[0], figures[-1]
    yield (
        f"Versions {first.version:,} to {last.version:,}, committed from {first.created} to "
        f"{last.created}. The report of each is in the folder of its number, beside this page."
    )
    yield (
        "Computed are the rows and tokens that the run of a version did not carry over. Seconds "
        "and cost are those of the start that committed it."
    )


def _sections(figures: Sequence[Figures]) -> Iterator[Section]:
    for heading, unit, number in _CHARTS:
        yield from _by_output(figures, heading, unit, number=number)
    yield from _chart(figures, "Time", "seconds", series={"Time": [x.seconds for x in figures]})
    yield from _chart(figures, "Cost", "cost", series={"Cost": [x.cost for x in figures]})
    outputs = [output for version in figures for output in version.outputs.values()]
    for check in sorted({check for output in outputs for check in output.checks}):
        value = partial(_check, check)
        yield from _by_output(figures, f"Quality: {check}", "value of the check", number=value)
    last = figures[-1]
    checks = [
        (name, check, "–" if value is None else f"{value:.4g}")
        for name, output in last.outputs.items()
        for check, value in output.checks.items()
    ]
    if checks:
        heading = f"Quality of version {last.version:,}"
        yield Section(heading, ("output", "check", "value"), checks)
    newest = figures[-_IN_TABLE:][::-1]
    heading = "Versions" if len(newest) == len(figures) else f"The newest {_IN_TABLE} versions"
    yield Section(heading, _HEADER, [row for version in newest for row in _rows(version)])


def _check(name: str, output: OutputFigures) -> float | None:
    return output.checks.get(name)


def _by_output(
    figures: Sequence[Figures], heading: str, unit: str, *, number: Number
) -> Iterator[Section]:
    """A chart with a line for each output; several where there are more than colours."""
    names = list(dict.fromkeys(name for version in figures for name in version.outputs))
    for first in range(0, len(names), len(COLOURS)):
        series = {
            name: [
                number(version.outputs[name]) if name in version.outputs else None
                for version in figures
            ]
            for name in names[first : first + len(COLOURS)]
        }
        yield from _chart(figures, heading, unit, series=series)


def _chart(
    figures: Sequence[Figures],
    heading: str,
    unit: str,
    *,
    series: Mapping[str, Sequence[float | None]],
) -> Iterator[Section]:
    """A chart, unless there is nothing but zeros, rounded or not."""
    if any(abs(number or 0) > _NOISE for numbers in series.values() for number in numbers):
        versions = [str(version.version) for version in figures]
        label = f"{heading}, by version"
        yield Section(heading, chart=line_chart(label, series, versions, axes=("version", unit)))


def _rows(version: Figures) -> Iterator[Sequence[object]]:
    """Rows of the table for a version, one for each output."""
    for name, output in version.outputs.items():
        yield (
            version.version,
            version.created[:16].replace("T", " "),
            version.kind,
            name,
            output.rows,
            "–" if output.computed is None else output.computed,
            "–" if output.tokens is None else output.tokens,
            f"{output.bytes / 1e6:,.1f}",
            output.quarantined,
            "–" if version.seconds is None else f"{version.seconds:,.1f}",
            "–" if version.cost is None else f"{version.cost:,.4g}",
        )
