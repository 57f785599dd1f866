"""Files made to fill the memory: refused or quarantined, and the memory stays small (measured)."""

import gzip
import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx_core.store.corpus import jsonl
from stx_core.store.corpus.readers import list_shards, read_rows
from stx_core.store.corpus.units import plan_units

MIB = 1 << 20

# Peak memory of a process of its own: how far reading went above what the imports needed.
READ = """
import json, re, sys
import pyarrow as pa
from stx_core.errors import InputError
from stx_core.store.corpus.readers import list_shards, read_rows
from stx_core.store.corpus.units import plan_units

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024

url, max_bytes = sys.argv[1], int(sys.argv[2])
schema = pa.schema([("id", pa.string()), ("text", pa.string())])
before = peak()
found = {"error": None, "good": 0, "bad": []}
try:
    for unit in plan_units(list_shards([url], max_text_bytes=max_bytes), 4096):
        rows = read_rows(unit, schema, (), "id", max_bytes)
        found["good"] += len(rows.table)
        found["bad"] += [[row.row, row.id, row.reason] for row in rows.bad]
except InputError as error:
    found["error"] = str(error)
print(json.dumps(found | {"mib": peak() - before}))
"""


def read_apart(path, max_bytes=64 * MIB):
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path), str(max_bytes)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def repeated(text, n_rows):
    """(N,) strings as a dictionary of one: takes no memory until it is decoded."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * n_rows, pa.int32()), pa.array([text]))


@pytest.mark.parametrize("nested", [False, True], ids=["text", "list of texts"])
def test_one_long_string_that_ten_thousand_rows_point_to_is_refused(tmp_path, nested):
    path = tmp_path / "dictionary.parquet"
    texts = repeated("a" * MIB, 10_240)
    if nested:
        texts = pa.ListArray.from_arrays(pa.array(range(10_241), pa.int32()), texts)
    table = pa.table({"id": [str(row) for row in range(10_240)], "text": texts})
    pq.write_table(table, path, dictionary_pagesize_limit=64 * MIB, store_schema=False)
    assert path.stat().st_size < MIB

    found = read_apart(path)

    assert "rows_per_unit" in found["error"]
    assert found["mib"] < 200


def test_pages_that_grow_a_thousand_times_are_refused_by_the_footer(tmp_path):
    path = tmp_path / "pages.parquet"
    texts = repeated("a" * MIB, 1100)
    table = pa.table({"id": [str(row) for row in range(1100)], "text": texts})
    pq.write_table(table, path, use_dictionary=False, compression="zstd", write_statistics=False)
    assert path.stat().st_size < MIB

    found = read_apart(path)

    assert "row group 0 would grow" in found["error"]
    assert found["mib"] < 100


def test_lines_that_inflate_without_end_are_refused(tmp_path):
    path = tmp_path / "bomb.jsonl.gz"
    member = gzip.compress(b"a" * (16 * MIB))
    path.write_bytes(member * 640)  # 10 GiB

    found = read_apart(path, max_bytes=8 * MIB)

    assert "leave the file out" in found["error"]
    assert found["mib"] < 100


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_line_that_is_too_long_is_one_bad_row_that_is_not_kept(tmp_path, name):
    start, end = (b'{"id": "b", "text": "', b'"}\n') if name == "a.jsonl" else (b'b,"', b'"\n')
    rows = (
        (b'{"id": "a", "text": "x"}\n', b'{"id": "c", "text": "y"}\n')
        if name == "a.jsonl"
        else (b"id,text\na,x\n", b"c,y\n")
    )
    with (tmp_path / name).open("wb") as file:
        file.write(rows[0] + start)
        for _ in range(300):
            file.write(b"a" * MIB)
        file.write(end + rows[1])

    found = read_apart(tmp_path / name, max_bytes=MIB)

    assert (found["good"], found["bad"]) == (2, [[1, None, "too_large"]])
    assert found["mib"] < 100


def test_a_quote_that_is_never_closed_costs_one_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('id,text\na,x\nb,"open\n' + "c,y\n" * 300)
    schema = pa.schema([("id", pa.string()), ("text", pa.string())])

    for limit in (506, 1 << 20):
        units = plan_units(list_shards([str(path)], max_text_bytes=limit), 4096)
        (rows,) = [read_rows(unit, schema, (), "id", limit) for unit in units]

        assert rows.table["id"].to_pylist() == ["a", *["c"] * 300]
        assert [(row.row, row.reason) for row in rows.bad] == [(1, "malformed")]


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_texts_up_to_the_limit_are_good_and_longer_ones_name_their_row(tmp_path, name):
    path = tmp_path / name
    texts = ["a" * 40, "ä" * 40, "b" * 100]
    table = pa.table({"id": ["x", "y", "z"], "text": texts})
    if name == "a.parquet":
        pq.write_table(table, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    schema = pa.schema([("id", pa.string()), ("text", pa.string())])

    (unit,) = plan_units(list_shards([str(path)]), 10)
    rows = read_rows(unit, schema, (), "id", 80)

    found = [(row.row, row.reason) for row in rows.bad]
    expected = [(2, "too_large")] if name == "a.parquet" else [(1, "too_large"), (2, "too_large")]
    assert found == expected
    assert all("aaa" not in row.detail for row in rows.bad)


def test_a_unit_of_lines_that_hold_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "MAX_UNIT_BYTES", 1000)
    monkeypatch.setattr(jsonl, "_BATCH_BYTES", 100)
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "a", "text": "twenty letters or so"}\n' * 50)
    schema = pa.schema([("id", pa.string()), ("text", pa.string())])

    units = plan_units(list_shards([str(path)]), 50)

    with pytest.raises(ValueError, match=r"rows 0 to 50 hold more than 1,000 bytes"):
        read_rows(units[0], schema)


def test_highly_compressible_files_are_read(tmp_path):
    texts = ["the same text in every row"] * 20_000
    table = pa.table({"id": [str(row) for row in range(20_000)], "text": texts})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")

    found = read_apart(tmp_path / "a.parquet")

    assert (found["error"], found["good"], found["bad"]) == (None, 20_000, [])
