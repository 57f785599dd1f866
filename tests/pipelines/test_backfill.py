"""A part of the corpus into an existing dataset, alone and beside other backfills."""

import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx.pipelines import encode
from stx.pipelines.encode import run_encode
from stx.pipelines.engine.runs import View
from stx_core import SentenceTransformer
from stx_core.errors import SpecError
from stx_core.store.snapshot import open_snapshot, snapshot_info

TEXTS = ["plants eat light", "rivers carry sand", "glass is made of sand", "stars"]


def write_day(lake, day, texts=TEXTS, ids=None, extra=None):
    folder = lake / f"day={day}"
    folder.mkdir(parents=True, exist_ok=True)
    ids = ids or [f"{day}-{row}" for row in range(len(texts))]
    columns = {"id": ids, "text": texts, "lang": ["en"] * len(texts)} | (extra or {})
    pq.write_table(pa.table(columns), folder / "part-0.parquet")


@pytest.fixture
def lake(tmp_path):
    for day in (1, 2, 3):
        write_day(tmp_path / "lake", day)
    return tmp_path / "lake"


@pytest.fixture
def run(spec_of, lake):
    def start(partitions=None, ids=None, **parts):
        backfill = {"partitions": partitions or [], "ids": ids} if partitions or ids else None
        spec = spec_of(lake, inputs={"columns": ["lang"]}, **parts)
        return run_encode(spec.model_validate(spec.model_dump() | {"backfill": backfill}))

    return start


def ids_of(root):
    return sorted(open_snapshot(str(root)).to_table()["id"].to_pylist())


def every(*days):
    return sorted(f"{day}-{row}" for day in days for row in range(4))


def test_backfills_of_single_partitions_add_up_to_the_whole(run, tmp_path):
    run([["day", "==", 3]])
    assert ids_of(tmp_path / "out") == every(3)
    run([["day", "<", 3]])
    assert ids_of(tmp_path / "out") == every(1, 2, 3)

    report = run()

    assert not report.committed


def test_what_a_backfill_does_not_speak_about_stays_as_it_is(run, lake, tmp_path):
    run()
    write_day(lake, 1, ["light"] * 2)
    write_day(lake, 2, ["sand"] * 5)

    report = run([["day", "==", 2]])

    assert ids_of(tmp_path / "out") == sorted([*every(1, 3), *(f"2-{row}" for row in range(5))])
    assert report.parts["dense"].encoded_rows == 5


def test_rows_and_shards_that_left_a_partition_leave_the_snapshot(run, lake, tmp_path):
    write_day(lake, "3/half=2", ids=["gone"] * 4)
    run()
    (lake / "day=3/half=2/part-0.parquet").unlink()
    write_day(lake, 1, ids=["kept"] * 4)

    run([["day", "==", 3]])

    assert ids_of(tmp_path / "out") == every(1, 2, 3)


def test_ids_bring_the_shards_that_hold_them_up_to_date(run, lake, tmp_path):
    run()
    for day in (1, 2):
        write_day(lake, day, [*TEXTS[1:], "plants plants"])

    report = run(ids=["2-3"])

    model = SentenceTransformer(spec_model(report, tmp_path))
    rows = open_snapshot(str(tmp_path / "out")).to_table().to_pylist()
    vectors = {row["id"]: row["embedding"] for row in rows}
    assert ids_of(tmp_path / "out") == every(1, 2, 3)
    np.testing.assert_array_equal(vectors["2-3"], model.encode("plants plants"))
    np.testing.assert_array_equal(vectors["1-3"], model.encode(TEXTS[3]))
    assert report.parts["dense"].encoded_rows == 1


def spec_model(report, tmp_path):
    return snapshot_info(str(tmp_path / "out")).outputs["dense"]["model"]


def test_a_backfill_may_not_mix_encoders(run, static_model):
    run()

    with pytest.raises(SpecError, match="backfill: output dense .* another encoder"):
        run([["day", "==", 1]], models={"dense": {"model": str(static_model), "normalize": True}})


def test_a_backfill_may_not_change_the_columns(run, lake):
    run()
    write_day(lake, 2, extra={"lang": pa.array([1, 2, 3, 4])})

    with pytest.raises(SpecError, match="backfill: output dense would get lang: int64"):
        run([["day", "==", 2]])


def test_a_widened_column_type_reaches_every_file(run, lake, tmp_path):
    for day in (1, 2, 3):
        write_day(lake, day, extra={"lang": [1, 2, 3, 4]})
    run()
    write_day(lake, 2, extra={"lang": [0.5, 1.5, 2.5, 3.5]})

    report = run()

    table = open_snapshot(str(tmp_path / "out")).to_table()
    assert table.schema.field("lang").type == pa.float64()
    assert table.num_rows == 12
    assert report.parts["dense"].encoded_rows == 0


class Gate(View):
    """Waits before the first unit until all runs are claimed."""

    def __init__(self, barrier):
        self.barrier = barrier

    def watch(self, results, plan):
        self.barrier.wait(30)
        yield from results
        self.barrier.wait(30)


def test_backfills_side_by_side_both_land(run, spec_of, lake, tmp_path):
    run([["day", "==", 1]])
    barrier, reports = threading.Barrier(2), []

    def start(day):
        spec = spec_of(lake, inputs={"columns": ["lang"]}).model_dump()
        backfill = {"partitions": [["day", "==", day]]}
        spec = encode.EncodeSpec.model_validate(spec | {"backfill": backfill})
        reports.append(run_encode(spec, Gate(barrier)))

    threads = [threading.Thread(target=start, args=(day,)) for day in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(report.version for report in reports) == [2, 3]
    assert ids_of(tmp_path / "out") == every(1, 2, 3)
    assert [report.parts["dense"].encoded_rows for report in reports] == [4, 4]
