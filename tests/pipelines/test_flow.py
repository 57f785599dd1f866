"""Flows: several jobs from one file, each a dataset that later steps and later runs use."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from stx.pipelines.flow import FlowSpec, read_steps
from stx.pipelines.spec.file import load_spec, parse_spec
from stx_core.errors import SpecError
from tests.pipelines.conftest import texts


@pytest.fixture
def flow(tmp_path, static_model):
    """A flow over ten queries and fifty documents, as plain values."""
    pq.write_table(
        pa.table({"id": [f"d{i}" for i in range(50)], "text": texts(50)}), tmp_path / "docs.parquet"
    )
    pq.write_table(
        pa.table({"id": [f"q{i}" for i in range(10)], "text": texts(10, seed=5)}),
        tmp_path / "asked.parquet",
    )
    (tmp_path / "qrels.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"q{i}\td{i}\t1\n" for i in range(10))
    )
    models = {"dense": {"model": str(static_model)}}
    asked = {"dense": {"model": str(static_model), "task": "query"}}
    at = {name: str(tmp_path / name) for name in ("corpus", "queries", "found")}
    return {
        "resources": {"runner": "local", "supervised": False},
        "steps": [
            {"encode": {"inputs": {"path": str(tmp_path / "docs.parquet")}, "models": models,
                        "output": {"path": at["corpus"]}}},
            {"encode": {"inputs": {"path": str(tmp_path / "asked.parquet")}, "models": asked,
                        "output": {"path": at["queries"]}}},
            {"retrieve": {"queries": {"path": at["queries"]}, "corpus": {"path": at["corpus"]},
                          "k": 5, "output": {"path": at["found"]},
                          "resources": {"rows_per_unit": 4}}},
            {"evaluate": {"ranking": at["found"], "qrels": str(tmp_path / "qrels.tsv"),
                          "measures": ["nDCG@5"], "json_file": str(tmp_path / "measures.json")}},
        ],
    }  # fmt: skip


def test_steps_run_one_after_the_other_and_a_second_run_finds_all_done(flow, tmp_path, stx):
    path = tmp_path / "flow.yaml"
    path.write_text(yaml.safe_dump(flow))

    first = stx("run", path)
    again = stx("run", path)

    assert (first[0], again[0]) == (0, 0), first + again
    assert first[1].count("committed version 1") == 3
    assert again[1].count("nothing to do: version 1") == 3
    assert "step 4 of 4: evaluate" in first[1]
    assert "nDCG@5" in first[1]
    assert 0 <= json.loads((tmp_path / "measures.json").read_text())["measures"]["nDCG@5"] <= 1


def test_a_step_may_be_a_file(flow, tmp_path):
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(flow["steps"][0]["encode"]))
    flow["steps"][0]["encode"] = str(tmp_path / "one.yaml")
    steps = read_steps(parse_spec(flow, kind=FlowSpec))

    assert steps[0].spec.resources.runner == "local"
    assert steps[2].spec.resources.rows_per_unit == 4
    assert steps[2].spec.resources.runner == "local"


def test_all_steps_are_checked_before_the_first_runs(flow, tmp_path, stx):
    flow["steps"][2]["retrieve"]["depth"] = 5
    path = tmp_path / "flow.yaml"
    path.write_text(yaml.safe_dump(flow))

    code, _, errors = stx("run", path)

    assert code == 2
    assert "step 3 (retrieve): depth: unknown key" in errors
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize("step", [{"encod": {}}, {}, {"encode": {}, "retrieve": {}}])
def test_a_step_names_one_job(flow, step):
    flow["steps"].append(step)

    with pytest.raises(SpecError, match="step 5: name one job, one of encode"):
        read_steps(parse_spec(flow, kind=FlowSpec))


def test_overrides_reach_a_step_by_its_position(flow, tmp_path):
    path = tmp_path / "flow.yaml"
    path.write_text(yaml.safe_dump(flow))

    steps = read_steps(load_spec(str(path), ["steps.2.retrieve.k=3"], FlowSpec))

    assert steps[2].spec.k == 3
    with pytest.raises(SpecError, match="9 is no place in a list of 4"):
        load_spec(str(path), ["steps.9.retrieve.k=3"], FlowSpec)
