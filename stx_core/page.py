"""Tables and charts on one page: Markdown, or HTML that needs no other file."""

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from stx_core.charts import HEIGHT, Chart

if TYPE_CHECKING:
    import jinja2

_TEMPLATES = Path(__file__).with_name("templates")

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
        chart: above the table, see `stx_core.charts`; only in HTML.
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
    constants = {"style": style.decode(), "style_sha256": digest, "height": HEIGHT}
    return environment.get_template("page.html", globals=constants)


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
