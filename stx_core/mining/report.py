"""A mining run on one page: Markdown, or HTML that needs no other file."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from stx_core.charts import Chart, bar_chart
from stx_core.mining.rules import REASONS, MiningRules
from stx_core.mining.statistics import MEASURES, MiningCounts, ScoreCounts
from stx_core.page import Section, html_page, markdown_page, share

_SHORT_QUERIES = 20


def markdown_report(
    counts: MiningCounts,
    rules: MiningRules,
    *,
    title: str = "Hard negatives",
    short: pa.Table | None = None,
    examples: Iterable[tuple[str, str, str]] = (),
    notes: Sequence[str] = (),
) -> str:
    """The numbers as Markdown tables.

    Args:
        counts: of all blocks, added up.
        rules: by which they were mined.
        title: its heading.
        short: what `shortfall` gave, or its first rows, which are shown.
        examples: query, positive and negative texts to look at.
        notes: lines below the heading.
    """
    return markdown_page(title, notes, _sections(counts, rules, short, examples))


def html_report(
    counts: MiningCounts,
    rules: MiningRules,
    *,
    title: str = "Hard negatives",
    short: pa.Table | None = None,
    examples: Iterable[tuple[str, str, str]] = (),
    notes: Sequence[str] = (),
) -> str:
    """The same as a page with the two histograms, for light and dark screens; see above."""
    histogram = Section("", chart=_histogram(counts.positives, counts.negatives))
    return html_page(title, notes, [histogram, *_sections(counts, rules, short, examples)])


def _sections(
    counts: MiningCounts,
    rules: MiningRules,
    short: pa.Table | None,
    examples: Iterable[tuple[str, str, str]],
) -> Iterator[Section]:
    """Each table that has rows."""
    totals = [
        ("queries", counts.queries),
        ("positives", counts.positives.n),
        ("candidates", counts.candidates),
        ("negatives", counts.negatives.n),
        ("queries with too few negatives", counts.short),
    ]
    yield Section("Result", ("what", "number"), totals)
    sides = [_side(counts.positives), _side(counts.negatives)]
    measures = [(name, *values) for name, *values in zip(MEASURES, *sides, strict=True)]
    yield Section("Scores", ("measure", "positives", "negatives"), measures)
    rejected = [
        (reason, counts.reasons.get(reason, 0), share(counts.reasons[reason], counts.candidates))
        for reason in REASONS
        if counts.reasons.get(reason)
    ]
    if rejected:
        yield Section("Rejected candidates", ("reason", "candidates", "share"), rejected)
    # What is not at its default, and always how many and how.
    changed = [
        (rule.name, getattr(rules, rule.name))
        for rule in dataclasses.fields(rules)
        if rule.name in ("num_negatives", "sampling_strategy")
        or getattr(rules, rule.name) != rule.default
    ]
    yield Section("Rules", ("rule", "value"), changed)
    if short is not None and len(short):
        shown = short.slice(0, _SHORT_QUERIES)
        reasons = [name for name in REASONS if any(shown[name].to_pylist())]
        header = ["query_id", "wanted", "found", "candidates", *reasons]
        rows = [[row[name] for name in header] for row in shown.to_pylist()]
        heading = f"Queries with too few negatives ({len(rows)} of {counts.short})"
        yield Section(heading, header, rows)
    rows_of_text = list(examples)
    if rows_of_text:
        yield Section("Examples", ("query", "positive", "negative"), rows_of_text)


def _side(scores: ScoreCounts) -> list[object]:
    if not scores.n:
        return [0, *["–"] * (len(MEASURES) - 1)]
    quartiles = [scores.quantile(share) for share in (0.25, 0.5, 0.75)]
    values = [scores.mean, quartiles[1], scores.std, scores.low, *quartiles, scores.high]
    return [scores.n, *("–" if math.isnan(value) else f"{value:.4f}" for value in values)]


def _histogram(positives: ScoreCounts, negatives: ScoreCounts) -> Chart:
    """Both distributions over one axis, each with its own height, so that rare ones show."""
    if not positives.n and not negatives.n:
        return Chart(caption=[("No scores.", "")])
    return bar_chart(
        "Scores of positives and negatives",
        {"positive": positives.bins, "negative": negatives.bins},
        ScoreCounts.edge,
        axes=("score", "share of the highest bar of its colour"),
        caption=[
            ("Scores of ", ""),
            ("■ positives", "first"),
            (" and ", ""),
            ("■ negatives", "second"),
            (", each to its own height.", ""),
        ],
    )
