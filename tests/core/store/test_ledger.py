import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from stx_core.errors import StoreError
from stx_core.store import ledger
from stx_core.store.filesystem import write_new
from stx_core.store.urls import join

RUN = "run-1"


@pytest.fixture
def done(job):
    return job.finish(job.units[0], RUN)


def url_of(root, key, attempt):
    return join(root, "_stx/runs", RUN, "units", key[:2], f"{key}.{attempt}.json")


def test_a_unit_is_done_once_it_has_a_record(root, done):
    assert ledger.find(root, RUN, done.key) is None

    ledger.record(root, RUN, done)

    assert ledger.find(root, RUN, done.key) == done


def test_the_first_record_wins_and_the_second_attempt_takes_it(root, done):
    late = replace(done, file="data/dense/late.parquet", epoch=2)
    ledger.record(root, RUN, done)

    assert ledger.record(root, RUN, late) == done
    assert ledger.find(root, RUN, done.key) == done


def test_attempts_at_the_same_moment_agree_on_one_record(root, done):
    attempts = [replace(done, file=f"data/dense/{number}.parquet") for number in range(8)]
    start = threading.Barrier(len(attempts))

    def write(attempt):
        start.wait()
        return ledger.record(root, RUN, attempt)

    with ThreadPoolExecutor(len(attempts)) as pool:
        winners = list(pool.map(write, attempts))

    assert len({winner.file for winner in winners}) == 1
    assert ledger.find(root, RUN, done.key) == winners[0]


def damage(done):
    body = json.dumps({**ledger.seal(ledger.asdict(done))})
    inconsistent = ledger.seal(ledger.asdict(replace(done, rows_out=99)))
    return {
        "cut": body[: len(body) // 2].encode(),
        "empty": b"",
        "flipped": body.replace('"n_tokens": 30', '"n_tokens": 31').encode(),
        "inconsistent": json.dumps(inconsistent).encode(),
        "other unit": json.dumps(ledger.seal(ledger.asdict(replace(done, key="f" * 32)))).encode(),
        "list": b"[]",
    }


@pytest.mark.parametrize("kind", ["cut", "empty", "flipped", "inconsistent", "other unit", "list"])
def test_a_damaged_record_counts_as_absent_and_the_next_number_is_used(root, done, kind):
    write_new(url_of(root, done.key, 0), damage(done)[kind])

    assert ledger.find(root, RUN, done.key) is None
    assert ledger.load_all(root, RUN) == {}
    assert ledger.record(root, RUN, done) == done
    assert ledger.find(root, RUN, done.key) == done
    assert ledger.load_all(root, RUN) == {done.key: done}


def test_all_records_of_a_run_and_no_other_are_loaded(root, job):
    records = [job.finish(unit, RUN) for unit in job.units]
    for each in records:
        ledger.record(root, RUN, each)
    ledger.record(root, "run-2", job.finish(job.units[0], "run-2"))

    assert ledger.load_all(root, RUN) == {each.key: each for each in records}
    assert ledger.load_all(root, "absent") == {}


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"rows_in": 4}, "4 rows in and 0 filtered, but the unit has 5"),
        ({"rows_out": 4}, "5 rows in, but 4 out"),
        ({"reasons": {"null_text": 1}}, "reasons"),
        ({"id_hash_out": f"{7:032x}"}, "ids"),
        ({"file": ""}, "5 rows out, file ''"),
        ({"quarantine_file": "quarantine/x.parquet"}, "0 rows quarantined, file"),
    ],
)
def test_a_record_that_does_not_add_up_is_not_written(root, done, wrong, problem):
    with pytest.raises(ValueError, match=problem):
        ledger.record(root, RUN, replace(done, **wrong))
    assert ledger.find(root, RUN, done.key) is None


def test_a_record_of_another_range_is_refused(job, done):
    ledger.check_unit(done, job.units[0])

    with pytest.raises(StoreError, match="was planned"):
        ledger.check_unit(done, job.units[1])
