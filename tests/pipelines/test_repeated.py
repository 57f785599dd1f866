"""``output.dedupe: corpus``: a text that stands in several units is given to the model once."""

from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx.pipelines.encode import run_encode
from stx.pipelines.encoding import stages
from stx.pipelines.engine.runs import View
from stx_core.store.gc import gc
from stx_core.store.snapshot import open_snapshot
from stx_core.store.verify import find_problems


@pytest.fixture
def given(monkeypatch):
    """Texts that the encode stage gave to models."""
    seen = []
    embed = stages._embed

    def counting(encoder, texts):
        seen.extend(texts)
        return embed(encoder, texts)

    monkeypatch.setattr(stages, "_embed", counting)
    return seen


@pytest.fixture
def lake(tmp_path):
    """Four shards of 50 rows; a third of the texts stand in all of them, some twice in one."""
    folder = tmp_path / "lake"
    folder.mkdir()
    for shard in range(4):
        texts = [f"shared {i}" if i % 3 == 0 else f"own {shard} {i}" for i in range(48)]
        texts += ["shared 0", ""]
        ids = [f"{shard}-{i}" for i in range(50)]
        pq.write_table(pa.table({"id": ids, "text": texts}), folder / f"{shard}.parquet")
    return folder


def spec(spec_of, lake, path, dedupe, **parts):
    return spec_of(lake, output={"path": str(path), "dedupe": dedupe}, **parts)


def vectors(path, output="dense"):
    return open_snapshot(str(path), output=output).to_table()


def test_each_text_is_encoded_once_and_the_dataset_is_the_same(spec_of, lake, tmp_path, given):
    run_encode(spec(spec_of, lake, tmp_path / "plain", "unit"))
    given.clear()

    report = run_encode(spec(spec_of, lake, tmp_path / "once", "corpus"))

    assert vectors(tmp_path / "once").equals(vectors(tmp_path / "plain"))
    encoded = Counter(text for text in given if text)
    assert len(encoded) == 16 + 4 * 32
    assert set(encoded.values()) == {1}
    assert report.parts["dense"].encoded_rows == 16 + 4 * 32
    assert list(find_problems(str(tmp_path / "once"))) == []


def test_a_second_run_does_nothing_and_gc_leaves_what_is_served(spec_of, lake, tmp_path):
    once = spec(spec_of, lake, tmp_path / "once", "corpus")
    run_encode(once)

    assert not run_encode(once).committed
    before = vectors(tmp_path / "once")
    assert gc(str(tmp_path / "once"), keep=1, margin_s=-1).files
    assert vectors(tmp_path / "once").equals(before)
    assert list(find_problems(str(tmp_path / "once"))) == []


def test_several_outputs_and_rows_of_the_snapshot_before(
    spec_of, lake, tmp_path, splade_model, static_model
):
    models = {
        "dense": {"model": str(static_model)},
        "splade": {"model": str(splade_model), "type": "sparse"},
    }
    for name, dedupe in (("plain", "unit"), ("once", "corpus")):
        run_encode(spec(spec_of, lake, tmp_path / name, dedupe, models=models))
    changed = pa.table({"id": [f"2-{i}" for i in range(30)], "text": ["new", "shared 3", "z"] * 10})
    pq.write_table(changed, lake / "2.parquet")
    for name, dedupe in (("plain", "unit"), ("once", "corpus")):
        run_encode(spec(spec_of, lake, tmp_path / name, dedupe, models=models))

    for output in models:
        assert vectors(tmp_path / "once", output).equals(vectors(tmp_path / "plain", output))


class Stopping(View):
    def watch(self, results, plan):
        for number, result in enumerate(results):
            yield result
            if number == 1:
                raise KeyboardInterrupt


def test_an_interrupted_run_goes_on(spec_of, lake, tmp_path):
    once = spec(spec_of, lake, tmp_path / "once", "corpus")
    with pytest.raises(KeyboardInterrupt):
        run_encode(once, Stopping())

    assert run_encode(once).committed

    run_encode(spec(spec_of, lake, tmp_path / "plain", "unit"))
    assert vectors(tmp_path / "once").equals(vectors(tmp_path / "plain"))


@pytest.mark.faults  # starts many processes: with the slower suites
@pytest.mark.timeout(300)
def test_ray_finds_repeated_texts_too(spec_of, lake, tmp_path):
    ray = {"runner": "ray", "actors": 2, "cpus_per_actor": 1}
    report = run_encode(spec(spec_of, lake, tmp_path / "once", "corpus", resources=ray))

    assert report.parts["dense"].encoded_rows == 16 + 4 * 32
    run_encode(spec(spec_of, lake, tmp_path / "plain", "unit"))
    assert vectors(tmp_path / "once").equals(vectors(tmp_path / "plain"))


def test_without_repetition_nothing_is_written_twice(spec_of, tmp_path):
    folder = tmp_path / "lake"
    folder.mkdir()
    for shard in range(2):
        table = pa.table({"id": [f"{shard}-{i}" for i in range(9)],
                          "text": [f"text {shard} {i}" for i in range(9)]})  # fmt: skip
        pq.write_table(table, folder / f"{shard}.parquet")

    run_encode(spec(spec_of, folder, tmp_path / "once", "corpus"))

    assert len(list((tmp_path / "once/data/dense").iterdir())) == 2
