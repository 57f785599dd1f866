"""The page of a retrieve run: its numbers against those of the files."""

import re

import pytest

from stx.pipelines.retrieve import run_retrieve
from stx_core.errors import Stopped
from stx_core.store.snapshot import open_snapshot
from tests.pipelines.retrieval import N_QUERIES, lake, spec_for
from tests.pipelines.test_report import numbers, page, tables


@pytest.fixture(scope="module")
def datasets(tmp_path_factory, static_model):
    return lake(tmp_path_factory.mktemp("lake"), static_model)


def check_scores(root, found, output):
    scores = open_snapshot(str(root), output=output).to_table()["score"].to_numpy()
    told = numbers(found[f"Scores: {output}"])
    assert told["pairs"] == str(len(scores))
    assert float(told["mean"]) == pytest.approx(scores.mean(), abs=1e-4)
    assert float(told["lowest"]) == pytest.approx(scores.min(), abs=1e-4)
    assert float(told["highest"]) == pytest.approx(scores.max(), abs=1e-4)


def test_the_page_of_a_ranking_has_a_score_histogram(tmp_path, datasets):
    spec = spec_for(tmp_path, *datasets)
    report = run_retrieve(spec)

    root = tmp_path / "ranking"
    found = tables(page(root))
    assert numbers(found["Summary"])["queries"] == str(N_QUERIES)
    assert numbers(found["Outputs"])["rows"] == str(7 * N_QUERIES)
    check_scores(root, found, "dense")
    assert found["Throughput"][0] == ["from second", "queries/s"]
    assert {row[0] for row in found["Time by stage"][1:]} == {"read", "load", "search", "write"}
    assert report.lines == [f"  report   {root}/_stx/reports/1/report.html"]
    bars = re.findall(r"<title>pairs: ([\d,]+) in", page(root, ending="html"))
    assert sum(int(bar.replace(",", "")) for bar in bars) == 7 * N_QUERIES


def test_scores_of_all_starts_are_counted(tmp_path, datasets):
    parts = {"runner": "local", "rows_per_unit": 8, "rows_per_group": 60}
    with pytest.raises(Stopped):
        run_retrieve(spec_for(tmp_path, *datasets, resources={**parts, "max_units": 3}))

    run_retrieve(spec_for(tmp_path, *datasets, resources={**parts, "cost_per_hour": 3600.0}))

    found = tables(page(tmp_path / "ranking"))
    check_scores(tmp_path / "ranking", found, "dense")
    cost = float(numbers(found["Summary"])["cost, at 3600 per hour"])
    assert cost == pytest.approx(float(numbers(found["Summary"])["seconds, from start to commit"]),
                                 abs=0.06)  # fmt: skip
