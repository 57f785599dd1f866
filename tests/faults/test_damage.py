"""Bytes are lost or flipped in the corpus and in the store."""

import json
import signal

import pyarrow.parquet as pq
import pytest

from tests.faults import check
from tests.faults.corpus import N_UNITS
from tests.faults.job import finish, wait_until_stopped, wake

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def only(folder, pattern):
    """The first file of a kind; there must be one."""
    return sorted(folder.rglob(pattern))[0]


def dies_in_the_middle(job):
    job.arm("ledger.after", "SIGKILL", at=6)
    assert job.run().returncode == -signal.SIGKILL


@pytest.mark.row(19)
def test_a_cut_file_of_the_corpus_is_named_and_nothing_is_published(job, corpus):
    broken = only(corpus, "part-1.parquet")
    whole = broken.read_bytes()
    cut(broken)

    refused = job.run()

    assert refused.returncode == 2
    assert "part-1.parquet" in refused.stderr
    # Beside lines of progress.
    assert [line[:4] for line in refused.stderr.splitlines() if line[0] != "{"] == ["stx:"]
    broken.write_bytes(whole)
    assert job.run().returncode == 0
    job.end_check()


@pytest.mark.row(19)
@pytest.mark.parametrize("damage", [flip, cut])
def test_a_damaged_record_counts_as_absent_and_its_unit_is_done_again(job, tmp_path, damage):
    dies_in_the_middle(job)
    bad = only(tmp_path / "out/_stx/runs", "units/*/*.0.json")
    damage(bad)

    again = job.run()

    assert again.returncode == 0, again.stderr
    assert "finished earlier 5 units" in again.stdout
    assert "damaged" in again.stderr
    assert json.loads(bad.with_name(bad.name.replace(".0.", ".1.")).read_text())["epoch"] == 2
    job.end_check()


@pytest.mark.row(19)
@pytest.mark.parametrize("damage", [flip, cut])
def test_a_damaged_log_entry_stops_everything_and_is_named(job, tmp_path, damage):
    dies_in_the_middle(job)
    job.reader.may_be_refused = True
    entry = only(tmp_path / "out/_stx/log", "*1.json")
    whole = entry.read_bytes()
    damage(entry)

    refused = job.run()

    assert refused.returncode == 1
    assert f"{entry}: damaged log entry" in refused.stderr
    # Beside lines of progress.
    assert [line[:4] for line in refused.stderr.splitlines() if line[0] != "{"] == ["stx:"]
    entry.write_bytes(whole)
    assert job.run().returncode == 0
    job.end_check()


@pytest.mark.row(19)
def test_a_lost_log_entry_stops_everything(job, tmp_path):
    dies_in_the_middle(job)
    assert job.run().returncode == 0
    job.reader.may_be_refused = True
    entry = only(tmp_path / "out/_stx/log", "*1.json")
    whole = entry.read_bytes()
    entry.unlink()

    refused = job.run()

    assert refused.returncode == 1
    assert "an entry was deleted or added by hand" in refused.stderr
    entry.write_bytes(whole)
    job.end_check()


@pytest.mark.row(20)
@pytest.mark.parametrize("place", ["claim.before", "ledger.before"])
def test_a_writer_killed_between_temporary_file_and_link_leaves_nothing_that_counts(
    job, tmp_path, place
):
    job.arm(place, "SIGSTOP", at=1)
    process = job.start()
    wait_until_stopped(process)
    job.arm("link.before", "SIGKILL")
    wake(process)

    killed = finish(process)

    assert killed.returncode == -signal.SIGKILL
    (torn,) = (tmp_path / "out/_stx").rglob(".*.tmp")
    assert torn.parent.name == "log" or "units" in torn.parts
    assert len(job.records()) == 0
    assert job.run().returncode == 0
    assert len(job.records()) == N_UNITS
    job.end_check()


@pytest.mark.row(19)
def test_a_flipped_byte_in_a_line_of_text_quarantines_that_line_alone(
    make_job, values, expected, tmp_path
):
    lines = tmp_path / "lines"
    lines.mkdir()
    rows = pq.read_table(values["inputs"]["path"]).to_pylist()
    encoded = [json.dumps(row).encode() for row in rows]
    encoded[40] = encoded[40].replace(b'"text"', b'"tex\xf4"')
    (lines / "rows.jsonl").write_bytes(b"\n".join(encoded) + b"\n")
    good = values | {"inputs": {"path": str(lines)}}

    done = make_job(good, check.clean_run(good, tmp_path / "clean-lines")).run()

    assert done.returncode == 0, done.stderr
    assert "1 x invalid_utf8" in done.stdout
    assert "6 x null_text" in done.stdout


@pytest.mark.row(19)
@pytest.mark.parametrize(
    ("folder", "damage"),
    [
        ("data", flip),
        ("data", cut),
        ("quarantine", cut),
        ("quarantine", flip),
        ("_stx/segments", flip),
    ],
)
def test_damage_in_what_was_committed_is_named_by_verify(job, tmp_path, folder, damage):
    assert job.run().returncode == 0
    job.end_check()
    sound = job.stx("verify", job.root)
    bad = only(tmp_path / "out" / folder, "*.parquet")
    damage(bad)

    verified = job.stx("verify", job.root)

    assert sound.returncode == 0, sound.stdout
    assert verified.returncode == 1
    assert bad.name in verified.stdout + verified.stderr
    assert "Traceback" not in verified.stderr
