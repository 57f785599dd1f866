"""Bars and lines with axes, for pages of any width: words keep their size.

The drawings are SVG without scripts and without styles of their own, which the policy of a page
would refuse and which could not follow a dark screen; no plotting library draws them so.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

# Enough to see two peaks, few enough to see each on a phone.
_BARS = 40
# Shares of the width in per cent: of the widest bar, and of a bar without the gap after it.
_WIDEST_BAR, _FILLED = 25.0, 0.9
HEIGHT = 200
"""Pixels between the lowest and the highest place of a chart; its width is that of the page."""

# On a phone words of more places would run into each other.
_LABELS = 4
# Points of a line that are marked, and have a title: more would be a second line.
_MARKED = 60
COLOURS = ("first", "second", "third", "fourth")
"""Classes of the page's style, in the order in which series get them."""

_SIZES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
# Steps that people count in; the last one for what rounding lets pass.
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0, 20.0)


@dataclass(frozen=True)
class Bar:
    """A bar of a chart.

    Attributes:
        colour: one of `COLOURS`.
        x: of its left edge, in per cent of the width.
        width: of it, likewise.
        height: of it, in pixels.
        title: its number and range, in words.
    """

    colour: str
    x: float
    width: float
    height: float
    title: str


class Point(NamedTuple):
    """A point of a line: x in per cent of the width, pixels above the lowest place, and words."""

    x: float
    height: float
    title: str


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        colour: one of `COLOURS`.
        pieces: the points of each piece without a gap.
    """

    colour: str
    pieces: Sequence[Sequence[Point]]

    @property
    def marks(self) -> Sequence[Point]:
        """Points to mark: all of few, else those without neighbours, which are no line."""
        points = [point for piece in self.pieces for point in piece]
        if len(points) <= _MARKED:
            return points
        return [piece[0] for piece in self.pieces if len(piece) == 1]


@dataclass(frozen=True)
class Axis:
    """One axis of a chart.

    Attributes:
        label: what its numbers are, with their unit.
        ticks: places, in per cent of the width or in pixels above the lowest place, and words.
        top: the number at the highest place; of value axes.
    """

    label: str
    ticks: Sequence[tuple[float, str]]
    top: float = 0.0


@dataclass(frozen=True)
class Chart:
    """A drawing above a table.

    Attributes:
        caption: parts of the line above it, with their colours (see `COLOURS`) or "".
        label: what is shown, for those who do not see it.
        x: the axis below; None for no drawing.
        y: the axis at the left; None for no drawing.
        bars: later ones are drawn over earlier ones.
        lines: over the bars.
    """

    caption: Sequence[tuple[str, str]] = ()
    label: str = ""
    x: Axis | None = None
    y: Axis | None = None
    bars: Sequence[Bar] = ()
    lines: Sequence[Line] = ()

    @property
    def overlays(self) -> bool:
        """True if bars of several series lie over each other."""
        return len({bar.colour for bar in self.bars}) > 1


def bar_chart(
    label: str,
    series: Mapping[str, Mapping[int, float]],
    edge: Callable[[int], float],
    said: Callable[[float], str] = "{:.4g}".format,
    *,
    axes: tuple[str, str],
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
        axes: units of the edges and of the heights; of several series these are shares.
        caption: see `Chart`.
    """
    bins = [index for numbers in series.values() for index in numbers]
    first, width = min(bins), math.ceil((max(bins) - min(bins) + 1) / _BARS)
    n_bars = math.ceil((max(bins) - first + 1) / width)
    edges = [edge(first + bar * width) for bar in range(n_bars + 1)]
    counts = {name: _by_bar(numbers, first, width) for name, numbers in series.items()}
    heights = {
        name: {bar: n / (edges[bar + 1] - edges[bar]) for bar, n in by_bar.items() if n}
        for name, by_bar in counts.items()
    }
    tops = {name: max(by_bar.values(), default=0.0) for name, by_bar in heights.items()}
    pitch, shared = min(100 / n_bars, _WIDEST_BAR), len(series) > 1
    y = value_axis(axes[1], 1.0 if shared else max(tops.values()), share=shared)
    bars = [
        Bar(
            colour,
            x=bar * pitch,
            width=pitch * _FILLED,
            height=HEIGHT * height / (tops[name] if shared else y.top),
            title=f"{name}: {counts[name][bar]:,.0f} in [{said(edges[bar])}, "
            f"{said(edges[bar + 1])})",
        )
        # The first one on top: it is the smaller one as a rule.
        for colour, name in reversed([*zip(COLOURS, series, strict=False)])
        for bar, height in sorted(heights[name].items())
    ]
    ticks = _sparse([(bar * pitch, said(edges[bar])) for bar in range(n_bars + 1)])
    return Chart(caption, label, x=Axis(axes[0], ticks), y=y, bars=bars)


def _by_bar(numbers: Mapping[int, float], first: int, width: int) -> Mapping[int, float]:
    """Numbers of neighbouring bins added up."""
    bars: defaultdict[int, float] = defaultdict(float)
    for index, number in numbers.items():
        bars[(index - first) // width] += number
    return bars


def line_chart(
    label: str,
    series: Mapping[str, Sequence[float | None]],
    places: Sequence[str],
    *,
    axes: tuple[str, str],
    share: bool = False,
) -> Chart:
    """Numbers in order as lines from 0 up, one for each series.

    Args:
        label: what is shown, for those who do not see it.
        series: by name its numbers, one for each place, from 0; None, or what is not finite, is a
            gap. At most as many as there are `COLOURS`.
        places: what the numbers are of, in words; at least one.
        axes: what the places are, and the unit of the numbers.
        share: say the numbers in per cent.
    """
    finite = {
        name: [number if number is not None and math.isfinite(number) else None for number in row]
        for name, row in series.items()
    }
    numbers = [number for row in finite.values() for number in row if number is not None]
    y = value_axis(axes[1], max(numbers, default=0.0), share=share, whole=_are_whole(numbers))
    # One place alone stands in the middle.
    xs = [100 * at / (len(places) - 1) for at in range(len(places))] if places[1:] else [50.0]
    lines = []
    for colour, (name, row) in zip(COLOURS, finite.items(), strict=False):
        points = [
            Point(
                x,
                HEIGHT * number / y.top,
                f"{name}, {axes[0]} {place}: {number:{'.2%' if share else ',.10g'}}",
            )
            if number is not None
            else None
            for x, number, place in zip(xs, row, places, strict=True)
        ]
        pieces = [[point for point in piece if point] for _, piece in groupby(points, bool)]
        lines.append(Line(colour, [piece for piece in pieces if piece]))
    caption = [(f"■ {name} ", colour) for name, colour in zip(series, COLOURS, strict=False)]
    # The last one is the one that people look for.
    ticks = _sparse(list(zip(xs, places, strict=True))[::-1])
    return Chart(
        caption if len(series) > 1 else (), label, x=Axis(axes[0], ticks), y=y, lines=lines
    )


def value_axis(label: str, highest: float, *, share: bool = False, whole: bool = False) -> Axis:
    """The axis of numbers from 0 to a round one that is not below the highest.

    Args:
        label: with their unit.
        highest: 0 or more.
        share: say them in per cent.
        whole: they are integers.
    """
    # Of nothing but zeros there is an axis, too.
    highest = highest or 1.0
    rough = highest / _LABELS
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in _STEPS if factor * power >= rough * (1 - 1e-9))
    step = max(1.0, step) if whole and not share else step
    n_steps = max(1, math.ceil(highest / step - 1e-9))
    ticks = [
        (HEIGHT * at / n_steps, f"{short(100 * at * step)}%" if share else short(at * step))
        for at in range(n_steps + 1)
    ]
    return Axis(label, ticks, top=n_steps * step)


def short(number: float) -> str:
    """A number in few letters: ``12.5k``."""
    for size, sign in _SIZES:
        if abs(number) >= size:
            return f"{number / size:.4g}{sign}"
    return f"{number:.4g}"


def _are_whole(numbers: Sequence[float]) -> bool:
    return all(number == math.floor(number) for number in numbers)


def _sparse(ticks: Sequence[tuple[float, str]]) -> Sequence[tuple[float, str]]:
    """Some of the ticks from the first on, not more than there is room for."""
    return ticks[:: max(1, math.ceil((len(ticks) - 1) / _LABELS))]
