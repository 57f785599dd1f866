import csv
import gzip
import io
import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stx_core.errors import InputError
from stx_core.store.corpus import csv_rows, jsonl
from stx_core.store.corpus.columns import corpus_schema
from stx_core.store.corpus.readers import list_shards, read_rows
from stx_core.store.corpus.units import plan_units

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string())])


def write(folder, name, data):
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(path)


def read_all(url, rows_per_unit=1000, schema=SCHEMA, filters=(), id_column="id"):
    units = plan_units(list_shards([url]), rows_per_unit)
    return [read_rows(unit, schema, filters, id_column) for unit in units]


def jsonl_of(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def csv_of(rows, **options):
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, **options)
    writer.writerows([["id", "text"], *rows])
    return buffer.getvalue().encode()


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.ndjson"])
@pytest.mark.parametrize("rows_per_unit", [1, 7, 1000])
def test_json_lines_are_read_once_in_order(tmp_path, monkeypatch, name, rows_per_unit):
    monkeypatch.setattr(jsonl, "MARK_ROWS", 4)
    monkeypatch.setattr(jsonl, "_BATCH_ROWS", 3)
    rows = [{"id": f"d{row}", "text": f"Zeile {row} ä\u2028"} for row in range(25)]

    parts = read_all(write(tmp_path, name, jsonl_of(rows)), rows_per_unit)

    assert [each for part in parts for each in part.table.to_pylist()] == rows
    assert [each for part in parts for each in part.row_numbers] == list(range(25))


def test_bad_json_lines_are_bad_rows_with_their_line_number(tmp_path):
    lines = [
        b'\xef\xbb\xbf{"id": "a", "text": "one"}',
        b"",
        b'{"id": "b", "text": "tw',
        b'{"id": "c", "text": "\xff"}',
        b"[1, 2]",
        b"   ",
        b'{"id": "d", "text": 5}',
        b'{"id": "e", "text": "\\ud800"}',
        b'{"id": 6, "text": "six"}',
        b"[" * 100_000,
        b'{"id": "f"}',
    ]

    (rows,) = read_all(write(tmp_path, "a.jsonl", b"\n".join(lines)))

    assert rows.table.to_pylist() == [{"id": "a", "text": "one"}, {"id": "f", "text": None}]
    assert rows.row_numbers.tolist() == [0, 8]
    assert [(bad.row, bad.id, bad.column, bad.reason) for bad in rows.bad] == [
        (1, None, None, "malformed"),
        (2, None, None, "invalid_utf8"),
        (3, None, None, "malformed"),
        (4, "d", "text", "wrong_type"),
        (5, "e", "text", "invalid_utf8"),
        (6, None, "id", "wrong_type"),
        (7, None, None, "malformed"),
    ]
    assert [bad.detail.split(":")[0] for bad in rows.bad] == [
        f"line {line}" for line in (3, 4, 5, 7, 8, 9, 10)
    ]
    assert not any("tw" in bad.detail.split(":", 1)[1] for bad in rows.bad[:1])


def test_types_of_json_columns_come_from_the_first_rows(tmp_path):
    rows = [{"id": 1, "x": 1.5, "ok": True}, {"id": 2, "x": 2, "tags": ["a"]}, {"id": "odd"}]
    url = write(tmp_path, "a.jsonl", jsonl_of(rows))
    shards = list_shards([url])

    schema = corpus_schema(shards, ["id", "x", "ok", "tags"])
    (read,) = read_all(url, schema=schema)

    assert schema.field("id").type == pa.int64()
    assert schema.field("tags").type == pa.list_(pa.string())
    assert read.table["x"].to_pylist() == [1.5, 2.0]
    assert [(bad.row, bad.reason) for bad in read.bad] == [(2, "wrong_type")]


def test_filters_and_partitions_work_on_lines(tmp_path):
    folder = tmp_path / "lang=en"
    folder.mkdir()
    rows = [{"id": f"d{row}", "text": "t", "n": row} for row in range(10)]
    url = write(folder, "a.jsonl", jsonl_of(rows))
    schema = pa.schema([("id", pa.string()), ("lang", pa.string())])

    (read,) = read_all(url, schema=schema, filters=[("n", ">=", 8), ("lang", "==", "en")])

    assert read.table.to_pylist() == [{"id": "d8", "lang": "en"}, {"id": "d9", "lang": "en"}]
    assert (read.row_numbers.tolist(), read.n_filtered) == ([8, 9], 8)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv"])
def test_an_empty_file_of_lines_has_no_rows(tmp_path, name):
    (shard,) = list_shards([write(tmp_path, name, b"")])

    assert shard.n_rows == 0
    assert len(plan_units([shard], 10)) == 0


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz"])
def test_a_damaged_gzip_file_is_named(tmp_path, name):
    url = write(tmp_path, name, jsonl_of([{"id": str(row)} for row in range(1000)]))
    with open(url, "rb") as file:
        data = file.read()
    for spoiled in (data[:-20], data[:40] + b"\xff" * 40 + data[80:], b"no gzip"):
        with open(url, "wb") as file:
            file.write(spoiled)
        with pytest.raises(InputError, match=f"{name}: damaged gzip"):
            list_shards([url])


cells = st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.text("abc", min_size=1), cells), max_size=20), st.integers(1, 8))
def test_csv_rows_are_what_was_written_whatever_the_units(tmp_path_factory, rows, rows_per_unit):
    folder = tmp_path_factory.mktemp("csv")
    url = write(folder, "a.csv", csv_of(rows))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_rows, "MARK_ROWS", 3)
        parts = read_all(url, rows_per_unit)

    found = [(row["id"], row["text"]) for part in parts for row in part.table.to_pylist()]
    assert found == rows
    assert not any(part.bad for part in parts)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv"])
def test_quoted_line_ends_stay_in_their_row(tmp_path, name):
    delimiter = "\t" if "tsv" in name else ","
    rows = [["a", 'two\nlines, "quoted"\t'], ["b", "x" * 200_000]]

    (read,) = read_all(write(tmp_path, name, csv_of(rows, delimiter=delimiter)))

    assert [list(row.values()) for row in read.table.to_pylist()] == rows


def test_bad_csv_records_are_bad_rows(tmp_path):
    data = b"id,text\r\na,one\r\nb,\xff\r\nc\r\n\r\nd,x,y\r\n\xff,two\r\ne,\r\n"

    (rows,) = read_all(write(tmp_path, "a.csv", data))

    assert rows.table.to_pylist() == [{"id": "a", "text": "one"}, {"id": "e", "text": ""}]
    assert rows.row_numbers.tolist() == [0, 5]
    assert [(bad.row, bad.id, bad.reason) for bad in rows.bad] == [
        (1, "b", "invalid_utf8"),
        (2, None, "malformed"),
        (3, None, "malformed"),
        (4, None, "invalid_utf8"),
    ]
    assert [bad.detail.split(":")[0] for bad in rows.bad] == [
        f"line {line}" for line in (3, 4, 6, 7)
    ]


def test_csv_values_are_cast_to_the_plan_and_misfits_are_bad(tmp_path):
    schema = pa.schema([("id", pa.int64()), ("text", pa.string())])

    (rows,) = read_all(write(tmp_path, "a.csv", b"id,text\n1,a\nx,b\n,c\n"), schema=schema)

    assert rows.table["id"].to_pylist() == [1, None]
    assert [(bad.row, bad.column, bad.reason) for bad in rows.bad] == [(1, "id", "wrong_type")]


@pytest.mark.parametrize(
    ("header", "problem"),
    [(b"id,id\n1,2\n", "'id' twice"), (b"\xff,b\n1,2\n", "header"), (b"a,b\n1,2\n", "no column")],
)
def test_a_header_that_cannot_be_used_is_an_error(tmp_path, header, problem):
    with pytest.raises(InputError, match=rf"a\.csv.*{problem}"):
        read_all(write(tmp_path, "a.csv", header))


def test_a_header_alone_is_no_row(tmp_path):
    (shard,) = list_shards([write(tmp_path, "a.csv", b"id,text")])

    assert (shard.n_rows, shard.schema.names) == (0, ["id", "text"])


def test_the_id_of_a_bad_row_has_the_type_of_the_id_column(tmp_path):
    schema = pa.schema([("text", pa.string()), ("id", pa.int64())])
    lines = write(tmp_path, "a.jsonl", b'{"id": 1, "text": 5}\n{"id": "x", "text": 5}\n')
    table = write(tmp_path, "a.csv", b"id,text\n1,\xff\nx,\xff\n")

    for url in (lines, table):
        (rows,) = read_all(url, schema=schema)

        assert [bad.id for bad in rows.bad] == [1, None]


def test_a_filter_on_numbers_of_both_kinds_leaves_no_row_bad(tmp_path):
    url = write(tmp_path, "a.jsonl", jsonl_of([{"id": "a", "n": 1}, {"id": "b", "n": 2.5}, {}]))
    schema = pa.schema([("id", pa.string())])

    for value in (2, 2.0, 1.5):
        (rows,) = read_all(url, schema=schema, filters=[("n", ">=", value)])

        assert rows.table["id"].to_pylist() == ["b"]
        assert rows.bad == []


def test_a_filter_on_a_column_that_no_row_has_passes_no_row(tmp_path):
    url = write(tmp_path, "a.jsonl", jsonl_of([{"id": "a"}]))

    (rows,) = read_all(url, filters=[("lang", "==", "en")])

    assert (len(rows.table), rows.n_filtered) == (0, 1)
