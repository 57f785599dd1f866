"""A mining run on one page: Markdown, or HTML that needs no other file."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape

import pyarrow as pa

from stx_core.mining.rules import REASONS, MiningRules
from stx_core.mining.statistics import BINS_PER_UNIT, MEASURES, MiningCounts, ScoreCounts

# Bars of a histogram: enough to see two peaks, few enough to read on a phone.
_BARS = 40
_SHORT_QUERIES = 20

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --paper: #fff; --line: #d8dce0; --dim: #60666c;
  --positive: #2a7d4f; --negative: #c2571a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ea; --paper: #16191c; --line: #363b40;
  --dim: #9aa0a6; --positive: #58b985; --negative: #f0935a; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .75rem; text-align: left; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; } svg text { fill: var(--dim); font-size: 11px; }
.positive { fill: var(--positive); color: var(--positive); }
.negative { fill: var(--negative); color: var(--negative); }
rect { fill-opacity: .6; }
"""

Rows = Sequence[Sequence[object]]


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
    parts = [f"# {_plain(title)}", *([_markdown_list(notes)] if notes else [])]
    for heading, header, rows in _tables(counts, rules, short, examples):
        parts.append(f"## {heading}\n\n{_markdown_table(header, rows)}")
    return "\n\n".join(parts) + "\n"


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
    noted = "\n".join(f"<p>{escape(line)}</p>" for line in notes)
    body = [f"<h1>{escape(title)}</h1>", noted, _histogram(counts.positives, counts.negatives)]
    for heading, header, rows in _tables(counts, rules, short, examples):
        body.append(f"<h2>{escape(heading)}</h2>\n{_html_table(header, rows)}")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _tables(
    counts: MiningCounts,
    rules: MiningRules,
    short: pa.Table | None,
    examples: Iterable[tuple[str, str, str]],
) -> Iterator[tuple[str, Sequence[str], Rows]]:
    """Heading, header and rows of each table that has any."""
    yield "Result", ("what", "number"), _totals(counts)
    yield "Scores", ("measure", "positives", "negatives"), _measures(counts)
    rejected = [
        (reason, counts.reasons.get(reason, 0), _share(counts.reasons[reason], counts.candidates))
        for reason in REASONS
        if counts.reasons.get(reason)
    ]
    if rejected:
        yield "Rejected candidates", ("reason", "candidates", "share"), rejected
    yield "Rules", ("rule", "value"), _changed(rules)
    if short is not None and len(short):
        shown = short.slice(0, _SHORT_QUERIES)
        reasons = [name for name in REASONS if any(shown[name].to_pylist())]
        header = ["query_id", "wanted", "found", "candidates", *reasons]
        rows = [[row[name] for name in header] for row in shown.to_pylist()]
        yield f"Queries with too few negatives ({len(rows)} of {counts.short})", header, rows
    rows_of_text = list(examples)
    if rows_of_text:
        yield "Examples", ("query", "positive", "negative"), rows_of_text


def _totals(counts: MiningCounts) -> Rows:
    return [
        ("queries", counts.queries),
        ("positives", counts.positives.n),
        ("candidates", counts.candidates),
        ("negatives", counts.negatives.n),
        ("queries with too few negatives", counts.short),
    ]


def _measures(counts: MiningCounts) -> Rows:
    sides = [_side(counts.positives), _side(counts.negatives)]
    return [(name, *values) for name, *values in zip(MEASURES, *sides, strict=True)]


def _side(scores: ScoreCounts) -> list[object]:
    if not scores.n:
        return [0, *["–"] * (len(MEASURES) - 1)]
    quartiles = [scores.quantile(share) for share in (0.25, 0.5, 0.75)]
    values = [scores.mean, quartiles[1], scores.std, scores.low, *quartiles, scores.high]
    return [scores.n, *(_number(value) for value in values)]


def _changed(rules: MiningRules) -> Rows:
    """What is not at its default, and always how many and how."""
    shown = {"num_negatives", "sampling_strategy"}
    return [
        (rule.name, getattr(rules, rule.name))
        for rule in dataclasses.fields(rules)
        if rule.name in shown or getattr(rules, rule.name) != rule.default
    ]


def _histogram(positives: ScoreCounts, negatives: ScoreCounts) -> str:
    """Both distributions over one axis, each with its own height, so that rare ones show."""
    if not positives.n and not negatives.n:
        return "<p>No scores.</p>"
    places = [*positives.bins, *negatives.bins]
    first, width = min(places), math.ceil((max(places) - min(places) + 1) / _BARS)
    n_bars = math.ceil((max(places) - first + 1) / width)
    pitch = 720 / n_bars
    drawn = [
        f'<rect class="{name}" x="{10 + bar * pitch:.1f}" y="{210 - height:.1f}" '
        f'width="{pitch * 0.9:.1f}" height="{height:.1f}">'
        f"<title>{name}: {count:,} in [{_edge(first + bar * width)}, "
        f"{_edge(first + (bar + 1) * width)})</title></rect>"
        for name, scores in (("negative", negatives), ("positive", positives))
        for bar, count, height in _bars(scores, first, width)
    ]
    labels = [
        f'<text x="{10 + bar * pitch:.1f}" y="226">{_edge(first + bar * width)}</text>'
        for bar in range(0, n_bars + 1, max(1, n_bars // 5))
    ]
    return (
        '<p>Scores of <span class="positive">■ positives</span> and '
        '<span class="negative">■ negatives</span>, each to its own height.</p>\n'
        '<svg viewBox="0 0 780 232" role="img" aria-label="Scores of positives and negatives">\n'
        + "\n".join([*drawn, *labels])
        + "\n</svg>"
    )


def _bars(scores: ScoreCounts, first: int, width: int) -> Iterator[tuple[int, int, float]]:
    """Bar, count and height in pixels of the bars that are not empty."""
    counts: dict[int, int] = {}
    for place, count in scores.bins.items():
        bar = (place - first) // width
        counts[bar] = counts.get(bar, 0) + count
    highest = max(counts.values(), default=1)
    for bar, count in sorted(counts.items()):
        yield bar, count, 200 * count / highest


def _edge(place: int) -> str:
    return f"{place / BINS_PER_UNIT:.4g}"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else "–"


def _cell(value: object) -> str:
    return f"{value:,}" if type(value) is int else str(value)


def _markdown_table(header: Sequence[str], rows: Rows) -> str:
    lines = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    first, rule, *rest = [[_plain(str(cell)) for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in (first, rule, *rest))


def _markdown_list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_plain(line)}" for line in lines)


def _plain(text: str) -> str:
    """One line that no Markdown reads as markup."""
    line = " ".join(escape(text, quote=False).split())
    return "".join(f"\\{letter}" if letter in "\\|`*[]" else letter for letter in line)


def _html_table(header: Sequence[str], rows: Rows) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    lines = [
        "".join(f"<td{_kind(value)}>{escape(_cell(value))}</td>" for value in row) for row in rows
    ]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _kind(value: object) -> str:
    text = str(value).rstrip("%")
    return ' class="number"' if text.replace(".", "", 1).lstrip("-").isdigit() else ""
