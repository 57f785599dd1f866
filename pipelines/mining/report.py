"""The report of a mined snapshot: statistics of all its units, as a page and as lines."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow.compute as pc

from stx.pipelines.mining.stage import SHORTFALL, STATISTICS
from stx.pipelines.telemetry.report import write_page
from stx_core.mining.report import html_report, markdown_report
from stx_core.mining.rules import MiningRules
from stx_core.mining.statistics import MiningCounts, ScoreCounts
from stx_core.store.data_file import head, whole
from stx_core.store.files.urls import redact
from stx_core.store.snapshot import open_snapshot, snapshot_info

_SHORT_QUERIES = 20
_EXAMPLES = 5
_EXAMPLE_CHARACTERS = 200

_LEFT_OUT = {
    "queries_without_positive": (
        "queries of the candidates have no positive in {positives}; they were left out"
    ),
    "positives_without_score": (
        "positive pairs of {positives} have no score by {judge}, because their document is not in "
        "its corpus or their query was not asked for them (`positives` of stx retrieve and stx "
        "rerank scores all); they were left out"
    ),
    "queries_without_score": (
        "queries have no positive with a score by {judge}; they were left out"
    ),
}

_MEASURES: dict[str, Callable[[ScoreCounts], float]] = {
    "number": lambda scores: scores.n,
    "mean": lambda scores: scores.mean,
    "std": lambda scores: scores.std,
    "low": lambda scores: scores.low,
    "25 %": lambda scores: scores.quantile(0.25),
    "median": lambda scores: scores.quantile(0.5),
    "75 %": lambda scores: scores.quantile(0.75),
    "high": lambda scores: scores.high,
}


@dataclass(frozen=True)
class Summary:
    """A mined snapshot in numbers.

    Attributes:
        version: of the snapshot.
        rules: by which it was mined.
        counts: of all units.
        notes: what was left out, one line each.
    """

    version: int
    rules: MiningRules
    counts: MiningCounts
    notes: Sequence[str]


def read_summary(root: str, version: int) -> Summary:
    """Add up the statistics of all units, of whichever start and version.

    Raises:
        StoreError: there is no such snapshot, or a file of it cannot be read.
    """
    facts = snapshot_info(root, version).outputs[STATISTICS]
    table = whole(open_snapshot(root, output=STATISTICS, version=version))
    counts = MiningCounts()
    for text in table["counts"].to_pylist():
        counts += MiningCounts.from_json(json.loads(text))
    notes = list(facts["notes"])
    for name, line in _LEFT_OUT.items():
        if count := pc.sum(table[name]).as_py():
            names = {"positives": facts["positives"], "judge": facts["judge"]}
            notes.append(f"{count:,} {line.format(**names)}")
    return Summary(version, MiningRules(**facts["rules"]), counts, notes)


def write_reports(root: str, summary: Summary) -> str:
    """Write the page as HTML and Markdown below the dataset; the URL of the former.

    Raises:
        StoreError: they cannot be written, or a file of the snapshot cannot be read.
    """
    short = head(open_snapshot(root, output=SHORTFALL, version=summary.version), _SHORT_QUERIES)
    examples: list[tuple[str, str, str]] = []
    if "triplet" in snapshot_info(root, summary.version).outputs:
        triplets = head(open_snapshot(root, output="triplet", version=summary.version), _EXAMPLES)
        columns = [
            [
                text if len(text) <= _EXAMPLE_CHARACTERS else text[:_EXAMPLE_CHARACTERS] + "…"
                for text in triplets[name].to_pylist()
            ]
            for name in ("query", "positive", "negative")
        ]
        examples = list(zip(*columns, strict=True))
    pages = {
        ending: make(
            summary.counts,
            summary.rules,
            title=f"Hard negatives: {redact(root)}, version {summary.version}",
            short=short,
            examples=examples,
            notes=summary.notes,
        )
        for ending, make in (("md", markdown_report), ("html", html_report))
    }
    return write_page(root, summary.version, pages)


def summary_lines(summary: Summary) -> Iterator[str]:
    """The numbers for a terminal."""
    counts = summary.counts
    yield (
        f"  {counts.negatives.n:,} negatives of {counts.candidates:,} candidates for "
        f"{counts.queries:,} queries; {counts.short:,} queries have fewer than "
        f"{summary.rules.num_negatives}"
    )
    yield f"  {'score':<8} {'positives':>12} {'negatives':>12}"
    for name, measure in _MEASURES.items():
        cells = [f"{measure(side):,.4g}" for side in (counts.positives, counts.negatives)]
        yield f"  {name:<8} {cells[0]:>12} {cells[1]:>12}"
    for reason, count in counts.reasons.items():
        if count:
            yield f"  {count:,} candidates rejected: {reason}"
