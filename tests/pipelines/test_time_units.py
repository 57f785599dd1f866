"""Copied times: microseconds where nothing is lost, and old datasets stay as they are."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx.pipelines.encode import run_encode
from stx.pipelines.encoding import inputs
from stx_core.store.snapshot import open_snapshot, snapshot_files

NANOS, MICROS = pa.timestamp("ns", "UTC"), pa.timestamp("us", "UTC")


class Plans:
    """Keeps the plans that it is shown."""

    def __init__(self):
        self.plans = []

    def plan(self, plan):
        self.plans.append(plan)

    def watch(self, results, **_):
        return results


@pytest.fixture
def encode_times(tmp_path, spec_of):
    """Writes a shard of times and encodes the corpus; gives the plan."""

    def run(name, times, column="t"):
        folder = tmp_path / "corpus"
        folder.mkdir(exist_ok=True)
        values = pa.array(times, NANOS)
        if column == "list":
            values = pa.array([[time] for time in times], pa.list_(NANOS))
        ids = [f"{name}{row}" for row in range(len(times))]
        table = pa.table({"id": ids, "text": ["stars"] * len(times), column: values})
        pq.write_table(table, folder / f"{name}.parquet")
        view = Plans()
        run_encode(spec_of(folder, inputs={"columns": [column]}), view)
        return view.plans[-1]

    return run


def kinds(root, column="t"):
    return {pq.read_schema(file).field(column).type for file in snapshot_files(str(root))}


def notes(plan):
    """Lines of a plan that are neither amounts nor times."""
    return [line.removeprefix("  note").strip() for line in plan.lines if line.startswith("  note")]


@pytest.mark.parametrize("column", ["t", "list"])
def test_nanosecond_columns_of_whole_microseconds_become_microseconds(
    tmp_path, encode_times, column
):
    plan = encode_times("a", [1000, None, -5000], column)

    (kind,) = kinds(tmp_path / "out", column)
    assert (kind.value_type if column == "list" else kind) == MICROS
    assert open_snapshot(str(tmp_path / "out")).schema.field(column).type == kind
    assert notes(plan) == []


def test_nanoseconds_are_kept_where_a_time_needs_them_and_the_plan_says_so(tmp_path, encode_times):
    plan = encode_times("a", [1000, 1001])

    assert kinds(tmp_path / "out") == {NANOS}
    times = open_snapshot(str(tmp_path / "out")).to_table()["t"].cast(pa.int64())
    assert times.to_pylist() == [1000, 1001]
    (note,) = notes(plan)
    assert note.startswith("column 't' stays timestamp[ns, tz=UTC], some of its times need them")


def test_a_time_that_needs_nanoseconds_later_widens_the_column_for_all(tmp_path, encode_times):
    encode_times("a", [1000])
    assert kinds(tmp_path / "out") == {MICROS}

    plan = encode_times("b", [1001])

    assert kinds(tmp_path / "out") == {NANOS}
    times = open_snapshot(str(tmp_path / "out")).to_table()["t"].cast(pa.int64())
    assert times.to_pylist() == [1000, 1001]
    # The texts are those of before: none is encoded again.
    assert plan.parts["dense"].rows_to_encode <= 1


def test_a_dataset_written_in_nanoseconds_stays_so_and_is_not_written_again(
    tmp_path, encode_times, monkeypatch
):
    with monkeypatch.context() as before:
        before.setattr(inputs, "in_microseconds", lambda corpus, *_: (corpus, ()))
        encode_times("a", [1000, 2000])
    old = snapshot_files(str(tmp_path / "out"))

    plan = encode_times("b", [3000])

    assert set(old) < set(snapshot_files(str(tmp_path / "out")))
    assert kinds(tmp_path / "out") == {NANOS}
    assert plan.parts["dense"].n_carried == 1
    assert "the dataset has it so" in notes(plan)[0]
