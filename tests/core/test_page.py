"""Pages of tables: what names and texts say in them is text, and nothing in them runs or loads."""

import base64
import hashlib
import re

import pytest

from stx_core.page import Section, bar_chart, html_page, markdown_text

EVIL = '"></style><script>alert(1)</script><img src=x onerror=alert(1)>'


def test_a_page_allows_its_own_style_and_nothing_else():
    chart = bar_chart(
        EVIL, {EVIL: {0: 1}}, float, said=lambda edge: EVIL, caption=[(EVIL, ""), (EVIL, "first")]
    )
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
    # Title twice, note, section, column, cell; label, series, four edges, two of the caption.
    assert page.count("&lt;img") == 14


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
