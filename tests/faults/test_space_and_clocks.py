"""Disks that are full, folders that cannot be, clocks that lie."""

import signal
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults import check
from tests.faults.corpus import N_UNITS, ROWS_PER_UNIT

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

# Imported by every Python process that finds it: shifts what stx is told the time is.
SKEWED = """
import datetime, os, time
from stx_core.store import log

_skew, _now = float(os.environ["STX_TEST_SKEW_S"]), time.time
time.time = lambda: _now() + _skew

class Skewed:
    @staticmethod
    def now(zone):
        return datetime.datetime.fromtimestamp(time.time(), zone)

log.datetime = Skewed
"""
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, just too small for the dataset; may be made larger."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", place], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no right to mount a tmpfs; the failpoint test stands in")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.row(21)
def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_space(
    make_job, values, expected, small_disk
):
    job = make_job(values | {"output": {"path": str(small_disk / "out")}}, expected)

    full = job.run()

    assert full.returncode == 1, full.stdout
    assert "No space left on device" in full.stderr
    assert str(small_disk) in full.stderr
    assert "Traceback" not in full.stderr
    finished = len(job.records())
    assert 0 < finished < N_UNITS
    subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
    again = job.run()
    assert again.returncode == 0, again.stderr
    assert f"finished earlier {finished} units" in again.stdout
    job.end_check()


@pytest.mark.row(21)
def test_a_disk_that_is_full_for_one_file_loses_only_that_start(job):
    job.arm("link.before", "fail:28", at=8)

    full = job.run()

    assert full.returncode == 1
    assert "No space left on device" in full.stderr
    assert "Traceback" not in full.stderr
    assert job.fired("link.before") == 1
    assert job.run().returncode == 0
    job.end_check()


@pytest.mark.row(16)
def test_an_output_below_a_file_is_refused_before_anything_is_encoded(make_job, values, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    spec = values | {"output": {"path": str(tmp_path / "file/out")}}
    job = make_job(spec, expected=None)
    job.reader.may_be_refused = True

    refused = job.run()

    assert refused.returncode == 1
    assert f"{tmp_path}/file" in refused.stderr
    # Beside lines of progress.
    assert [line[:4] for line in refused.stderr.splitlines() if line[0] != "{"] == ["stx:"]
    assert "plan for" not in refused.stdout


@pytest.mark.row(27)
@pytest.mark.parametrize(("first_s", "second_s"), [(3600, -3600), (-3600, 3600)])
def test_clocks_that_jump_between_two_starts_change_nothing(
    make_job, values, expected, tmp_path, first_s, second_s
):
    (tmp_path / "skew").mkdir()
    (tmp_path / "skew/sitecustomize.py").write_text(SKEWED)
    skewed = {"PYTHONPATH": f"{tmp_path / 'skew'}:{ROOT}", "STX_TEST_SKEW_S": str(first_s)}
    job = make_job(values, expected, **skewed)
    job.arm("ledger.after", "SIGKILL", at=5)

    killed = job.run()
    job.environment["STX_TEST_SKEW_S"] = str(second_s)
    again = job.run()

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert again.returncode == 0, again.stderr
    assert "finished earlier 5 units" in again.stdout
    entries = check.read_log(job.root)
    jump = sorted([entries[0]["created"], entries[-1]["created"]])
    assert (jump[0] == entries[0]["created"]) == (first_s < second_s), "the clocks were not skewed"
    job.end_check()


def with_equal_ids(folder: Path) -> None:
    """Row 3 gets the id of row 2; rows of another shard get ids of the first one."""
    first = pq.read_table(folder / "part-0.parquet")
    ids = first.column("id").to_pylist()
    ids[3] = ids[2]
    write_ids(folder / "part-0.parquet", first, ids)
    last = pq.read_table(folder / "part-2.parquet")
    write_ids(folder / "part-2.parquet", last, ids[:6] + last.column("id").to_pylist()[6:])


def write_ids(path: Path, table: pa.Table, ids: list) -> None:
    table = table.set_column(0, "id", pa.array(ids))
    pq.write_table(table, path, row_group_size=ROWS_PER_UNIT)


@pytest.mark.row(30)
def test_ids_that_occur_twice_are_all_kept_and_told(make_job, values, corpus, tmp_path):
    with_equal_ids(corpus)
    job = make_job(values, check.clean_run(values, tmp_path / "clean"))
    job.arm("ledger.after", "SIGKILL", at=5)

    job.run()
    again = job.run()

    assert again.returncode == 0, again.stderr
    assert "warning" in again.stdout
    assert max(job.expected.ids.values()) == 4
    job.end_check()


@pytest.mark.row(30)
def test_ids_that_occur_twice_are_refused_where_the_spec_says_so(make_job, values, corpus):
    with_equal_ids(corpus)
    spec = values | {"output": values["output"] | {"duplicate_ids": "fail"}}
    job = make_job(spec, expected=None)

    refused = job.run()

    assert refused.returncode == 2
    assert len(job.records()) == N_UNITS
    assert "no snapshot was committed here" in job.stx("show", job.root).stderr
