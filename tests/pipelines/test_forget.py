"""Rows that are forgotten are in no file of the dataset any more; nothing else is lost."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx.pipelines.encode import run_encode
from stx.pipelines.forget import run_forget
from stx.pipelines.retrieve import run_retrieve
from stx_core.errors import RunActive, SnapshotExpired, SpecError, Stopped
from stx_core.store import beat, forget, log
from stx_core.store.files.filesystem import list_objects, read_bytes, write_new
from stx_core.store.files.s3 import S3Options, use_options
from stx_core.store.files.urls import join
from stx_core.store.gc import gc
from stx_core.store.schema import dense_matrix, from_parquet
from stx_core.store.snapshot import open_snapshot, quarantined_rows, read_manifest, snapshot_info
from stx_core.store.verify import find_problems
from tests.pipelines.conftest import texts
from tests.pipelines.retrieval import lake, spec_for

# Longer than the texts of all others, so that no other row has its vector.
LONG = "stars sand glass stars sand glass stars sand light"
GOOD, BAD = "person-good", "person-bad"
COLUMNS = {"columns": ["lang"]}


def people_table():
    """Twenty rows, two of them of persons: one with a text, one without, so in quarantine."""
    ids = [f"p{i}" for i in range(18)] + [GOOD, BAD]
    notes = ["en"] * 18 + ["note-of-good", "note-of-bad"]
    return pa.table({"id": ids, "text": [*texts(18, seed=9), LONG, ""], "lang": notes})


def one_row(name):
    return pa.table({"id": [name], "text": ["stars"], "lang": ["en"]})


def traces(root, needles, vectors=()):
    """Files with a text, or with a vector, as they are and with their columns decompressed."""
    left = []
    for file in list_objects(root):
        data = read_bytes(join(root, file.name))
        text, numbers = data.decode("latin-1") + file.name, data
        if data.startswith(b"PAR1") and data.endswith(b"PAR1"):
            table = from_parquet(data)
            text += repr(table.to_pydict())
            if "embedding" in table.column_names:
                numbers += dense_matrix(table["embedding"]).tobytes()
        has_vector = any(vector in numbers for vector in vectors)
        if has_vector or any(needle in text for needle in needles):
            left.append(file.name)
    return left


def vectors_of(root, ids):
    """Bytes of the vectors of some rows, of all outputs."""
    rows = []
    for output in snapshot_info(root).outputs:
        table = open_snapshot(root, output=output).to_table()
        chosen = table.filter(pa.compute.is_in(table["id"], pa.array(ids)))
        rows.extend(dense_matrix(chosen["embedding"]))
    return [row.tobytes() for row in rows]


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out")


@pytest.fixture
def spec(spec_of, corpus, static_model):
    """Two outputs, and a column that is copied."""

    def build(path=corpus, **parts):
        # First: a run that stops after one unit has done this one.
        short = {"short": {"model": str(static_model), "truncate_dim": 4}}
        return spec_of(path, **({"inputs": COLUMNS, "models": short} | parts))

    return build


@pytest.fixture
def people(corpus, spec):
    """Versions 1 without the persons, 2 with them, 3 with their files carried over."""
    run_encode(spec())
    pq.write_table(people_table(), corpus / "a-people.parquet")
    run_encode(spec())
    pq.write_table(one_row("later"), corpus / "later.parquet")
    run_encode(spec())


def ids_of(root, **which):
    ids = set()
    for output in snapshot_info(root).outputs:
        ids |= set(open_snapshot(root, output=output, **which).to_table()["id"].to_pylist())
    return ids


def leave_behind(out, corpus, spec):
    """What killed and stopped runs leave: a paused run, a file of nobody, half a file."""
    with pytest.raises(Stopped):
        run_encode(spec(inputs={"columns": []}, resources={"max_units": 1}))
    manifest = read_manifest(out).to_pylist()
    named = next(row["file"] for row in manifest if row["url"].endswith("a-people.parquet"))
    lost = named[: -len("0000.parquet")] + "ffff.parquet"
    write_new(join(out, lost), read_bytes(join(out, named)))
    folder, _, name = lost.rpartition("/")
    half = f"{folder}/.{name}.{'0' * 32}.tmp"
    write_new(join(out, half), b"half a file with " + GOOD.encode())


def test_no_byte_of_a_forgotten_row_is_left_and_nothing_else_is_lost(people, out, corpus, spec):
    leave_behind(out, corpus, spec)
    vectors = vectors_of(out, [GOOD])
    needles = [GOOD, BAD, "note-of-good", "note-of-bad"]
    before = ids_of(out)
    assert len(traces(out, needles, vectors)) > 6
    assert len(vectors) == 2

    done = run_forget(out, [GOOD, BAD, "nobody"])

    assert traces(out, needles, vectors) == []
    assert ids_of(out) == before - {GOOD}
    assert list(quarantined_rows(out)) == []
    assert list(find_problems(out)) == []
    assert (done.rows, done.quarantined) == ({"dense": 1, "short": 1}, {"dense": 1, "short": 1})
    assert (done.version, done.versions, done.absent, done.rewritten) == (
        4,
        (2, 3),
        ("nobody",),
        (),
    )
    assert len(done.runs) == 1
    assert snapshot_info(out).rows == 250 + 18 + 1


def test_versions_without_the_rows_open_and_the_others_say_that_they_are_gone(people, out):
    run_forget(out, [GOOD])

    assert len(ids_of(out, version=1)) == 250
    assert list(find_problems(out, 1)) == []
    with pytest.raises(SnapshotExpired):
        open_snapshot(out, output="dense", version=2)


def test_a_later_run_has_nothing_to_do_and_carries_over_what_is_left(people, out, corpus, spec):
    run_forget(out, [GOOD, BAD])

    assert not run_encode(spec()).committed
    pq.write_table(one_row("new"), corpus / "new.parquet")
    run_encode(spec())

    assert GOOD not in ids_of(out)
    assert "new" in ids_of(out)
    assert list(find_problems(out)) == []


def test_a_source_without_the_rows_never_brings_them_back(people, out, corpus, spec):
    run_forget(out, [GOOD, BAD])

    pq.write_table(people_table().slice(0, 18), corpus / "a-people.parquet")
    report = run_encode(spec())

    assert report.parts["dense"].encoded_rows == 0
    assert traces(out, [GOOD, BAD]) == []


def test_the_record_of_a_deletion_has_numbers_and_no_id(people, out):
    done = run_forget(out, [GOOD, BAD, "nobody"])

    record = json.loads(read_bytes(join(out, forget.FOLDER, f"{done.run}.json")))
    assert (record["rows"]["dense"], record["absent"], record["versions"]) == (1, 1, [2, 3])
    assert "nobody" not in json.dumps(record)
    assert log.latest(out).kind == "forget"


def fail_after(monkeypatch, name):
    """Let a step of `forget` fail when it is done."""
    step = getattr(forget, name)

    def failing(*arguments, **options):
        step(*arguments, **options)
        raise OSError(5, "pulled the plug")

    monkeypatch.setattr(forget, name, failing)


@pytest.mark.parametrize("step", ["content_without", "_commit", "remove", "_delete", "write_over"])
def test_a_deletion_that_died_is_finished_by_the_same_call(
    people, out, corpus, spec, monkeypatch, step
):
    leave_behind(out, corpus, spec)
    before, vectors = ids_of(out), vectors_of(out, [GOOD])
    with monkeypatch.context() as patch:
        fail_after(patch, step)
        with pytest.raises(OSError, match="plug"):
            run_forget(out, [GOOD, BAD])
    assert list(find_problems(out)) == []

    run_forget(out, [GOOD, BAD])

    assert traces(out, [GOOD, BAD, "note-of-"], vectors) == []
    assert ids_of(out) == before - {GOOD}
    assert list(find_problems(out)) == []
    assert not run_encode(spec()).committed


def test_a_run_that_commits_meanwhile_is_not_undone(people, out, corpus, spec, monkeypatch):
    write = forget.content_without

    def slow(*arguments, **options):
        if not (corpus / "race.parquet").exists():
            pq.write_table(one_row("race"), corpus / "race.parquet")
            run_encode(spec())
        return write(*arguments, **options)

    monkeypatch.setattr(forget, "content_without", slow)
    run_forget(out, [GOOD, BAD])

    assert "race" in ids_of(out)
    assert traces(out, [GOOD, BAD]) == []
    assert list(find_problems(out)) == []


def test_a_run_at_work_is_not_disturbed(people, out, monkeypatch):
    monkeypatch.setattr(beat, "INTERVAL_S", 0.02)
    monkeypatch.setattr(beat, "_POLL_S", 0.2)
    before = log.latest(out).n
    with log.hold(out, log.claim(out, "another spec")), pytest.raises(RunActive):
        run_forget(out, [GOOD])

    assert log.latest(out).n == before + 1
    assert GOOD in ids_of(out)


def test_an_interrupted_run_without_the_rows_goes_on(people, out, spec):
    others = {"filter": [["lang", "!=", "note-of-good"]]}
    with pytest.raises(Stopped):
        run_encode(spec(inputs=others, resources={"max_units": 2}))

    done = run_forget(out, [GOOD])

    assert done.runs == ()
    report = run_encode(spec(inputs=others))
    assert report.committed
    assert log.latest(out).state["runs"][read_manifest(out)["run"][0].as_py()]["epoch"] == 2
    assert list(find_problems(out)) == []


def test_specs_of_runs_do_not_name_the_ids_any_more(people, out, corpus, spec):
    more = pa.concat_tables([people_table(), one_row("more")])
    pq.write_table(more, corpus / "a-people.parquet")
    run_encode(spec(backfill={"ids": [GOOD, "d1"]}))
    assert [f for f in traces(out, [GOOD]) if f.endswith("spec.yaml")]

    run_forget(out, [GOOD])

    assert traces(out, [GOOD]) == []


def test_a_dry_run_and_ids_that_are_nowhere_write_nothing(people, out, stx):
    before = {file.name for file in list_objects(out)}

    code, said, _ = stx("forget", out, GOOD, "--dry-run")
    nothing = stx("forget", out, "nobody")

    assert code == nothing[0] == 0
    assert "dense      1 row\n" in said
    assert "versions   2, 3 given up" in said
    assert nothing[1] == f"{out}: in no file: 1 id: nobody\n{out}: nothing to delete\n"
    assert {file.name for file in list_objects(out)} == before


@pytest.mark.parametrize("name", ["ids.txt", "ids.csv", "ids.jsonl", "ids.parquet"])
def test_whole_numbers_are_read_from_files_of_every_form(spec_of, tmp_path, out, stx, name):
    source = tmp_path / "numbers.parquet"
    words = ["", *texts(9)]
    pq.write_table(pa.table({"id": range(40, 50), "text": words}), source)
    run_encode(spec_of(source))
    bodies = {
        "ids.txt": "40\n043\n",
        "ids.csv": "person,why\n40,asked\n43,asked\n",
        "ids.jsonl": '{"person": 40}\n{"person": 43}\n',
    }
    if name in bodies:
        (tmp_path / name).write_text(bodies[name])
    else:
        pq.write_table(pa.table({"person": [40, 43]}), tmp_path / name)

    code, said, _ = stx("forget", out, "--ids-file", tmp_path / name, "--column", "person")

    assert code == 0
    assert "dense      1 row, 1 quarantined" in said
    assert ids_of(out) == {*range(41, 50)} - {43}
    assert list(find_problems(out)) == []


def test_ids_of_another_type_and_none_at_all_are_refused(spec_of, tmp_path, out, stx):
    source = tmp_path / "numbers.parquet"
    pq.write_table(pa.table({"id": range(9), "text": texts(9)}), source)
    run_encode(spec_of(source))

    for arguments, problem in (
        (["seven"], "ids of the dataset are int64"),
        ([], "no ids are given"),
    ):
        code, _, said = stx("forget", out, *arguments)
        assert code == 2
        assert problem in said


def test_a_ranking_is_refused_and_what_the_refusal_says_works(static_model, tmp_path):
    corpus, queries = lake(tmp_path, static_model)
    spec = spec_for(tmp_path, corpus, queries)
    run_retrieve(spec)
    ranking = str(tmp_path / "ranking")
    gone = open_snapshot(ranking).to_table()["doc_id"][0].as_py()
    with pytest.raises(SpecError, match="--older-than 0 --abandon-after 0"):
        run_forget(ranking, [gone])

    run_forget(corpus, [gone])
    run_retrieve(spec)
    gc(ranking, keep=1, margin_s=0, abandon_after_s=0)

    assert traces(ranking, [gone]) == []
    assert traces(corpus, [gone]) == []


def test_on_s3_as_on_a_disk(spec, tmp_path, s3_root):
    source, out = tmp_path / "people.parquet", join(s3_root, "out")
    pq.write_table(people_table(), source)
    run_encode(spec(source, output={"path": out}))
    vectors = vectors_of(out, [GOOD])

    run_forget(out, [GOOD, BAD])

    assert traces(out, [GOOD, BAD, "note-of-"], vectors) == []
    assert len(ids_of(out)) == 18
    assert list(find_problems(out)) == []
    use_options(S3Options())


def test_a_dataset_without_any_version_loses_what_its_stopped_run_has(corpus, out, spec):
    pq.write_table(people_table(), corpus / "a-people.parquet")
    with pytest.raises(Stopped):
        run_encode(spec(resources={"max_units": 1}))

    done = run_forget(out, [GOOD, BAD])

    assert (done.version, len(done.runs)) == (None, 1)
    assert traces(out, [GOOD, BAD]) == []
