"""Rows that the snapshot has already are not encoded, wherever they moved."""

import json
import shutil

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from stx.pipelines.encode import run_encode
from stx.pipelines.engine.runs import View
from stx.pipelines.running.cluster import start_ray
from stx_core import SentenceTransformer
from stx_core.store.snapshot import open_snapshot


class Watcher(View):
    """A view that remembers the plan."""

    def plan(self, plan):
        self.part = plan.parts["dense"]
        self.parts = plan.parts
        self.seconds = plan.seconds


def rows(root, output=None, version=None):
    table = open_snapshot(str(root), output=output, version=version).to_table()
    return {row["id"]: row for row in table.to_pylist()}


def read_corpus(folder):
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("*.parquet")))


def rewrite(folder, table, n_shards, row_group_size=40):
    """Write the corpus anew, as so many shards of other names."""
    shutil.rmtree(folder)
    folder.mkdir()
    edges = np.linspace(0, len(table), n_shards + 1).astype(int)
    for left, right in zip(edges, edges[1:], strict=False):
        path = folder / f"new-{left:05d}-{n_shards}.parquet"
        pq.write_table(table.slice(left, right - left), path, row_group_size=row_group_size)


def replace_texts(table, at, text="glass is made of sand and rivers"):
    texts = table.column("text").to_pylist()
    for row in at:
        texts[row] = f"{text} {'stars ' * row}"
    return table.set_column(1, "text", pa.array(texts))


@pytest.fixture
def encoded(monkeypatch):
    """The texts that reach the encoder, the samples of planning apart."""
    from stx.pipelines.encoding import stages

    seen = []
    encode_texts = stages.encode_texts

    def watched(encoder, texts, *tokens):
        seen.extend(texts.drop_null().unique().to_pylist())
        return encode_texts(encoder, texts, *tokens)

    monkeypatch.setattr(stages, "encode_texts", watched)
    return seen


@pytest.fixture
def base(corpus, spec_of, encoded):
    """The corpus, encoded once."""
    run_encode(spec_of(corpus), Watcher())
    encoded.clear()
    return corpus


@pytest.mark.parametrize("n_shards", [1, 7])
def test_a_resharded_corpus_is_not_encoded_again(base, spec_of, tmp_path, encoded, n_shards):
    before = rows(tmp_path / "out")
    rewrite(base, read_corpus(base), n_shards)

    report = run_encode(spec_of(base), Watcher())

    assert encoded == []
    assert rows(tmp_path / "out") == before
    assert (report.parts["dense"].encoded_rows, report.parts["dense"].carried_rows) == (0, 250)
    assert report.parts["dense"].encoded_tokens == 0


def test_a_reordered_corpus_is_not_encoded_again(base, spec_of, tmp_path, encoded):
    before = rows(tmp_path / "out")
    table = read_corpus(base).take(pa.array(np.random.default_rng(3).permutation(250)))
    rewrite(base, table, 3)

    run_encode(spec_of(base), Watcher())

    assert encoded == []
    assert rows(tmp_path / "out") == before
    ids = open_snapshot(str(tmp_path / "out")).to_table(columns=["id"])["id"]
    assert ids.to_pylist() == table["id"].to_pylist()


def test_only_changed_rows_are_encoded(base, spec_of, tmp_path, encoded, static_model):
    table = replace_texts(read_corpus(base), [3, 120, 240])
    rewrite(base, table, 3)

    report = run_encode(spec_of(base), Watcher())

    found = rows(tmp_path / "out")
    expected = SentenceTransformer(str(static_model)).encode(table["text"].to_pylist())
    written = np.array([found[name]["embedding"] for name in table["id"].to_pylist()])
    assert len(encoded) == 3
    np.testing.assert_array_equal(written, expected)
    assert (report.parts["dense"].encoded_rows, report.parts["dense"].carried_rows) == (3, 247)


def test_other_copied_columns_do_not_cost_vectors(base, spec_of, tmp_path, encoded):
    run_encode(spec_of(base, inputs={"columns": ["lang"]}), Watcher())

    assert encoded == []
    assert {row["lang"] for row in rows(tmp_path / "out").values()} == {"de", "en"}


def test_rows_gone_from_the_corpus_are_gone_from_the_snapshot(base, spec_of, tmp_path, encoded):
    rewrite(base, read_corpus(base).slice(10, 200), 3)
    watcher = Watcher()

    run_encode(spec_of(base), watcher)

    assert encoded == []
    assert rows(tmp_path / "out").keys() == {f"d{i}" for i in range(10, 210)}
    assert watcher.part.rows_gone == 50
    assert len(rows(tmp_path / "out", version=1)) == 250


def test_a_corpus_that_only_grew_builds_no_index(base, spec_of, tmp_path, encoded):
    pq.write_table(
        pa.table({"id": ["new"], "text": ["stars eat light"], "lang": ["en"]}),
        base / "part-9.parquet",
    )
    watcher = Watcher()

    run_encode(spec_of(base), watcher)

    assert watcher.part.source is None
    assert encoded == ["stars eat light"]
    assert not list((tmp_path / "out").rglob("*.arrow"))


def test_a_quarantined_row_is_looked_at_again_and_never_taken(tmp_path, spec_of, encoded):
    shard = tmp_path / "corpus" / "a.parquet"
    shard.parent.mkdir()
    pq.write_table(pa.table({"id": ["a", "b", "c"], "text": ["stars", None, "  "]}), shard)
    run_encode(spec_of(shard.parent), Watcher())
    encoded.clear()
    moved = shard.with_name("b.parquet")
    shard.rename(moved)

    report = run_encode(spec_of(shard.parent), Watcher())

    assert encoded == []
    assert report.parts["dense"].quarantined == 2
    assert rows(tmp_path / "out").keys() == {"a"}


def test_vectors_that_were_not_finite_are_not_taken(base, spec_of, tmp_path, encoded, monkeypatch):
    from stx.pipelines.encoding.stages import Encoder

    embed = Encoder.embed

    def broken(self, texts, task=None):
        result = embed(self, texts, task)
        result.values[[text.startswith("glass") for text in texts]] = np.nan
        return result

    rewrite(base, replace_texts(read_corpus(base), [5]), 2)
    monkeypatch.setattr(Encoder, "embed", broken)
    first = run_encode(spec_of(base), Watcher())
    monkeypatch.setattr(Encoder, "embed", embed)
    encoded.clear()
    rewrite(base, read_corpus(base), 5)

    second = run_encode(spec_of(base), Watcher())

    assert first.parts["dense"].quarantined > 0
    assert {text.split()[0] for text in encoded} == {"glass"}
    assert second.parts["dense"].quarantined == 0
    assert len(rows(tmp_path / "out")) == 250


def test_another_model_takes_nothing(base, spec_of, tmp_path, encoded, static_model):
    changed = {"dense": {"model": str(static_model), "normalize": True}}
    watcher = Watcher()

    report = run_encode(spec_of(base, models=changed), watcher)

    assert watcher.part.source is None
    assert (report.parts["dense"].carried_rows, report.parts["dense"].encoded_rows) == (0, 250)
    assert watcher.part.rows_gone == 250


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("store_as", ["float32", "float16"])
def test_a_shorter_cut_is_derived(corpus, spec_of, tmp_path, static_model, normalize, store_as,
                                  encoded):  # fmt: skip
    model = {"model": str(static_model), "normalize": normalize, "store_as": store_as}
    run_encode(spec_of(corpus, models={"dense": model}), Watcher())
    encoded.clear()
    models = {"dense": model, "small": model | {"truncate_dim": 4}}

    report = run_encode(spec_of(corpus, models=models), Watcher())

    found = rows(tmp_path / "out", "small")
    texts = dict(zip(*(read_corpus(corpus)[name].to_pylist() for name in ("id", "text")),
                     strict=True))  # fmt: skip
    expected = SentenceTransformer(str(static_model), truncate_dim=4).encode(
        list(texts.values()), normalize_embeddings=normalize
    )
    written = np.array([found[name]["embedding"] for name in texts])
    assert encoded == []
    assert report.parts["small"].carried_rows == 250
    exact = not normalize and store_as == "float32"
    tolerance = 0 if exact else 1e-6 if store_as == "float32" else 2e-3
    np.testing.assert_allclose(written, expected, atol=tolerance, rtol=tolerance)


def test_a_shorter_cut_of_the_same_output_is_derived(base, spec_of, tmp_path, encoded,
                                                     static_model):  # fmt: skip
    run_encode(spec_of(base, models={"dense": {"model": str(static_model), "truncate_dim": 3}}))

    assert encoded == []
    assert {len(row["embedding"]) for row in rows(tmp_path / "out").values()} == {3}


def test_a_longer_cut_is_encoded(corpus, spec_of, tmp_path, encoded, static_model):
    short = {"dense": {"model": str(static_model), "truncate_dim": 3}}
    run_encode(spec_of(corpus, models=short))
    encoded.clear()

    report = run_encode(spec_of(corpus), Watcher())

    assert report.parts["dense"].encoded_rows == 250
    assert {len(row["embedding"]) for row in rows(tmp_path / "out").values()} == {8}


def test_a_renamed_output_of_the_same_model_is_taken(base, spec_of, tmp_path, encoded,
                                                     static_model):  # fmt: skip
    models = {name: {"model": str(static_model)} for name in ("dense", "twin")}

    run_encode(spec_of(base, models=models), Watcher())

    assert encoded == []
    assert rows(tmp_path / "out", "twin") == rows(tmp_path / "out", "dense")


def test_sparse_vectors_are_carried_over(corpus, spec_of, tmp_path, encoded, splade_model):
    models = {"splade": {"model": str(splade_model), "type": "sparse", "max_active_dims": 5}}
    run_encode(spec_of(corpus, models=models), Watcher())
    before = rows(tmp_path / "out", "splade")
    encoded.clear()
    rewrite(corpus, read_corpus(corpus), 2)

    run_encode(spec_of(corpus, models=models), Watcher())

    assert encoded == []
    assert rows(tmp_path / "out", "splade") == before


def test_the_plan_says_what_will_be_encoded_carried_over_and_deleted(base, spec_of, tmp_path):
    table = replace_texts(read_corpus(base), [3, 120]).slice(0, 240)
    rewrite(base, table, 2)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    watcher = Watcher()

    run_encode(spec_of(base), watcher, dry_run=True)

    part = watcher.part
    assert (part.rows_to_encode, part.rows_carried, part.rows_gone) == (2, 238, 12)
    assert watcher.seconds is not None
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_a_plan_without_texts_to_encode_loads_no_model(base, spec_of, monkeypatch):
    from stx.pipelines.encoding import stages

    rewrite(base, read_corpus(base), 2)
    monkeypatch.setattr(stages, "load_planned", lambda *_: pytest.fail("a model was loaded"))

    report = run_encode(spec_of(base), Watcher())

    assert report.parts["dense"].carried_rows == 250


def test_an_interrupted_start_leaves_its_index_to_the_next(base, spec_of, tmp_path, monkeypatch):
    from stx.pipelines.encoding import sources

    class Stopping(View):
        def watch(self, results, plan):
            yield next(results)
            raise KeyboardInterrupt

    rewrite(base, read_corpus(base), 7)
    with pytest.raises(KeyboardInterrupt):
        run_encode(spec_of(base), Stopping())
    monkeypatch.setattr(sources, "build_index", lambda *_: pytest.fail("built again"))

    report = run_encode(spec_of(base), Watcher())

    assert report.version == 2
    assert len(rows(tmp_path / "out")) == 250


def test_rows_are_carried_over_on_another_filesystem(spec_of, tmp_path, encoded, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    memory = fsspec.filesystem("memory")
    out = {"path": "memory://carry/out"}
    table = pa.table({"id": ["a", "b"], "text": ["stars", "sand"]})
    for name in ("a", "b"):
        with memory.open(f"/carry/docs-{name}/{name}.parquet", "wb") as file:
            pq.write_table(table, file)
    run_encode(spec_of("memory://carry/docs-a", output=out), Watcher())
    encoded.clear()

    run_encode(spec_of("memory://carry/docs-b", output=out), Watcher())

    assert encoded == []
    assert set(rows("memory://carry/out")) == {"a", "b"}
    (index,) = tmp_path.glob("stx-index-*/*.arrow")
    kept = [name.rsplit("/", 1)[-1] for name in memory.find("/carry/out/_stx/runs")]
    assert index.name in kept


@pytest.mark.faults  # starts many processes: with the slower suites
@pytest.mark.timeout(300)
def test_rows_are_carried_over_by_ray(base, spec_of, tmp_path):
    before = rows(tmp_path / "out")
    rewrite(base, replace_texts(read_corpus(base), [3]), 2)
    start_ray(2)
    try:
        report = run_encode(
            spec_of(base, resources={"runner": "ray", "actors": 1, "cpus_per_actor": 1}), Watcher()
        )
    finally:
        ray.shutdown()

    found = rows(tmp_path / "out")
    assert (report.parts["dense"].encoded_rows, report.parts["dense"].carried_rows) == (1, 249)
    assert {name for name in found if found[name] != before[name]} == {"d3"}


def test_the_record_of_a_unit_says_how_many_rows_were_carried_over(base, spec_of, tmp_path):
    rewrite(base, replace_texts(read_corpus(base), [3, 120]), 1)

    run_encode(spec_of(base), Watcher())

    newest = json.loads(max((tmp_path / "out/_stx/log").glob("*.json")).read_text())
    run = newest["state"]["snapshot"]["run"]
    folder = tmp_path / "out" / "_stx" / "runs" / run / "units"
    records = [json.loads(path.read_text()) for path in folder.rglob("*.json")]
    assert sum(record["rows_out"] for record in records) == 250
    assert sum(record["rows_carried"] for record in records) == 248


def test_where_few_rows_are_new_the_plan_remembers_what_was_measured(
    corpus, spec_of, tmp_path, monkeypatch
):
    run_encode(spec_of(corpus))
    table = pq.read_table(corpus / "part-0.parquet").to_pydict()
    table["text"][3] = "glass glass"
    pq.write_table(pa.table(table), corpus / "part-0.parquet")
    monkeypatch.setattr(
        "stx.pipelines.encoding.actors.probe_here", lambda *_: pytest.fail("loaded a model")
    )
    watcher = Watcher()

    run_encode(spec_of(corpus), watcher, dry_run=True)

    assert 0 < watcher.part.rows_to_encode <= 0.05 * 250
    assert watcher.part.probe.tokens_per_row > 1
