import json
import math
import re

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stx_core.mining.judge import judge
from stx_core.mining.negatives import hard_negatives
from stx_core.mining.report import html_report, markdown_report
from stx_core.mining.rules import REASONS, MiningRules
from stx_core.mining.shortage import shortfall
from stx_core.mining.statistics import MiningCounts, ScoreCounts, score_table

RULES = MiningRules(num_negatives=3, relative_margin=0.1, min_score=-0.5)


def mining(n_queries=20, seed=0):
    random = np.random.default_rng(seed)
    queries = np.repeat([f"q{i}" for i in range(n_queries)], 8)
    candidates = pa.table(
        {
            "query_id": queries,
            "doc_id": [f"d{i}" for i in range(8)] * n_queries,
            "rank": np.tile(np.arange(1, 9, dtype=np.int32), n_queries),
            "score": random.normal(size=len(queries)).astype(np.float32),
        }
    )
    positives = pa.table(
        {
            "query_id": np.repeat([f"q{i}" for i in range(n_queries)], 2),
            "doc_id": ["d0", "p"] * n_queries,
            "score": random.normal(1, 1, size=2 * n_queries).astype(np.float32),
        }
    )
    return candidates, positives


def mined(candidates, positives):
    judged = judge(candidates, positives, RULES)
    return judged, hard_negatives(judged, positives)


def test_the_shortfall_counts_each_rule_for_each_short_query():
    candidates, positives = mining()
    judged, negatives = mined(candidates, positives)
    positives = pa.concat_tables(
        [positives, positives.slice(0, 1).set_column(0, "query_id", pa.array(["none"]))]
    )

    table = shortfall(judged, positives, 3).to_pylist()

    expected = [row["query_id"] for row in negatives.to_pylist() if len(row["negative_ids"]) < 3]
    assert expected
    assert [row["query_id"] for row in table] == [*expected, "none"]
    assert table[-1]["candidates"] == 0
    for row in table[:-1]:
        own = [r["reason"] for r in judged.to_pylist() if r["query_id"] == row["query_id"]]
        assert row["found"] == own.count(None)
        assert row["wanted"] == 3
        assert row["candidates"] == 8
        assert {reason: row[reason] for reason in REASONS} == {
            reason: own.count(reason) for reason in REASONS
        }


def test_the_score_table_is_what_torch_computes():
    negatives = mined(*mining())[1].to_pylist()
    positive = torch.tensor([s for row in negatives for s in row["positive_scores"]])
    pairs = torch.tensor(
        [
            (p, n)
            for row in negatives
            for p in row["positive_scores"]
            for n in row["negative_scores"]
        ]
    )
    sides = (positive, pairs[:, 1], pairs[:, 0] - pairs[:, 1])

    table = score_table(mined(*mining())[1])

    for name, scores in zip(("positive", "negative", "difference"), sides, strict=True):
        quartiles = [torch.quantile(scores, share) for share in (0.25, 0.5, 0.75)]
        expected = [
            len(scores),
            scores.mean(),
            torch.median(scores),
            scores.std(),
            scores.min(),
            *quartiles,
            scores.max(),
        ]
        np.testing.assert_allclose(table[name].to_numpy(), [float(v) for v in expected], atol=1e-6)


def test_a_score_table_of_nothing_has_counts_alone():
    negatives = mined(*mining())[1].slice(0, 0)

    assert score_table(negatives)["negative"].to_pylist()[0] == 0
    assert all(math.isnan(value) for value in score_table(negatives)["negative"].to_pylist()[1:])


def test_counts_of_blocks_add_up_to_the_counts_of_all():
    candidates, positives = mining()
    whole = MiningCounts.of(*mined(candidates, positives), 3)
    blocks = [
        MiningCounts.of(*mined(candidates.slice(8 * i, 8 * n), positives.slice(2 * i, 2 * n)), 3)
        for i, n in ((0, 5), (5, 1), (6, 14))
    ]

    added = sum(reversed(blocks), MiningCounts())

    assert added.reasons == whole.reasons
    assert (added.queries, added.short, added.candidates) == (20, whole.short, 160)
    assert added.positives.bins == whole.positives.bins
    assert added.negatives.bins == whole.negatives.bins
    assert added.negatives.std == pytest.approx(whole.negatives.std)
    assert MiningCounts.from_json(json.loads(json.dumps(added.to_json()))) == added


def test_counts_of_nothing_survive_json():
    assert MiningCounts.from_json(json.loads(json.dumps(MiningCounts().to_json()))).queries == 0


scores = st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=50)


@given(scores, scores, st.floats(0, 1))
def test_counts_know_mean_spread_and_quantiles(one, other, share):
    values = np.array([*one, *other], np.float32).astype(np.float64)

    counts = ScoreCounts.of(np.array(one, np.float32)) + ScoreCounts.of(np.array(other, np.float32))

    assert counts.n == sum(counts.bins.values()) == len(values)
    assert (counts.low, counts.high) == (values.min(), values.max())
    assert counts.mean == pytest.approx(values.mean(), abs=1e-9)
    assert counts.std == pytest.approx(values.std(ddof=1), abs=1e-5)
    exact = np.sort(values)[math.floor(share * (len(values) - 1))]
    assert abs(counts.quantile(share) - exact) <= 1 / 64


def report_parts():
    candidates, positives = mining()
    judged, negatives = mined(candidates, positives)
    nasty = [("<script>alert(1)</script>", "a | b", "*x*\n# y & z")]
    return MiningCounts.of(judged, negatives, 3), {
        "title": "Mining <of> x",
        "short": shortfall(judged, positives, 3),
        "examples": nasty,
    }


def test_the_html_report_is_one_escaped_page():
    counts, parts = report_parts()

    page = html_report(counts, RULES, **parts)

    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "Mining &lt;of&gt; x" in page
    # Nothing is loaded from elsewhere, and dark screens have their colours.
    assert not re.search(r"(src|href|url)\s*[=(]|@import|https?:", page)
    assert "prefers-color-scheme: dark" in page
    for name, side in (("positive", counts.positives), ("negative", counts.negatives)):
        bars = re.findall(rf"<title>{name}: ([\d,]+) in", page)
        assert sum(int(bar.replace(",", "")) for bar in bars) == side.n


def test_the_html_report_is_well_formed():
    import xml.etree.ElementTree as ElementTree

    counts, parts = report_parts()
    page = html_report(counts, RULES, **parts)

    # Void elements apart, it is XML too.
    body = re.sub(r"<meta[^>]*>", "", page.removeprefix("<!doctype html>"))
    assert ElementTree.fromstring(body).tag == "html"  # noqa: S314  (our own text)


def test_the_markdown_report_keeps_its_tables_whole():
    counts, parts = report_parts()

    text = markdown_report(counts, RULES, **parts)

    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 6
    for block in tables:
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(columns) == 1
    assert f"| relative_margin | {counts.reasons['relative_margin']} |" in text
    assert "&lt;script&gt;" in text


def test_reports_of_nothing_say_so():
    assert "No scores." in html_report(MiningCounts(), MiningRules())
    assert "| queries | 0 |" in markdown_report(MiningCounts(), MiningRules())
