"""The page of an encode run: its numbers against those of the files, and how it looks."""

import json
import re
import shutil
import struct
import subprocess
import xml.etree.ElementTree as ElementTree
import zlib
from html import escape

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx.pipelines.encode import run_encode
from stx.pipelines.spec.file import parse_spec
from stx.pipelines.telemetry import report as report_module
from stx.pipelines.telemetry.sections import _SAMPLES
from stx_core.errors import StoreError
from stx_core.histogram import Lengths, Norms
from stx_core.store import ledger
from stx_core.store.sealed import decode, seal
from stx_core.store.snapshot import open_snapshot, snapshot_info
from stx_core.store.verify import find_problems

SECRET = "do not tell this text"


@pytest.fixture
def bad_corpus(corpus):
    """The corpus and a shard with rows that go to quarantine."""
    columns = {
        "id": [f"b{i}" for i in range(8)],
        "text": [None] * 5 + ["", SECRET, "stars " * 3],
        "lang": ["en"] * 8,
    }
    pq.write_table(pa.table(columns), corpus / "part-3.parquet")
    return corpus


def page(root, version=1, ending="md"):
    return (root / f"_stx/reports/{version}/report.{ending}").read_text()


def tables(markdown):
    """Rows of each table, by its heading."""
    found = {}
    for part in markdown.split("\n## ")[1:]:
        heading, _, body = part.partition("\n")
        rows = [re.split(r"(?<!\\) ?\| ?", line)[1:-1] for line in body.strip().splitlines()]
        found[heading] = [rows[0], *rows[2:]]
    return found


def numbers(rows):
    return {name: value.replace(",", "") for name, value in rows[1:]}


def test_counts_of_the_page_equal_those_of_the_files(bad_corpus, spec_of, tmp_path):
    report = run_encode(spec_of(bad_corpus, resources={"cost_per_hour": 3600.0}))

    found = tables(page(tmp_path / "out"))
    table = open_snapshot(str(tmp_path / "out")).to_table()
    tokens = table["n_tokens"].to_numpy()
    told = numbers(found["Summary"])
    assert told["rows of the corpus"] == "258"
    assert told["rows encoded, equal texts of a unit once"] == str(len(table)) == "252"
    assert told["tokens of these rows"] == str(tokens.sum())
    # An hour costs 3600, so a second costs 1.
    cost = float(told["cost, at 3600 per hour"])
    assert cost == pytest.approx(float(told["seconds, from start to commit"]), abs=0.06)
    lengths = numbers(found["Tokens per text: dense"])
    assert lengths["texts"] == str(len(table))
    assert lengths["mean"] == f"{tokens.mean():.2f}"
    assert (lengths["lowest"], lengths["highest"]) == (str(tokens.min()), str(tokens.max()))
    assert lengths["50%, about"] == f"{np.sort(tokens)[(len(tokens) - 1) // 2]}"
    vectors = np.array(table["embedding"].to_pylist(), np.float32)
    norms = numbers(found["Norms: dense"])
    assert float(norms["mean"]) == pytest.approx(np.linalg.norm(vectors, axis=1).mean(), abs=1e-4)
    assert numbers(found["Outputs"])["quarantined rows"] == str(report.parts["dense"].quarantined)
    assert [row[0] for row in found["Time by stage"][1:]] == ["read", "encode", "write"]


def test_the_histograms_of_all_units_add_up_to_that_of_the_whole(bad_corpus, spec_of, tmp_path):
    run_encode(spec_of(bad_corpus))

    root = str(tmp_path / "out")
    records = ledger.load(root, snapshot_info(root).run)
    counts = [json.loads(text) for text in records["counts"].to_pylist()]
    table = open_snapshot(root).to_table()
    assert len(counts) > 3
    tokens, norms = Lengths(), Norms()
    for each in counts:
        tokens += Lengths.from_json(each["tokens"])
        norms += Norms.from_json(each["norms"])
    assert tokens == Lengths.of(table["n_tokens"].to_numpy())
    vectors = np.array(table["embedding"].to_pylist(), np.float32)
    assert norms.bins == Norms.of(np.linalg.norm(vectors, axis=1)).bins


def test_sparse_outputs_show_their_entries_and_the_padding(corpus, spec_of, splade_model, tmp_path):
    models = {"splade": {"model": str(splade_model), "type": "sparse"}}

    run_encode(spec_of(corpus, models=models))

    found = tables(page(tmp_path / "out"))
    table = open_snapshot(str(tmp_path / "out"), output="splade").to_table()
    entries = [len(row["indices"]) for row in table["sparse_embedding"].to_pylist()]
    told = numbers(found["Non-zero numbers per vector: splade"])
    assert told["vectors"] == "250"
    assert told["mean"] == f"{np.mean(entries):.2f}"
    assert told["highest"] == str(max(entries))
    # The static model has no batches that could be padded.
    padding = {name: value for name, value in found["Summary"] if name.startswith("padding")}
    # Packed batches have none; what fills them up to a round number is a number of its own.
    assert padding == {"padding in batches: splade": "0.00%"}
    filling = numbers(found["Summary"])["filling up of packed batches: splade"]
    assert 0 < float(filling.rstrip("%")) < 100
    assert found["Outputs"][1] == ["computed in", "float32", "float32"]
    assert found["Outputs"][0] == ["what", "dense", "splade"]


def test_vectors_of_norm_1_have_a_line_instead_of_a_chart(corpus, spec_of, static_model, tmp_path):
    run_encode(spec_of(corpus, models={"dense": {"model": str(static_model), "normalize": True}}))

    assert tables(page(tmp_path / "out"))["Norms: dense"][1:] == [
        ["vectors, each of norm 1", "250"]
    ]
    assert page(tmp_path / "out", ending="html").count("<rect") > 0
    assert "of the norm<" not in page(tmp_path / "out", ending="html")


def test_quarantined_rows_are_shown_by_reason_and_id_and_never_with_their_text(
    bad_corpus, spec_of, tmp_path
):
    run_encode(spec_of(bad_corpus))

    found = tables(page(tmp_path / "out"))
    assert found["Quarantined rows"][1:] == [
        ["dense", "null_text", "5"], ["dense", "empty_text", "1"],
    ]  # fmt: skip
    shown = [(row[0], row[2], row[3]) for row in found["Some of them"][1:]]
    assert shown == [
        ("null_text", "0", "b0"), ("null_text", "1", "b1"), ("null_text", "2", "b2"),
        ("empty_text", "5", "b5"),
    ]  # fmt: skip
    assert sum(reason == "null_text" for reason, *_ in shown) == _SAMPLES
    for ending in ("md", "html"):
        assert SECRET not in page(tmp_path / "out", ending=ending)


def test_the_page_tells_new_from_carried_rows(corpus, spec_of, tmp_path):
    run_encode(spec_of(corpus))
    # 100 rows leave, 60 go on under another name with one changed text, 90 stay.
    (corpus / "part-0.parquet").unlink()
    moved = pq.read_table(corpus / "part-2.parquet").to_pydict()
    moved["text"][0] = "stars stars stars stars stars stars stars stars stars stars"
    (corpus / "part-2.parquet").unlink()
    pq.write_table(pa.table(moved), corpus / "part-7.parquet")

    run_encode(spec_of(corpus))

    changes = numbers(tables(page(tmp_path / "out", 2))["Changes"])
    assert changes == {
        "in the version before": "250",
        "now": "150",
        "carried over with their files": "90",
        "carried over by text": "59",
        "encoded": "1",
        "gone or replaced": "101",
    }


def test_an_incremental_run_counts_as_encoded_what_it_encoded(
    corpus, spec_of, splade_model, tmp_path
):
    table = pq.read_table(corpus / "part-0.parquet").to_pydict()
    long = "stars " * 80  # more than the model reads
    table["text"][:5] = [f"{long} {i}" for i in range(5)]
    pq.write_table(pa.table(table), corpus / "part-0.parquet", row_group_size=40)
    spec = {"models": {"dense": {"model": str(splade_model), "type": "sparse"}}}
    run_encode(spec_of(corpus, **spec))
    table["text"][3], table["text"][70] = f"{long} anew", "glass is made of light"
    pq.write_table(pa.table(table), corpus / "part-0.parquet", row_group_size=40)

    report = run_encode(spec_of(corpus, **spec)).parts["dense"]

    rows = {row["id"]: row for row in open_snapshot(str(tmp_path / "out")).to_table().to_pylist()}
    assert sum(row["truncated"] for row in rows.values()) == 5
    tokens = rows["d3"]["n_tokens"] + rows["d70"]["n_tokens"]
    assert (report.encoded_rows, report.encoded_tokens, report.truncated) == (2, tokens, 1)
    found = tables(page(tmp_path / "out", 2))
    outputs, told = numbers(found["Outputs"]), numbers(found["Summary"])
    assert outputs["texts cut, of the rows encoded by this start"] == "1"
    assert told["tokens of these rows"] == str(tokens)
    assert sum(int(row[3]) for row in found["Slowest units"][1:]) == tokens
    step = float(found["Throughput"][2][0]) if len(found["Throughput"]) > 2 else None
    speeds = [float(row[2].replace(",", "")) for row in found["Throughput"][1:]]
    if step:
        assert sum(speeds) * step == pytest.approx(tokens, rel=0.3)


def test_texts_encoded_once_for_all_units_are_counted_once(corpus, spec_of, tmp_path):
    run_encode(spec_of(corpus, output={"dedupe": "corpus"}))

    found = tables(page(tmp_path / "out"))
    changes = {name: int(value) for name, value in numbers(found["Changes"]).items()}
    assert numbers(found["Tokens per text: dense"])["texts"] == "250"
    assert changes["now"] == changes["encoded"] + changes["carried over by text"] == 250
    assert changes["carried over with their files"] == changes["gone or replaced"] == 0


def test_the_page_counts_rows_of_all_starts(corpus, spec_of, tmp_path):
    class Stop:
        def plan(self, plan):
            pass

        def watch(self, results, plan):
            yield next(results)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_encode(spec_of(corpus), Stop())

    run_encode(spec_of(corpus))

    text = page(tmp_path / "out")
    assert "1 of its 5 units were finished by earlier starts" in text
    assert numbers(tables(text)["Tokens per text: dense"])["texts"] == "250"


def test_secrets_of_the_environment_are_hidden(corpus, spec_of, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")

    run_encode(spec_of(corpus, inputs={"text_separator": "hunter2hunter2"}))

    for ending in ("md", "html"):
        text = page(tmp_path / "out", ending=ending)
        assert "hunter2" not in text
        assert "inputs.text_separator" in text


def test_a_page_that_cannot_be_written_is_a_warning_after_the_commit(
    corpus, spec_of, tmp_path, monkeypatch
):
    def refuse(*_):
        raise StoreError("no space")

    monkeypatch.setattr(report_module, "write_over", refuse)

    report = run_encode(spec_of(corpus))

    assert (report.committed, report.version) == (True, 1)
    assert report.warnings == ["no report written: no space"]
    assert open_snapshot(str(tmp_path / "out")).count_rows() == 250


def test_a_corpus_without_rows_has_a_page_too(spec_of, tmp_path):
    empty = pa.table({"id": pa.array([], pa.string()), "text": pa.array([], pa.string())})
    (tmp_path / "corpus").mkdir()
    pq.write_table(empty, tmp_path / "corpus/part.parquet")

    values = spec_of(tmp_path / "corpus").model_dump(mode="json")
    run_encode(parse_spec(values | {"quality": {"accept": True}}))

    assert numbers(tables(page(tmp_path / "out"))["Summary"])["rows of the corpus"] == "0"


def test_records_of_an_older_version_are_read(corpus, spec_of, tmp_path):
    class Stop:
        def plan(self, plan):
            pass

        def watch(self, results, plan):
            yield next(results)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_encode(spec_of(corpus), Stop())
    (record,) = (tmp_path / "out/_stx/runs").glob("*/units/*/*.json")
    values = decode(record.read_bytes())
    record.write_text(json.dumps(seal({k: v for k, v in values.items() if k != "counts"})))

    run_encode(spec_of(corpus))

    assert numbers(tables(page(tmp_path / "out"))["Tokens per text: dense"])["texts"] == str(
        250 - values["rows_out"]
    )
    assert open_snapshot(str(tmp_path / "out")).count_rows() == 250


def test_the_page_is_one_well_formed_file_that_loads_nothing(bad_corpus, spec_of, tmp_path):
    run_encode(spec_of(bad_corpus))

    html = page(tmp_path / "out", ending="html")
    assert not re.search(r"(src|href|url)\s*[=(]|@import|https?:|<script", html)
    assert "prefers-color-scheme: dark" in html
    # Void elements apart, it is XML too.
    body = re.sub(r"<meta[^>]*>", "", html.removeprefix("<!doctype html>"))
    root = ElementTree.fromstring(body)  # noqa: S314  (our own text)
    assert len(root.findall(".//svg")) == 3
    bars = re.findall(r"<title>texts: ([\d,]+) in", html)
    assert sum(int(bar.replace(",", "")) for bar in bars) == 252


def test_show_and_encode_name_the_page(corpus, spec_of, tmp_path, capsys):
    from stx.jobs.show import show

    report = run_encode(spec_of(corpus))
    show(str(tmp_path / "out"))

    url = str(tmp_path / "out/_stx/reports/1/report.html")
    assert report.lines == [f"  report   {url}"]
    assert f"  report: {url}\n" in capsys.readouterr().out


def test_a_dataset_with_its_page_verifies(corpus, spec_of, tmp_path):
    run_encode(spec_of(corpus))

    assert [*find_problems(str(tmp_path / "out"))] == []


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.programs
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize(("scheme", "is_dark"), [(0, True), (1, False)])
def test_a_browser_draws_it_without_complaint(bad_corpus, spec_of, tmp_path, scheme, is_dark):
    run_encode(spec_of(bad_corpus))

    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
            "--v=0", f"--blink-settings=preferredColorScheme={scheme}", "--window-size=800,3000",
            f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={tmp_path / 'page.png'}",
            (tmp_path / "out/_stx/reports/1/report.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr
    assert (max(corner(tmp_path / "page.png")) < 80) == is_dark


WINDOW = """<iframe style="border:0;width:{width}px;height:900px" srcdoc="{page}"></iframe><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument.documentElement
  document.title = `${{page.scrollWidth}} of ${{page.clientWidth}}`
}}</script>"""


@pytest.mark.programs
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [375, 1280])
def test_a_page_is_as_wide_as_its_window(bad_corpus, spec_of, tmp_path, width):
    run_encode(spec_of(bad_corpus))
    folder = tmp_path / "out/_stx/reports"

    for file in (folder / "1/report.html", folder / "history.html"):
        window = tmp_path / "window.html"
        window.write_text(WINDOW.format(width=width, page=escape(file.read_text())))
        done = subprocess.run(
            [
                CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
                f"--user-data-dir={tmp_path / 'profile'}", window.as_uri(),
            ],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        content, inner = map(int, re.search(r"<title>(\d+) of (\d+)<", done.stdout).groups())
        # A bar to scroll may take some of it.
        assert width - 20 <= inner <= width
        assert content <= inner


def corner(png):
    """Red, green and blue of the first pixel, which no filter of PNG changes."""
    data, parts, at = png.read_bytes(), b"", 8
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        parts += data[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += 12 + length
    return zlib.decompress(parts)[1:4]
