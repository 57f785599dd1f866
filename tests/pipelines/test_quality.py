"""Statistics that add up, and the gate that judges a snapshot by them before it is published."""

import json
import math
import shutil
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stx.pipelines.encode import run_encode
from stx.pipelines.encoding.keys import run_hash
from stx.pipelines.planning.corpus import content_hashes
from stx.pipelines.quality.statistics import (
    SCRIPTS,
    from_json,
    measure,
    merge,
    merge_texts,
    overlap,
    stability_index,
)
from stx.pipelines.spec.file import parse_spec
from stx_core.errors import QualityRefused, SpecError
from stx_core.store import log
from stx_core.store.schema import dense_column, sparse_column
from stx_core.store.snapshot import open_snapshot, read_manifest, snapshot_info
from tests.pipelines.conftest import WORDS

UNKNOWN = ["zebra", "quartz", "violin", "harbour"]


def measured(rows, not_finite=0):
    """Statistics of (text, vector) rows."""
    text = pa.chunked_array([pa.array([text for text, _ in rows], pa.string())])
    matrix = np.array([vector for _, vector in rows], np.float32).reshape(len(rows), 2)
    vectors = pa.chunked_array([dense_column(matrix)])
    return measure(text, pa.chunked_array([content_hashes(text)]), vectors, not_finite)


ROWS = st.lists(
    st.tuples(
        st.text(max_size=6),
        st.tuples(*[st.sampled_from([0.0, -0.0, 0.5, -2.0, 1e-3])] * 2),
    ),
    max_size=60,
)


@given(rows=ROWS, cuts=st.lists(st.integers(0, 60), max_size=5), order=st.randoms())
@settings(max_examples=40, deadline=None)
def test_statistics_of_parts_add_up_to_those_of_the_whole_in_any_order(rows, cuts, order):
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    parts = [measured(rows[a:b], 1) for a, b in zip(edges, edges[1:], strict=False)]
    order.shuffle(parts)

    added = merge(from_json(json.loads(json.dumps(part.to_json()))) for part in parts)

    whole = measured(rows, len(parts))
    exact = ("rows", "not_finite", "zeros", "lengths", "scripts", "smallest")
    assert [getattr(added, name) for name in exact] == [getattr(whole, name) for name in exact]
    assert added.norms == pytest.approx(whole.norms)
    assert added.squares == pytest.approx(whole.squares)


@given(rows=ROWS)
@settings(max_examples=40, deadline=None)
def test_statistics_equal_row_by_row_counts(rows):
    found = measured(rows)

    norms = [math.hypot(*vector) for _, vector in rows]
    assert found.rows == len(rows)
    assert found.zeros == sum(norm == 0 for norm in norms)
    assert found.norms == pytest.approx(sum(norms))
    assert found.norm_spread == pytest.approx(np.std(norms) if norms else 0, abs=1e-6)
    assert found.texts == len({text for text, _ in rows})
    bits = Counter(len(text).bit_length() for text, _ in rows)
    assert found.lengths == tuple(bits[n] for n in range(20))
    if found.texts <= 32:
        assert found.repeated_texts == pytest.approx(1 - found.texts / len(rows) if rows else 0)


def test_repeated_texts_are_estimated_across_units():
    random = np.random.default_rng(0)
    names = [f"text {i}" for i in random.integers(0, 10_000, 20_000)]
    true_share = 1 - len(set(names)) / len(names)
    parts = [
        measured([(name, (1, 1)) for name in names[i : i + 500]]) for i in range(0, 20_000, 500)
    ]

    added = merge(parts)

    # 32 sampled texts: a standard error of some 9 % points.
    assert added.repeated_texts == pytest.approx(true_share, abs=0.18)
    assert merge(parts + parts).repeated_texts > added.repeated_texts
    assert max(part.repeated_texts for part in parts) < 0.1


def test_vectors_are_compared_only_between_different_texts():
    rows = [("a", (1, 2)), ("a", (1, 2)), ("b", (3, 4)), ("c", (1, 2)), ("d", (1, 2))]

    found = measured(rows)

    assert (found.texts, found.vectors) == (4, 2)
    assert found.repeated_vectors == 0.5


def test_sparse_vectors_are_measured_like_dense_ones():
    column = sparse_column(
        np.array([0, 2, 2, 3, 5]),
        np.array([1, 5, 7, 1, 5]),
        np.array([3.0, 4.0, 2.0, 3.0, 4.0], np.float32),
    )
    text = pa.chunked_array([["a", "b", "c", "d"]])
    hashes = pa.chunked_array([content_hashes(text)])

    found = measure(text, hashes, pa.chunked_array([column]), 0)

    assert (found.zeros, found.vectors) == (1, 3)
    assert (found.norms, found.squares) == (pytest.approx(12), pytest.approx(54))


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("plain", "ascii_letters"), ("äéßű", "accented_latin"), ("λόγος", "greek"),
        ("слово", "cyrillic"), ("שלום", "hebrew_arabic"), ("سلام", "hebrew_arabic"),
        ("नमसत", "indic"), ("สวสด", "southeast_asian"), ("한국어", "hangul"), ("ひらカタ", "kana"),
        ("漢字", "han"), ("𠀀", "han"), ("2026", "digits"), ("<>;.", "symbols"), ("😀", "symbols"),
        ("\ufffd\ufffd", "broken"), ("\x00\x92", "broken"), ("ႠႡ", "other"),
    ],
)  # fmt: skip
def test_characters_are_counted_by_script_and_spaces_are_not(text, script):
    found = dict(zip(SCRIPTS, measured([(f" {text}\n", (1, 1))]).scripts, strict=True))

    assert found == dict.fromkeys(SCRIPTS, 0) | {script: len(text)}


def test_only_the_beginning_of_a_text_is_looked_at():
    assert sum(measured([("a" * 1000, (1, 1))]).scripts) == 256


def test_the_stability_index_is_the_one_of_the_textbook():
    # (0.25 - 0.5) ln(0.25 / 0.5) + (0.75 - 0.5) ln(0.75 / 0.5)
    assert stability_index([50, 50], [1, 3]) == pytest.approx(0.2746531)
    assert stability_index([5, 0, 7], [10, 0, 14]) == 0
    assert stability_index([1, 0], [0, 1]) > 5


def test_overlap_is_what_comparing_sets_of_neighbours_gives():
    random = np.random.default_rng(0)
    before, after = (random.standard_normal((30, 30)) for _ in range(2))

    def neighbours(matrix, i):
        return set(sorted(set(range(30)) - {i}, key=lambda j: -matrix[i, j])[:10])

    expected = np.mean([len(neighbours(before, i) & neighbours(after, i)) / 10 for i in range(30)])
    assert overlap(before, after, 10) == pytest.approx(expected)
    assert overlap(before, before * 2 + 1, 10) == 1


@pytest.mark.parametrize("values", [None, {}, {"rows": 3}, {"of": "a later version"}])
def test_statistics_of_another_version_of_stx_are_ignored(values):
    assert from_json(values) is None


# --- the gate -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broken_models(tmp_path_factory, static_model, save_static_model):
    """The static model of `spec_of`, with weights that are wrong in some way."""
    from safetensors.numpy import load_file

    weights = load_file(static_model / "0_StaticEmbedding" / "model.safetensors")[
        "embedding.weight"
    ]
    random = np.random.default_rng(1)
    wrong = {
        "zeros": np.zeros_like(weights),
        "permuted": random.permuted(weights, axis=1),  # the dimensions of each word on their own
        "collapsed": np.ones_like(weights),
        "longer": weights * 10,
        "knows_no_other_word": np.vstack([np.zeros_like(weights[:1]), weights[1:]]),
    }
    return {
        name: save_static_model(tmp_path_factory.mktemp(name), WORDS, values)
        for name, values in wrong.items()
    }


@pytest.fixture
def gated(spec_of, corpus):
    """A spec of the corpus with a model and thresholds."""

    def build(model=None, path=corpus, **limits):
        spec = spec_of(path, **({"models": {"dense": {"model": str(model)}}} if model else {}))
        return spec.model_copy(
            update={
                "quality": parse_spec({**spec.model_dump(mode="json"), "quality": limits}).quality
            }
        )

    return build


def facts(root, output="dense"):
    return snapshot_info(str(root)).outputs[output]["quality"]


def files(root):
    return {path for path in root.glob("data/**/*.parquet")}


@pytest.mark.parametrize(
    ("model", "check", "limits"),
    [
        ("zeros", "zero_vectors", {"zero_vectors": {"refuse": 0.05}}),
        ("permuted", "neighbour_overlap", {"neighbour_overlap": {"refuse": 0.6}}),
        ("collapsed", "duplicate_vectors", {"duplicate_vectors": {"refuse": 0.9}}),
        ("longer", "norm_drift", {"norm_drift": {"refuse": 1}}),
    ],
)
def test_a_broken_model_is_refused_and_committed_once_it_is_accepted(
    gated, broken_models, tmp_path, model, check, limits
):
    root = tmp_path / "out"
    assert run_encode(gated(**limits)).version == 1
    with pytest.raises(QualityRefused) as refused:
        run_encode(gated(broken_models[model], **limits))
    made = files(root)
    first, last = str(refused.value).split("\n")

    assert first.startswith(f"quality: output dense: {check} is ")
    assert "nothing was committed; finished units are kept" in last
    assert log.latest(str(root)).state["snapshot"]["version"] == 1
    assert [run["state"] for run in log.latest(str(root)).state["runs"].values()] == [
        "done", "paused",
    ]  # fmt: skip

    with pytest.raises(QualityRefused):  # the next night it is what it was
        run_encode(gated(broken_models[model], **limits))
    report = run_encode(gated(broken_models[model], accept=True, **limits))

    assert (report.version, report.committed) == (2, True)
    assert report.parts["dense"].encoded_rows == 0
    assert files(root) == made
    assert any(check in line for line in report.warnings)
    assert check in facts(root)["checks"]


def test_default_thresholds_warn_and_do_not_refuse(gated, broken_models, tmp_path):
    assert run_encode(gated()).warnings == []

    report = run_encode(gated(broken_models["zeros"]))

    assert report.version == 2
    warned = {line.split(":")[2].split()[0] for line in report.warnings}
    assert warned == {"zero_vectors", "duplicate_vectors", "norm_drift", "neighbour_overlap"}


def test_each_refusing_check_has_its_own_line(gated, broken_models):
    limits = {"zero_vectors": {"refuse": 0.05}, "norm_drift": {"refuse": 0.5}}
    run_encode(gated(**limits))

    with pytest.raises(QualityRefused, match="2 checks refused") as refused:
        run_encode(gated(broken_models["zeros"], **limits))

    assert len(str(refused.value).split("\n")) == 3


def test_new_rows_are_judged_by_themselves(gated, broken_models, corpus, tmp_path):
    spec = gated(broken_models["knows_no_other_word"], zero_vectors={"refuse": 0.9})
    run_encode(spec)
    unknown = [" ".join(np.roll(UNKNOWN, i)) + f" {i}" for i in range(100)]
    table = pa.table({"id": [f"u{i}" for i in range(100)], "text": unknown, "lang": ["en"] * 100})
    pq.write_table(table, corpus / "part-9.parquet")

    with pytest.raises(QualityRefused, match="100 of 100 new vectors are zero"):
        run_encode(spec)


def test_few_new_rows_are_not_judged(gated, broken_models, corpus):
    spec = gated(broken_models["knows_no_other_word"], zero_vectors={"refuse": 0.9})
    run_encode(spec)
    table = pa.table({"id": ["u"], "text": ["zebra"], "lang": ["en"]})
    pq.write_table(table, corpus / "part-9.parquet")

    assert run_encode(spec).version == 2


def test_swapped_texts_are_detected_by_neighbour_overlap(gated, corpus):
    limits = {"neighbour_overlap": {"refuse": 0.5}}
    run_encode(gated(**limits))
    for path in corpus.iterdir():
        table = pq.read_table(path)
        moved = table["text"].take(pa.array(np.random.default_rng(0).permutation(len(table))))
        pq.write_table(table.set_column(1, "text", moved), path, row_group_size=40)

    with pytest.raises(QualityRefused, match="neighbour_overlap"):
        run_encode(gated(**limits))


def test_neighbours_are_not_compared_where_nothing_can_have_changed(gated, corpus, tmp_path):
    run_encode(gated())
    for path in corpus.iterdir():
        path.touch()  # other identities, the same rows

    run_encode(gated())

    assert "neighbour_overlap" not in facts(tmp_path / "out")["checks"]


@pytest.mark.parametrize(
    "models", [{"dense": {"truncate_dim": 6}}, {"sparse": {"max_active_dims": 150}}]
)
def test_a_slightly_changed_model_keeps_most_neighbours(
    spec_of, corpus, static_model, splade_model, tmp_path, models
):
    ((kind, change),) = models.items()
    model = {"model": str(static_model if kind == "dense" else splade_model), "type": kind}
    run_encode(spec_of(corpus, models={"dense": model}))

    run_encode(spec_of(corpus, models={"dense": model | change}))

    assert 0.5 < facts(tmp_path / "out")["checks"]["neighbour_overlap"] < 1


def test_texts_in_another_script_are_detected_as_text_shift(gated, corpus):
    limits = {"text_shift": {"refuse": 0.25}}
    run_encode(gated(**limits))
    for path in corpus.iterdir():
        table = pq.read_table(path)
        cyrillic = pa.array(
            ["".join(chr(ord(c) + 0x3D0) for c in t) for t in table["text"].to_pylist()]
        )
        pq.write_table(table.set_column(1, "text", cyrillic), path, row_group_size=40)

    with pytest.raises(QualityRefused, match="ascii_letters were 100% of the characters, now 0%"):
        run_encode(gated(**limits))


def test_a_corpus_that_lost_its_files_is_refused(gated, corpus, tmp_path):
    limits = {"rows_change": {"refuse": 0.3}}
    run_encode(gated(**limits))
    (corpus / "part-0.parquet").unlink()

    with pytest.raises(QualityRefused, match="250 rows became 150"):
        run_encode(gated(**limits))

    assert open_snapshot(str(tmp_path / "out")).count_rows() == 250


def test_files_listed_twice_are_detected_as_duplicate_texts(gated, corpus):
    limits = {"duplicate_texts": {"refuse": 0.45}}
    run_encode(gated(**limits))
    for path in list(corpus.iterdir()):
        shutil.copy(path, corpus / f"copy-{path.name}")

    with pytest.raises(QualityRefused, match="duplicate_texts"):
        run_encode(gated(**limits))


def test_rows_in_quarantine_can_be_refused_before_the_commit(gated, tmp_path):
    path = tmp_path / "holes.parquet"
    table = pa.table({"id": range(200), "text": ["stars", None] * 100})
    pq.write_table(table, path)

    with pytest.raises(QualityRefused, match="100 of 200 new rows are quarantined"):
        run_encode(gated(path=path, quarantined={"refuse": 0.5}))


def test_the_statistics_in_the_snapshot_are_of_all_its_rows(gated, corpus, tmp_path):
    run_encode(gated())
    table = pa.table({"id": ["n1", "n2"], "text": ["stars", "sand"], "lang": ["en", "en"]})
    pq.write_table(table, corpus / "part-9.parquet")
    (corpus / "part-0.parquet").unlink()

    run_encode(gated())

    root = str(tmp_path / "out")
    rows = open_snapshot(root).to_table()
    found = from_json(facts(tmp_path / "out")["statistics"])
    norms = np.linalg.norm(np.array(rows["embedding"].to_pylist()), axis=1)
    assert found.rows == len(rows) == 152
    assert found.mean_norm == pytest.approx(norms.mean())
    assert found == merge_texts(read_manifest(root)["quality"].to_pylist())


def test_units_without_statistics_are_left_out(gated, corpus, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        none = SimpleNamespace(to_json=dict)
        patch.setattr("stx.pipelines.encoding.results.measure", lambda *_: none)
        run_encode(gated())
    table = pa.table({"id": ["n"], "text": ["stars"], "lang": ["en"]})
    pq.write_table(table, corpus / "part-9.parquet")

    run_encode(gated())

    assert from_json(facts(tmp_path / "out")["statistics"]).rows == 1


def test_thresholds_and_alerts_and_retention_do_not_make_another_run(gated, spec_of, corpus):
    plain = spec_of(corpus)
    quality = gated(zero_vectors={"refuse": 0.5}, accept=True).quality
    other = spec_of(corpus, output={"keep_snapshots": 2, "keep_for": "30d"})
    other = other.model_copy(update={"quality": quality})

    assert other != plain
    assert run_hash(other, {}) == run_hash(plain, {})


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"zero_vectors": {"warn": 0.5, "refuse": 0.1}}, "refuse at 0.1 comes before warn at 0.5"),
        ({"neighbour_overlap": {"warn": 0.5, "refuse": 0.8}}, "refuse at 0.8 comes before warn"),
        ({"zero_vector": {"warn": 0.5}}, "did you mean 'zero_vectors'"),
        ({"zero_vectors": {"warn": -1}}, "quality.zero_vectors.warn"),
    ],
)
def test_thresholds_that_make_no_sense_are_refused(spec_of, corpus, limits, message):
    values = spec_of(corpus).model_dump(mode="json")

    with pytest.raises(SpecError, match=message):
        parse_spec({**values, "quality": limits})


def test_the_command_ends_with_5_and_commits_what_is_accepted(
    gated, broken_models, tmp_path, stx, monkeypatch
):
    monkeypatch.setattr("stx.pipelines.running.stopping.exit_on_signals", lambda: None)
    spec = gated(broken_models["zeros"], zero_vectors={"refuse": 0.05})
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec.model_dump(mode="json")))

    code, printed, told = stx("encode", path)
    again, committed, _ = stx("encode", path, "--accept-quality")

    assert code == 5
    assert "committed" not in printed
    assert [line.split(":")[0] for line in told.splitlines() if "quality" in line] == ["stx", "stx"]
    assert "zero_vectors is 1, refused from 0.05: 250 of 250 new vectors are zero" in told
    assert again == 0
    assert "committed version 1" in committed
    assert "warning  quality: output dense: zero_vectors" in committed


def write_rows(folder, texts, lang="en"):
    for path in folder.iterdir():
        path.unlink()
    ids = [f"d{i}" for i in range(len(texts))]
    table = {"id": ids, "text": pa.array(texts, pa.string()), "lang": [lang] * len(ids)}
    pq.write_table(pa.table(table), folder / "part-0.parquet")


@pytest.mark.parametrize("n_rows", [3, 40, 150])
@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda texts: [], "no_rows is 1, refused from 1: the input has no rows"),
        (lambda texts: [None] * len(texts), "rows are quarantined"),
        (lambda texts: texts[: len(texts) // 3], "rows_lost is 0.6"),
        (lambda texts: [*texts[: len(texts) // 3], *[None] * 30], "30 are quarantined"),
    ],
)
def test_a_commit_that_empties_or_halves_a_good_snapshot_is_refused_at_any_size(
    gated, corpus, tmp_path, n_rows, change, line
):
    texts = [f"plants eat {'stars ' * i}" for i in range(n_rows)]
    write_rows(corpus, texts)
    run_encode(gated())
    write_rows(corpus, change(texts))

    with pytest.raises(QualityRefused, match="nothing was committed") as refused:
        run_encode(gated())

    assert line in str(refused.value) or n_rows == 3
    assert snapshot_info(str(tmp_path / "out")).version == 1
    assert run_encode(gated(accept=True)).version == 2


def test_a_first_commit_without_rows_is_refused(gated, corpus, tmp_path):
    write_rows(corpus, [])

    with pytest.raises(QualityRefused, match="the input has no rows"):
        run_encode(gated())

    assert log.latest(str(tmp_path / "out")).state["snapshot"] is None
    assert run_encode(gated(no_rows={})).version == 1


def test_losing_exactly_half_of_the_rows_is_accepted(gated, corpus):
    write_rows(corpus, ["plants eat"] * 40)
    run_encode(gated())
    write_rows(corpus, ["plants eat"] * 20)

    assert run_encode(gated()).version == 2


def test_a_filter_that_leaves_too_little_is_refused_and_says_so(gated, corpus):
    write_rows(corpus, ["plants eat"] * 40)
    run_encode(gated())
    spec = gated()
    inputs = spec.model_dump(mode="json")["inputs"] | {"filter": [["lang", "==", "de"]]}
    filtered = parse_spec(spec.model_dump(mode="json") | {"inputs": inputs})

    with pytest.raises(QualityRefused, match="the filters leave none of 40 rows"):
        run_encode(filtered)

    allowed = filtered.model_dump(mode="json") | {"quality": {"no_rows": {}, "rows_lost": {}}}
    assert run_encode(parse_spec(allowed)).version == 2


def test_each_output_is_judged_by_its_own_rows(spec_of, corpus, static_model):
    write_rows(corpus, ["plants eat"] * 40)
    model = {"model": str(static_model)}
    run_encode(spec_of(corpus, models={"dense": model}))

    # A second output has no version before; the first has lost nothing.
    both = {"dense": model, "second": model | {"prompt": "stars "}}
    assert run_encode(spec_of(corpus, models=both)).version == 2


def test_a_backfill_is_judged_by_the_whole_dataset(spec_of, tmp_path):
    lake = tmp_path / "lake"
    for day, n_rows in (("a", 30), ("b", 20)):
        (lake / f"day={day}").mkdir(parents=True)
        write_rows(lake / f"day={day}", ["plants eat"] * n_rows)
    run_encode(spec_of(lake))
    write_rows(lake / "day=b", [])

    # Its own part is emptied, the dataset keeps more than half.
    part = {"backfill": {"partitions": [["day", "==", "b"]]}}
    whole = spec_of(lake).model_dump(mode="json")
    assert run_encode(parse_spec(whole | part)).version == 2

    write_rows(lake / "day=a", [])
    with pytest.raises(QualityRefused, match="no_rows"):
        run_encode(parse_spec(whole | {"backfill": {"partitions": [["day", "==", "a"]]}}))
