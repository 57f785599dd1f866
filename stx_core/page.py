"""Tables and bar charts on one page: Markdown, or HTML that needs no other file."""

import base64
import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

# Bars of a chart: enough to see two peaks, few enough to read on a phone.
_BARS = 40
# Pixels, of a drawing that is 780 wide.
_WIDTH, _HEIGHT, _WIDEST_BAR = 720, 200, 48
_LABELS = 5

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --paper: #fff; --line: #d8dce0; --dim: #60666c;
  --first: #2a7d4f; --second: #c2571a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ea; --paper: #16191c; --line: #363b40;
  --dim: #9aa0a6; --first: #58b985; --second: #f0935a; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .75rem; text-align: left; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; } svg text { fill: var(--dim); font-size: 11px; }
.first { fill: var(--first); color: var(--first); }
.second { fill: var(--second); color: var(--second); }
rect { fill-opacity: .6; } line { stroke: var(--line); }
"""

# Nothing is loaded, and nothing runs, whatever a name or a text in the page would say.
_POLICY = (
    "default-src 'none'; style-src 'sha256-"
    f"{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'"
)

# What marks up, and what begins a link where it stands alone: http://…, www.…
_MARKUP = re.compile(r"[\\|`*\[\]~$]|(?<!\w)_|_(?!\w)|(?<=:)/(?=/)|(?<=www)\.", re.IGNORECASE)

Rows = Sequence[Sequence[object]]


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        heading: its heading; empty for none.
        header: names of the table's columns; () for no table.
        rows: of the table.
        chart: markup above the table, from `bar_chart`; only in HTML.
    """

    heading: str
    header: Sequence[str] = ()
    rows: Rows = ()
    chart: str = ""


def markdown_page(title: str, notes: Sequence[str], sections: Iterable[Section]) -> str:
    """The tables as Markdown.

    Args:
        title: its heading.
        notes: lines below the heading.
        sections: charts are left out.
    """
    parts = [f"# {markdown_text(title)}", *([_markdown_list(notes)] if notes else [])]
    for section in sections:
        if section.header:
            table = _markdown_table(section.header, section.rows)
            parts.append(f"## {markdown_text(section.heading)}\n\n{table}")
    return "\n\n".join(parts) + "\n"


def html_page(title: str, notes: Sequence[str], sections: Iterable[Section]) -> str:
    """The same with charts, for light and dark screens; see `markdown_page`."""
    body = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(line)}</p>" for line in notes)]
    for section in sections:
        heading = f"<h2>{escape(section.heading)}</h2>" if section.heading else ""
        table = _html_table(section.header, section.rows) if section.header else ""
        body += [part for part in (heading, section.chart, table) if part]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def bar_chart(
    label: str,
    series: Mapping[str, Mapping[int, float]],
    edge: Callable[[int], float],
    said: Callable[[float], str] = "{:.4g}".format,
) -> str:
    """Numbers by bin as bars: one series, or two over each other, each to its own height.

    A bar is as high as its number is for the width of its bin, so that wide bins do not look
    full. Neighbouring bins are added up where there are more than fit.

    Args:
        label: what is shown, for those who do not see it.
        series: by name the numbers of its bins; at least one bin in all.
        edge: where a bin begins.
        said: an edge in words.
    """
    places = [place for numbers in series.values() for place in numbers]
    first, width = min(places), math.ceil((max(places) - min(places) + 1) / _BARS)
    n_bars = math.ceil((max(places) - first + 1) / width)
    pitch = min(_WIDTH / n_bars, _WIDEST_BAR)
    edges = [edge(first + bar * width) for bar in range(n_bars + 1)]
    drawn = [
        f'<rect class="{colour}" x="{10 + bar * pitch:.1f}" y="{_HEIGHT + 10 - height:.1f}" '
        f'width="{pitch * 0.9:.1f}" height="{height:.1f}">'
        f"<title>{escape(name)}: {number:,.0f} in [{said(edges[bar])}, "
        f"{said(edges[bar + 1])})</title></rect>"
        # The first one on top: it is the smaller one as a rule.
        for colour, name in reversed([*zip(("first", "second"), series, strict=False)])
        for bar, number, height in _bars(series[name], first, width, edges)
    ]
    labels = [
        f'<text x="{10 + bar * pitch:.1f}" y="226">{said(edges[bar])}</text>'
        for bar in range(0, n_bars + 1, max(1, n_bars // _LABELS))
    ]
    ground = '<line x1="10" x2="770" y1="210.5" y2="210.5"/>'
    return (
        f'<svg viewBox="0 0 780 232" role="img" aria-label="{escape(label)}">\n'
        + "\n".join([ground, *drawn, *labels])
        + "\n</svg>"
    )


def _bars(
    numbers: Mapping[int, float], first: int, width: int, edges: Sequence[float]
) -> Iterator[tuple[int, float, float]]:
    """Bar, number and height in pixels of the bars that are not empty."""
    bars: dict[int, float] = {}
    for place, number in numbers.items():
        bar = (place - first) // width
        bars[bar] = bars.get(bar, 0) + number
    heights = {bar: number / (edges[bar + 1] - edges[bar]) for bar, number in bars.items()}
    highest = max(heights.values(), default=0)
    for bar, height in sorted(heights.items()):
        if height:
            yield bar, bars[bar], _HEIGHT * height / highest


def share(part: float, whole: float) -> str:
    """A part of a whole in per cent; a dash for a part of nothing."""
    return f"{part / whole:.2%}" if whole else "–"


def _cell(value: object) -> str:
    return f"{value:,}" if type(value) is int else str(value)


def _markdown_table(header: Sequence[str], rows: Rows) -> str:
    lines = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    first, rule, *rest = [[markdown_text(str(cell)) for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in (first, rule, *rest))


def _markdown_list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {markdown_text(line)}" for line in lines)


def markdown_text(text: str) -> str:
    """A text of others as one line that no Markdown or HTML reads as markup, nor as a link."""
    shown = "".join(
        letter if letter.isprintable() or letter.isspace() else f"\\u{ord(letter):04x}"
        for letter in text
    )
    line = " ".join(escape(shown, quote=False).split())
    return _MARKUP.sub(lambda match: f"\\{match[0]}", line)


def _html_table(header: Sequence[str], rows: Rows) -> str:
    columns = list(zip(*rows, strict=True)) or [("",)] * len(header)
    kinds = [' class="number"' if all(map(_is_number, column)) else "" for column in columns]

    def line(tag: str, cells: Sequence[object]) -> str:
        return "".join(
            f"<{tag}{kind}>{escape(_cell(cell))}</{tag}>"
            for kind, cell in zip(kinds, cells, strict=True)
        )

    body = "\n".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return (
        f"<table>\n<thead><tr>{line('th', header)}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody>\n</table>"
    )


def _is_number(value: object) -> bool:
    text = str(value).replace(",", "").rstrip("%")
    return text.replace(".", "", 1).lstrip("-").isdigit() or text == "–"
