"""What Prometheus can read of a run, asked over HTTP as it asks."""

import os
import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prometheus_client.parser import text_string_to_metric_families

from stx.pipelines.encode import run_encode
from stx.pipelines.telemetry import metrics
from stx.pipelines.telemetry.metrics import METRICS
from stx_core.errors import SpecError


@pytest.fixture
def port(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        number = taken.getsockname()[1]
    monkeypatch.setenv("STX_METRICS_PORT", str(number))
    return number


def scraped(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return samples(answer.read().decode())


def samples(text):
    """Value by name and labels."""
    return {
        (each.name, tuple(sorted(each.labels.items()))): each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
    }


def totals(found, name):
    """Values by their output, or stage."""
    return {
        dict(labels).get("stage", dict(labels).get("output")): value
        for (each, labels), value in found.items()
        if each == name
    }


def test_a_run_in_this_process_is_served_on_the_port_that_is_asked_for(
    corpus, spec_of, tmp_path, port
):
    report = run_encode(spec_of(corpus))

    found = scraped(port)
    assert {name for name, _ in found if not name.endswith("_created")} == {m.name for m in METRICS}
    part = report.parts["dense"]
    assert totals(found, "stx_rows_total") == {"dense": 250}
    assert totals(found, "stx_tokens_total") == {"dense": part.encoded_tokens}
    assert totals(found, "stx_units_total") == {"dense": part.files}
    assert totals(found, "stx_quarantined_rows_total") == {"dense": 0}
    assert totals(found, "stx_stage_seconds_total").keys() == {"read", "encode", "write"}
    assert all(value > 0 for value in totals(found, "stx_stage_seconds_total").values())
    (run,) = (tmp_path / "out/_stx/runs").iterdir()
    labels = (
        ("dataset", str(tmp_path / "out")), ("job", "encode"), ("output", "dense"),
        ("run", run.name),
    )  # fmt: skip
    assert found["stx_run_info", labels] == 1
    assert found["stx_progress_ratio", labels[1:2] + labels[3:]] == 1
    assert found["stx_eta_seconds", labels[1:2] + labels[3:]] == 0


def test_runs_of_one_process_share_the_server(corpus, spec_of, tmp_path, port):
    for name in ("one", "two"):
        run_encode(spec_of(corpus, output={"path": str(tmp_path / name)}))

    runs = {dict(labels)["run"] for (name, labels) in scraped(port) if name == "stx_rows_total"}

    assert len(runs) == 2


def test_no_server_is_started_without_a_port(corpus, spec_of, monkeypatch):
    monkeypatch.delenv("STX_METRICS_PORT", raising=False)
    monkeypatch.setattr(metrics._OwnMeters, "__init__", lambda *_: pytest.fail("served"))

    run_encode(spec_of(corpus))


@pytest.mark.parametrize("address", ["http", "70000", "nowhere.invalid:9"])
def test_a_port_that_cannot_be_served_is_one_line(corpus, spec_of, monkeypatch, address):
    monkeypatch.setenv("STX_METRICS_PORT", address)

    with pytest.raises(SpecError, match=f"STX_METRICS_PORT='{address}' cannot be served"):
        run_encode(spec_of(corpus))


def test_names_follow_the_rules_of_prometheus():
    # Counters end in _total, units are in the name: so no exporter renames them.
    for metric in METRICS:
        assert re.fullmatch(r"stx_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == metric.grows


def test_names_and_labels_are_documented():
    text = (Path(__file__).parents[2] / "docs/seeing.md").read_text()

    rows = re.findall(r"(?m)^\| (`stx_.*) \| (.*) \|$", text)
    documented = {
        name: re.findall(r"`(\w+)`", labels)
        for names, labels in rows
        for name in re.findall(r"`(\w+)`", names)
    }
    assert documented == {metric.name: [*metric.labels] for metric in METRICS}


RAY = """
import sys, time, urllib.request
import ray
from stx.pipelines.encode import run_encode
from stx.pipelines.spec.file import parse_spec
corpus, out, model, port = sys.argv[1:]
ray.init(num_cpus=2, include_dashboard=False, _metrics_export_port=int(port),
         _system_config={"metrics_report_interval_ms": 500})
run_encode(parse_spec({
    "inputs": {"path": corpus},
    "models": {"dense": {"model": model}},
    "output": {"path": out},
    "resources": {"runner": "ray", "rows_per_unit": 64, "actors": 1, "cpus_per_actor": 1},
}))
until = time.monotonic() + 60
text = ""
while "ray_stx_rows_total" not in text and time.monotonic() < until:
    time.sleep(1)
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
print(text)
"""


@pytest.mark.faults
def test_ray_exports_the_metrics_of_a_run(corpus, static_model, tmp_path, port):
    bad = pa.table({"id": ["bad"], "text": pa.nulls(1, pa.string()), "lang": ["en"]})
    pq.write_table(bad, corpus / "part-3.parquet")

    done = subprocess.run(
        [sys.executable, "-c", RAY, corpus, tmp_path / "out", static_model, str(port)],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"RAY_BACKEND_LOG_LEVEL": "fatal"},
    )

    assert done.returncode == 0, done.stderr[-2000:]
    text = "\n".join(line for line in done.stdout.splitlines() if "ray_" in line)
    found = samples(text + "\n")
    assert {f"ray_{each.name}" for each in METRICS} <= {name for name, _ in found}
    assert totals(found, "ray_stx_rows_total") == {"dense": 251}
    assert totals(found, "ray_stx_quarantined_rows_total") == {"dense": 1}
    files = pq.read_table(next((tmp_path / "out/_stx/segments").iterdir()))
    assert totals(found, "ray_stx_units_total") == {"dense": len(files)}
    assert totals(found, "ray_stx_progress_ratio") == {None: 1}
