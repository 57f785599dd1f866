"""The encode job from spec to snapshot, without Ray: the same plan, stages and files."""

import json
import os
import shutil

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx.pipelines.encode import run_encode
from stx_core import SentenceTransformer, SparseEncoder
from stx_core.errors import CommitConflict, Fenced, RunActive, SnapshotExpired, SpecError
from stx_core.store import beat, log
from stx_core.store.files import filesystem, listing
from stx_core.store.snapshot import open_snapshot, read_manifest, snapshot_info
from tests.forged import forged_pair


class Watcher:
    """A view that remembers, and can stop the run after some units."""

    def __init__(self, stop_after=None):
        self.plans, self.results, self.stop_after = [], [], stop_after

    def plan(self, plan):
        self.plans.append(plan)

    def watch(self, results, plan):
        for result in results:
            self.results.append(result)
            yield result
            if len(self.results) == self.stop_after:
                raise KeyboardInterrupt


def rows(root, output=None):
    table = open_snapshot(str(root), output=output).to_table()
    return {row["id"]: row for row in table.to_pylist()}


def everything_below(root):
    return {path: path.stat().st_mtime_ns for path in sorted(root.rglob("*")) if path.is_file()}


def test_every_row_is_in_the_snapshot_with_the_vector_of_its_text(
    corpus, spec_of, tmp_path, static_model
):
    report = run_encode(spec_of(corpus, inputs={"columns": ["lang", "text"]}), Watcher())

    found = rows(tmp_path / "out")
    model = SentenceTransformer(str(static_model))
    expected = model.encode([found[f"d{i}"]["text"] for i in range(250)])
    written = np.array([found[f"d{i}"]["embedding"] for i in range(250)])
    assert report.parts["dense"].rows == len(found) == 250
    np.testing.assert_array_equal(written, expected)
    assert [found[f"d{i}"]["lang"] for i in range(6)] == ["de", "en", "en", "de", "en", "en"]
    assert found["d7"]["n_tokens"] == len(found["d7"]["text"].split())


def test_a_run_whose_model_is_in_a_child_process_writes_the_same(spec_of, tmp_path, static_model):
    documents = [f"plants eat light {word}" for word in ("rivers", "sand", "glass", "stars") * 5]
    table = pa.table({"id": [f"d{i}" for i in range(20)], "text": documents})
    pq.write_table(table, tmp_path / "corpus.parquet")

    run_encode(spec_of(tmp_path / "corpus.parquet", resources={"supervised": True}))

    found = rows(tmp_path / "out")
    expected = SentenceTransformer(str(static_model)).encode(documents)
    written = np.array([found[f"d{i}"]["embedding"] for i in range(20)])
    np.testing.assert_array_equal(written, expected)


def test_a_second_run_with_nothing_changed_writes_nothing(corpus, spec_of, tmp_path):
    run_encode(spec_of(corpus), Watcher())
    before = everything_below(tmp_path / "out")
    watcher = Watcher()

    report = run_encode(spec_of(corpus), watcher)

    assert (report.version, report.committed) == (1, False)
    assert watcher.plans == []
    assert everything_below(tmp_path / "out") == before


def test_an_interrupted_run_goes_on_where_it_stopped(corpus, spec_of, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_encode(spec_of(corpus), Watcher(stop_after=3))
    (run,) = (tmp_path / "out" / "_stx" / "runs").iterdir()
    kept = everything_below(run / "units")
    watcher = Watcher()

    report = run_encode(spec_of(corpus), watcher)

    part = watcher.plans[0].parts["dense"]
    assert (part.n_done, len(part.due)) == (3, len(part.keys) - 3)
    assert len(watcher.results) == len(part.due)
    assert kept.items() <= everything_below(run / "units").items()
    assert report.version == 1
    assert len(rows(tmp_path / "out")) == 250


def test_only_a_new_shard_is_encoded_and_a_removed_one_leaves(corpus, spec_of, tmp_path):
    run_encode(spec_of(corpus), Watcher())
    (corpus / "part-0.parquet").unlink()
    pq.write_table(
        pa.table({"id": ["new"], "text": ["stars"], "lang": ["en"]}), corpus / "part-9.parquet"
    )
    watcher = Watcher()

    report = run_encode(spec_of(corpus), watcher)

    assert [result.rows for result in watcher.results] == [1]
    assert report.version == 2
    assert rows(tmp_path / "out").keys() == {"new", *(f"d{i}" for i in range(100, 250))}


def test_a_removed_shard_alone_makes_a_new_version_without_encoding(corpus, spec_of, tmp_path):
    run_encode(spec_of(corpus), Watcher())
    (corpus / "part-0.parquet").unlink()
    watcher = Watcher()

    run_encode(spec_of(corpus), watcher)

    assert watcher.results == []
    assert snapshot_info(str(tmp_path / "out")).version == 2
    assert len(rows(tmp_path / "out")) == 150
    old = open_snapshot(str(tmp_path / "out"), version=1)
    assert old.count_rows() == 250


def test_a_changed_setting_of_one_model_leaves_the_other_output_alone(
    corpus, spec_of, tmp_path, static_model
):
    models = {"one": {"model": str(static_model)}, "two": {"model": str(static_model)}}
    run_encode(spec_of(corpus, models=models | {"dense": models["one"]}), Watcher())
    models["two"] = models["two"] | {"normalize": True}
    watcher = Watcher()

    run_encode(spec_of(corpus, models=models | {"dense": models["one"]}), watcher)

    parts = watcher.plans[0].parts
    assert (len(parts["one"].due), len(parts["dense"].due)) == (0, 0)
    assert len(parts["two"].due) == len(parts["two"].keys)
    one, two = rows(tmp_path / "out", "one"), rows(tmp_path / "out", "two")
    assert np.linalg.norm(two["d3"]["embedding"]) == pytest.approx(1)
    assert np.linalg.norm(one["d3"]["embedding"]) != pytest.approx(1)


def test_two_outputs_come_from_one_pass_over_the_text(corpus, spec_of, static_model):
    watcher = Watcher()
    models = {"other": {"model": str(static_model), "truncate_dim": 4}}

    run_encode(spec_of(corpus, models=models), watcher)

    assert sum(result.rows for result in watcher.results) == 250
    assert all(len(result.records) == 2 for result in watcher.results)


def test_filters_leave_rows_out_and_count_them(corpus, spec_of, tmp_path):
    run_encode(spec_of(corpus, inputs={"filter": [["lang", "==", "de"]]}), Watcher())

    found = rows(tmp_path / "out")
    assert set(found) == {f"d{i}" for i in range(0, 250, 3)}
    manifest = read_manifest(str(tmp_path / "out"))
    assert sum(manifest.column("rows_filtered").to_pylist()) == 250 - len(found)


def test_partitions_that_the_filter_excludes_are_not_opened(tmp_path, spec_of):
    for lang, text in (("de", "stars"), ("en", "sand")):
        folder = tmp_path / "c" / f"lang={lang}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"id": [lang], "text": [text]}), folder / "a.parquet")
    (tmp_path / "c" / "lang=de" / "a.parquet").write_bytes(b"damaged")

    run_encode(
        spec_of(tmp_path / "c", inputs={"filter": [["lang", "==", "en"]], "columns": ["lang"]}),
        Watcher(),
    )

    found = rows(tmp_path / "out")
    assert {name: row["lang"] for name, row in found.items()} == {"en": "en"}


def test_several_text_columns_are_joined(tmp_path, spec_of):
    shard = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"id": [1, 2, 3], "title": ["stars", None, None], "body": ["sand", "sand", None]}),
        shard,
    )

    run_encode(spec_of(shard, inputs={"text_column": ["title", "body"]}), Watcher())

    found = rows(tmp_path / "out")
    assert {name: row["n_tokens"] for name, row in found.items()} == {1: 2, 2: 1}


def test_without_an_id_column_ids_are_made_of_shard_and_row(tmp_path, spec_of):
    shard = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["stars", "sand"]}), shard)

    run_encode(spec_of(shard, inputs={"id_column": None}), Watcher())

    assert set(rows(tmp_path / "out")) == {f"{shard}:0", f"{shard}:1"}


def test_a_dry_run_touches_nothing(corpus, spec_of, tmp_path):
    watcher = Watcher()

    report = run_encode(spec_of(corpus), watcher, dry_run=True)

    (plan,) = watcher.plans
    assert plan.n_due_rows == 250
    assert plan.parts["dense"].probe.dim == 8
    assert plan.parts["dense"].probe.tokens_per_row > 1
    assert plan.seconds is not None
    assert report.version is None
    assert not (tmp_path / "out").exists()


def test_a_spec_that_would_drop_an_output_is_refused(corpus, spec_of, static_model):
    both = {"other": {"model": str(static_model)}}
    run_encode(spec_of(corpus, models=both), Watcher())

    with pytest.raises(SpecError, match=r"has the outputs dense, other, the spec only dense"):
        run_encode(spec_of(corpus), Watcher())


def test_a_start_that_was_overtaken_publishes_nothing(corpus, spec_of, tmp_path, monkeypatch):
    root = str(tmp_path / "out")
    monkeypatch.setattr(beat, "TTL_S", 0)  # a newcomer that does not watch

    class Overtaken(Watcher):
        def watch(self, results, plan):
            yield from results
            entry = log.latest(root)
            (run,) = entry.state["runs"].values()
            log.claim(root, run["spec_hash"])

    with pytest.raises(Fenced, match="a newer start took over"):
        run_encode(spec_of(corpus), Overtaken())

    assert log.latest(root).state["snapshot"] is None


def test_a_run_that_another_start_works_on_is_left_to_it(corpus, spec_of, tmp_path, monkeypatch):
    monkeypatch.setattr(beat, "INTERVAL_S", 0.05)
    monkeypatch.setattr(beat, "_POLL_S", 0.2)
    second = []

    class Twice(Watcher):
        def watch(self, results, plan):
            yield from results
            with pytest.raises(RunActive, match="another start is at work"):
                run_encode(spec_of(corpus), Watcher())
            second.append(True)

    report = run_encode(spec_of(corpus), Twice())

    assert second
    assert report.version == 1
    assert log.latest(str(tmp_path / "out")).n == 2


def test_a_run_that_lost_the_race_plans_again_and_keeps_what_is_done(corpus, spec_of, tmp_path):
    class Overtaken(Watcher):
        def watch(self, results, plan):
            yield from super().watch(results, plan)
            if len(self.plans) == 1:
                run_encode(spec_of(corpus, inputs={"columns": ["lang"]}), Watcher())

    watcher = Overtaken()

    report = run_encode(spec_of(corpus), watcher)

    first, again = watcher.plans
    assert len(watcher.results) == len(first.units)
    assert (again.n_due, again.parts["dense"].n_done) == (0, len(first.units))
    assert report.version == 2
    assert "lang" not in open_snapshot(str(tmp_path / "out")).schema.names


def test_a_run_that_always_loses_the_race_gives_up(corpus, spec_of, tmp_path, static_model):
    class Overtaken(Watcher):
        def watch(self, results, plan):
            yield from super().watch(results, plan)
            model = {"model": str(static_model), "truncate_dim": len(self.plans)}
            run_encode(spec_of(corpus, models={"dense": model}), Watcher())

    watcher = Overtaken()

    with pytest.raises(CommitConflict, match="was committed meanwhile; run again"):
        run_encode(spec_of(corpus), watcher)

    assert len(watcher.plans) == 3


def test_a_moved_model_folder_is_the_same_model(corpus, spec_of, tmp_path, static_model):
    run_encode(spec_of(corpus), Watcher())
    moved = shutil.copytree(static_model, tmp_path / "moved")

    report = run_encode(spec_of(corpus, models={"dense": {"model": str(moved)}}), Watcher())

    assert report.committed is False


def test_a_changed_weight_is_another_model(corpus, spec_of, tmp_path, static_model):
    run_encode(spec_of(corpus), Watcher())
    changed = shutil.copytree(static_model, tmp_path / "changed")
    weights = changed / "0_StaticEmbedding" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    watcher = Watcher()

    run_encode(spec_of(corpus, models={"dense": {"model": str(changed)}}), watcher)

    assert sum(result.rows for result in watcher.results) == 250


def test_equal_texts_are_encoded_once_and_written_for_each_row(tmp_path, spec_of, monkeypatch):
    from stx.pipelines.encoding.stages import Encoder

    seen = []
    embed = Encoder.embed
    monkeypatch.setattr(
        Encoder, "embed", lambda self, texts, task=None: seen.append(texts) or embed(self, texts)
    )
    shard = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": [1, 2, 3], "text": ["sand", "stars", "sand"]}), shard)

    run_encode(spec_of(shard), Watcher())

    found = rows(tmp_path / "out")
    assert seen[-1] == ["sand", "stars"]
    assert found[1]["embedding"] == found[3]["embedding"] != found[2]["embedding"]


def test_jsonl_csv_and_saved_datasets_give_what_parquet_gives(tmp_path, spec_of):
    texts = ["stars", 'glass "is" made\nof sand', "light, plants"]
    data = [{"id": f"d{i}", "text": text} for i, text in enumerate(texts)]
    pq.write_table(pa.Table.from_pylist(data), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    quoted = [row["text"].replace('"', '""') for row in data]
    lines = [f'{row["id"]},"{text}"\n' for row, text in zip(data, quoted, strict=True)]
    (tmp_path / "a.csv").write_text("id,text\n" + "".join(lines))
    datasets.Dataset.from_list(data).save_to_disk(str(tmp_path / "a.saved"))
    found = []
    for name in ("a.parquet", "a.jsonl", "a.csv", "a.saved"):
        out = {"path": str(tmp_path / f"out-{name}")}

        run_encode(spec_of(tmp_path / name, output=out), Watcher())

        found.append(rows(tmp_path / f"out-{name}"))
    assert found[0] == found[1] == found[2] == found[3]
    assert len(found[0]) == 3


def test_dense_and_sparse_come_from_one_pass(corpus, spec_of, tmp_path, splade_model):
    watcher = Watcher()
    sparse = {"model": str(splade_model), "type": "sparse", "max_active_dims": 5}

    run_encode(spec_of(corpus, models={"splade": sparse}, inputs={"columns": ["text"]}), watcher)

    found = rows(tmp_path / "out", "splade")
    model = SparseEncoder(str(splade_model), max_active_dims=5)
    names = sorted(found)[:20]
    expected = model.encode([found[name]["text"] for name in names], convert_to_sparse_tensor=False)
    for name, row in zip(names, expected.numpy(), strict=True):
        vector = found[name]["sparse_embedding"]
        assert vector["indices"] == sorted(vector["indices"])
        np.testing.assert_array_equal(vector["indices"], np.flatnonzero(row))
        np.testing.assert_allclose(vector["values"], row[vector["indices"]], atol=1e-6)
    assert len(found) == len(rows(tmp_path / "out", "dense")) == 250
    assert sum(result.rows for result in watcher.results) == 250


def test_input_and_output_may_be_on_another_filesystem(spec_of, static_model):
    memory = fsspec.filesystem("memory")
    with memory.open("/lake/docs/a.parquet", "wb") as file:
        pq.write_table(pa.table({"id": ["a", "b"], "text": ["stars", "sand"]}), file)
    out = {"path": "memory://lake/out"}

    first = run_encode(spec_of("memory://lake/docs", output=out), Watcher())
    second = run_encode(spec_of("memory://lake/docs", output=out), Watcher())

    assert (first.version, first.committed, second.committed) == (1, True, False)
    assert set(rows("memory://lake/out")) == {"a", "b"}


def test_a_rollback_holds_against_the_next_encode_until_it_is_released(
    corpus, static_model, tmp_path, stx
):
    out = tmp_path / "out"
    encode = (
        "encode", corpus, out, "--model", static_model, "--set", "resources.runner=local",
        "--set", "resources.supervised=false",
    )  # fmt: skip
    assert stx(*encode)[0] == 0
    pq.write_table(pq.read_table(corpus / "part-2.parquet").slice(1), corpus / "part-2.parquet")
    assert stx(*encode)[0] == 0

    code, stdout, _ = stx("rollback", out, "1")
    assert (code, "--release" in stdout) == (0, True)
    code, _, stderr = stx(*encode)

    assert (code, len(stderr.splitlines())) == (6, 1)
    assert "holds version 3" in stderr
    assert "held" in stx("show", out)[1]
    assert stx(*encode, "--dry-run")[0] == 0
    assert snapshot_info(str(out)).version == 3
    assert stx("rollback", out)[0] == 2
    assert stx("rollback", out, "1", "--release")[0] == 2

    assert stx("rollback", out, "--release")[0] == 0
    assert stx(*encode)[0] == 0
    assert snapshot_info(str(out)).version == 4


def test_a_local_file_whose_time_was_set_back_is_seen_and_costs_only_what_changed(
    spec_of, tmp_path
):
    path = tmp_path / "lines" / "rows.jsonl"
    path.parent.mkdir()
    lines = [json.dumps({"id": f"d{i}", "text": f"plants eat {'light ' * i}"}) for i in range(9)]
    path.write_text("\n".join(lines))
    run_encode(spec_of(path.parent))
    before = path.stat()
    path.write_text("\n".join(lines).replace("plants eat light ", "rivers is  sand  ", 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)

    assert run_encode(spec_of(path.parent)).parts["dense"].encoded_rows == 1
    # A copy with the old times, as rsync makes it, is read again; nothing is encoded.
    shutil.copy2(path, tmp_path / "copy")
    os.replace(tmp_path / "copy", path)
    assert run_encode(spec_of(path.parent)).parts["dense"].encoded_rows == 0


def test_shards_that_an_earlier_stx_knew_by_size_and_time_are_carried_over_unread(
    corpus, spec_of, tmp_path, monkeypatch
):
    def as_before(status):
        return f"{status.st_size}-{status.st_mtime_ns}"

    with monkeypatch.context() as patch:
        for module in (filesystem, listing):
            patch.setattr(module, "local_identity", as_before)
        run_encode(spec_of(corpus))

    assert not run_encode(spec_of(corpus)).committed


def test_a_start_whose_version_gc_has_just_given_up_plans_again(corpus, spec_of, monkeypatch):
    from stx.pipelines.planning import dataset_state

    run_encode(spec_of(corpus))
    read, calls = dataset_state.read_manifest, []

    def expired_once(root, version):
        calls.append(version)
        if len(calls) == 1:
            raise SnapshotExpired("version 1 was removed by gc")
        return read(root, version)

    monkeypatch.setattr(dataset_state, "read_manifest", expired_once)

    assert not run_encode(spec_of(corpus)).committed
    assert len(calls) == 2


def test_two_texts_with_one_xxh3_keep_their_own_vectors(
    spec_of, corpus, tmp_path, save_static_model
):
    one, other = forged_pair()
    weights = np.eye(4, dtype=np.float32)[:3]
    model = save_static_model(tmp_path / "model", ["Ftbbbb", "Ftbbbc"], weights)
    models = {"dense": {"model": str(model)}}
    for path in corpus.iterdir():
        path.unlink()
    pq.write_table(pa.table({"id": ["a"], "text": [one]}), corpus / "part-0.parquet")
    run_encode(spec_of(corpus, models=models))

    # By carry-over from the version before, and by the pass over equal texts of all units.
    pq.write_table(pa.table({"id": ["a"], "text": [other]}), corpus / "part-0.parquet")
    for number, text in enumerate((one, other, one, other)):
        table = pa.table({"id": [f"b{number}"], "text": [text]})
        pq.write_table(table, corpus / f"part-{number + 1}.parquet")
    run_encode(spec_of(corpus, models=models, output={"dedupe": "corpus"}))

    table = open_snapshot(str(tmp_path / "out")).to_table()
    found = dict(zip(table["id"].to_pylist(), table["embedding"].to_pylist(), strict=True))
    assert found["a"] == found["b1"] == found["b3"]
    assert found["b0"] == found["b2"] != found["a"]


def test_ids_that_only_share_a_hash_are_no_duplicates(spec_of, corpus):
    for path in corpus.iterdir():
        path.unlink()
    ids = [*forged_pair(), "same", "same"]
    pq.write_table(pa.table({"id": ids, "text": ["plants"] * 4}), corpus / "part-0.parquet")

    (warning,) = [each for each in run_encode(spec_of(corpus)).warnings if "more than once" in each]

    assert warning.startswith("1 ids occur more than once, for example 'same'")
