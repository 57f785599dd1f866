"""The jobs as functions, and what they wrote as an object: as a notebook or a script has them."""

import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import stx
from stx.pipelines.engine.runs import View
from stx.pipelines.jobs import JOBS
from stx.pipelines.spec.file import parse_spec
from stx_core.errors import SpecError, StoreError

WORDS = ["plants", "eat", "light", "rivers", "carry", "sand"]
LOCAL = {"runner": "local", "supervised": False}


@pytest.fixture(scope="module")
def model(tmp_path_factory, save_static_model):
    weights = np.random.default_rng(0).standard_normal((len(WORDS) + 1, 8)).astype(np.float32)
    return save_static_model(tmp_path_factory.mktemp("model"), WORDS, weights)


@pytest.fixture(scope="module")
def lake(tmp_path_factory, model):
    """Documents and queries, encoded by keywords of paths, strings and short forms."""
    folder = tmp_path_factory.mktemp("lake")
    texts = [f"{one} {other}" for one in WORDS for other in WORDS if one != other]
    ids = [f"d{i:02}" for i in range(len(texts))]
    pq.write_table(pa.table({"id": ids, "text": texts}), folder / "documents.parquet")
    pq.write_table(pa.table({"id": ["q0", "q1"], "text": texts[3:5]}), folder / "queries.parquet")
    (folder / "qrels.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + f"q0\t{ids[3]}\t1\nq1\t{ids[4]}\t1\n"
    )
    for name in ("documents", "queries"):
        stx.encode(
            inputs={"path": folder / f"{name}.parquet", "columns": ["text"]},
            models={"dense": model},
            output=folder / name,
            resources=LOCAL,
        )
    return folder


def test_functions_say_which_keys_a_job_has():
    for name in JOBS.keys() & set(stx.__all__):
        told = set(re.findall(r"``(\w+)``", getattr(stx, name).__doc__.partition("**keys")[2]))
        known = {*JOBS[name].spec_class().model_fields, "view", "version", "committed", "parts"}
        assert told - known <= {"dry_run", "markdown", "values", "resources"}, name


def test_a_spec_may_be_a_file_a_dictionary_or_an_object_with_keywords_before_it(
    tmp_path, lake, model
):
    values = {
        "inputs": {"path": str(lake / "queries.parquet")},
        "models": {"dense": {"model": str(model)}},
        "output": {"path": str(tmp_path / "out")},
        "resources": {"runner": "ray"},
    }
    file = tmp_path / "spec.yaml"
    file.write_text(str(values))

    reports = [stx.encode(one, resources=LOCAL) for one in (file, values, parse_spec(dict(values)))]
    again = stx.encode(parse_spec(values | {"resources": LOCAL}))

    assert [(report.version, report.committed) for report in reports] == [
        (1, True),
        (1, False),
        (1, False),
    ]
    assert (again.version, again.committed) == (1, False)


def test_jobs_follow_each_other_and_an_object_reads_what_they_wrote(lake, tmp_path):
    ranking, mined = tmp_path / "ranking", tmp_path / "mined"
    stx.retrieve(
        queries=lake / "queries", corpus=lake / "documents", k=8, output=ranking,
        positives=lake / "qrels.tsv", resources={"runner": "local"},
    )  # fmt: skip
    evaluated = stx.evaluate(ranking=ranking, qrels=lake / "qrels.tsv", measures=["Success@8"])
    stx.mine(
        candidates={"dense": ranking}, positives=lake / "qrels.tsv", output=mined,
        resources={"runner": "local"},
    )  # fmt: skip

    assert evaluated.values["measures"]["Success@8"] == 1
    assert stx.open(ranking).to_arrow(["query_id"]).num_rows == 16
    assert "negatives" in stx.open(mined).outputs
    assert stx.export(ranking, tmp_path / "run.trec", "trec") == 16


def test_a_flow_gives_the_reports_of_its_steps(lake, model, tmp_path):
    step = {
        "inputs": {"path": str(lake / "queries.parquet")},
        "models": {"dense": {"model": str(model)}},
        "output": {"path": str(tmp_path / "out")},
    }

    first, second = stx.run({"steps": [{"encode": step}, {"encode": step}], "resources": LOCAL})

    assert (first.committed, second.committed) == (True, False)


def test_a_snapshot_gives_its_rows_to_arrow_polars_and_numpy_and_stays_its_version(
    lake, model, tmp_path
):
    corpus = tmp_path / "corpus.parquet"
    pq.write_table(pa.table({"id": [1, 2], "text": ["plants eat", "sand"]}), corpus)
    asked = {"inputs": corpus, "models": {"dense": model}, "resources": LOCAL}
    stx.encode(asked, output=tmp_path / "out")
    first = stx.open(tmp_path / "out")
    pq.write_table(pa.table({"id": [1, 2, 3], "text": ["plants", "sand", "eat"]}), corpus)
    stx.encode(asked, output=tmp_path / "out")
    second = stx.open(tmp_path / "out")

    assert (first.version, second.version, second.versions) == (1, 2, (1, 2))
    assert first.to_arrow(["id"])["id"].to_pylist() == [1, 2]
    assert second.to_polars(["id", "n_tokens"]).shape == (3, 2)
    assert second.to_numpy().shape == (3, 8)
    assert second.to_numpy().dtype == np.float32
    assert stx.open(tmp_path / "out", version=1).to_numpy().shape == (2, 8)
    assert {row["id"] for row in first.search("plants")} == {1, 2}


def test_search_takes_one_text_or_several(lake):
    documents = stx.open(lake / "documents")

    best = documents.search("plants light", top_k=2)
    several = documents.search(["plants light", "sand"], top_k=3)

    assert {row["text"] for row in best} == {"plants light", "light plants"}
    assert [len(rows) for rows in several] == [3, 3]


def test_polars_is_optional(lake, monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)

    with pytest.raises(SpecError, match="pip install polars"):
        stx.open(lake / "documents").to_polars()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: stx.encode("nowhere.yaml"), SpecError, "nowhere.yaml: No such file"),
        (lambda: stx.encode(inptus="a"), SpecError, "did you mean 'inputs'"),
        (lambda: stx.encode(parse_of_mine()), SpecError, "a MineSpec is no EncodeSpec"),
        (lambda: stx.open("nowhere"), StoreError, "no snapshot was committed here"),
    ],
    ids=["no file", "misspelt key", "another spec", "no dataset"],
)
def test_mistakes_are_errors_of_stx(call, error, message):
    with pytest.raises(error, match=message) as raised:
        call()
    assert isinstance(raised.value, stx.StxError)


def parse_of_mine():
    values = {"candidates": {"dense": {"path": "r"}}, "positives": "q", "output": {"path": "o"}}
    return parse_spec(values, kind=JOBS["mine"].spec_class())


def test_columns_and_outputs_that_are_not_there_are_named(lake, tmp_path):
    with pytest.raises(SpecError, match="no column 'vector'; there is id, text, embedding"):
        stx.open(lake / "documents").to_arrow(["vector"])
    with pytest.raises(SpecError, match="no output 'splade'"):
        stx.open(lake / "documents", output="splade")
    stx.retrieve(
        queries=lake / "queries", corpus=lake / "documents", k=2, output=tmp_path / "ranking",
        resources={"runner": "local"},
    )  # fmt: skip
    with pytest.raises(SpecError, match="no dense vectors; take to_arrow"):
        stx.open(tmp_path / "ranking").to_numpy()


def test_a_view_watches_and_a_dry_run_touches_nothing(lake, model, tmp_path, capsys):
    class Plans(View):
        def plan(self, plan):
            self.n_rows = plan.n_due_rows

    view = Plans()
    report = stx.encode(
        inputs=lake / "queries.parquet", models={"dense": model}, output=tmp_path / "out",
        resources=LOCAL, view=view, dry_run=True,
    )  # fmt: skip

    assert (report.version, view.n_rows) == (None, 2)
    assert not (tmp_path / "out").exists()
    assert capsys.readouterr() == ("", "")


def test_importing_it_loads_nothing_heavy():
    script = (
        "import sys, stx\n"
        "print([name for name in ('torch', 'ray', 'pydantic', 'pyarrow', 'numpy') "
        "if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert done.stdout.strip() == "[]", done.stderr
