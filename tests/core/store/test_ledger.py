import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import pyarrow as pa
import pytest
import xxhash

from stx_core.store import ledger
from stx_core.store.files.filesystem import list_names, write_new
from stx_core.store.files.urls import join
from stx_core.store.schema import to_parquet
from stx_core.store.sealed import seal

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


def loaded(root):
    return sorted(ledger.to_records(ledger.load(root, RUN)), key=lambda each: each.key)


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
    assert ledger.load(root, RUN).num_rows == 0
    assert ledger.record(root, RUN, done) == done
    assert ledger.find(root, RUN, done.key) == done
    assert loaded(root) == [done]


def test_all_records_of_a_run_and_no_other_are_loaded(root, job):
    records = [job.finish(unit, RUN) for unit in job.units]
    for each in records:
        ledger.record(root, RUN, each)
    ledger.record(root, "run-2", job.finish(job.units[0], "run-2"))

    assert loaded(root) == sorted(records, key=lambda each: each.key)
    assert ledger.load(root, "absent").num_rows == 0


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


def fold_names(root):
    return list_names(join(root, "_stx/runs", RUN, "done"))


def many(done, n):
    """Records as a large run has them; no files are needed."""
    return [replace(done, key=f"{number:032x}", start=0, stop=5) for number in range(n)]


def test_records_survive_the_way_through_a_table(done):
    odd = replace(done, reasons={"null_text": 2}, seconds={"read": 0.5, "write": 1.25})

    assert list(ledger.to_records(ledger.to_table([done, odd]))) == [done, odd]


def test_a_thousand_records_are_folded_into_one_file_and_read_back_from_it(root, done):
    folds = ledger.Folds(root, RUN, 3)
    records = many(done, 1005)

    for each in records:
        folds.add(each)

    assert [name.rsplit("-", 1)[0] for name in fold_names(root)] == ["3-000001"]
    # Only the fold exists here: the last five were never recorded one by one.
    assert loaded(root) == records[:1000]
    assert list(ledger.to_records(folds.table())) == records


def test_the_records_of_a_minute_are_folded_too(root, done, time):
    folds = ledger.Folds(root, RUN, 1)
    folds.add(done)
    assert fold_names(root) == []

    time.sleep(61)
    folds.add(replace(done, key="f" * 32))

    assert len(fold_names(root)) == 1
    assert [each.key for each in loaded(root)] == sorted([done.key, "f" * 32])


def test_folded_records_and_those_that_are_not_are_loaded_once_each(root, job, time):
    records = [job.finish(unit, RUN) for unit in job.units]
    for each in records:
        ledger.record(root, RUN, each)
    for epoch in (1, 2):
        folds = ledger.Folds(root, RUN, epoch)
        folds.add(records[0])
        time.sleep(61)
        folds.add(records[epoch])

    assert len(fold_names(root)) == 2
    assert loaded(root) == sorted(records, key=lambda each: each.key)


def test_only_the_columns_that_are_asked_for_are_read_folded_and_not(root, job, time):
    records = [job.finish(unit, RUN) for unit in job.units]
    for each in records:
        ledger.record(root, RUN, each)
    folds = ledger.Folds(root, RUN, 1)
    folds.add(records[0])
    time.sleep(61)
    folds.add(records[1])
    schema = pa.schema([("key", pa.string()), ("url", pa.dictionary(pa.int32(), pa.string()))])

    rows = ledger.load(root, RUN, schema=schema)

    assert rows.schema == schema
    pairs = zip(rows["key"].to_pylist(), rows["url"].to_pylist(), strict=True)
    assert sorted(pairs) == sorted((each.key, each.url) for each in records)


@pytest.mark.parametrize("data", [b"", b"PAR1 no Parquet"])
def test_a_damaged_fold_is_ignored_because_its_records_exist_one_by_one(root, done, data, caplog):
    ledger.record(root, RUN, done)
    write_new(join(root, "_stx/runs", RUN, "done", "1-000001-0123.parquet"), data)

    assert loaded(root) == [done]
    assert "damaged" in caplog.text


def test_records_of_a_stx_that_knew_no_statistics_are_valid(root, done):
    body = asdict(done)
    del body["quality"]
    write_new(url_of(root, done.key, 0), json.dumps(seal(body)).encode())

    assert loaded(root) == [done]


def test_folds_of_a_stx_that_knew_no_statistics_are_read_record_by_record(root, done):
    ledger.record(root, RUN, done)
    data = to_parquet(ledger.to_table([done]).drop_columns(["quality"]))
    name = f"1-000001-{xxhash.xxh3_128_hexdigest(data)}.parquet"
    write_new(join(root, "_stx/runs", RUN, "done", name), data)

    assert loaded(root) == [done]
