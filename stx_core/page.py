"""Tables and bar charts on one page: Markdown, or HTML that needs no other file."""

import base64
import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2

_TEMPLATES = Path(__file__).with_name("templates")

# Bars of a chart: enough to see two peaks, few enough to read on a phone.
_BARS = 40
# Pixels, of a drawing that is 780 wide.
_WIDTH, _HEIGHT, _WIDEST_BAR = 720, 200, 48
_LABELS = 5

# What marks up, and what begins a link where it stands alone: http://…, www.…
_MARKUP = re.compile(r"[\\|`*\[\]~$]|(?<!\w)_|_(?!\w)|(?<=:)/(?=/)|(?<=www)\.", re.IGNORECASE)

Rows = Sequence[Sequence[object]]


@dataclass(frozen=True)
class Bar:
    """A bar of a chart, in pixels from the upper left corner.

    Attributes:
        colour: a class of the page's style: ``first`` or ``second``.
        x: of its left edge.
        y: of its upper edge.
        width: of it.
        height: of it.
        title: its number and range, in words.
    """

    colour: str
    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Chart:
    """A drawing above a table.

    Attributes:
        caption: parts of the line above it, with their colours (see `Bar`) or "".
        label: what is shown, for those who do not see it.
        bars: later ones are drawn over earlier ones.
        ticks: x in pixels, and words, of the axis; none for no drawing.
    """

    caption: Sequence[tuple[str, str]] = ()
    label: str = ""
    bars: Sequence[Bar] = ()
    ticks: Sequence[tuple[float, str]] = ()


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        heading: its heading; empty for none.
        header: names of the table's columns; () for no table.
        rows: of the table.
        chart: above the table, from `bar_chart`; only in HTML.
    """

    heading: str
    header: Sequence[str] = ()
    rows: Rows = ()
    chart: Chart | None = None

    @property
    def numeric_columns(self) -> Sequence[bool]:
        """For each column, whether it has nothing but numbers; none has without rows."""
        columns = list(zip(*self.rows, strict=True)) or [("",)] * len(self.header)
        texts = [[str(cell).replace(",", "").rstrip("%") for cell in column] for column in columns]
        return [
            all(text == "–" or text.replace(".", "", 1).lstrip("-").isdigit() for text in column)
            for column in texts
        ]


def markdown_page(title: str, notes: Sequence[str], sections: Iterable[Section]) -> str:
    """The tables as Markdown.

    Args:
        title: its heading.
        notes: lines below the heading.
        sections: charts are left out.
    """
    parts = [f"# {markdown_text(title)}"]
    if notes:
        parts.append("\n".join(f"- {markdown_text(note)}" for note in notes))
    for section in sections:
        if not section.header:
            continue
        lines = [section.header, ["---"] * len(section.header)]
        lines += [[_cell(value) for value in row] for row in section.rows]
        table = "\n".join(f"| {' | '.join(map(markdown_text, line))} |" for line in lines)
        parts.append(f"## {markdown_text(section.heading)}\n\n{table}")
    return "\n\n".join(parts) + "\n"


def html_page(title: str, notes: Sequence[str], sections: Iterable[Section]) -> str:
    """The same with charts, for light and dark screens; see `markdown_page`."""
    page = _html_template().render(title=title, notes=notes, sections=sections)
    return page + "\n"


@cache
def _html_template() -> "jinja2.Template":
    # Not at the top: commands that write no page start without it.
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(cell=_cell, pixels="{:.1f}".format)
    # Read as bytes: what the policy allows is what the page holds, to the last line break.
    style = (_TEMPLATES / "page.css").read_bytes()
    digest = base64.b64encode(hashlib.sha256(style).digest()).decode()
    constants = {"style": style.decode(), "style_sha256": digest}
    return environment.get_template("page.html", globals=constants)


def bar_chart(
    label: str,
    series: Mapping[str, Mapping[int, float]],
    edge: Callable[[int], float],
    said: Callable[[float], str] = "{:.4g}".format,
    caption: Sequence[tuple[str, str]] = (),
) -> Chart:
    """Numbers by bin as bars: one series, or two over each other, each to its own height.

    A bar is as high as its number is for the width of its bin, so that wide bins do not look
    full. Neighbouring bins are added up where there are more than fit.

    Args:
        label: what is shown, for those who do not see it.
        series: by name the numbers of its bins; at least one bin in all.
        edge: where a bin begins.
        said: an edge in words.
        caption: see `Chart`.
    """
    bins = [index for numbers in series.values() for index in numbers]
    first, width = min(bins), math.ceil((max(bins) - min(bins) + 1) / _BARS)
    n_bars = math.ceil((max(bins) - first + 1) / width)
    pitch = min(_WIDTH / n_bars, _WIDEST_BAR)
    edges = [edge(first + bar * width) for bar in range(n_bars + 1)]
    bars = [
        Bar(
            colour,
            x=10 + bar * pitch,
            y=_HEIGHT + 10 - height,
            width=pitch * 0.9,
            height=height,
            title=f"{name}: {number:,.0f} in [{said(edges[bar])}, {said(edges[bar + 1])})",
        )
        # The first one on top: it is the smaller one as a rule.
        for colour, name in reversed([*zip(("first", "second"), series, strict=False)])
        for bar, number, height in _bars(series[name], first, width, edges)
    ]
    ticks = [
        (10 + bar * pitch, said(edges[bar]))
        for bar in range(0, n_bars + 1, max(1, n_bars // _LABELS))
    ]
    return Chart(caption, label, bars, ticks)


def _bars(
    numbers: Mapping[int, float], first: int, width: int, edges: Sequence[float]
) -> Iterator[tuple[int, float, float]]:
    """Bar, number and height in pixels of the bars that are not empty."""
    bars: dict[int, float] = {}
    for index, number in numbers.items():
        bar = (index - first) // width
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


def markdown_text(text: str) -> str:
    """A text of others as one line that no Markdown or HTML reads as markup, nor as a link."""
    shown = "".join(
        letter if letter.isprintable() or letter.isspace() else f"\\u{ord(letter):04x}"
        for letter in text
    )
    line = " ".join(escape(shown, quote=False).split())
    return _MARKUP.sub(lambda match: f"\\{match[0]}", line)
