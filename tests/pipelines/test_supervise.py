"""A child that dies, hangs or cannot load costs the row that did it, and nothing else."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx.pipelines.encode import run_encode
from stx.pipelines.encoding.stages import Encode
from stx.pipelines.running import unit_table
from stx.pipelines.running.activity import reporting_to
from stx.pipelines.running.supervise import Supervised
from stx_core.errors import InputError, ModelError
from stx_core.store.snapshot import open_snapshot, read_manifest
from tests.pipelines.fragile import STALL_S, Fragile

# Each starts processes that load torch: with the slower suites.
pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


def unit(texts):
    n = len(texts)
    columns = {
        unit_table.TEXT: pa.array(texts, pa.string()),
        unit_table.REJECTED: unit_table.rejections([None] * n),
        "c.number": list(range(n)),
    }
    return unit_table.with_notes(pa.table(columns), seconds={"read": 1.0}, due=["dense"])


@pytest.fixture
def supervised(tmp_path):
    made = []

    def build(**settings):
        settings["starts"] = str(tmp_path / "starts")
        made.append(Supervised(Fragile, settings, STALL_S))
        return made[-1]

    yield build
    for one in made:
        one.close()


def starts(tmp_path):
    return [line.split() for line in (tmp_path / "starts").read_text().splitlines()]


def rejected(table):
    found = enumerate(table.column(unit_table.REJECTED).to_pylist())
    return {row: (item["reason"], item["detail"]) for row, item in found if item}


def test_a_sound_unit_comes_back_with_the_added_columns_and_its_notes(supervised, tmp_path):
    table = unit(["a", "bb", None])

    result = supervised()(table)

    assert result.column("length").to_pylist() == [1, 2, None]
    assert result.select(table.column_names).equals(table)
    assert unit_table.notes(result) == unit_table.notes(table)
    assert len(starts(tmp_path)) == 1
    assert int(starts(tmp_path)[0][0]) != os.getpid()


def test_what_the_stage_reports_arrives_from_the_child(supervised):
    reports = []

    with reporting_to(lambda *work: reports.append(work)):
        supervised()(unit(["a", "bb"]))

    assert reports == [(0.5, 1), (0.5, 2)]


@pytest.mark.parametrize("at", [0, 39])
@pytest.mark.parametrize(
    ("word", "reason", "detail"),
    [
        ("abort", "crash", "signal SIGABRT; what it said before"),
        ("exit", "crash", "exit code 7"),
    ],
)
def test_a_row_that_ends_the_process_is_rejected_and_all_others_are_kept(
    supervised, tmp_path, word, reason, detail, at
):
    texts = ["x" * (i % 7) for i in range(40)]
    texts[at] = word

    result = supervised()(unit(texts))

    assert rejected(result) == {at: (reason, detail)}
    lengths = [None if i == at else len(text) for i, text in enumerate(texts)]
    assert result.column("length").to_pylist() == lengths
    assert result.column("c.number").to_pylist() == list(range(40))
    assert unit_table.notes(result) == {"seconds": {"read": 1.0}, "due": ["dense"]}
    assert len(starts(tmp_path)) <= math.ceil(math.log2(40)) + 2


def test_a_row_that_hangs_is_rejected_as_timeout(supervised, tmp_path):
    result = supervised()(unit(["a", "hang", "ccc"]))

    assert rejected(result) == {1: ("timeout", f"no batch was finished for {STALL_S} s")}
    assert result.column("length").to_pylist() == [1, None, 3]


def test_a_slow_unit_that_makes_progress_is_left_alone(supervised, tmp_path):
    result = supervised()(unit(["slow"] * 4))

    assert rejected(result) == {}
    assert len(starts(tmp_path)) == 1


def test_an_unexpected_error_costs_its_row_and_tells_the_place_but_not_the_text(supervised):
    result = supervised()(unit(["a", "fail"]))

    ((reason, detail),) = rejected(result).values()
    assert reason == "crash"
    assert detail.startswith("KeyError at fragile.py:")
    assert "document" not in detail


def test_a_process_killed_for_its_memory_gets_half_the_batches_before_a_row_is_blamed(
    supervised, tmp_path
):
    result = supervised()(unit(["a", "large", "ccc"]))

    assert rejected(result) == {}
    assert [share for _, share in starts(tmp_path)] == ["1.0", "0.5"]


def test_a_row_that_needs_too_much_memory_in_any_case_is_rejected(supervised):
    result = supervised()(unit(["a", "too large", "ccc"]))

    assert rejected(result) == {1: ("crash", "signal SIGKILL")}
    assert result.column("length").to_pylist() == [1, None, 3]


def test_a_single_row_is_rejected_after_it_killed_two_processes(supervised, tmp_path):
    result = supervised()(unit(["exit"]))

    assert rejected(result) == {0: ("crash", "exit code 7")}
    assert result.column("length").to_pylist() == [None]


def test_a_child_that_was_killed_between_two_units_is_replaced(supervised, tmp_path):
    stage = supervised()
    stage(unit(["a", "b"]))
    os.kill(int(starts(tmp_path)[0][0]), signal.SIGKILL)

    result = stage(unit(["a", "b"]))

    assert rejected(result) == {}


def test_rows_without_number_are_not_quarantined_but_stop_the_run(supervised):
    with pytest.raises(InputError, match=r"9 rows of one unit end .* .crash: exit code 7.:"):
        supervised()(unit(["exit"] * 16))


@pytest.mark.parametrize("load", ["abort", "exit", "fail"])
def test_a_stage_that_cannot_load_is_tried_three_times(supervised, tmp_path, load):
    with pytest.raises(ModelError, match="loading ended its process 3 times .crash: "):
        supervised(load=load)(unit(["a"]))

    assert len(starts(tmp_path)) == 3


def test_stx_errors_of_a_stage_are_raised_unchanged(supervised, tmp_path):
    with pytest.raises(ModelError, match="^weights are missing$"):
        supervised(load="refuse")(unit(["a"]))
    assert len(starts(tmp_path)) == 1

    stage = supervised()
    with pytest.raises(ModelError, match="^weights are missing$"):
        stage(unit(["refuse", "a"]))
    assert stage(unit(["a"])).column("length").to_pylist() == [1]
    assert len(starts(tmp_path)) == 2


PARENT = """
import sys
from stx.pipelines.running.supervise import Supervised
from tests.pipelines.fragile import Fragile
from tests.pipelines.test_supervise import unit

stage = Supervised(Fragile, {"starts": sys.argv[1]}, 60)
print(stage(unit(["a"])).num_rows, flush=True)
stage(unit(["hang"]))
"""


def test_the_child_ends_with_a_parent_that_is_killed_even_when_it_is_busy(tmp_path):
    command = [sys.executable, "-c", PARENT, str(tmp_path / "starts")]
    parent = subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout.readline() == "1\n"
    ((child, _),) = starts(tmp_path)
    child = psutil.Process(int(child))

    parent.kill()
    parent.communicate()

    assert psutil.wait_procs([child], timeout=30)[1] == []


class Poisonous(Encode):
    """The real stage, in a process that does not survive one word."""

    def __call__(self, table):
        if "volcano" in str(table.column(unit_table.TEXT).to_pylist()):
            os.abort()
        return super().__call__(table)


def test_a_poison_text_ends_in_the_quarantine_and_all_others_in_the_snapshot(
    spec_of, tmp_path, monkeypatch
):
    corpus = tmp_path / "corpus.parquet"
    texts = ["plants eat light"] * 5 + ["a volcano"] + ["glass is made of sand"] * 4
    pq.write_table(pa.table({"id": list(range(10)), "text": texts}), corpus)
    monkeypatch.setattr("stx.pipelines.encoding.actors.Encode", Poisonous)

    report = run_encode(spec_of(corpus, resources={"supervised": True}))

    root = tmp_path / "out"
    ids = open_snapshot(str(root)).to_table().column("id").to_pylist()
    assert ids == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert report.parts["dense"].reasons == {"crash": 1}
    (file,) = read_manifest(str(root)).column("quarantine_file").to_pylist()
    (row,) = pq.read_table(root / file).to_pylist()
    assert (row["id"], row["row"], row["detail"]) == ("5", 5, "signal SIGABRT")
