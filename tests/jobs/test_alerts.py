"""Alerts: what a real command and a real server are told; they never change the outcome."""

import json
import sys
from threading import Event
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from stx.pipelines.spec.file import parse_spec
from stx_core.errors import SpecError
from stx_core.store import beat, log
from tests.servers.canned import Answer

SECRET = "T0p-s3cret-path"


@pytest.fixture(scope="module")
def model(tmp_path_factory, save_static_model):
    weights = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    return save_static_model(tmp_path_factory.mktemp("model"), ["stars", "sand"], weights)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("stx.pipelines.running.stopping.exit_on_signals", lambda: None)
    monkeypatch.setattr("stx.pipelines.telemetry.alerts._PAUSE_S", 0.0)
    monkeypatch.setattr("stx.pipelines.telemetry.alerts._WEBHOOK_TIMEOUT_S", 1.0)


@pytest.fixture
def spec_file(tmp_path, model):
    """Writes a spec for a corpus of 120 rows, a third of them without text."""
    table = pa.table({"id": range(120), "text": ["stars", "sand stars", None] * 40})
    pq.write_table(table, tmp_path / "corpus.parquet")

    def build(alerts, **parts):
        values = {
            "inputs": {"path": str(tmp_path / "corpus.parquet")},
            "models": {"dense": {"model": str(model)}},
            "output": {"path": str(tmp_path / "out")},
            "resources": {"runner": "local", "supervised": False},
            "quality": {"quarantined": {}, "duplicate_texts": {}},
            "alerts": alerts,
        }
        for name, part in parts.items():
            values[name] = values[name] | part
        path = tmp_path / "spec.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return build


@pytest.fixture
def told(tmp_path):
    """A command that notes what it is told, one line each, and a way to read the notes."""
    notes = tmp_path / "told.jsonl"
    script = f"import sys; open({str(notes)!r}, 'a').write(sys.stdin.read() + '\\n')"

    def read():
        return (
            [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
        )

    return [sys.executable, "-c", script], read


def test_a_failure_reaches_the_command_and_keeps_its_exit_code(spec_file, told, stx, tmp_path):
    command, read = told
    path = spec_file({"command": command}, inputs={"text_column": "body"})

    code, _, stderr = stx("encode", "--allow-alerts", path)

    (message,) = read()
    assert code == 2
    assert message["event"] == "failure"
    assert (message["job"], message["output"]) == ("encode", str(tmp_path / "out"))
    assert message["error"] == "InputError"
    assert f"stx: {message['text']}" in stderr
    assert message.keys() == {"event", "job", "output", "host", "time", "error", "text"}


def test_a_refusal_is_told_with_its_checks(spec_file, told, stx):
    command, read = told
    path = spec_file({"command": command}, quality={"quarantined": {"refuse": 0.3}})

    code, _, _ = stx("encode", "--allow-alerts", path)

    (message,) = read()
    assert code == 5
    assert (message["event"], message["error"]) == ("refused", "QualityRefused")
    assert "40 of 120 new rows are quarantined" in message["text"]


def test_too_many_quarantined_rows_are_told(spec_file, told, stx):
    command, read = told
    path = spec_file({"command": command}, output={"max_quarantined": 0.1})

    code, _, _ = stx("encode", "--allow-alerts", path)

    (message,) = read()
    assert code == 3
    assert (message["event"], message["version"]) == ("quarantine", 1)
    assert message["quarantined"] == {"dense": 40}


def test_success_is_told_only_where_it_is_asked_for(spec_file, told, stx):
    command, read = told
    assert stx("encode", "--allow-alerts", spec_file({"command": command}))[0] == 0
    assert read() == []

    assert (
        stx("encode", "--allow-alerts", spec_file({"command": command, "when": ["success"]}))[0]
        == 0
    )

    (message,) = read()
    assert (message["event"], message["committed"]) == ("success", False)


def test_a_crash_is_told_and_stays_a_crash(spec_file, told, stx, monkeypatch):
    def crash(*_, **__):
        raise RuntimeError("the disk is on fire at s3://user:hunter22@bucket/x")

    command, read = told
    monkeypatch.setattr("stx.pipelines.encoding.inputs.list_corpus", crash)

    with pytest.raises(RuntimeError, match="on fire"):
        stx("encode", "--allow-alerts", spec_file({"command": command}))

    (message,) = read()
    assert message["error"] == "RuntimeError"
    assert "hunter22" not in message["text"]


def test_a_dry_run_and_a_stop_that_was_asked_for_tell_nobody(spec_file, told, stx):
    command, read = told
    alerts = {"command": command, "when": ["failure", "success"]}

    assert stx("encode", "--allow-alerts", spec_file(alerts), "--dry-run")[0] == 0
    assert stx("encode", "--allow-alerts", spec_file(alerts), "--deadline", "0s")[0] == 4

    assert read() == []


def test_another_start_at_the_same_time_ends_with_0_and_tells_nobody(
    spec_file, told, stx, monkeypatch, tmp_path
):
    monkeypatch.setattr(beat, "INTERVAL_S", 0.05)
    monkeypatch.setattr(beat, "_POLL_S", 0.2)
    command, read = told
    path = spec_file({"command": command, "when": ["failure", "success"]})
    assert stx("encode", "--allow-alerts", path, "--deadline", "0s")[0] == 4
    (run,) = log.latest(str(tmp_path / "out")).state["runs"].values()
    claim = log.claim(str(tmp_path / "out"), run["spec_hash"])

    with log.hold(str(tmp_path / "out"), claim):
        code, printed, _ = stx("encode", "--allow-alerts", path)

    assert code == 0
    assert "nothing to do: " in printed
    assert "another start is at work" in printed
    assert read() == []


def test_other_jobs_tell_of_their_failures_too(told, stx, tmp_path):
    command, read = told
    path = tmp_path / "retrieve.yaml"
    spec = {
        "queries": {"path": str(tmp_path / "queries")},
        "corpus": {"path": str(tmp_path / "nowhere")},
        "output": {"path": str(tmp_path / "rankings")},
        "alerts": {"command": command},
    }
    path.write_text(yaml.safe_dump(spec))

    code, _, _ = stx("retrieve", "--allow-alerts", path)

    assert code == 1
    assert [(each["job"], each["event"]) for each in read()] == [("retrieve", "failure")]


@pytest.mark.parametrize("alerts", [{"command": ["true"]}, {"webhook": "http://x/${HOME}"}])
def test_alerts_that_the_command_line_does_not_allow_are_refused_at_once(
    spec_file, stx, alerts, tmp_path
):
    path = spec_file(alerts)

    code, _, stderr = stx("encode", path)

    assert code == 2
    assert stderr.count("\n") == 1
    assert "alerts: a spec may run a program" in stderr
    assert "--allow-alerts" in stderr
    assert not (tmp_path / "out").exists()
    assert stx("encode", path, "--dry-run")[0] == 0


def test_a_flow_whose_step_has_alerts_is_refused_before_its_first_step(spec_file, stx, tmp_path):
    flow = tmp_path / "flow.yaml"
    steps = [{"encode": str(spec_file({}))}, {"encode": str(spec_file({}))}]
    flow.write_text(yaml.safe_dump({"steps": steps, "alerts": {"command": ["true"]}}))

    code, _, stderr = stx("run", flow)

    assert code == 2
    assert "flow.yaml (encode): alerts: " in stderr
    assert not (tmp_path / "out").exists()


def test_alerts_are_left_out_of_records_and_reports(spec_file, stx, server, tmp_path):
    url, _ = server(200)
    command = [sys.executable, "-c", "pass", f"Authorization: Bearer {SECRET}"]
    webhook = f"{url}/services/{SECRET}"

    code, printed, stderr = stx(
        "encode",
        "--allow-alerts",
        spec_file({"command": command, "webhook": webhook, "when": ["success"]}),
    )

    assert code == 0, stderr
    assert SECRET not in printed + stderr
    files = [each for each in (tmp_path / "out").rglob("*") if each.is_file()]
    assert {"spec.yaml", "report.html"} <= {each.name for each in files}
    assert not any(SECRET.encode() in each.read_bytes() for each in files)


def test_arguments_quoted_by_a_failing_command_are_not_logged(spec_file, stx, caplog):
    script = "import sys; sys.exit('cannot reach ' + sys.argv[1].split()[-1])"
    command = [sys.executable, "-c", script, f"Bearer {SECRET}"]

    stx("encode", "--allow-alerts", spec_file({"command": command, "when": ["success"]}))

    assert "cannot reach …" in caplog.text
    assert SECRET not in caplog.text


# --- webhooks -------------------------------------------------------------------------------------


@pytest.fixture
def server(canned):
    """A server that answers with the given statuses in turn; its URL and what it was sent."""

    def start(*statuses, headers=()):
        left, requests = list(statuses), []

        def answer(request):
            requests.append(request)
            return Answer(left.pop(0) if len(left) > 1 else left[0], headers=headers)

        return canned(answer), requests

    return start


def failing(spec_file, webhook, **alerts):
    return spec_file({"webhook": webhook, **alerts}, inputs={"text_column": "body"})


def test_a_webhook_gets_the_message_as_json(spec_file, stx, server):
    url, requests = server(200)

    stx("encode", "--allow-alerts", failing(spec_file, f"{url}/hook?x=1"))

    (request,) = requests
    assert (request.method, request.path, request.query) == ("POST", "/hook", {"x": "1"})
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.body)["event"] == "failure"


@pytest.mark.parametrize(
    ("statuses", "n_requests", "warning"),
    [
        ((503, 429, 200), 3, None),
        ((503,), 3, "alerts.webhook: status 503, 3 times"),
        ((404,), 1, "alerts.webhook: status 404;"),
        ((302,), 1, "alerts.webhook: status 302;"),
    ],
)
def test_webhooks_are_retried_after_transient_errors_only(
    spec_file, stx, server, caplog, statuses, n_requests, warning
):
    url, requests = server(*statuses, headers=(("Location", "/elsewhere"),))

    code, _, _ = stx("encode", "--allow-alerts", failing(spec_file, url))

    assert code == 2
    assert len(requests) == n_requests
    warned = [each.getMessage() for each in caplog.records if "alerts" in each.getMessage()]
    assert len(warned) == (warning is not None)
    assert not warned or warning in warned[0]


def test_the_url_may_be_a_variable_and_its_value_is_written_nowhere(
    spec_file, stx, server, caplog, monkeypatch, tmp_path
):
    url, requests = server(500)
    monkeypatch.setenv("STX_TEST_HOOK", f"{url}/services/{SECRET}")
    path = failing(spec_file, "${STX_TEST_HOOK}/more")

    code, printed, stderr = stx("encode", "--allow-alerts", path)
    stx("encode", "--allow-alerts", spec_file({"webhook": "${STX_TEST_HOOK}", "when": ["success"]}))

    assert code == 2
    assert requests[0].path == f"/services/{SECRET}/more"
    assert "alerts.webhook: status 500" in caplog.text
    assert SECRET not in printed + stderr + caplog.text
    written = [each.read_bytes() for each in (tmp_path / "out").rglob("*") if each.is_file()]
    assert written
    assert not any(SECRET.encode() in data for data in written)


def test_the_url_may_stand_in_a_file(spec_file, stx, server, tmp_path):
    url, requests = server(200)
    (tmp_path / "hook").write_text(f"{url}/services/{SECRET}\n")
    alerts = {"webhook_file": str(tmp_path / "hook"), "when": ["success"]}

    stx("encode", "--allow-alerts", spec_file(alerts))

    assert requests[0].path == f"/services/{SECRET}"


def test_a_file_that_is_not_there_is_one_warning(spec_file, stx, caplog, tmp_path):
    alerts = {"webhook_file": str(tmp_path / "hook"), "when": ["success"]}

    code, _, _ = stx("encode", "--allow-alerts", spec_file(alerts))

    assert code == 0
    assert "webhook_file cannot be read (FileNotFoundError)" in caplog.text


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "there is no variable STX_TEST_HOOK in the environment"),
        (f"file:///etc/{SECRET}", "it is no http:// or https:// URL"),
        (f"http://127.0.0.1:9x/{SECRET}", "no valid URL or answer (InvalidURL)"),
        (f"http://127.0.0.1:1/{SECRET}", "no connection (ConnectionRefusedError), 3 times"),
        (f"http://user:{SECRET}@127.0.0.1:1/", "alerts.webhook: no "),
    ],
)
def test_a_url_that_does_not_work_is_one_warning_without_it(
    spec_file, stx, caplog, monkeypatch, value, problem
):
    monkeypatch.delenv("STX_TEST_HOOK", raising=False)
    if value is not None:
        monkeypatch.setenv("STX_TEST_HOOK", value)

    code, _, stderr = stx("encode", "--allow-alerts", failing(spec_file, "${STX_TEST_HOOK}"))

    assert code == 2
    assert caplog.text.count("alerts.webhook") == 1
    assert problem in caplog.text
    assert SECRET not in caplog.text + stderr


def test_a_server_that_does_not_answer_is_not_waited_for(spec_file, stx, canned, caplog):
    asked_to_stop = Event()

    def never(_):
        asked_to_stop.wait(20)
        return Answer(200)

    code, _, _ = stx("encode", "--allow-alerts", failing(spec_file, canned(never)))
    asked_to_stop.set()

    assert code == 2
    assert "alerts.webhook: no " in caplog.text


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("import sys; sys.exit('no such pager')", "ended with exit code 1: no such pager"),
        ("import time; time.sleep(60)", "did not end within 1 s"),
    ],
)
def test_a_command_that_fails_is_one_warning(spec_file, stx, caplog, monkeypatch, script, problem):
    monkeypatch.setattr("stx.pipelines.telemetry.alerts._COMMAND_TIMEOUT_S", 1.0)
    path = spec_file({"command": [sys.executable, "-c", script], "when": ["success"]})

    code, printed, _ = stx("encode", "--allow-alerts", path)

    assert code == 0
    assert "committed version 1" in printed
    assert caplog.text.count("alerts.command") == 1
    assert problem in caplog.text


def test_a_command_that_is_not_there_is_one_warning(spec_file, stx, caplog):
    code, _, _ = stx(
        "encode", "--allow-alerts", spec_file({"command": ["/no/such/pager"], "when": ["success"]})
    )

    assert code == 0
    assert "alerts.command: /no/such/pager: FileNotFoundError" in caplog.text


def test_a_command_is_not_given_to_a_shell(spec_file, stx, tmp_path):
    planted = tmp_path / "planted"
    command = [sys.executable, "-c", "pass", f"; touch {planted}", f"$(touch {planted})"]

    stx("encode", "--allow-alerts", spec_file({"command": command, "when": ["success"]}))

    assert not planted.exists()


@pytest.mark.parametrize(
    "alerts",
    [
        {"webhook": f"https://me:{SECRET}@host/x"},
        {"webhook": f"https://host/x?access_token={SECRET}"},
        {"command": ["curl", f"https://me:{SECRET}@host/x"]},
        {"webhook": f"ftp://host/{SECRET}"},
        {"webhook": "hooks.example.org/x"},
        {"webhook": "x${A}"},
    ],
)
def test_credentials_and_other_schemes_are_refused_in_a_spec(alerts):
    values = {"inputs": {"path": "c"}, "models": {"d": {"model": "m"}}, "output": {"path": "o"}}

    with pytest.raises(SpecError, match=r"alerts\.") as refused:
        parse_spec({**values, "alerts": alerts})

    assert SECRET not in str(refused.value)


def test_variables_may_stand_where_a_secret_would():
    values = {"inputs": {"path": "c"}, "models": {"d": {"model": "m"}}, "output": {"path": "o"}}
    webhook = "https://host/x?access_token=${TOKEN}"

    alerts = parse_spec({**values, "alerts": {"webhook": webhook}}).alerts

    assert urlsplit(alerts.url({"TOKEN": "abc"})).query == "access_token=abc"
