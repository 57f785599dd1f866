"""Pages of tables and charts: what they say is text, nothing runs or loads, all can be read."""

import base64
import hashlib
import re
from pathlib import Path

import pytest

from stx_core import page as page_module
from stx_core.charts import HEIGHT, bar_chart, line_chart, short, value_axis
from stx_core.page import Section, html_page, markdown_text

EVIL = '"></style><script>alert(1)</script><img src=x onerror=alert(1)>'


def test_a_page_allows_its_own_style_and_nothing_else():
    chart = bar_chart(
        EVIL, {EVIL: {0: 1}}, float, said=lambda edge: EVIL,
        axes=(EVIL, EVIL), caption=[(EVIL, ""), (EVIL, "first")],
    )  # fmt: skip
    page = html_page(EVIL, [EVIL], [Section(EVIL, (EVIL,), [(EVIL,)], chart)])

    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert f"style-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert page.index("Content-Security-Policy") < page.index("<title>")
    assert "<script" not in page
    assert "<img" not in page
    # Title twice, note, section, column, cell; label, series, four edges, two axes, the caption.
    assert page.count("&lt;img") == 16


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a | b", r"a \| b"),
        ("![x](http://y) *b* `c`", r"!\[x\](http:\//y) \*b\* \`c\`"),
        ("_a_ text_column", r"\_a\_ text_column"),
        ("~~a~~ $b$", r"\~\~a\~\~ \$b\$"),
        ("<img src=x>\n# next\n", "&lt;img src=x&gt; # next"),
        ("www.evil.org", r"www\.evil.org"),
        ("a\x1b[2J\u202eb", r"a\\u001b\[2J\\u202eb"),
        ("sentence-transformers/all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
    ],
)
def test_a_text_is_no_markup(text, shown):
    assert markdown_text(text) == shown


@pytest.mark.parametrize(
    ("highest", "options", "labels"),
    [
        (0, {}, ["0", "0.25", "0.5", "0.75", "1"]),
        (3, {"whole": True}, ["0", "1", "2", "3"]),
        (1, {"whole": True}, ["0", "1"]),
        (7.3, {}, ["0", "2", "4", "6", "8"]),
        (49_000, {}, ["0", "20k", "40k", "60k"]),
        (1.6e12, {}, ["0", "500G", "1T", "1.5T", "2T"]),
        (0.3, {"share": True}, ["0%", "10%", "20%", "30%"]),
        (2e-7, {}, ["0", "5e-08", "1e-07", "1.5e-07", "2e-07"]),
    ],
)
def test_an_axis_has_few_round_numbers_up_to_the_highest(highest, options, labels):
    axis = value_axis("rows", highest, **options)

    assert [text for _, text in axis.ticks] == labels
    assert (axis.ticks[0][0], axis.ticks[-1][0]) == (0, HEIGHT)
    assert highest <= axis.top


def test_numbers_are_said_in_few_letters():
    assert [short(x) for x in (0, 999, 12_500, 3e6, 7.25e9)] == ["0", "999", "12.5k", "3M", "7.25G"]


def test_a_line_has_gaps_where_there_is_no_number():
    numbers = [1.0, 2.0, None, 4.0, float("nan"), float("inf"), 3.0]
    chart = line_chart("rows", {"a": numbers}, list("1234567"), axes=("version", "rows"))

    (line,) = chart.lines
    assert [len(piece) for piece in line.pieces] == [2, 1, 1]
    points = [(point.x, point.height) for piece in line.pieces for point in piece]
    ends = [(0, HEIGHT / 4), (100 / 6, HEIGHT / 2), (50, HEIGHT), (100, 3 * HEIGHT / 4)]
    assert points == [pytest.approx(point) for point in ends]
    assert line.marks[2].title == "a, version 4: 4"
    # The last place has a label in any case; a single series needs no legend.
    assert chart.x.ticks[0] == (100, "7")
    assert chart.caption == ()


def test_of_a_long_line_only_points_without_neighbours_are_marked():
    numbers = [1.0] * 98 + [None, 5.0]
    chart = line_chart("a", {"a": numbers}, [*map(str, range(100))], axes=("version", "rows"))

    assert [point.title for point in chart.lines[0].marks] == ["a, version 99: 5"]
    assert len(chart.x.ticks) <= 5


def test_a_single_place_stands_in_the_middle_and_is_marked():
    chart = line_chart("a", {"a": [2.0], "b": [None]}, ["1"], axes=("version", "rows"))

    assert [(point.x, point.height) for point in chart.lines[0].marks] == [(50, HEIGHT)]
    assert chart.lines[1].pieces == []
    assert chart.caption == [("■ a ", "first"), ("■ b ", "second")]
    html = html_page("history", [], [Section("Rows", chart=chart)])
    assert html.count("<circle") == 1


def luminance(colour):
    """Relative luminance of a colour ``#rgb`` or ``#rrggbb``, as WCAG 2 defines it."""
    digits = colour.lstrip("#")
    digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("is_dark", [False, True])
def test_words_can_be_read_on_light_and_dark_screens(is_dark):
    css = (Path(page_module.__file__).parent / "templates/page.css").read_text()
    light, dark = re.findall(r":root \{([^}]*)\}", css)
    colours = dict(re.findall(r"--(\w+): (#\w+)", dark if is_dark else light))

    assert colours.keys() == {"ink", "paper", "line", "dim", "first", "second", "third", "fourth"}
    for name in colours.keys() - {"paper", "line"}:
        low, high = sorted(luminance(colours[each]) for each in (name, "paper"))
        assert (high + 0.05) / (low + 0.05) >= 4.5, name
