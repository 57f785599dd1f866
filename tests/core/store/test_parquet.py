import operator
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stx_core.errors import InputError, SpecError
from stx_core.store.corpus.columns import corpus_schema
from stx_core.store.corpus.readers import list_shards, read_rows
from stx_core.store.corpus.units import plan_units

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string())])


def corpus(folder, n=30, row_group_size=8, name="a.parquet", **more):
    table = pa.table(
        {
            "id": [f"d{row}" for row in range(n)],
            "text": [f"text {row}" for row in range(n)],
            "n": list(range(n)),
            **more,
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / name, row_group_size=row_group_size)
    return str(folder / name)


def read_all(url, rows_per_unit=7, schema=SCHEMA, filters=(), id_column="id"):
    units = plan_units(list_shards([url], filters=filters), rows_per_unit)
    return [read_rows(unit, schema, filters, id_column) for unit in units]


def test_a_shard_is_described_by_its_footer(tmp_path):
    (shard,) = list_shards([corpus(tmp_path)])

    assert (shard.n_rows, shard.boundaries) == (30, (0, 8, 16, 24, 30))
    assert shard.schema.names == ["id", "text", "n"]
    assert shard.identity


@pytest.mark.parametrize("rows_per_unit", [1, 3, 7, 8, 16, 100])
def test_units_read_all_rows_once_in_order(tmp_path, rows_per_unit):
    parts = read_all(corpus(tmp_path), rows_per_unit)

    assert [each for part in parts for each in part.row_numbers] == list(range(30))
    assert [each for part in parts for each in part.table["id"].to_pylist()] == [
        f"d{row}" for row in range(30)
    ]
    assert all(part.table.schema == SCHEMA for part in parts)


def test_row_groups_larger_than_a_batch_are_read_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr("stx_core.store.corpus.parquet._BATCH_ROWS", 4)

    parts = read_all(corpus(tmp_path, row_group_size=30), 9)

    assert [each for part in parts for each in part.table["id"].to_pylist()] == [
        f"d{row}" for row in range(30)
    ]


@settings(max_examples=25, deadline=None)
@given(
    op=st.sampled_from(["<", ">=", "==", "!="]),
    value=st.one_of(st.integers(-3, 33), st.sampled_from([-0.5, 7.5, 8.0])),
    size=st.integers(1, 40),
)
def test_filters_give_the_same_rows_whatever_the_row_groups(tmp_path_factory, op, value, size):
    url = corpus(tmp_path_factory.mktemp("f"), row_group_size=size)

    parts = read_all(url, 11, filters=[("n", op, value)])

    holds = {"<": operator.lt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne}[op]
    wanted = [row for row in range(30) if holds(row, value)]
    assert [each for part in parts for each in part.row_numbers] == wanted
    assert sum(part.n_filtered for part in parts) == 30 - len(wanted)


def test_row_groups_that_cannot_match_are_not_decoded(tmp_path, monkeypatch):
    from stx_core.store.corpus import parquet

    seen = []
    decode = parquet._tables
    monkeypatch.setattr(parquet, "_tables", lambda *args: seen.append(args[1]) or decode(*args))

    (rows,) = read_all(corpus(tmp_path), 100, filters=[("n", ">", 25)])

    assert seen == [3]
    assert (len(rows.table), rows.n_filtered) == (4, 26)


def test_partition_columns_filter_files_and_can_be_read(tmp_path):
    corpus(tmp_path / "lang=en" / "year=2024")
    corpus(tmp_path / "lang=de" / "year=2025")
    corpus(tmp_path / "lang=en" / "year=2026")
    filters = [("lang", "==", "en"), ("year", ">=", 2025)]
    schema = pa.schema([*SCHEMA, ("lang", pa.string()), ("year", pa.int64())])

    shards = list_shards([str(tmp_path)], filters=filters)
    rows = read_rows(plan_units(shards, 100)[0], schema, filters)

    assert [shard.url.split("lang=")[1] for shard in shards] == ["en/year=2026/a.parquet"]
    assert rows.table["lang"].unique().to_pylist() == ["en"]
    assert rows.table["year"].unique().to_pylist() == [2026]


def test_partition_columns_alone_can_be_read(tmp_path):
    url = corpus(tmp_path / "lang=en")

    (rows,) = read_all(url, 100, pa.schema([("lang", pa.string())]), id_column=None)

    assert rows.table["lang"].to_pylist() == ["en"] * 30


def test_types_are_those_of_the_plan(tmp_path):
    url = corpus(tmp_path, tag=pa.array(["x", "y"] * 15).dictionary_encode())
    schema = pa.schema([("tag", pa.string()), ("n", pa.int64())])

    (rows,) = read_all(url, 100, schema, id_column=None)

    assert rows.table.schema == schema
    with pytest.raises(InputError, match="column 'tag' is .*, the plan says int64"):
        read_all(url, 100, pa.schema([("tag", pa.int64())]), id_column=None)


def bad_utf8(values):
    raw = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(values), raw.buffers())


def test_rows_with_invalid_utf8_are_bad_and_the_others_good(tmp_path):
    text = bad_utf8([b"ok", b"\xff", None, b"fine", b"\xc3"])
    ids = bad_utf8([b"a", b"b", b"c", b"d", b"\xff"])
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"id": ids, "text": text}), path)

    (rows,) = read_all(str(path))

    assert rows.table["id"].to_pylist() == ["a", "c", "d"]
    assert rows.row_numbers.tolist() == [0, 2, 3]
    assert [(bad.row, bad.id, bad.reason) for bad in rows.bad] == [
        (1, "b", "invalid_utf8"),
        (4, None, "invalid_utf8"),
    ]


def test_files_without_rows_are_read(tmp_path):
    (shard,) = list_shards([corpus(tmp_path, n=0)])

    assert shard.n_rows == 0
    assert len(plan_units([shard], 10)) == 0
    assert corpus_schema([shard], ["n"]).names == ["n"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"not parquet at all" * 10,
        lambda data: data[:-50] + b"\xff" * 42 + data[-8:],
    ],
    ids=["empty", "cut", "foreign", "footer"],
)
def test_a_file_that_is_no_whole_parquet_is_named(tmp_path, spoil):
    url = corpus(tmp_path)
    with open(url, "rb") as file:
        data = file.read()
    with open(url, "wb") as file:
        file.write(spoil(data))

    with pytest.raises(InputError, match="a.parquet"):
        list_shards([url])


def test_damaged_pages_are_an_input_error(tmp_path):
    url = corpus(tmp_path, n=1000, row_group_size=1000)
    unit = plan_units(list_shards([url]), 1000)[0]
    stat = os.stat(url)
    with open(url, "r+b") as file:
        file.seek(4)
        file.write(b"\xff" * 2000)
    os.utime(url, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    with pytest.raises(InputError, match="a.parquet"):
        read_rows(unit, SCHEMA)


def test_a_missing_column_names_what_there_is(tmp_path):
    schema = pa.schema([("txt", pa.string())])

    with pytest.raises(InputError, match="no column 'txt'; it has id, n, text"):
        read_all(corpus(tmp_path), schema=schema, id_column=None)


def test_a_filter_on_a_missing_column_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no column 'lang'"):
        read_all(corpus(tmp_path), filters=[("lang", "==", "en")])


def test_a_shard_that_changed_since_the_plan_is_refused(tmp_path):
    url = corpus(tmp_path)
    unit = plan_units(list_shards([url]), 100)[0]
    corpus(tmp_path, n=31)

    with pytest.raises(InputError, match="changed since it was planned"):
        read_rows(unit, SCHEMA)
    os.unlink(url)
    with pytest.raises(InputError, match="gone since it was planned"):
        read_rows(unit, SCHEMA)


def test_a_shard_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    from stx_core.store.corpus.formats import READERS, Reader

    url = corpus(tmp_path)
    unit = plan_units(list_shards([url]), 100)[0]
    reader = READERS["parquet"]

    def read_and_touch(*args):
        rows = reader.read(*args)
        os.utime(url, ns=(1, 1))
        return rows

    monkeypatch.setitem(READERS.table, "parquet", Reader(reader.shard, read_and_touch))

    with pytest.raises(InputError, match="changed since it was planned"):
        read_rows(unit, SCHEMA)


def test_the_id_column_must_be_read_to_be_known(tmp_path):
    with pytest.raises(SpecError, match="id column 'id'"):
        read_all(corpus(tmp_path), schema=pa.schema([("text", pa.string())]))


def test_a_corpus_of_nothing_or_of_unknown_files_is_an_error(tmp_path):
    with pytest.raises(InputError, match="holds no files"):
        list_shards([str(tmp_path)])
    with pytest.raises(InputError, match="no such file"):
        list_shards([str(tmp_path / "absent")])
    (tmp_path / "x.docx").write_bytes(b"")
    with pytest.raises(InputError, match=r"x\.docx: cannot tell its format"):
        list_shards([str(tmp_path)])


def test_a_file_that_two_patterns_name_is_listed_once(tmp_path):
    url = corpus(tmp_path)

    assert len(list_shards([url, str(tmp_path), str(tmp_path / "*.parquet")])) == 1


def test_parquet_is_read_from_other_stores(tmp_path):
    import uuid

    from stx_core.store.files.filesystem import write_new

    url = f"memory://{uuid.uuid4().hex}/lang=en/a.parquet"
    with open(corpus(tmp_path), "rb") as file:
        write_new(url, file.read())

    parts = read_all(url)

    assert np.concatenate([part.row_numbers for part in parts]).tolist() == list(range(30))
