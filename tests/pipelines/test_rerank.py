"""The rerank job against CrossEncoder by hand, and as a job: resume, no-op, bad input."""

import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from stx.pipelines.engine.runs import View
from stx.pipelines.export import run_export
from stx.pipelines.rerank import run_rerank
from stx.pipelines.reranking.candidates import cut
from stx.pipelines.reranking.scorers import PAIR, RerankerSettings, Score, Scorer, score_pairs
from stx.pipelines.spec.file import parse_spec
from stx.pipelines.spec.retrieval import RerankSpec
from stx_core import CrossEncoder
from stx_core.errors import InputError, ModelError, SpecError
from stx_core.models.results import Scored
from stx_core.store.snapshot import open_snapshot, snapshot_info
from stx_core.store.verify import find_problems
from tests.pipelines.conftest import texts
from tests.pipelines.retrieval import read_ranking
from tests.pipelines.test_report import numbers, page, tables

N_QUERIES, N_DOCUMENTS, N_CANDIDATES = 12, 60, 9
LOCAL = {"runner": "local", "rows_per_unit": 30, "cpus_per_actor": 1, "supervised": False}


def save_cross_encoder(folder, tokenizer, seed, labels=1):
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=256,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        initializer_range=0.5,
        num_labels=labels,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    return str(folder)


@pytest.fixture(scope="session")
def judges(tmp_path_factory, tiny_tokenizer):
    """Two rerankers, and a classifier of three labels."""
    folder = tmp_path_factory.mktemp("judges")
    seeds = {"small": (1, 1), "other": (2, 1), "classes": (3, 3)}
    return {
        name: save_cross_encoder(folder / name, tiny_tokenizer, *numbers)
        for name, numbers in seeds.items()
    }


class Lake:
    """Queries, documents and candidates; the documents 20 to 24 have the text of document 0."""

    def __init__(self, folder, integers=False):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        words = texts(N_DOCUMENTS, seed=1)
        words[20:25] = words[:1] * 5
        ids = list(range(N_DOCUMENTS)) if integers else [f"d{i:02}" for i in range(N_DOCUMENTS)]
        names = list(range(N_QUERIES)) if integers else [f"q{i}" for i in range(N_QUERIES)]
        self.documents = dict(zip(ids, words, strict=True))
        self.queries = dict(zip(names, texts(N_QUERIES, seed=2), strict=True))
        for name, known in (("documents", self.documents), ("queries", self.queries)):
            table = pa.table({"id": list(known), "text": list(known.values())})
            pq.write_table(table, folder / f"{name}.parquet", row_group_size=7)
        random = np.random.default_rng(3)
        self.candidates = {
            query: [ids[i] for i in random.permutation(N_DOCUMENTS)[:N_CANDIDATES]]
            for query in names
        }
        some = list(self.candidates)[0]
        self.candidates[some] = [ids[i] for i in (24, 3, 20, 0, 22)]  # four of them tie

    def rows(self):
        return [
            {"query_id": query, "doc_id": doc, "rank": rank, "score": 100.0 - rank}
            for query, docs in self.candidates.items()
            for rank, doc in enumerate(docs, 1)
        ]

    def write(self, kind):
        path = self.folder / kind
        rows = self.rows()
        if kind == "run.parquet":
            # Queries apart and ranks mixed: the job must sort.
            order = np.random.default_rng(0).permutation(len(rows))
            by_query = sorted((rows[i] for i in order), key=lambda row: str(row["query_id"])[::-1])
            pq.write_table(pa.Table.from_pylist(by_query), path)
        elif kind == "run.trec":
            lines = [f"{r['query_id']} Q0 {r['doc_id']} {r['rank']} {r['score']} x" for r in rows]
            path.write_text("\n".join(lines) + "\n")
        elif kind == "top_ranked.jsonl":
            lines = [
                json.dumps({"query-id": query, "corpus-ids": docs})
                for query, docs in self.candidates.items()
            ]
            path.write_text("\n".join(lines) + "\n")
        return str(path)

    def spec(self, judges, **changes):
        values = {
            "candidates": {"path": str(self.folder / "run.parquet")},
            "queries": {"path": str(self.folder / "queries.parquet")},
            "documents": {"path": str(self.folder / "documents.parquet")},
            "rerankers": {"small": {"model": judges["small"]}},
            "output": {"path": str(self.folder / "out")},
            "resources": LOCAL,
        } | changes
        return parse_spec(
            {name: value for name, value in values.items() if value is not None}, kind=RerankSpec
        )

    def by_hand(self, model, top_k=None, depth=None):
        """{query: [(document, rank, score, before rank), …]} with `CrossEncoder.predict`."""
        encoder = CrossEncoder(model)
        found = {}
        for query, docs in self.candidates.items():
            docs = docs[:depth]
            scores = encoder.predict(
                [(self.queries[query], self.documents[doc]) for doc in docs], batch_size=1
            )
            hits = sorted(
                (-round(float(score), 5), doc, before)
                for before, (doc, score) in enumerate(zip(docs, scores, strict=True), 1)
            )
            found[query] = [
                (doc, rank, -score, before)
                for rank, (score, doc, before) in enumerate(hits[:top_k], 1)
            ]
        return found


@pytest.fixture
def lake(tmp_path):
    made = Lake(tmp_path)
    made.write("run.parquet")
    return made


def ranking(path, output="small"):
    found = {}
    for row in open_snapshot(path, output=output).to_table().to_pylist():
        hit = (row["doc_id"], row["rank"], row["score"], row["before_rank"])
        found.setdefault(row["query_id"], []).append(hit)
    return found


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for query, hits in found.items():
        wanted = expected[query]
        assert [(hit[0], hit[1], hit[3]) for hit in hits] == [
            (hit[0], hit[1], hit[3]) for hit in wanted
        ], query
        assert [hit[2] for hit in hits] == pytest.approx([hit[2] for hit in wanted], abs=2e-5)


def test_a_ranking_is_that_of_the_model_by_hand(lake, judges):
    spec = lake.spec(judges)

    report = run_rerank(spec)

    assert report.committed
    assert report.warnings == []
    assert report.parts["small"].encoded_tokens > 0
    assert_same(ranking(spec.output.path), lake.by_hand(judges["small"]))
    model, query = CrossEncoder(judges["small"]), "q3"
    docs = sorted(lake.candidates[query])  # `rank` leaves ties as they came
    ranked = model.rank(lake.queries[query], [lake.documents[doc] for doc in docs])
    assert [docs[hit["corpus_id"]] for hit in ranked] == [
        hit[0] for hit in ranking(spec.output.path)[query]
    ]
    assert list(find_problems(spec.output.path)) == []


def test_the_page_tells_of_scores_tokens_and_what_was_quarantined(lake, judges):
    spec = lake.spec(judges)
    report = run_rerank(spec)

    found = tables(page(lake.folder / "out"))
    scores = open_snapshot(spec.output.path, output="small").to_table()["score"].to_numpy()
    told = numbers(found["Scores: small"])
    assert (told["pairs"], told["mean"]) == (str(len(scores)), f"{scores.mean():.4f}")
    assert numbers(found["Summary"])["tokens read"] == str(report.parts["small"].encoded_tokens)
    assert found["Throughput"][0] == ["from second", "candidates/s", "tokens/s"]


def test_ties_are_decided_by_the_id(lake, judges):
    spec = lake.spec(judges)

    run_rerank(spec)

    scored = {hit[0]: hit for hit in ranking(spec.output.path)["q0"]}
    tied = ["d00", "d20", "d22", "d24"]
    assert len({scored[doc][2] for doc in tied}) == 1
    places = [scored[doc][1] for doc in tied]
    assert places == list(range(places[0], places[0] + 4))


def test_several_rerankers_top_k_and_depth(lake, judges):
    rerankers = {name: {"model": judges[name]} for name in ("small", "other")}
    candidates = {"path": str(lake.folder / "run.parquet"), "depth": 5}
    spec = lake.spec(judges, rerankers=rerankers, top_k=3, candidates=candidates)

    run_rerank(spec)

    for name in rerankers:
        expected = lake.by_hand(judges[name], top_k=3, depth=5)
        assert_same(ranking(spec.output.path, name), expected)
    facts = snapshot_info(spec.output.path).outputs
    assert facts["small"]["fingerprint"] != facts["other"]["fingerprint"]
    assert facts["small"]["candidates"]["depth"] == 5
    assert facts["small"]["candidates"]["path"] == candidates["path"]


@pytest.mark.parametrize("rows_per_unit", [1, 1000])
def test_units_do_not_change_the_ranking(lake, judges, rows_per_unit):
    spec = lake.spec(judges, resources=LOCAL | {"rows_per_unit": rows_per_unit})

    run_rerank(spec)

    assert_same(ranking(spec.output.path), lake.by_hand(judges["small"]))
    n_files = snapshot_info(spec.output.path).outputs["small"]["files"]
    assert n_files == (N_QUERIES if rows_per_unit == 1 else 1)


@pytest.mark.faults  # starts many processes: with the slower suites
@pytest.mark.timeout(300)
def test_ray_actors_in_children_give_the_same_files(tmp_path, lake, judges):
    here = lake.spec(judges)
    there = lake.spec(
        judges,
        output={"path": str(tmp_path / "there")},
        resources={"rows_per_unit": 30, "actors": 1, "cpus_per_actor": 1},
    )

    run_rerank(here)
    run_rerank(there)

    tables = [open_snapshot(spec.output.path).to_table() for spec in (here, there)]
    plain = [table.drop_columns(["score"]) for table in tables]
    assert plain[0].equals(plain[1])
    np.testing.assert_allclose(tables[0]["score"], tables[1]["score"], atol=1e-6)


@pytest.mark.parametrize("kind", ["run.trec", "top_ranked.jsonl"])
def test_candidates_are_read_from_files_of_other_engines(lake, judges, kind):
    spec = lake.spec(judges, candidates={"path": lake.write(kind)})

    run_rerank(spec)

    assert_same(ranking(spec.output.path), lake.by_hand(judges["small"]))


def test_a_ranking_can_be_reranked_and_exported(tmp_path, lake, judges):
    first = lake.spec(judges, top_k=6)
    run_rerank(first)
    spec = lake.spec(
        judges,
        candidates={"path": first.output.path, "depth": 4},
        rerankers={"other": {"model": judges["other"]}},
        output={"path": str(tmp_path / "second")},
    )

    run_rerank(spec)

    lake.candidates = {
        query: [hit[0] for hit in hits] for query, hits in ranking(first.output.path).items()
    }
    assert_same(ranking(spec.output.path, "other"), lake.by_hand(judges["other"], depth=4))
    facts = snapshot_info(spec.output.path).outputs["other"]["candidates"]
    assert facts == {"path": first.output.path, "version": 1, "output": "small", "depth": 4}
    target = tmp_path / "top.jsonl"
    run_export(spec.output.path, str(target), "top_ranked")
    best = {row["query-id"]: row["corpus-ids"] for row in map(json.loads, target.open())}
    found = ranking(spec.output.path, "other")
    assert best == {query: [hit[0] for hit in hits] for query, hits in found.items()}


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_candidates_with_texts_need_no_corpus(lake, judges, kind):
    path = lake.folder / f"pairs.{kind}"
    rows = [
        {"query": lake.queries[row["query_id"]], "document": lake.documents[row["doc_id"]]}
        for row in lake.rows()
    ]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = lake.spec(judges, candidates={"path": str(path)}, queries=None, documents=None)

    run_rerank(spec)

    found = ranking(spec.output.path)
    row_of = lambda place: int(place.removeprefix(f"{path}:"))  # noqa: E731
    expected = lake.by_hand(judges["small"])
    assert len(found) == len(set(lake.queries.values()))
    for query, hits in found.items():
        name = lake.rows()[row_of(query)]["query_id"]
        best = [round(hit[2], 4) for hit in hits]
        assert best == pytest.approx([hit[2] for hit in expected[name]], abs=2e-4)
        assert sorted(lake.rows()[row_of(hit[0])]["doc_id"] for hit in hits) == sorted(
            lake.candidates[name]
        )
        assert {rows[row_of(hit[0])]["query"] for hit in hits} == {lake.queries[name]}


def test_texts_of_a_table_and_ids_of_a_corpus_go_together(lake, judges):
    path = lake.folder / "mixed.parquet"
    rows = [row | {"query": lake.queries[row["query_id"]]} for row in lake.rows()]
    pq.write_table(pa.Table.from_pylist(rows), path)
    spec = lake.spec(judges, candidates={"path": str(path)}, queries=None)

    run_rerank(spec)

    assert_same(ranking(spec.output.path), lake.by_hand(judges["small"]))


def test_a_file_of_strings_finds_numbers(tmp_path, judges):
    lake = Lake(tmp_path / "integers", integers=True)
    lake.write("run.trec")
    strings = lake.spec(judges, candidates={"path": str(lake.folder / "run.trec")})
    run_rerank(strings)
    expected = lake.by_hand(judges["small"])
    found = ranking(strings.output.path)
    by_number = {
        int(query): [(int(hit[0]), *hit[1:]) for hit in hits] for query, hits in found.items()
    }
    # Equal scores: "20" before "3", but 3 before 20.
    assert {query: {hit[0]: hit[3] for hit in hits} for query, hits in by_number.items()} == {
        query: {hit[0]: hit[3] for hit in hits} for query, hits in expected.items()
    }


def test_integer_ids_stay_integers_in_datasets(tmp_path, judges, static_model):
    from stx.pipelines.retrieve import run_retrieve
    from tests.pipelines.retrieval import encode, spec_for

    lake = Lake(tmp_path / "integers", integers=True)
    model = {"dense": {"model": str(static_model)}}
    paths = [
        encode(tmp_path, name, list(known), list(known.values()), model)
        for name, known in (("corpus", lake.documents), ("asked", lake.queries))
    ]
    retrieved = spec_for(tmp_path, *paths)
    run_retrieve(retrieved)
    lake.candidates = {
        query: [hit[0] for hit in hits]
        for query, hits in read_ranking(retrieved.output.path, "dense").items()
    }
    spec = lake.spec(judges, candidates={"path": retrieved.output.path})

    run_rerank(spec)

    assert open_snapshot(spec.output.path).schema.field("doc_id").type == pa.int64()
    assert_same(ranking(spec.output.path), lake.by_hand(judges["small"]))


def write_qrels(lake, pairs):
    path = lake.folder / "qrels.tsv"
    lines = [f"{query}\t{doc}\t{score}" for query, doc, score in pairs]
    path.write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    return str(path)


def test_positives_are_scored_whatever_their_rank(lake, judges):
    among = lake.candidates["q1"][8]
    other = next(doc for doc in lake.documents if doc not in lake.candidates["q1"])
    pairs = [("q1", among, 1), ("q1", other, 2), ("q1", "nowhere", 1), ("q2", other, 0),
             ("nobody", other, 1)]  # fmt: skip
    spec = lake.spec(
        judges,
        positives=write_qrels(lake, pairs),
        top_k=3,
        rerankers={name: {"model": judges[name]} for name in ("small", "other")},
    )

    report = run_rerank(spec)

    for name in ("small", "other"):
        assert_same(ranking(spec.output.path, name), lake.by_hand(judges[name], top_k=3))
        judged = open_snapshot(spec.output.path, output=f"{name}-positives").to_table()
        assert judged.column_names == ["query_id", "doc_id", "score"]
        model = CrossEncoder(judges[name])
        expected = {
            ("q1", doc): model.predict((lake.queries["q1"], lake.documents[doc]))
            for doc in (among, other)
        }
        found = {(r["query_id"], r["doc_id"]): r["score"] for r in judged.to_pylist()}
        assert found == pytest.approx(expected, abs=1e-5)
    assert [line.split(" were not")[0] for line in report.warnings] == [
        f"{name}-positives: 2 of 4 positive pairs of {spec.positives}"
        for name in ("small", "other")
    ]
    assert list(find_problems(spec.output.path)) == []


def quarantine(spec):
    folder = f"{spec.output.path}/quarantine/small"
    files = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    rows = [row for name in files for row in pq.read_table(f"{folder}/{name}").to_pylist()]
    return {tuple(row["id"].split("\t")): (row["row"], row["reason"]) for row in rows}


def test_pairs_without_texts_are_quarantined_with_the_reason(lake, judges):
    lake.candidates["q1"][2] = "lost"
    lake.candidates["ghost"] = ["d00", "d01"]
    lake.write("top_ranked.jsonl")
    table = pq.read_table(lake.folder / "documents.parquet").to_pylist()
    doc = lake.candidates["q5"][0]
    changed = [row | {"text": None} if row["id"] == doc else row for row in table]
    pq.write_table(pa.Table.from_pylist(changed), lake.folder / "documents.parquet")
    spec = lake.spec(judges, candidates={"path": str(lake.folder / "top_ranked.jsonl")})

    report = run_rerank(spec)

    silent = {(query, doc) for query, docs in lake.candidates.items() if doc in docs}
    expected = {("q1", "lost"): "unknown_document", ("ghost", "d00"): "unknown_query",
                ("ghost", "d01"): "unknown_query"}  # fmt: skip
    expected |= dict.fromkeys(silent - expected.keys(), "null_text")
    found = quarantine(spec)
    assert {pair: reason for pair, (_, reason) in found.items()} == expected
    ordered = sorted(
        (query, rank, doc)
        for query, docs in lake.candidates.items()
        for rank, doc in enumerate(docs)
    )
    assert {pair: row for pair, (row, _) in found.items()} == {
        (query, doc): row for row, (query, _, doc) in enumerate(ordered) if (query, doc) in expected
    }
    n_pairs = sum(len(docs) for docs in lake.candidates.values())
    assert report.parts["small"].rows == n_pairs - len(expected)
    assert report.parts["small"].quarantined == len(expected)
    (warning,) = report.warnings
    assert f"{len(expected)} candidates could not be scored, such as query" in warning
    assert list(find_problems(spec.output.path)) == []
    kept = {query: len(hits) for query, hits in ranking(spec.output.path).items()}
    assert "ghost" not in kept
    assert kept["q1"] == N_CANDIDATES - 1 - (("q1", doc) in silent)


def test_a_repeated_document_is_ranked_once_by_its_best_rank(lake, judges):
    lake.candidates["q1"][5] = lake.candidates["q1"][1]
    spec = lake.spec(judges, candidates={"path": lake.write("run.trec")})

    run_rerank(spec)

    del lake.candidates["q1"][5]
    found = ranking(spec.output.path)["q1"]
    assert len(found) == N_CANDIDATES - 1
    again = [hit[3] for hit in found if hit[0] == lake.candidates["q1"][1]]
    assert again == [2]


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


def test_an_interrupted_run_goes_on_and_a_second_one_does_nothing(lake, judges, monkeypatch):
    spec = lake.spec(judges)
    with pytest.raises(KeyboardInterrupt):
        run_rerank(spec, Stopping(2))
    # The index of an earlier start is taken.
    monkeypatch.setattr("stx.pipelines.retrieval.text_lookup.write_index", None)
    counter = Stopping(-1)

    assert run_rerank(spec, counter).committed

    assert counter.seen == 2  # of 4 units
    assert_same(ranking(spec.output.path), lake.by_hand(judges["small"]))
    assert not run_rerank(spec).committed


def test_units_that_stayed_are_carried_over(tmp_path, lake, judges):
    first = lake.spec(judges, output={"path": str(tmp_path / "before")})
    run_rerank(first)
    spec = lake.spec(judges, candidates={"path": first.output.path})
    counter = Stopping(-1)
    run_rerank(spec, counter)
    assert counter.seen == 4
    rerankers = {name: {"model": judges[name]} for name in ("small", "other")}
    both = lake.spec(judges, candidates={"path": first.output.path}, rerankers=rerankers)
    counter = Stopping(-1)
    due = []
    counter.plan = lambda work: due.append([sorted(unit.keys) for unit in work.due_units()])

    run_rerank(both, counter)

    assert due == [[["other"]] * 4]


def test_changed_texts_are_scored_again(lake, judges):
    spec = lake.spec(judges)
    run_rerank(spec)
    lake.queries["q4"] = "glass stars"
    table = pa.table({"id": list(lake.queries), "text": list(lake.queries.values())})
    pq.write_table(table, lake.folder / "queries.parquet")

    assert run_rerank(spec).committed

    assert_same(ranking(spec.output.path), lake.by_hand(judges["small"]))


def test_the_plan_writes_nothing(lake, judges):
    assert not run_rerank(lake.spec(judges), dry_run=True).committed
    assert not (lake.folder / "out").exists()


def test_a_classifier_is_refused(lake, judges):
    with pytest.raises(ModelError, match="scores 3 labels"):
        run_rerank(lake.spec(judges, rerankers={"small": {"model": judges["classes"]}}))


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["q0 Q0 d00 1 9.5 x", "q0 Q0 d01 first 9.4 x"], "line 2"),
        (["q0 Q0 d00 1 9.5 x", "q0 Q0"], "line 2"),
        ([], "no candidates"),
    ],
)
def test_bad_lines_of_candidates_are_named(lake, judges, lines, problem):
    path = lake.folder / "bad.trec"
    path.write_text("".join(line + "\n" for line in lines))

    with pytest.raises(InputError, match=problem):
        run_rerank(lake.spec(judges, candidates={"path": str(path)}))


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"query": None, "document": "x"}, {"query": "a", "document": "x"}], "query is null"),
        ([{"query": "a", "document": "x"}, {"query": "a", "document": 5}], "document"),
        ([{"query": "a"}], "needs a column document"),
    ],
)
def test_bad_rows_of_text_tables_are_named(lake, judges, rows, problem):
    path = lake.folder / "bad.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    with pytest.raises(InputError, match=problem):
        run_rerank(lake.spec(judges, candidates={"path": str(path)}))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"documents": None}, "documents: needed for the texts"),
        ({"rerankers": {"small": {"model": "x", "normalize": True}}}, "normalize"),
        ({"rerankers": {}}, "rerankers"),
    ],
)
def test_a_wrong_spec_is_refused(lake, judges, changes, problem):
    with pytest.raises(SpecError, match=problem):
        run_rerank(lake.spec(judges, **changes))


def test_a_dataset_of_vectors_is_no_ranking(tmp_path, lake, judges, static_model):
    from tests.pipelines.retrieval import encode

    vectors = encode(tmp_path, "vectors", ["d"], ["sand"], {"dense": {"model": str(static_model)}})

    with pytest.raises(SpecError, match="no ranking"):
        run_rerank(lake.spec(judges, candidates={"path": vectors}))


def test_queries_are_never_cut():
    sizes = np.array([3, 3, 10, 1, 1])

    assert list(cut(sizes, 6, None)) == [(0, 6), (6, 16), (16, 18)]
    assert list(cut(sizes, 6, 2)) == [(0, 16), (16, 18)]
    assert list(cut(sizes[:0], 6, None)) == []


class Odd(Scorer):
    """Gives NaN for one word, and not in float32 for another."""

    def __init__(self, settings):
        self.settings, self.model, self.calls = settings, torch.nn.Linear(1, 1), []

    def _score(self, pairs):
        self.calls.append(pairs)
        scores = [
            float("nan") if doc == "nan" or (doc == "half" and len(self.calls) == 1) else len(doc)
            for _, doc in pairs
        ]
        counts = np.full(len(pairs), 4, np.int32)
        return Scored(np.array(scores, np.float32), counts, counts > 9)


def test_equal_pairs_are_scored_once_and_what_is_not_finite_again_in_float32():
    settings = RerankerSettings("m", None, "", None, None, "float16", False, False)
    scorer = Odd(settings)
    pairs = [("q", "dd"), ("q", "nan"), None, ("q", "half"), ("q", "dd"), ("r", "dd")]
    structs = [pair and dict(zip(("query", "document"), pair, strict=True)) for pair in pairs]

    columns = score_pairs(scorer, pa.array(structs, PAIR))

    assert sorted(scorer.calls[0]) == [("q", "dd"), ("q", "half"), ("q", "nan"), ("r", "dd")]
    assert sorted(scorer.calls[1]) == [("q", "half"), ("q", "nan")]
    scores = columns["score"].to_pylist()
    assert [scores[i] for i in (0, 2, 3, 4, 5)] == [2, None, 4, 2, 2]
    reasons = [item and item["reason"] for item in columns["rejected"].to_pylist()]
    assert reasons == [None, "not_finite", None, None, None, None]


class Deadly(Score):
    """Ends its process at some text."""

    def __call__(self, table):
        if any(text and "poison" in text["document"] for text in table["_text"].to_pylist()):
            os.abort()
        return super().__call__(table)


@pytest.mark.faults  # starts many processes: with the slower suites
@pytest.mark.timeout(300)
def test_a_text_that_ends_the_process_costs_its_pairs_only(lake, judges, monkeypatch):
    monkeypatch.setattr("stx.pipelines.reranking.units.Score", Deadly)
    lake.candidates = {"q7": lake.candidates["q7"][:2]}
    lake.write("run.parquet")
    doc = lake.candidates["q7"][1]
    table = pq.read_table(lake.folder / "documents.parquet").to_pylist()
    changed = [row | {"text": "poison"} if row["id"] == doc else row for row in table]
    pq.write_table(pa.Table.from_pylist(changed), lake.folder / "documents.parquet")
    resources = LOCAL | {"supervised": True, "rows_per_unit": 1000}
    spec = lake.spec(judges, resources=resources)

    report = run_rerank(spec)

    assert report.parts["small"].reasons == {"crash": 1}
    assert list(quarantine(spec)) == [("q7", doc)]
    assert [hit[0] for hit in ranking(spec.output.path)["q7"]] == lake.candidates["q7"][:1]
