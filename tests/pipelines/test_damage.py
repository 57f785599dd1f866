"""Files of a dataset are lost, cut, emptied or changed: named, done again, and never passed on."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx.pipelines.encode import run_encode
from stx.pipelines.engine.runs import View
from stx.pipelines.spec.file import parse_spec
from stx_core.errors import DamagedFile, Stopped, StoreError
from stx_core.store.commit import rollback
from stx_core.store.log import latest
from stx_core.store.snapshot import open_snapshot, read_manifest, snapshot_info
from stx_core.store.verify import find_problems, verify


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def empty(path):
    path.write_bytes(b"")


def lose(path):
    path.unlink()


def flip_column(path, name):
    """Flip a bit in the last page of a column."""
    group = pq.ParquetFile(path).metadata.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    (chunk,) = [each for each in columns if each.path_in_schema.split(".")[0] == name]
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data = bytearray(path.read_bytes())
    data[start + chunk.total_compressed_size - 3] ^= 1
    path.write_bytes(data)


DAMAGES = pytest.mark.parametrize("damage", [flip, cut, empty, lose])


class Watcher(View):
    """A view that remembers how many units were due."""

    def plan(self, plan):
        self.n_due = plan.n_due


def run(spec):
    watcher = Watcher()
    report = run_encode(spec, watcher)
    return report, getattr(watcher, "n_due", 0)


def rows(root):
    table = open_snapshot(str(root)).to_table()
    return dict(zip(table["id"].to_pylist(), table["embedding"].to_pylist(), strict=True))


def data_file(root, number=0, column="file"):
    files = read_manifest(str(root)).filter(pa.compute.field(column) != "")[column]
    return root / files[number].as_py()


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def base(corpus, spec_of):
    """A corpus that is encoded: three shards, five units."""
    run_encode(spec_of(corpus))
    return corpus


@DAMAGES
def test_rows_of_a_damaged_file_are_not_copied_but_encoded_again(base, spec_of, out, damage):
    before = rows(out)
    table = pa.concat_tables(pq.read_table(path) for path in sorted(base.glob("*.parquet")))
    shutil.rmtree(base)
    base.mkdir()
    pq.write_table(table, base / "all.parquet")
    n_damaged = pq.read_metadata(data_file(out)).num_rows
    damage(data_file(out))

    report, _ = run(spec_of(base))

    part = report.parts["dense"]
    # Some texts of the file are in others, too.
    assert 0 < part.encoded_rows <= n_damaged
    assert part.encoded_rows + part.carried_rows == 250
    assert rows(out) == before
    assert list(find_problems(str(out))) == []


def test_a_dry_run_beside_a_damaged_file_writes_nothing(base, spec_of, out):
    path = base / "part-0.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    flip_column(data_file(out), "embedding")
    before = sorted(out.rglob("*"))

    run_encode(spec_of(base), dry_run=True)

    assert sorted(out.rglob("*")) == before


@pytest.mark.parametrize("damage", [cut, empty, lose])
def test_a_unit_whose_file_is_lost_or_cut_is_done_again_by_the_next_run(base, spec_of, out, damage):
    before = rows(out)
    damage(data_file(out))

    report, n_due = run(spec_of(base))

    assert (report.committed, n_due) == (True, 1)
    assert rows(out) == before
    assert list(find_problems(str(out))) == []
    assert not run(spec_of(base))[0].committed


def test_a_unit_whose_bytes_changed_is_done_again_once_verify_has_seen_it(base, spec_of, out):
    before = rows(out)
    flip(data_file(out))

    assert len(list(verify(str(out)))) == 1
    report, n_due = run(spec_of(base))

    assert (report.committed, n_due) == (True, 1)
    assert rows(out) == before
    assert list(find_problems(str(out))) == []


def test_a_lost_quarantine_file_is_written_again(spec_of, corpus, out):
    table = pq.read_table(corpus / "part-0.parquet")
    texts = [None, *table["text"].to_pylist()[1:]]
    pq.write_table(table.set_column(1, "text", pa.array(texts)), corpus / "part-0.parquet")
    run_encode(spec_of(corpus))
    lose(data_file(out, column="quarantine_file"))

    _, n_due = run(spec_of(corpus))

    assert n_due == 1
    assert list(find_problems(str(out))) == []


def test_a_flipped_vector_is_an_error_to_readers_and_no_other_vector(base, out):
    flip_column(data_file(out), "embedding")

    with pytest.raises(OSError, match="CRC"):
        open_snapshot(str(out)).to_table()


@DAMAGES
def test_commands_name_a_damaged_file_in_one_line(base, out, stx, damage):
    name = data_file(out).name
    if damage is flip:
        flip_column(data_file(out), "embedding")
    else:
        damage(data_file(out))

    for command in (
        ("show", out, "--rows", "3"),
        ("search", out, "plants"),
        ("export", out, out.parent / "rows.jsonl", "--format", "jsonl"),
        ("verify", out),
    ):
        code, stdout, stderr = stx(*command)
        (line,) = [each for each in (stdout + stderr).splitlines() if name in each]
        assert code == 1
        assert "Traceback" not in stderr
        assert command[0] == "verify" or "stx verify" in line


def test_a_backfill_of_another_part_goes_on_beside_a_damaged_file(spec_of, tmp_path, out):
    lake = tmp_path / "lake"
    for day in ("a", "b"):
        (lake / f"day={day}").mkdir(parents=True)
        table = pa.table({"id": [f"{day}{i}" for i in range(20)], "text": ["plants eat"] * 20})
        pq.write_table(table, lake / f"day={day}" / "part.parquet")
    run_encode(spec_of(lake))
    lose(data_file(out))
    table = pa.table({"id": [f"b{i}" for i in range(20)], "text": ["glass is sand"] * 20})
    pq.write_table(table, lake / "day=b/part.parquet")

    some = {"backfill": {"partitions": [["day", "==", "b"]]}}
    report, n_due = run(parse_spec(spec_of(lake).model_dump(mode="json") | some))

    assert (report.version, n_due) == (2, 1)
    assert len(list(find_problems(str(out)))) == 1
    assert run(spec_of(lake))[1] == 1
    assert list(find_problems(str(out))) == []


def test_another_model_and_another_output_go_on_beside_a_damaged_file(
    base, spec_of, out, static_model
):
    lose(data_file(out))
    longer = {"dense": {"model": str(static_model), "prompt": "glass "}}
    report, n_due = run(spec_of(base, models=longer))
    assert (report.version, n_due) == (2, 5)

    lose(data_file(out))
    more = {**longer, "second": {"model": str(static_model), "prompt": "stars "}}
    report, n_due = run(spec_of(base, models=more))

    assert (report.version, n_due) == (3, 5)
    assert list(find_problems(str(out))) == []


def test_a_rollback_past_a_damaged_file_works_also_where_both_versions_name_it(base, spec_of, out):
    pq.write_table(pq.read_table(base / "part-2.parquet").slice(1), base / "part-2.parquet")
    run_encode(spec_of(base))
    lose(data_file(out))

    info = rollback(str(out), 1)

    assert (info.version, info.rows) == (3, 250)


def test_repair_encodes_only_the_units_of_damaged_files_also_while_a_version_is_held(
    base, spec_of, out, stx
):
    before = rows(out)
    rollback(str(out), 1)
    flip(data_file(out))
    cut(data_file(out, 3))
    # The corpus has moved on: that is for the next run.
    pq.write_table(pq.read_table(base / "part-2.parquet").slice(1), base / "part-2.parquet")

    assert stx("verify", out)[0] == 1
    code, stdout, stderr = stx("verify", out, "--repair")

    assert (code, "Traceback" in stderr) == (0, False)
    assert "version 2" in stdout
    assert rows(out) == before
    assert latest(str(out)).state["pin"]["version"] == 2


def test_repair_says_which_inputs_are_gone(base, out, stx):
    lose(data_file(out))
    (base / "part-0.parquet").unlink()

    code, stdout, _ = stx("verify", out, "--repair")

    assert code == 1
    assert "part-0.parquet" in stdout
    assert "rollback" in stdout
    assert snapshot_info(str(out)).version == 1


@DAMAGES
def test_a_finished_unit_of_an_interrupted_run_is_done_again_when_its_file_is_damaged(
    corpus, spec_of, out, damage
):
    with pytest.raises(Stopped):
        run_encode(spec_of(corpus, resources={"max_units": 2}))
    path = sorted((out / "data/dense").glob("*.parquet"))[0]
    if damage is flip:
        # Nothing lists what changed in its place; the ids are read before a commit.
        flip_column(path, "id")
    else:
        damage(path)

    run_encode(spec_of(corpus))

    assert len(rows(out)) == 250
    assert list(find_problems(str(out))) == []


def test_a_damaged_index_of_an_interrupted_run_is_built_again(base, spec_of, out):
    before = rows(out)
    tables = [pq.read_table(path) for path in sorted(base.glob("*.parquet"))]
    for path in base.glob("*.parquet"):
        path.unlink()
    for number, table in enumerate(tables):
        pq.write_table(table.slice(1), base / f"moved-{number}.parquet")
    with pytest.raises(Stopped):
        run_encode(spec_of(base, resources={"max_units": 1}))
    (index,) = (out / "_stx/runs").glob("*/index/*.arrow")
    flip(index)

    report, _ = run(spec_of(base))

    assert report.parts["dense"].encoded_rows == 0
    assert {id_: before[id_] for id_ in rows(out)} == rows(out)


@DAMAGES
def test_a_damaged_segment_or_log_entry_is_one_line_with_the_way_back(
    base, spec_of, out, stx, damage
):
    pq.write_table(pq.read_table(base / "part-2.parquet").slice(1), base / "part-2.parquet")
    run_encode(spec_of(base))
    segments = latest(str(out)).state["snapshot"]["segments"]
    damage(out / segments[0]["file"])

    with pytest.raises(StoreError, match="stx rollback"):
        run_encode(spec_of(base))
    assert rollback(str(out), 1).rows == 250

    entry = sorted((out / "_stx/log").glob("*.json"))[2]
    damage(entry)
    code, _, stderr = stx("show", out, "--version", "2")
    assert code == 1
    assert "restore it" in stderr or "entry" in stderr
    assert "Traceback" not in stderr


def test_a_name_of_a_damaged_file_is_kept_through_other_processes():
    import pickle

    error = pickle.loads(pickle.dumps(DamagedFile("here: damaged")))  # noqa: S301

    assert str(error) == "here: damaged"


def test_a_note_is_forgotten_when_gc_removes_its_file(base, spec_of, out, stx):
    flip(data_file(out))
    assert stx("verify", out)[0] == 1
    assert len(list((out / "_stx/damaged").iterdir())) == 1
    run_encode(spec_of(base))
    run_encode(spec_of(base))

    stx("gc", out, "--keep", "1", "--older-than", "0")

    assert list((out / "_stx/damaged").iterdir()) == []


def test_show_says_when_a_dataset_was_verified(base, out, stx):
    assert "never" in stx("show", out)[1]
    assert stx("verify", out)[0] == 0

    assert json.loads((out / "_stx/verified.json").read_text())["at"] in stx("show", out)[1]
    assert np.all([value is not None for value in rows(out)])
