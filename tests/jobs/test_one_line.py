"""Ids, paths and column names hold anything: what is printed or logged of them stays one line."""

import json
import logging
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from stx.jobs import console, logs
from stx.jobs.exit_codes import run_application
from stx.pipelines.encode import run_encode
from stx.pipelines.spec.file import parse_spec
from stx_core.errors import InputError, SpecError

FAKE = "WARNING stx: all rows were deleted"
EVIL = f"a\n{FAKE}\r\u2028{FAKE}\x85{FAKE}\x1b[2K"


def lines(text):
    """Lines as any reader may see them: also at U+2028, U+0085 and carriage returns."""
    return text.splitlines()


def test_an_error_that_names_an_id_cannot_add_a_line(capsys, monkeypatch):
    application = typer.Typer()

    @application.command()
    def fail() -> None:
        raise SpecError(f"first: wrong {EVIL[1:].strip()!r}\nsecond: id a\u2028{FAKE}\x1b[2K")

    monkeypatch.setattr(sys, "argv", ["stx"])
    with pytest.raises(SystemExit):
        run_application(application)

    told = lines(capsys.readouterr().err)
    assert [line.partition(":")[0] for line in told] == ["stx", "stx"]
    assert told[1] == f"stx: second: id a\\u2028{FAKE}\\x1b[2K"


def test_a_log_message_is_one_line():
    record = logging.LogRecord("stx", logging.INFO, "f.py", 1, "%s is damaged", (EVIL,), None)

    told = logs._OneLine("%(levelname)s %(message)s").format(record)

    assert len(lines(told)) == 1
    assert told.isprintable()


@pytest.fixture
def evil_corpus(tmp_path):
    folder = tmp_path / "corpus\nINFO fake"
    folder.mkdir()
    table = pa.table({"id": [EVIL, "b", EVIL], "text": ["plants", None, None], "n": [1, 2, 3]})
    pq.write_table(table, folder / "a.parquet")
    return folder


@pytest.fixture
def spec(evil_corpus, minilm, tmp_path):
    return {
        "inputs": {"path": str(evil_corpus)},
        "models": {"dense": {"model": str(minilm)}},
        "output": {"path": str(tmp_path / "out")},
        "resources": {"runner": "local", "supervised": False},
    }


def test_plan_and_report_and_records_survive_ids_and_paths_with_line_ends(spec, capsys, tmp_path):
    view = console.Console()

    view.report(run_encode(parse_spec(spec), view))

    printed = lines(capsys.readouterr().out)
    assert not [line for line in printed if line.startswith((FAKE, "INFO fake"))]
    assert [line for line in printed if "INFO fake" in line]
    for path in (tmp_path / "out" / "_stx").rglob("*.json"):
        json.loads(path.read_text())
    (quarantine,) = (tmp_path / "out" / "quarantine").iterdir()
    rows = pq.read_table(quarantine).to_pylist()
    assert [(row["row"], row["id"]) for row in rows] == [(1, "b"), (2, EVIL)]


def test_a_refused_row_of_an_evil_file_is_one_error_line(spec, capsys):
    spec["output"]["on_bad_rows"] = "fail"

    with pytest.raises(InputError) as error:
        run_encode(parse_spec(spec))

    assert len(lines(str(error.value))) == 1
    assert str(error.value).isprintable()
