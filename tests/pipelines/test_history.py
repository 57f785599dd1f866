"""The history of a dataset's versions, and nearest neighbours in its pages."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx.jobs.show import show
from stx.pipelines.encode import run_encode
from stx.pipelines.forget import run_forget
from stx.pipelines.quality.neighbours import Version, sample_neighbours
from stx.pipelines.telemetry import history
from stx_core.errors import StoreError
from stx_core.store.commit import release, rollback
from stx_core.store.files.filesystem import list_objects, read_bytes
from stx_core.store.files.urls import join
from stx_core.store.schema import dense_matrix
from stx_core.store.snapshot import open_snapshot, read_manifest, snapshot_info


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out")


@pytest.fixture
def commit(tmp_path, spec_of):
    """Adds some texts to a corpus and encodes it."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    numbers = iter(range(100))

    def add(*texts, **parts):
        shard = next(numbers)
        ids = [f"s{shard}-{row}" for row in range(len(texts))]
        table = pa.table({"id": ids, "text": pa.array(texts, pa.string())})
        pq.write_table(table, folder / f"part-{shard}.parquet")
        return run_encode(spec_of(folder, **parts))

    return add


def figures(root):
    with open(f"{root}/_stx/reports/history.json") as file:
        return json.load(file)


def page(root):
    with open(f"{root}/_stx/reports/history.html") as file:
        return file.read()


def test_each_version_is_there_with_what_it_computed(commit, out, capsys):
    commit("stars", "sand glass", None, resources={"cost_per_hour": 3600.0})
    commit("light")

    first, second = figures(out)
    assert (first["version"], first["kind"]) == (1, "commit")
    dense = first["outputs"]["dense"]
    assert (dense["rows"], dense["computed"], dense["tokens"]) == (2, 2, 3)
    assert dense["quarantined"] == 1
    assert dense["bytes"] == snapshot_info(out, 1).outputs["dense"]["bytes"]
    assert first["cost"] == pytest.approx(first["seconds"])
    dense = second["outputs"]["dense"]
    assert (dense["rows"], dense["computed"], dense["tokens"]) == (3, 1, 1)
    assert second["cost"] is None
    assert "Versions 1 to 2" in page(out)
    assert "<title>dense, version 2: 3</title>" in page(out)
    show(out)
    assert f"  history: {out}/_stx/reports/history.html\n" in capsys.readouterr().out


def test_what_the_file_lacks_comes_from_the_log(commit, out):
    commit("stars")
    commit("sand", "light")
    rollback(out, 1)
    release(out)
    commit("glass")
    page_of_2 = f"{out}/_stx/reports/2/report.html"
    with open(page_of_2) as file:
        assert "s1-0" in file.read()
    run_forget(out, ["s1-0"])
    commit("rivers")

    assert [(each["version"], each["kind"]) for each in figures(out)] == [
        (1, "commit"), (2, "commit"), (3, "rollback"), (4, "commit"), (5, "forget"), (6, "commit"),
    ]  # fmt: skip
    restored = figures(out)[2]
    assert restored["outputs"]["dense"] | {"bytes": 0, "checks": {}} == {
        "rows": 1, "bytes": 0, "quarantined": 0, "computed": None, "tokens": None, "checks": {},
    }  # fmt: skip
    assert (restored["seconds"], restored["cost"]) == (None, None)
    # Pages of versions that had the row are gone, numbers stay; no file names it any more.
    files = [file for file in list_objects(out) if b"s1-0" in read_bytes(join(out, file.name))]
    assert files == []
    names = {file.name for file in list_objects(join(out, "_stx/reports"))}
    assert "2/report.html" not in names
    assert {"1/report.html", "6/report.html", "history.html", "history.json"} <= names

    with open(f"{out}/_stx/reports/history.json", "w") as file:
        file.write("{no json")
    commit("plants")
    # The log has forgotten those that cannot be opened.
    assert [each["version"] for each in figures(out)] == [1, 3, 5, 6, 7]


def test_a_history_that_cannot_be_written_is_a_warning_after_the_commit(commit, out, monkeypatch):
    def refuse(*_):
        raise StoreError("no space")

    monkeypatch.setattr(history, "write_over", refuse)

    done = commit("stars")

    assert (done.committed, done.warnings) == (True, ["no history written: no space"])
    assert snapshot_info(out).version == 1


def test_only_a_year_of_nights_is_kept_and_nothing_of_an_older_dataset(commit, out):
    commit("stars")
    (version,) = figures(out)
    many = [version | {"version": number} for number in range(-400, 0)]
    after = [version | {"version": number} for number in (7, 8)]
    with open(f"{out}/_stx/reports/history.json", "w") as file:
        json.dump([*many, *after], file)

    commit("light")

    assert [each["version"] for each in figures(out)] == [*range(-363, 0), 1, 2]


def test_what_is_next_to_nothing_is_in_the_table_and_not_drawn():
    def figures_of(*checks):
        return [
            history.Figures(n, "", "commit", {"a": history.OutputFigures(9, 9, 0, checks=each)})
            for n, each in enumerate(checks, 1)
        ]

    noise, drift = {"drift": 3e-9, "nulls": 0.0}, {"drift": 0.2, "nulls": 0.0}
    headings = [part.heading for part in history._sections(figures_of(noise, noise))]
    assert headings == ["Rows", "Size", "Quality of version 2", "Versions"]
    parts = list(history._sections(figures_of(noise, drift)))
    assert [part.heading for part in parts if part.chart] == ["Rows", "Size", "Quality: drift"]
    assert parts[3].rows == [("a", "drift", "0.2"), ("a", "nulls", "0")]


def nearest(root):
    version = Version(read_manifest(root), snapshot_info(root).outputs["dense"])
    return {row.id: row.nearest for row in sample_neighbours(root, version, 20)}


def test_neighbours_are_those_with_the_highest_cosines(commit, out):
    commit("stars", "stars sand", "light", "eat light", "stars")
    commit("rivers carry")

    table = open_snapshot(out).to_table()
    ids, rows = table["id"].to_pylist(), dense_matrix(table["embedding"]).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    shown = nearest(out)
    # Of the two equal texts one.
    assert len(shown) == 5
    assert len(shown.keys() & {"s0-0", "s0-4"}) == 1
    for id_, neighbours in shown.items():
        cosines = rows[ids.index(id_)] @ rows.T
        best = sorted((c, i) for c, i in zip(cosines, ids, strict=True) if i in shown and i != id_)
        assert [name for name, _ in neighbours] == [i for _, i in best[::-1][:3]]
        assert [c for _, c in neighbours] == pytest.approx([c for c, _ in best[::-1][:3]])


def test_of_few_rows_there_are_few_neighbours(commit, out):
    commit("stars")
    assert nearest(out) == {"s0-0": []}
    commit("light")

    assert {id_: len(names) for id_, names in nearest(out).items()} == {"s0-0": 1, "s1-0": 1}
    with open(f"{out}/_stx/reports/1/report.md") as file:
        assert "Nearest rows" not in file.read()
