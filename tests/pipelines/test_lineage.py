"""OpenLineage events and OpenTelemetry spans, as a server receives them."""

import json
import os
import subprocess
import sys

import pytest

from stx.pipelines.encode import run_encode
from stx.pipelines.spec.file import parse_spec
from stx.pipelines.spec.retrieval import MineSpec
from stx.pipelines.telemetry import lineage, tracing
from stx.pipelines.telemetry.lineage import dataset_name, input_urls
from stx_core.errors import InputError, Stopped
from stx_core.store.snapshot import snapshot_info
from tests.servers.canned import Answer


class Received(list):
    """All requests, as they came."""

    def events(self):
        return [json.loads(each.body) for each in self if each.path == "/api/v1/lineage"]


@pytest.fixture
def server(canned):
    """A server that takes everything; its address in `url`."""
    received = Received()

    def take(request):
        received.append(request)
        return Answer(200)

    received.url = canned(take)
    return received


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch, tmp_path):
    # The client writes variables of its own for those that it finds.
    monkeypatch.setattr(os, "environ", {**os.environ})
    for name in [*os.environ]:
        if name.startswith(("OPENLINEAGE", "OTEL_")):
            del os.environ[name]
    os.environ["HOME"] = str(tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def lineage_server(server):
    pytest.importorskip("openlineage.client")
    os.environ["OPENLINEAGE_URL"] = server.url
    return server


def test_events_name_inputs_and_outputs_of_a_run(corpus, spec_of, tmp_path, lineage_server):
    run_encode(spec_of(corpus))

    start, complete = lineage_server.events()
    info = snapshot_info(str(tmp_path / "out"))
    assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
    assert start["run"]["runId"] == complete["run"]["runId"]
    assert start["job"] == complete["job"] == {
        "namespace": "stx", "name": f"encode {tmp_path / 'out'}", "facets": {},
    }  # fmt: skip
    assert [(each["namespace"], each["name"]) for each in start["inputs"]] == [
        ("file", str(corpus))
    ]
    (output,) = complete["outputs"]
    assert (output["namespace"], output["name"]) == ("file", str(tmp_path / "out"))
    assert output["facets"]["version"]["datasetVersion"] == "1"
    statistics = output["outputFacets"]["outputStatistics"]
    facts = info.outputs["dense"]
    assert [statistics[name] for name in ("rowCount", "size", "fileCount")] == [
        facts["rows"], facts["bytes"], facts["files"],
    ]  # fmt: skip
    tags = {each["key"]: each["value"] for each in complete["run"]["facets"]["tags"]["tags"]}
    assert tags.items() >= {"stx_run": info.run, "stx_epoch": "1"}.items()


def test_an_unchanged_run_sends_no_events(corpus, spec_of, lineage_server):
    run_encode(spec_of(corpus))
    lineage_server.clear()

    run_encode(spec_of(corpus))

    assert lineage_server.events() == []


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (InputError("AKIAsecretsecret is bad"), "FAIL"),
        (KeyboardInterrupt(), "ABORT"),
        (Stopped("enough"), "ABORT"),
    ],
)
def test_unfinished_runs_send_abort_or_fail_events(corpus, spec_of, lineage_server, problem, kind):
    os.environ["AWS_ACCESS_KEY_ID"] = "AKIAsecretsecret"

    class Broken:
        def plan(self, plan):
            pass

        def watch(self, results, plan):
            raise problem

    with pytest.raises(type(problem)):
        run_encode(spec_of(corpus), Broken())

    start, end = lineage_server.events()
    assert end["eventType"] == kind
    assert end["run"]["runId"] == start["run"]["runId"]
    assert type(problem).__name__ in end["run"]["facets"]["errorMessage"]["message"]
    assert "AKIA" not in json.dumps(end)


def test_each_start_is_a_run_of_its_own(corpus, spec_of, lineage_server):
    with pytest.raises(Stopped):
        run_encode(spec_of(corpus, resources={"max_units": 1}))

    run_encode(spec_of(corpus))

    kinds = [(each["eventType"], each["run"]["runId"]) for each in lineage_server.events()]
    assert [kind for kind, _ in kinds] == ["START", "ABORT", "START", "COMPLETE"]
    assert kinds[0][1] == kinds[1][1] != kinds[2][1] == kinds[3][1]


SIGNAL = """
import os, signal, sys, time
from stx.pipelines.encode import run_encode
from stx.pipelines.spec.file import load_spec
from stx.pipelines.running.stopping import exit_on_signals

class View:
    def plan(self, plan): pass
    def watch(self, results, plan):
        yield next(results)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)

exit_on_signals()
run_encode(load_spec(sys.argv[1]), View())
"""


@pytest.mark.faults
def test_a_run_that_is_stopped_by_a_signal_is_aborted(corpus, spec_of, tmp_path, lineage_server):
    spec = tmp_path / "spec.json"
    spec.write_text(spec_of(corpus).model_dump_json())

    done = subprocess.run(
        [sys.executable, "-c", SIGNAL, spec], capture_output=True, env=dict(os.environ), timeout=100
    )

    assert done.returncode == 4, done.stderr
    assert [each["eventType"] for each in lineage_server.events()] == ["START", "ABORT"]


def test_openlineage_yml_configures_the_client(corpus, spec_of, tmp_path):
    pytest.importorskip("openlineage.client")
    told = tmp_path / "told.json"
    config = {"transport": {"type": "file", "log_file_path": str(told), "append": True}}
    (tmp_path / "openlineage.yml").write_text(json.dumps(config))

    run_encode(spec_of(corpus))

    kinds = [json.loads(line)["eventType"] for line in told.read_text().splitlines()]
    assert kinds == ["START", "COMPLETE"]


def test_a_server_that_is_away_costs_one_warning(corpus, spec_of, monkeypatch, caplog):
    client = pytest.importorskip("openlineage.client")

    def refuse(*_):
        raise ConnectionError("http://user:hunter2@server refused")

    monkeypatch.setattr(client.OpenLineageClient, "emit", refuse)
    os.environ["OPENLINEAGE_URL"] = "http://127.0.0.1:9"

    report = run_encode(spec_of(corpus))

    assert report.committed
    (warning,) = [each.getMessage() for each in caplog.records if "OpenLineage" in each.message]
    assert "events cannot be sent: ConnectionError" in warning
    assert "hunter2" not in warning


def test_a_missing_client_is_named(corpus, spec_of, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "openlineage.client", None)
    os.environ["OPENLINEAGE_URL"] = "http://127.0.0.1:9"

    assert run_encode(spec_of(corpus)).committed

    assert caplog.text.count("pip install 'stx[lineage]'") == 1


def test_no_events_are_sent_without_configuration(corpus, spec_of, monkeypatch):
    monkeypatch.setattr(lineage._Events, "send", lambda *_: pytest.fail("sent"))

    run_encode(spec_of(corpus))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://lake/a/b/", ("s3://lake", "a/b")),
        ("s3://lake", ("s3://lake", "/")),
        ("/data/a", ("file", "/data/a")),
        ("file:///data/a", ("file", "/data/a")),
        ("hf://datasets/a/b", ("hf://datasets", "a/b")),
    ],
)
def test_datasets_are_named_by_the_conventions(url, expected):
    assert dataset_name(url) == expected


def test_inputs_are_what_the_spec_reads():
    spec = parse_spec(
        {
            "candidates": {"bm25": {"path": "a"}, "dense": {"path": "b"}},
            "positives": "qrels.tsv",
            "output": {"path": "mined"},
        },
        kind=MineSpec,
    )

    assert [*input_urls(spec.model_dump(mode="json"))] == ["a", "b", "qrels.tsv"]


def test_phases_are_spans(corpus, spec_of, server):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = server.url

    run_encode(spec_of(corpus))
    # As at the end of a process.
    tracing._tracer(server.url).span_processor.force_flush()

    found = [
        (span.name, {each.key for each in span.attributes})
        for each in server
        if each.path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(each.body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert found == [
        ("plan", {"stx.units"}),
        ("probe", set()),
        ("encode", {"stx.run", "stx.units", "stx.rows"}),
        ("commit", {"stx.run"}),
    ]


def test_spans_without_the_sdk_are_one_warning(corpus, spec_of, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    tracing._tracer.cache_clear()

    assert run_encode(spec_of(corpus)).committed

    assert caplog.text.count("pip install 'stx[otel]'") == 1
    tracing._tracer.cache_clear()
