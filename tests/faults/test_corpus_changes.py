"""A file of the corpus changes between the plan and the moment it is read."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults import check
from tests.faults.corpus import ROWS_PER_SHARD, ROWS_PER_UNIT, shard
from tests.faults.job import finish, wait_until_stopped, wake

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


def overwrite(path):
    """Other rows of the same number: ids and texts differ."""
    write(path, shard(1000))


def grow(path):
    write(path, pa.concat_tables([pq.read_table(path), shard(2000, ROWS_PER_UNIT)]))


def write(path, table):
    new = path.with_name("_new")
    pq.write_table(table, new, row_group_size=ROWS_PER_UNIT)
    new.replace(path)


@pytest.mark.row(18)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (overwrite, "changed since it was planned"),
        (grow, "changed"),
        (lambda p: p.unlink(), "gone"),
    ],
    ids=["overwritten", "grown", "deleted"],
)
def test_content_of_two_versions_is_never_mixed(
    make_job, values, corpus, expected, tmp_path, change, message
):
    job = make_job(values, expected)
    # Planning reads samples too: the place is armed once planning is over.
    job.arm("claim.before", "SIGSTOP")
    process = job.start()
    wait_until_stopped(process)
    job.arm("read.before", "SIGSTOP", at=2)
    wake(process)
    wait_until_stopped(process)
    changed = corpus / "part-0.parquet"
    change(changed)
    wake(process)

    stopped = finish(process)

    assert stopped.returncode == 2, stopped.stderr
    assert "part-0.parquet" in stopped.stderr
    assert message in stopped.stderr
    # Beside lines of progress.
    assert [line[:4] for line in stopped.stderr.splitlines() if line[0] != "{"] == ["stx:"]
    assert len(job.records()) == 1
    again = job.run()
    assert again.returncode == 0, again.stderr
    assert "finished earlier 0 units" in again.stdout
    job.expected = check.clean_run(values, tmp_path / "clean-again")
    assert (sum(job.expected.ids.values()) == 3 * ROWS_PER_SHARD) == (change is overwrite)
    job.end_check()
