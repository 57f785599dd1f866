"""No job reads what it writes: paths that overlap are refused before anything is done."""

import pytest

from stx.pipelines.encode import run_encode
from stx.pipelines.export import run_export
from stx.pipelines.import_ranking import run_import
from stx.pipelines.mine import run_mine
from stx.pipelines.rerank import run_rerank
from stx.pipelines.retrieve import run_retrieve
from stx.pipelines.spec.import_ranking import ImportSpec
from stx.pipelines.spec.retrieval import MineSpec, RerankSpec, RetrieveSpec
from stx_core.errors import SpecError


def retrieve(**paths):
    sides = {name: {"path": paths.pop(name, name)} for name in ("queries", "corpus")}
    run_retrieve(RetrieveSpec.model_validate(sides | {"output": {"path": "here/out"}} | paths))


def rerank(**paths):
    sides = {name: {"path": paths[name]} for name in ("queries", "documents") if name in paths}
    values = {
        "candidates": {"path": paths.get("candidates", "elsewhere")},
        "rerankers": {"ce": {"model": "absent"}},
        "output": {"path": "here/out"},
        "positives": paths.get("positives"),
    }
    run_rerank(RerankSpec.model_validate(values | sides))


def mine(**paths):
    sides = {name: {"path": paths[name]} for name in ("queries", "documents") if name in paths}
    values = {
        "candidates": {"a": {"path": paths.get("candidates", "elsewhere")}},
        "positives": paths.get("positives", "qrels.tsv"),
        "output": {"path": "here/out"},
    }
    run_mine(MineSpec.model_validate(values | sides))


@pytest.mark.parametrize(
    "job",
    [
        lambda: retrieve(queries="here"),
        lambda: retrieve(corpus="here/out"),
        lambda: retrieve(positives="here/out/data"),
        lambda: rerank(candidates="here"),
        lambda: rerank(queries="here/**"),
        lambda: rerank(documents=["elsewhere", "here//out/"]),
        lambda: rerank(positives="here"),
        lambda: mine(candidates="here"),
        lambda: mine(queries="here"),
        lambda: mine(documents="./here"),
        lambda: mine(positives="here"),
        lambda: run_import(ImportSpec(source="here", path="here/out")),
        lambda: run_export("here", "here/out", "huggingface"),
        lambda: run_export("here/data", "here", "parquet"),
    ],
)
def test_a_job_that_would_read_what_it_writes_is_refused(tmp_path, monkeypatch, job):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SpecError, match="overlap, so the job would read what it writes"):
        job()

    assert list((tmp_path / "here").iterdir()) == []


def test_a_folder_is_not_encoded_into_itself(tmp_path, spec_of, corpus):
    before = sorted(corpus.rglob("*"))

    for output in (corpus, corpus / "out", corpus.parent):
        with pytest.raises(SpecError, match="overlap"):
            run_encode(spec_of(corpus, output={"path": str(output)}))

    assert sorted(corpus.rglob("*")) == before


def test_a_file_may_lie_in_the_folder_of_its_output(tmp_path, spec_of):
    file = tmp_path / "out" / "a.jsonl"
    file.parent.mkdir()
    file.write_text('{"id": "a", "text": "stars"}\n')

    report = run_encode(spec_of(file))

    assert report.parts["dense"].rows == 1
    assert run_encode(spec_of(file.parent / "*.jsonl")).committed is False
