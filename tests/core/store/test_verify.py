"""`verify` names each thing that somebody changed behind the back of the protocol."""

import pyarrow as pa
import pytest
import xxhash

from stx_core.errors import StoreError
from stx_core.store import ledger, log
from stx_core.store.commit import commit_snapshot
from stx_core.store.damage import damaged_files
from stx_core.store.files.filesystem import read_bytes, remove, write_over
from stx_core.store.files.urls import join
from stx_core.store.id_hash import id_hash
from stx_core.store.schema import QUARANTINE, to_parquet, with_exact_ids
from stx_core.store.sealed import canonical_json, decode, seal
from stx_core.store.snapshot import read_manifest
from stx_core.store.verify import find_problems, last_verified, verify

SCHEMA = pa.schema(
    [("id", pa.int64()), ("embedding", pa.list_(pa.field("element", pa.float32()), 2))]
)
EXACT = with_exact_ids(SCHEMA, "id")
FACTS = {"dim": 2, "store_as": "float32"}


def finish(job, unit, claim, change):
    """Write a unit whose last row was bad: four rows out, one in quarantine."""
    key = job.key(unit)
    ids = pa.array(range(100 * unit.index, 100 * unit.index + unit.n_rows), pa.int64())
    good, bad = ids.slice(0, 4), ids.slice(4)
    vectors = pa.array([[1.0, 2.0]] * 4, SCHEMA.field("embedding").type)
    data = to_parquet(pa.table([good, vectors], schema=SCHEMA))
    values = {"id": bad.cast(pa.string()), "unit": [key], "row": [unit.stop - 1]}
    columns = [pa.array(values.get(field.name, [None]), field.type) for field in QUARANTINE]
    file, quarantine_file = f"data/dense/{key}-{claim.run}.parquet", f"quarantine/{key}.parquet"
    write_over(join(job.root, file), data)
    rejected = to_parquet(pa.table(columns, schema=QUARANTINE))
    write_over(join(job.root, quarantine_file), rejected)
    record = change(
        ledger.Record(**{
            "key": key, "output": "dense", "url": unit.url, "identity": unit.identity,
            "start": unit.start, "stop": unit.stop, "file": file,
            "quarantine_file": quarantine_file, "rows_in": 5, "rows_filtered": 0, "rows_out": 4,
            "rows_quarantined": 1, "reasons": {"null_text": 1},
            "id_hash_in": f"{id_hash(ids):032x}", "id_hash_out": f"{id_hash(good):032x}",
            "id_hash_quarantined": f"{id_hash(bad):032x}", "n_tokens": 30, "n_truncated": 0,
            "size": len(data), "checksum": xxhash.xxh3_128_hexdigest(data),
            "file_rows": 4, "quarantine_size": len(rejected),
            "quarantine_checksum": xxhash.xxh3_128_hexdigest(rejected),
            "seconds": {"encode": 0.25}, "run": claim.run, "epoch": claim.epoch,
        })
    )  # fmt: skip
    return ledger.record(job.root, claim.run, record)


@pytest.fixture
def publish(job, as_planned):
    """Commits the job's four units; `change` may falsify what their records say."""

    def publish(change=lambda record: record, planned=None, schema=EXACT):
        claim = log.claim(job.root, "spec")
        records = ledger.to_table([finish(job, unit, claim, change) for unit in job.units])
        units = (planned or job.planned())["dense"]
        return commit_snapshot(
            job.root, claim, {"dense": as_planned(units)}, records, {"dense": FACTS},
            {"dense": schema},
        )  # fmt: skip

    return publish


def problems(job, version=None):
    return list(find_problems(job.root, version))


def a_file(job, column="file"):
    return join(job.root, read_manifest(job.root)[column][0].as_py())


def test_a_good_dataset_has_no_problems(job, publish):
    publish()

    assert problems(job) == []


def test_a_flipped_byte_of_a_data_file_is_found(job, publish):
    publish()
    url = a_file(job)
    data = bytearray(read_bytes(url))
    data[len(data) // 2] ^= 1
    write_over(url, bytes(data))

    (problem,) = problems(job)

    assert problem.startswith(f"{url}: its bytes have checksum")


def test_a_truncated_data_file_is_found(job, publish):
    publish()
    url = a_file(job)
    data = read_bytes(url)
    write_over(url, data[:-100])

    assert problems(job) == [f"{url}: {len(data) - 100} bytes, the manifest says {len(data)}"]


def test_a_damaged_quarantine_file_is_found(job, publish):
    publish()
    url = a_file(job, "quarantine_file")
    data = bytearray(read_bytes(url))
    data[len(data) // 2] ^= 1
    write_over(url, bytes(data))

    (problem,) = problems(job)

    assert problem.startswith(f"{url}: its bytes have checksum")


@pytest.mark.parametrize("column", ["file", "quarantine_file"])
def test_a_missing_file_is_found(job, publish, column):
    publish()
    url = a_file(job, column)
    remove(url)

    assert problems(job) == [f"{url}: missing, the manifest names it"]


def test_a_record_with_a_wrong_count_is_found(job, publish, change):
    # The record is whole in itself, only the file contradicts it.
    publish(lambda record: change(record, file_rows=3))

    found = problems(job)

    assert len(found) == 4
    assert all("4 rows, the manifest says 3" in line for line in found)


def test_a_record_with_the_ids_of_other_rows_is_found(job, publish, change):
    other = pa.array([501, 502, 503, 504])
    bad = pa.array([505])
    hashes = {
        "id_hash_out": f"{id_hash(other):032x}",
        "id_hash_quarantined": f"{id_hash(bad):032x}",
        "id_hash_in": f"{id_hash(pa.concat_arrays([other, bad])):032x}",
    }
    publish(lambda record: change(record, **hashes))

    found = problems(job)

    assert len(found) == 8
    assert all("with other ids" in line for line in found)


def other_ids(change):
    other, bad = pa.array([501, 502, 503, 504]), pa.array([505])
    hashes = {
        "id_hash_out": f"{id_hash(other):032x}",
        "id_hash_quarantined": f"{id_hash(bad):032x}",
        "id_hash_in": f"{id_hash(pa.concat_arrays([other, bad])):032x}",
    }
    return lambda record: change(record, **hashes)


def test_a_column_named_id_promises_nothing_unless_the_schema_does(job, publish, change):
    # Rows of such a job may give several rows each, or none.
    publish(other_ids(change), schema=SCHEMA)

    assert problems(job) == []


def test_exact_ids_may_stand_in_a_column_of_any_name(job, publish, change):
    publish(other_ids(change), schema=with_exact_ids(SCHEMA, "id"))

    assert all("with other ids" in line for line in problems(job))


def test_the_end_of_the_log_is_missed_when_its_newest_entries_are_deleted(job, publish):
    publish()
    remove(log_url(job, 2))

    found = problems(job)

    assert any("ends with entry 1, but entry 2 was there" in line for line in found)
    with pytest.raises(StoreError, match="newest entries were deleted"):
        log.claim(job.root, "another")
    assert not any("entry" in line for line in problems_of_a_log_without_a_hint(job))


def problems_of_a_log_without_a_hint(job):
    remove(join(job.root, "_stx/head.json"))
    return problems(job)


def test_verify_notes_damaged_files_and_when_it_looked(job, publish):
    publish()
    url = a_file(job)
    assert last_verified(job.root) is None
    write_over(url, read_bytes(url)[:-1] + b"?")

    (line,) = verify(job.root)

    verified = last_verified(job.root)
    assert (verified.version, verified.problems) == (1, 1)
    assert damaged_files(job.root, read_manifest(job.root)) == {url.removeprefix(job.root)[1:]}


def test_a_note_of_a_file_that_was_restored_counts_for_nothing(job, publish):
    publish()
    url = a_file(job)
    whole = read_bytes(url)
    write_over(url, whole[:-1] + b"?")
    assert len(list(verify(job.root))) == 1

    write_over(url, whole)

    assert not damaged_files(job.root, read_manifest(job.root))


def test_a_changed_segment_is_found_and_the_others_are_still_checked(job, publish):
    publish()
    segments = log.latest(job.root).state["snapshot"]["segments"]
    url = join(job.root, segments[0]["file"])
    write_over(url, read_bytes(url) + b" ")

    (problem,) = problems(job)

    assert problem.startswith(f"{url}: damaged segment (its checksum does not match); restore it")


def test_a_row_range_that_is_in_two_units_is_found(job, publish):
    one = job.units[0]
    job.units.append(type(one)(9, one.url, one.identity, one.format, one.start, one.stop))
    key = job.key
    job.key = lambda unit: key(unit) if unit.index != 9 else "f" * 32
    publish(planned={"dense": {job.key(unit): unit for unit in job.units}})

    (problem,) = problems(job)

    assert f"rows {one.start} to {one.stop} of {one.url} are in two units" in problem


def log_url(job, number):
    return join(job.root, "_stx/log", f"{number:020d}.json")


def test_totals_that_are_not_the_sums_are_found(job, publish):
    publish()
    url = log_url(job, 2)
    body = decode(read_bytes(url))
    body["state"]["snapshot"]["rows"] = 21
    body["state"]["snapshot"]["outputs"]["dense"]["id_hash"] = "0" * 32
    write_over(url, canonical_json(seal(body)))

    found = problems(job)

    assert len(found) == 2
    assert "id_hash" in found[0]
    assert "rows of the corpus 20 counted, the log says 21" in found[1]


def test_a_log_entry_that_was_replaced_is_found(job, publish):
    publish()
    url = log_url(job, 1)
    body = decode(read_bytes(url))
    body["kind"] = "rollback"
    write_over(url, canonical_json(seal(body)))

    (problem,) = problems(job)

    assert "log entry 2 does not follow entry 1" in problem


@pytest.mark.parametrize("number", [1, 2])
def test_a_damaged_log_entry_is_named_once(job, publish, number):
    publish()
    write_over(log_url(job, number), b"{}")

    (problem,) = problems(job)

    assert problem.startswith(f"{log_url(job, number)}: damaged log entry")


def test_an_older_version_is_checked_by_its_own_manifest(job, publish):
    publish()
    old = a_file(job)
    publish()
    remove(old)

    assert problems(job, version=2) == []
    assert problems(job, version=1) == [f"{old}: missing, the manifest names it"]


def test_a_folder_without_a_snapshot_is_one_problem(job):
    (problem,) = problems(job)

    assert "no snapshot was committed here" in problem
