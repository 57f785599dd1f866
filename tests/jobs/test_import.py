"""``stx import``: rankings of other engines as datasets."""

import pyarrow as pa
import pytest

from stx.pipelines.engine.runs import View
from stx.pipelines.import_ranking import run_import
from stx.pipelines.importing import units
from stx.pipelines.spec.import_ranking import ImportSpec
from stx_core.store.snapshot import open_snapshot
from stx_core.store.verify import find_problems

LINES = [f"{query} Q0 {doc} {rank} {9 - rank} bm25" for query in (3, 1, 2)
         for rank, doc in enumerate((20, 10, 30), 1)]  # fmt: skip


@pytest.fixture
def run_file(tmp_path):
    path = tmp_path / "bm25.trec"
    path.write_text("\n".join(LINES) + "\n")
    return path


@pytest.mark.parametrize(("ids", "kind"), [("string", pa.string()), ("int64", pa.int64())])
def test_a_run_file_becomes_a_dataset(stx, run_file, tmp_path, ids, kind):
    code, out, err = stx("import", run_file, tmp_path / "bm25", "--name", "bm25", "--ids", ids)
    again = stx("import", run_file, tmp_path / "bm25", "--name", "bm25", "--ids", ids)

    assert code == 0, err
    assert "committed version 1" in out
    assert "nothing to do: version 1" in again[1]
    table = open_snapshot(str(tmp_path / "bm25"), output="bm25").to_table()
    assert table.schema.field("doc_id").type == kind
    rows = [
        (str(r["query_id"]), str(r["doc_id"]), r["rank"], r["score"]) for r in table.to_pylist()
    ]
    fields = [line.split() for line in LINES]
    assert rows == [(q, d, int(rank), float(score)) for q, _, d, rank, score, _ in fields]
    assert list(find_problems(str(tmp_path / "bm25"))) == []


def test_a_changed_file_is_a_new_version_and_measures_work_on_it(stx, run_file, tmp_path):
    stx("import", run_file, tmp_path / "bm25")
    run_file.write_text("\n".join(LINES[:3]) + "\n")
    (tmp_path / "qrels.txt").write_text("3 0 10 1\n")

    assert "committed version 2" in stx("import", run_file, tmp_path / "bm25")[1]
    code, out, err = stx("evaluate", tmp_path / "bm25", tmp_path / "qrels.txt",
                         "--measures", "RR@10")  # fmt: skip
    assert code == 0, err
    assert "0.5000" in out


def test_mistakes_are_one_line(stx, run_file, tmp_path):
    words = tmp_path / "words.trec"
    words.write_text("a Q0 b 1 1.0 x\n")
    empty = tmp_path / "empty.trec"
    empty.write_text("")

    for source, options, problem in (
        (words, ["--ids", "int64"], "cannot be read as int64"),
        (run_file, ["--ids", "float"], "ids"),
        (tmp_path / "nothing.trec", [], "nothing.trec"),
        (empty, ["--format", "trec"], "empty"),
    ):
        code, _, err = stx("import", source, tmp_path / "out", *options)
        assert code == 2, err
        assert problem in err
        assert err.count("\n") == 1


def test_an_interrupted_import_goes_on_with_the_missing_units(run_file, tmp_path, monkeypatch):
    monkeypatch.setattr(units, "_ROWS_PER_UNIT", 3)
    spec = ImportSpec(source=str(run_file), path=str(tmp_path / "bm25"))

    class FirstUnit(View):
        def watch(self, results, plan):
            yield next(results)
            raise KeyboardInterrupt

    class Counting(View):
        n_units = 0

        def watch(self, results, plan):
            for result in results:
                self.n_units += 1
                yield result

    with pytest.raises(KeyboardInterrupt):
        run_import(spec, FirstUnit())
    counting = Counting()
    report = run_import(spec, counting)

    # Of two units, of two queries and of one.
    assert (report.version, counting.n_units) == (1, 1)
    assert len(open_snapshot(spec.path, output="ranking").to_table()) == len(LINES)
