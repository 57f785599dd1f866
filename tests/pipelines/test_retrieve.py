"""The retrieve job against a full comparison in float64, and as a job: resume, no-op, refusals."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx.pipelines.engine.runs import View
from stx.pipelines.retrieve import run_retrieve
from stx_core.errors import InputError, SpecError, StoreError
from stx_core.store.gc import gc
from stx_core.store.snapshot import open_snapshot, snapshot_info
from stx_core.store.verify import find_problems
from tests.pipelines.retrieval import (
    N_QUERIES,
    assert_same,
    encode,
    lake,
    read_ranking,
    slow_ranking,
    spec_for,
    vectors,
)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory, static_model, splade_model):
    return lake(tmp_path_factory.mktemp("lake"), static_model, splade_model)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
def test_every_similarity_finds_what_a_full_comparison_finds(tmp_path, datasets, similarity):
    spec = spec_for(tmp_path, *datasets, retrievers={"dense": {"similarity": similarity}})

    report = run_retrieve(spec)

    assert report.committed
    expected = slow_ranking(*datasets, "dense", similarity, 7)
    assert_same(read_ranking(spec.output.path, "dense"), expected)


@pytest.mark.parametrize("resources", [
    {"rows_per_unit": 1000, "rows_per_group": 1000},
    {"rows_per_unit": 3, "rows_per_group": 1},
])  # fmt: skip
def test_blocks_do_not_change_the_ranking(tmp_path, datasets, resources):
    spec = spec_for(tmp_path, *datasets, resources={"runner": "local", **resources})

    run_retrieve(spec)

    for output in ("dense", "splade"):
        similarity = "cosine" if output == "dense" else "dot"
        expected = slow_ranking(*datasets, output, similarity, 7)
        assert_same(read_ranking(spec.output.path, output), expected)


@pytest.mark.faults
def test_ray_actors_give_the_same_files(tmp_path, datasets):
    here = spec_for(tmp_path / "here", *datasets)
    there = spec_for(
        tmp_path / "there", *datasets,
        resources={"rows_per_unit": 8, "rows_per_group": 60, "actors": 2, "cpus_per_actor": 1},
    )  # fmt: skip

    run_retrieve(here)
    run_retrieve(there)

    for output in ("dense", "splade"):
        tables = [open_snapshot(s.output.path, output=output).to_table() for s in (here, there)]
        assert tables[0].equals(tables[1])


def test_filters_hold_for_both_kinds_of_vectors(tmp_path, datasets):
    spec = spec_for(tmp_path, *datasets, same=["side"], exclude_same_id=True)

    run_retrieve(spec)

    for output, similarity in (("dense", "cosine"), ("splade", "dot")):
        expected = slow_ranking(*datasets, output, similarity, 7, same=True, exclude=True)
        assert_same(read_ranking(spec.output.path, output), expected)
    unlimited = slow_ranking(*datasets, "dense", "cosine", 200)["d007"]
    assert "d007" in [hit[0] for hit in unlimited]


def test_k_above_the_corpus_gives_the_corpus(tmp_path, datasets):
    spec = spec_for(tmp_path, *datasets, k=1000, retrievers={"dense": {}})

    run_retrieve(spec)

    assert {len(hits) for hits in read_ranking(spec.output.path, "dense").values()} == {200}


def test_fusion_is_the_fusion_of_the_rankings(tmp_path, datasets):
    spec = spec_for(tmp_path, *datasets, fusion={"k": 10, "weights": {"splade": 2.0}})

    run_retrieve(spec)

    parts = {name: read_ranking(spec.output.path, name) for name in ("dense", "splade")}
    hybrid = read_ranking(spec.output.path, "hybrid")
    for query, hits in hybrid.items():
        totals = {}
        for name, weight in (("dense", 1.0), ("splade", 2.0)):
            for doc, rank, _ in parts[name].get(query, []):
                totals[doc] = totals.get(doc, 0) + weight / (10 + rank)
        best = sorted(totals.items(), key=lambda item: (-item[1], item[0]))[:7]
        assert [hit[0] for hit in hits] == [doc for doc, _ in best]
        assert [hit[2] for hit in hits] == pytest.approx([score for _, score in best])


def test_positives_are_scored_whatever_their_rank(tmp_path, datasets):
    corpus, queries = datasets
    qrels = tmp_path / "qrels.parquet"
    pairs = [("q0", "d005", 1), ("q0", "d006", 1), ("q3", "d100", 2), ("q3", "d101", 0),
             ("q4", "nowhere", 1)]  # fmt: skip
    names = ["query_id", "doc_id", "score"]
    pq.write_table(pa.Table.from_pylist([dict(zip(names, p, strict=True)) for p in pairs]), qrels)
    spec = spec_for(tmp_path, corpus, queries, positives=str(qrels))

    report = run_retrieve(spec)

    for output, similarity in (("dense", "cosine"), ("splade", "dot")):
        everything = slow_ranking(corpus, queries, output, similarity, 200)
        known = {(q, hit[0]): hit[2] for q, hits in everything.items() for hit in hits}
        table = open_snapshot(spec.output.path, output=f"{output}-positives").to_table()
        found = {(row["query_id"], row["doc_id"]): row["score"] for row in table.to_pylist()}
        wanted = [("q0", "d005"), ("q0", "d006"), ("q3", "d100")]
        assert found == pytest.approx({pair: known.get(pair, 0.0) for pair in wanted}, rel=1e-6)
    (warning,) = report.warnings
    assert warning.startswith("1 of 4 positive pairs of")


def test_a_second_run_does_nothing_and_a_grown_set_of_queries_only_the_new(tmp_path, static_model):
    corpus, queries = lake(tmp_path, static_model)
    spec = spec_for(tmp_path, corpus, queries)
    run_retrieve(spec)

    assert not run_retrieve(spec).committed

    query_model = {"dense": {"model": str(static_model), "task": "query"}}
    names, words = [f"q{i}" for i in range(3)], ["sand", "glass", "stars"]
    encode(tmp_path, "queries", names, words, query_model, {"side": [0, 1, 0]})
    report = run_retrieve(spec)
    assert report.committed
    assert read_ranking(spec.output.path, "dense").keys() == {"q0", "q1", "q2"}
    assert_same(
        read_ranking(spec.output.path, "dense"), slow_ranking(corpus, queries, "dense", "cosine", 7)
    )


class Stopping(View):
    """Interrupts the run after some units."""

    def __init__(self, after):
        self.after, self.seen = after, 0

    def watch(self, results, plan):
        for result in results:
            yield result
            self.seen += 1
            if self.seen == self.after:
                raise KeyboardInterrupt


@pytest.mark.parametrize("after", [1, 9, 18])
def test_an_interrupted_run_goes_on(tmp_path, datasets, after):
    spec = spec_for(tmp_path, *datasets, retrievers={"dense": {}})
    with pytest.raises(KeyboardInterrupt):
        run_retrieve(spec, Stopping(after))
    counter = Stopping(-1)

    report = run_retrieve(spec, counter)

    total = 4 * -(-N_QUERIES // 8) + 4  # cells, then blocks
    assert counter.seen == total - after
    assert report.committed
    expected = slow_ranking(*datasets, "dense", "cosine", 7)
    assert_same(read_ranking(spec.output.path, "dense"), expected)


def test_verify_passes_and_gc_removes_only_the_cells(tmp_path, datasets):
    spec = spec_for(tmp_path, *datasets)
    run_retrieve(spec)
    root = spec.output.path

    assert list(find_problems(root)) == []
    garbage = gc(root, keep=1, margin_s=-1)
    assert garbage.files
    assert all(name.startswith(("data/cells/", "_stx/runs/")) for name in garbage.files)
    assert list(find_problems(root)) == []
    assert read_ranking(root, "dense")


def test_datasets_of_different_models_are_refused_with_both_named(
    tmp_path, datasets, save_static_model
):
    import numpy as np

    corpus, queries = datasets
    other = save_static_model(tmp_path / "other", ["sand"], np.ones((2, 8), np.float32))
    foreign = encode(tmp_path, "foreign", ["q"], ["sand"], {"dense": {"model": str(other)}},
                     {"side": [0]})  # fmt: skip

    with pytest.raises(SpecError, match="different models") as refused:
        run_retrieve(spec_for(tmp_path, corpus, foreign))
    assert snapshot_info(foreign).outputs["dense"]["fingerprint"][:12] in str(refused.value)
    assert snapshot_info(corpus).outputs["dense"]["fingerprint"][:12] in str(refused.value)
    allowed = spec_for(tmp_path, corpus, foreign, other_models=True)
    assert run_retrieve(allowed).committed


def test_vectors_of_different_widths_are_refused(tmp_path, datasets, static_model):
    short = {"dense": {"model": str(static_model), "truncate_dim": 4}}
    queries = encode(tmp_path, "short", ["q"], ["sand"], short, {"side": [0]})

    with pytest.raises(SpecError, match="4 and 8 dimensions"):
        run_retrieve(spec_for(tmp_path, datasets[0], queries))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"retrievers": {"sentence": {}}}, "no output 'sentence'"),
        ({"retrievers": {"splade": {"similarity": "euclidean"}}}, "not defined here"),
        ({"same": ["colour"]}, "colour"),
    ],
)
def test_a_wrong_spec_is_refused(tmp_path, datasets, changes, problem):
    with pytest.raises(SpecError, match=problem):
        run_retrieve(spec_for(tmp_path, *datasets, **changes))


def test_no_dataset_is_one_clear_error(tmp_path, datasets):
    with pytest.raises(StoreError, match="no snapshot"):
        run_retrieve(spec_for(tmp_path, str(tmp_path / "nothing"), datasets[1]))


def test_an_empty_corpus_is_refused(tmp_path, datasets, static_model):
    empty = encode(tmp_path, "empty", ["d"], [""], {"dense": {"model": str(static_model)}},
                   {"side": [0]})  # fmt: skip

    with pytest.raises(InputError, match="an empty corpus"):
        run_retrieve(spec_for(tmp_path, empty, datasets[1], retrievers={"dense": {}}))


def test_the_plan_writes_nothing(tmp_path, datasets):
    spec = spec_for(tmp_path, *datasets)

    report = run_retrieve(spec, dry_run=True)

    assert not report.committed
    assert not (tmp_path / "ranking").exists()


def test_a_ranking_opens_in_other_readers(tmp_path, datasets):
    import duckdb

    spec = spec_for(tmp_path, *datasets, retrievers={"dense": {}})
    run_retrieve(spec)

    files = [str(f) for f in open_snapshot(spec.output.path, output="dense").files]
    top = duckdb.sql(f"select query_id, doc_id from read_parquet({json.dumps(files)}) where rank=1")
    assert len(top.fetchall()) == N_QUERIES
    assert len(vectors(datasets[1], "dense")[0]) == N_QUERIES


@pytest.mark.parametrize("first_pass", ["int8", "binary", "hnsw"])
def test_an_approximate_first_pass_reports_its_recall(tmp_path, datasets, first_pass):
    how = {"first_pass": first_pass, "oversample": 6}
    spec = spec_for(tmp_path, *datasets, retrievers={"dense": how}, exclude_same_id=True)

    report = run_retrieve(spec)

    line, _page = report.lines
    assert line.startswith("  dense    recall of the exact best 7 of each part of the corpus: ")
    exact = slow_ranking(*datasets, "dense", "cosine", 7, exclude=True)
    found = read_ranking(spec.output.path, "dense")
    shared = [
        len({hit[0] for hit in hits} & {hit[0] for hit in exact[query]})
        for query, hits in found.items()
    ]
    assert sum(shared) / (7 * len(shared)) > 0.9
    everything = {(q, h[0]): h[2] for q, hits in slow_ranking(
        *datasets, "dense", "cosine", 200).items() for h in hits}  # fmt: skip
    assert all(
        hit[2] == pytest.approx(everything[query, hit[0]], rel=1e-6)
        for query, hits in found.items()
        for hit in hits
    )


def test_an_unsupported_first_pass_is_refused(tmp_path, datasets):
    for wrong, problem in (
        ({"retrievers": {"splade": {"first_pass": "int8"}}}, "is for dense vectors"),
        ({"retrievers": {"dense": {"first_pass": "binary", "similarity": "dot"}}}, "for cosine"),
        ({"retrievers": {"dense": {"first_pass": "ivf"}}, "same": ["side"]}, "needs first_pass"),
    ):
        with pytest.raises(SpecError, match=problem):
            run_retrieve(spec_for(tmp_path, *datasets, **wrong))


def test_rankings_on_s3_equal_those_on_local_files(tmp_path, datasets, s3_root):
    here = spec_for(tmp_path, *datasets)
    there = spec_for(tmp_path, *datasets, output={"path": f"{s3_root}/ranking"})
    with pytest.raises(KeyboardInterrupt):
        run_retrieve(there, Stopping(5))

    run_retrieve(here)
    run_retrieve(there)

    for output in ("dense", "splade"):
        tables = [open_snapshot(s.output.path, output=output).to_table() for s in (here, there)]
        assert tables[0].equals(tables[1])
    assert list(find_problems(there.output.path)) == []
