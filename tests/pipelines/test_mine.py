"""The mine job against the core's function over the same vectors, and as a job."""

import dataclasses

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx.pipelines.engine.runs import View
from stx.pipelines.import_ranking import run_import
from stx.pipelines.mine import run_mine
from stx.pipelines.mining.report import read_summary
from stx.pipelines.spec.import_ranking import ImportSpec
from stx.pipelines.spec.retrieval import Rules
from stx_core.errors import InputError, SpecError, StoreError
from stx_core.mining.combine import combine_rankings
from stx_core.mining.judge import judge
from stx_core.mining.negatives import hard_negatives
from stx_core.mining.rules import MiningRules
from stx_core.mining.statistics import MiningCounts
from stx_core.store.files.filesystem import read_bytes
from stx_core.store.gc import gc
from stx_core.store.snapshot import open_snapshot, snapshot_info
from stx_core.store.verify import find_problems
from tests.pipelines.conftest import WORDS
from tests.pipelines.mining import (
    N_DOCUMENTS,
    N_QUERIES,
    core_triplets,
    lake,
    mine_spec,
    qrels,
    read,
    retrieve,
)
from tests.pipelines.retrieval import encode


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lake")


@pytest.fixture(scope="module")
def datasets(folder, static_model):
    return lake(folder, static_model, WORDS)


@pytest.fixture(scope="module")
def ranking(folder, datasets):
    return retrieve(folder, *datasets[:2], positives=str(folder / "qrels.tsv"))


@pytest.fixture
def spec_of(folder, ranking, tmp_path):
    """Builds a spec; keywords replace parts of it."""

    def build(**changes):
        output = {"path": str(tmp_path / "mined")}
        return mine_spec(folder, ranking, folder / "qrels.tsv", **({"output": output} | changes))

    return build


@pytest.mark.parametrize("rules", [
    {},
    {"num_negatives": 5, "range_min": 3, "range_max": 20},
    {"positive_share": 0.95},
    {"relative_margin": 0.1, "margin_against": "max"},
    {"absolute_margin": 0.05, "min_score": 0.2, "max_score": 0.9},
    {"margin_against": "mean", "positive_share": 0.99, "range_min": 1},
    {"same_content": True, "near_duplicate": 0.7},
], ids=str)  # fmt: skip
def test_mined_negatives_equal_those_of_the_core(folder, datasets, ranking, spec_of, rules):
    # The core looks for range_max documents and as many more as a query has positives.
    seen = {"dense": {"path": ranking, "depth": rules.get("range_max", 30) + 3}}
    rules = {"range_max": 30} | rules
    spec = spec_of(candidates=seen, rules=rules, formats=["triplet"], scores=True)

    run_mine(spec)

    rows = read(spec.output.path, "triplet").to_pylist()
    found = sorted(tuple(row.values()) for row in rows)
    wanted = sorted(core_triplets(folder, *datasets, **rules))
    assert len(wanted) > N_QUERIES
    assert [row[:3] for row in found] == [row[:3] for row in wanted]
    for (*_, ours), (*_, theirs) in zip(found, wanted, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)


def test_spec_rules_are_the_rules_of_the_core():
    ours = {name: field.default for name, field in Rules.model_fields.items()}

    assert ours == {each.name: each.default for each in dataclasses.fields(MiningRules)}


@pytest.mark.parametrize("rows_per_unit", [1, 130, 10**6])
def test_random_samples_do_not_depend_on_units(spec_of, tmp_path, rows_per_unit):
    rules = {"sampling_strategy": "random", "seed": 7, "num_negatives": 4}
    whole = spec_of(rules=rules, output={"path": str(tmp_path / "whole")})
    cut = spec_of(rules=rules, resources={"runner": "local", "rows_per_unit": rows_per_unit})

    run_mine(whole)
    run_mine(cut)

    for output in ("candidates", "negatives", "shortfall"):
        assert read(cut.output.path, output).equals(read(whole.output.path, output))
    top = spec_of(rules={"num_negatives": 4}, output={"path": str(tmp_path / "top")})
    run_mine(top)
    assert not read(top.output.path, "negatives").equals(read(whole.output.path, "negatives"))


@pytest.mark.faults  # starts many processes: with the slower suites
@pytest.mark.timeout(300)
def test_ray_gives_the_same_rows(spec_of, tmp_path, ranking, folder, datasets):
    changes = {
        "rules": {"sampling_strategy": "random", "positive_share": 0.99, "same_content": True},
        "formats": ["triplet", "pylate", "flag_embedding"],
    }
    here = spec_of(**changes)
    there = spec_of(
        **changes, output={"path": str(tmp_path / "there")},
        resources={"rows_per_unit": 100, "actors": 2, "cpus_per_actor": 1},
    )  # fmt: skip

    run_mine(here)
    run_mine(there)

    assert snapshot_info(here.output.path).outputs.keys() >= {"candidates", "triplet", "pylate"}
    for output in snapshot_info(here.output.path).outputs:
        assert read(here.output.path, output).equals(read(there.output.path, output)), output


def two(folder, datasets, tmp_path, **changes):
    """A second ranking of the same queries: by another similarity, in another order."""
    return retrieve(
        tmp_path, *datasets[:2], "other", k=25,
        retrievers={"ce": {"output": "dense", "similarity": "dot"}},
        positives=str(folder / "qrels.tsv"),
        resources={"runner": "local", "rows_per_unit": 7, "rows_per_group": 90}, **changes,
    )  # fmt: skip


def test_another_ranking_can_be_the_judge(folder, datasets, spec_of, ranking, tmp_path):
    other = two(folder, datasets, tmp_path)
    both = {"dense": {"path": ranking, "depth": 20}, "ce": {"path": other}}
    rules = {"positive_share": 0.95, "num_negatives": 4}
    spec = spec_of(candidates=both, judge="ce", rules=rules)

    run_mine(spec)

    tables = {"dense": read(ranking, "dense"), "ce": read(other, "ce")}
    tables["dense"] = tables["dense"].filter(pa.compute.less_equal(tables["dense"]["rank"], 20))
    combined = combine_rankings(tables)
    scored = combined.filter(combined["ce_score"].is_valid())
    scored = scored.drop_columns("score").rename_columns({"ce_score": "score"})
    positives = read(other, "ce-positives")
    judged = judge(scored, positives, MiningRules(**rules))
    wanted = {row["query_id"]: row for row in hard_negatives(judged, positives).to_pylist()}
    found = read(spec.output.path, "negatives").to_pylist()
    assert {row["query_id"] for row in found} == wanted.keys()
    assert sum(len(row["negative_ids"]) for row in found) > N_QUERIES
    for row in found:
        expected = wanted[row["query_id"]]
        for name in ("negative_ids", "negative_scores", "negative_ranks", "negative_sources"):
            assert row[name] == expected[name]
    candidates = read(spec.output.path, "candidates")
    assert len(candidates) == len(combined)
    unscored = candidates.filter(pa.compute.is_null(candidates["score"]))
    assert len(unscored) == combined["ce_score"].null_count > 0
    assert set(unscored["reason"].to_pylist()) == {"unscored"}


def test_fused_ranks_judge_where_no_scores_are_needed(folder, datasets, spec_of, ranking, tmp_path):
    other = two(folder, datasets, tmp_path)
    both = {"dense": {"path": ranking}, "ce": {"path": other}}

    run_mine(spec_of(candidates=both, judge="fusion"))

    combined = combine_rankings({"dense": read(ranking, "dense"), "ce": read(other, "ce")})
    positives = {tuple(pair) for pair in datasets[2]}
    best = {}
    for row in combined.to_pylist():
        if (row["query_id"], row["doc_id"]) not in positives:
            best.setdefault(row["query_id"], []).append(row["doc_id"])
    found = read(str(tmp_path / "mined"), "negatives").to_pylist()
    assert {row["query_id"]: row["negative_ids"] for row in found} == {
        query: documents[:3] for query, documents in best.items()
    }


def test_a_ranking_of_another_engine_is_mined_beside_ours(spec_of, ranking, tmp_path):
    """As BM25 of a search engine would be: imported, candidates of its own, judged by fusion."""
    ours = read(ranking, "dense").to_pylist()
    queries = sorted({row["query_id"] for row in ours})
    known = {(row["query_id"], row["doc_id"]) for row in ours}
    new = [f"d{number:03}" for number in range(120)]
    lines = []
    for query in reversed(queries):
        fresh = [document for document in new if (query, document) not in known][:5]
        lines += [f"{query} Q0 {doc} {n} {20 - n} bm25" for n, doc in enumerate(fresh, 1)]
    (tmp_path / "bm25.trec").write_text("\n".join(lines) + "\n")
    imported = str(tmp_path / "bm25")
    run_import(ImportSpec(source=str(tmp_path / "bm25.trec"), path=imported, name="bm25"))
    both = {"dense": {"path": ranking}, "bm25": {"path": imported}}

    report = run_mine(spec_of(candidates=both, judge="fusion", rules={"num_negatives": 8}))

    negatives = read(report.output, "negatives").to_pylist()
    sources = {name for row in negatives for names in row["negative_sources"] for name in names}
    assert {row["query_id"] for row in negatives} == set(queries)
    assert sources == {"dense", "bm25"}
    candidates = read(report.output, "candidates")
    assert len(candidates) == len(ours) + len(lines)


def test_a_dataset_on_s3_is_the_same(folder, datasets, spec_of, ranking, tmp_path, s3_root):
    both = {"dense": {"path": ranking}, "ce": {"path": two(folder, datasets, tmp_path)}}
    changes = {"candidates": both, "judge": "ce", "formats": ["triplet"]}

    here = run_mine(spec_of(**changes))
    there = run_mine(spec_of(**changes, output={"path": f"{s3_root}/mined"}))

    for output in ("candidates", "triplet", "statistics"):
        assert read(there.output, output).equals(read(here.output, output))
    assert read_bytes(f"{s3_root}/mined/_stx/reports/1/report.md")


class Counting(View):
    """Counts finished units, and interrupts after some."""

    def __init__(self, after=-1):
        self.after, self.seen = after, 0

    def watch(self, results, plan):
        for result in results:
            yield result
            self.seen += 1
            if self.seen == self.after:
                raise KeyboardInterrupt


@pytest.mark.parametrize("after", [1, 4])
def test_an_interrupted_run_goes_on_and_reports_all(spec_of, tmp_path, after):
    spec = spec_of(rules={"positive_share": 0.9, "num_negatives": 9})
    whole = spec_of(rules=spec.rules.model_dump(), output={"path": str(tmp_path / "whole")})
    run_mine(whole)
    with pytest.raises(KeyboardInterrupt):
        run_mine(spec, Counting(after))
    rest = Counting()

    report = run_mine(spec, rest)

    assert report.committed
    assert rest.seen + after == snapshot_info(spec.output.path).outputs["negatives"]["files"]
    assert read_summary(spec.output.path, 1) == read_summary(whole.output.path, 1)
    pages = [
        (tmp_path / name / "_stx/reports/1/report.md").read_text().replace(str(tmp_path / name), "")
        for name in ("mined", "whole")
    ]
    assert pages[0] == pages[1]


def test_the_report_is_of_all_units(spec_of, tmp_path):
    spec = spec_of(rules={"positive_share": 0.9, "num_negatives": 12}, formats=["triplet"])

    report = run_mine(spec)

    candidates, negatives = (read(spec.output.path, name) for name in ("candidates", "negatives"))
    summary = read_summary(spec.output.path, 1)
    exact = MiningCounts.of(candidates, negatives, 12)
    assert summary.counts.reasons == exact.reasons
    assert summary.counts.positives.bins == exact.positives.bins
    assert (summary.counts.queries, summary.counts.short) == (N_QUERIES, exact.short)
    assert exact.short == len(read(spec.output.path, "shortfall")) > 0
    page = (tmp_path / "mined/_stx/reports/1/report.md").read_text()
    assert f"| candidates | {N_QUERIES * 40:,} |" in page
    assert "## Examples" in page
    assert "<svg" in (tmp_path / "mined/_stx/reports/1/report.html").read_text()
    assert any("reports/1/report.html" in line for line in report.lines)


def test_other_rules_read_the_rankings_again_and_change_nothing_there(spec_of, ranking, folder):
    run_mine(spec_of(rules={"positive_share": 0.95}))
    before = snapshot_info(ranking)

    again = run_mine(spec_of(rules={"positive_share": 0.8}))

    assert again.version == 2
    assert snapshot_info(ranking) == before
    stricter, looser = (
        open_snapshot(again.output, output="candidates", version=version).to_table()
        for version in (2, 1)
    )
    shares = [table["reason"].to_pylist().count("positive_share") for table in (stricter, looser)]
    assert shares[0] > shares[1]


def test_a_second_run_only_writes_a_lost_page_again(spec_of, tmp_path):
    spec = spec_of()
    run_mine(spec)
    page = tmp_path / "mined/_stx/reports/1/report.md"
    text = page.read_text()
    page.unlink()

    report = run_mine(spec)

    assert not report.committed
    assert page.read_text() == text


def test_one_more_format_makes_that_output_only(spec_of):
    before = run_mine(spec_of(formats=["ids"]))

    report = run_mine(spec_of(formats=["ids", "triplet"]))

    made = {name for name, part in report.parts.items() if part.encoded_rows}
    assert made == {"triplet"}
    first, second = (read_summary(report.output, each.version) for each in (before, report))
    assert (first.version, second.version) == (1, 2)
    assert first.counts == second.counts
    assert read(report.output, "ids").num_rows == read(report.output, "triplet").num_rows


def test_verify_passes_and_gc_keeps_committed_files(spec_of):
    spec = spec_of(formats=["triplet"])
    run_mine(spec)

    gc(spec.output.path, keep=1, margin_s=-1)

    assert list(find_problems(spec.output.path)) == []
    assert read_summary(spec.output.path, 1).counts.queries == N_QUERIES


def noted(report, *words):
    (line,) = [line for line in report.warnings if all(word in line for word in words)]
    return line


@pytest.mark.parametrize("rules", [{"same_content": True}, {"near_duplicate": 0.9}])
def test_a_copy_of_a_positive_is_warned_of_where_texts_are_not_compared(spec_of, rules):
    spec = spec_of(rules=rules)

    assert not any("same_content" in line for line in run_mine(spec).warnings)


def test_missing_judged_pairs_are_reported(datasets, spec_of, tmp_path, folder):
    judged = [pair for pair in datasets[2] if pair[0] not in ("q00", "q01")]
    odd = [("q01", "nowhere"), ("q02", "nowhere"), ("q99", "d001"), judged[0]]
    (tmp_path / "odd.tsv").write_text(qrels([*judged, *odd]))
    spec = spec_of(positives=str(tmp_path / "odd.tsv"), formats=["labeled-pair"])

    report = run_mine(spec)

    assert noted(report, "have no positive in").startswith("1 queries")
    assert noted(report, "no positive with a score").startswith("1 queries")
    assert noted(report, "have no score by dense").startswith("2 positive pairs")
    assert noted(report, "have no candidates in dense").startswith(f"1 of {N_QUERIES} queries")
    assert noted(report, "more than once").startswith("1 positive pairs")
    assert noted(report, "same_content is off")
    assert len(report.warnings) == 6
    asked = set(read(report.output, "negatives")["query_id"].to_pylist())
    assert asked == {f"q{i:02}" for i in range(2, N_QUERIES)}
    positives = sum(map(len, read(report.output, "negatives")["positive_ids"].to_pylist()))
    assert positives == len(judged)
    page = (tmp_path / "mined/_stx/reports/1/report.md").read_text()
    assert "- 2 positive pairs" in page


def test_without_scores_of_judged_pairs_those_in_the_ranking_count(
    folder, datasets, spec_of, tmp_path
):
    bare = retrieve(tmp_path, *datasets[:2], "bare", k=N_DOCUMENTS)
    whole = retrieve(
        tmp_path, *datasets[:2], "full", k=N_DOCUMENTS, positives=str(folder / "qrels.tsv")
    )
    rules = {"positive_share": 0.9}

    tables = []
    for name, path in (("a", bare), ("b", whole)):
        output = {"path": str(tmp_path / name)}
        spec = spec_of(candidates={"dense": {"path": path}}, rules=rules, output=output)
        assert noted(run_mine(spec), "same_content is off")
        tables.append(read(spec.output.path, "negatives").sort_by("query_id"))

    for name in ("query_id", "positive_ids", "negative_ids"):
        assert tables[0][name].equals(tables[1][name])


def test_k_above_the_corpus_is_a_ranking_like_others(folder, datasets, spec_of, tmp_path):
    path = retrieve(tmp_path, *datasets[:2], "all", k=1000, positives=str(folder / "qrels.tsv"))
    spec = spec_of(candidates={"dense": {"path": path}}, rules={"num_negatives": 10**6})

    run_mine(spec)

    rows = read(spec.output.path, "negatives").to_pylist()
    for row in rows:
        assert len(row["negative_ids"]) + len(row["positive_ids"]) == N_DOCUMENTS
    assert len(read(spec.output.path, "shortfall")) == N_QUERIES


FORMATS = [
    "ids", "triplet", "n-tuple", "labeled-pair", "labeled-list", "flag_embedding", "tevatron",
    "tevatron-ids", "pylate", "margin_mse", "kl",
]  # fmt: skip


def test_every_format_opens_in_datasets(spec_of):
    from datasets import load_dataset

    spec = spec_of(formats=FORMATS)
    run_mine(spec)

    for name in FORMATS:
        dataset = open_snapshot(spec.output.path, output=name)
        opened = load_dataset("parquet", data_files=dataset.files, split="train")
        assert opened.num_rows == dataset.count_rows() > 0, name
        assert opened.column_names == dataset.schema.names
    pairs = read(spec.output.path, "margin_mse")
    with_scores = read(spec.output.path, "ids")
    margins = [row["positive_score"] - row["negative_score"] for row in with_scores.to_pylist()]
    assert pairs["score"].to_pylist() == pytest.approx(margins)


def test_ids_may_be_numbers(tmp_path, static_model):
    numbers = list(range(12))
    words = [f"{first} {second}" for first in WORDS[:4] for second in WORDS[4:7]]
    model = {"dense": {"model": str(static_model)}}
    corpus = encode(tmp_path, "corpus", numbers, words, model)
    queries = encode(tmp_path, "queries", numbers[:3], WORDS[:3], model)
    (tmp_path / "qrels.tsv").write_text(qrels([(0, 4), (1, 5), (2, 6)]))
    path = retrieve(tmp_path, corpus, queries, positives=str(tmp_path / "qrels.tsv"), k=12)

    report = run_mine(mine_spec(tmp_path, path, tmp_path / "qrels.tsv", formats=["triplet", "ids"]))

    ids = read(report.output, "ids")
    assert ids.schema.field("query_id").type == ids.schema.field("negative_id").type == pa.int64()
    texts = read(report.output, "triplet").to_pylist()
    for row, text in zip(ids.to_pylist(), texts, strict=True):
        assert words[row["negative_id"]] == text["negative"]
        assert words[row["positive_id"]] == text["positive"]
    assert len(texts) == 3 * 3


def test_a_document_without_text_is_named(spec_of, folder, tmp_path):
    texts = pq.read_table(folder / "corpus.parquet")
    pq.write_table(texts.slice(40), tmp_path / "some.parquet")
    spec = spec_of(formats=["triplet"], documents={"path": str(tmp_path / "some.parquet")})

    with pytest.raises(InputError, match=r"doc_id 'd\d+' has no text"):
        run_mine(spec)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"rules": {"range_min": 5, "range_max": 3}}, "range_min must be below range_max"),
        ({"rules": {"num_negative": 5}}, "did you mean 'num_negatives'"),
        ({"judge": "ce"}, "'ce' is no ranking of candidates"),
        ({"judge": "fusion", "rules": {"positive_share": 0.9}}, "name a ranking that scored all"),
        ({"formats": ["triplet"], "documents": None}, "triplet needs the texts of documents"),
        ({"formats": ["triplet"], "queries": None}, "triplet needs their texts"),
        ({"formats": ["ids", "ids"]}, "stands twice"),
        ({"rules": {"same_content": True}, "documents": None}, "a rule on texts needs"),
    ],
)  # fmt: skip
def test_a_wrong_spec_is_refused(spec_of, changes, problem):
    with pytest.raises(SpecError, match=problem):
        spec_of(**changes)


def test_datasets_that_do_not_fit_are_refused(spec_of, ranking, datasets, tmp_path, folder):
    with pytest.raises(SpecError, match="has no output 'ce'; it has dense, dense-positives"):
        run_mine(spec_of(candidates={"ce": {"path": ranking}}))
    with pytest.raises(SpecError, match="is no ranking, it lacks rank"):
        run_mine(spec_of(candidates={"dense": {"path": ranking, "output": "dense-positives"}}))
    with pytest.raises(StoreError, match="no snapshot"):
        run_mine(spec_of(candidates={"dense": {"path": str(tmp_path / "nothing")}}))
    with pytest.raises(InputError, match=r"none\.tsv"):
        run_mine(spec_of(positives=str(tmp_path / "none.tsv")))


def test_the_plan_writes_nothing(spec_of, tmp_path):
    report = run_mine(spec_of(), dry_run=True)

    assert not report.committed
    assert not (tmp_path / "mined").exists()
