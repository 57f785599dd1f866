"""Parquet as others write it: every encoding, type and oddity gives the right rows or one line."""

import base64
import contextlib
import datetime
import itertools

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as encryption
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stx_core.errors import InputError
from stx_core.store.corpus import parquet
from stx_core.store.corpus.columns import check_types, corpus_schema
from stx_core.store.corpus.readers import list_shards, read_rows
from stx_core.store.corpus.units import plan_units

MICROS = pa.timestamp("us")


def read(path, columns=("id", "text"), filters=(), rows_per_unit=4096, id_column="id"):
    """All rows of a file as one table, and the bad ones."""
    shards = list_shards([str(path)], filters=filters)
    schema = corpus_schema(shards, columns)
    units = plan_units(shards, rows_per_unit)
    parts = [read_rows(unit, schema, filters, id_column) for unit in units]
    return pa.concat_tables([part.table for part in parts]), [
        bad for part in parts for bad in part.bad
    ]


def texts(n=300):
    return pa.table(
        {"id": [f"d{row}" for row in range(n)], "text": [f"t {row % 50}" * 3 for row in range(n)]}
    )


# --- encodings ---------------------------------------------------------------------------------

STRINGS = ("PLAIN", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY")
INTEGERS = ("PLAIN", "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT")


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize(("strings", "integers"), [*itertools.product(STRINGS, INTEGERS)])
def test_every_encoding_gives_the_same_rows(tmp_path, strings, integers, version):
    table = texts().append_column("n", pa.array(range(300), pa.int64()))
    table = table.append_column("f", pa.array(np.linspace(0, 1, 300)))
    encodings = {"id": strings, "text": strings, "n": integers, "f": "BYTE_STREAM_SPLIT"}
    pq.write_table(
        table, tmp_path / "a.parquet", use_dictionary=False, column_encoding=encodings,
        data_page_version=version, row_group_size=100,
    )  # fmt: skip

    rows, bad = read(tmp_path / "a.parquet", table.column_names, rows_per_unit=70)

    assert rows.equals(table)
    assert not bad


@pytest.mark.parametrize("kind", ["list", "struct", "map"])
def test_nested_columns_of_every_encoding_are_read(tmp_path, kind):
    value = {"list": ["a", "b"], "struct": {"x": "a"}, "map": [("k", "v")]}[kind]
    leaf = {"list": "c.list.element", "struct": "c.x", "map": "c.key_value.value"}[kind]
    types = {"map": pa.map_(pa.string(), pa.string())}
    column = pa.array([value, None] * 50, types.get(kind))
    table = texts(100).append_column("c", column)
    for how in ({}, {"use_dictionary": False, "column_encoding": {leaf: "DELTA_BYTE_ARRAY"}}):
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=30, **how)

        rows, _ = read(tmp_path / "a.parquet", ["id", "text", "c"], rows_per_unit=17)

        assert rows["c"].to_pylist() == table["c"].to_pylist()


def test_strings_that_expand_a_lot_are_read_in_small_batches(tmp_path, monkeypatch):
    table = pa.table({"id": [str(row) for row in range(64)], "text": ["a" * 1000] * 64})
    pq.write_table(
        table, tmp_path / "a.parquet", use_dictionary=False,
        column_encoding={"id": "PLAIN", "text": "DELTA_BYTE_ARRAY"},
    )  # fmt: skip
    monkeypatch.setattr(parquet, "_MAX_DECODED_BYTES", 8 * 1200)
    sizes = []
    plain = parquet._plain
    monkeypatch.setattr(parquet, "_plain", lambda rows: sizes.append(len(rows)) or plain(rows))

    rows, _ = read(tmp_path / "a.parquet")

    assert rows.equals(table)
    assert max(sizes) <= 8


def test_duckdb_writes_what_is_read(tmp_path):
    for version in ("v1", "v2"):
        path = tmp_path / f"{version}.parquet"
        duckdb.sql(
            "copy (select 'd' || i as id, 'text ' || md5(i::varchar) as text, i % 3 as n, "
            "i * 1.25 as price, 'x' || (i % 3) as cat, map {'k': i} as m, [i] as list "
            f"from range(1000) t(i)) to '{path}' (format parquet, parquet_version {version})"
        )
        wanted = duckdb.sql(f"select * from '{path}'").fetchall()

        rows, _ = read(path, ["id", "text", "n", "price", "cat", "m", "list"])

        given = [tuple(row.values()) for row in rows.to_pylist()]
        assert [(*row[:5], dict(row[5]), row[6]) for row in given] == wanted


def test_polars_writes_what_is_read(tmp_path):
    frame = polars.DataFrame(
        {
            "id": ["a", "b"],
            "text": ["x", "y"],
            "cat": polars.Series(["p", "q"], dtype=polars.Categorical),
            "list": [["a"], []],
            "when": [datetime.datetime(2026, 1, 2, 3, 4, 5, 6), None],
            "for": [datetime.timedelta(seconds=3), None],
            "at": [datetime.time(1, 2, 3), None],
        }
    )
    frame.write_parquet(tmp_path / "a.parquet")

    rows, _ = read(tmp_path / "a.parquet", frame.columns)

    assert rows.drop(["at"]).to_pylist() == frame.drop("at").to_dicts()
    assert rows["at"][0].value == frame.to_arrow()["at"][0].value


# --- times in INT96 ----------------------------------------------------------------------------


def int96(path, times, unit="us", **more):
    ids = [f"d{row}" for row in range(len(times))]
    column = pa.array(times, pa.timestamp(unit))
    table = pa.table({"id": ids, "text": ids, "when": column, **more})
    pq.write_table(table, path, use_deprecated_int96_timestamps=True)


def test_int96_of_any_year_is_exact(tmp_path):
    times = [None, *(datetime.datetime(year, 12, 31, 23, 59, 59, 999999) for year in
                     (1, 1492, 1677, 1678, 2026, 2262, 2263, 9999))]  # fmt: skip
    int96(tmp_path / "a.parquet", times)

    rows, bad = read(tmp_path / "a.parquet", ["id", "when"])

    assert rows.schema.field("when").type == MICROS
    assert rows["when"].to_pylist() == times
    assert not bad


def test_int96_that_microseconds_cannot_hold_is_a_bad_row(tmp_path):
    int96(tmp_path / "a.parquet", [1000, 1001, None, 2**62 + 7], "ns", n=[0, 1, 2, 3])

    rows, bad = read(tmp_path / "a.parquet", ["id", "when"])
    later, worse = read(tmp_path / "a.parquet", ["id"], [("n", ">", 1)])

    assert rows["id"].to_pylist() == ["d0", "d2"]
    assert [(row.row, row.id, row.column, row.reason) for row in bad] == [
        (1, "d1", "when", "wrong_type"),
        (3, "d3", "when", "wrong_type"),
    ]
    assert (later["id"].to_pylist(), worse) == (["d2", "d3"], [])


@pytest.mark.parametrize("rows_per_unit", [2, 100])
def test_int96_inside_of_lists_and_maps_is_told_by_row(tmp_path, rows_per_unit):
    kinds = pa.list_(pa.timestamp("ns")), pa.map_(pa.string(), pa.timestamp("ns"))
    lists = pa.array([[1000, None], [], None, [2000, 1001], [3000]], kinds[0])
    maps = pa.array([[("k", 1)], [("k", 1000)], None, [], [("k", 1000), ("l", 2000)]], kinds[1])
    for name, column, wrong in (("lists", lists, [3]), ("maps", maps, [0])):
        ids = [str(row) for row in range(5)]
        table = pa.table({"id": ids, name: column})
        pq.write_table(table, tmp_path / f"{name}.parquet", use_deprecated_int96_timestamps=True)

        rows, bad = read(tmp_path / f"{name}.parquet", ["id", name], rows_per_unit=rows_per_unit)

        assert [row.row for row in bad] == wrong
        assert rows["id"].to_pylist() == [each for each in ids if int(each) not in wrong]


# --- names -------------------------------------------------------------------------------------


def test_a_column_with_a_dot_is_not_the_field_of_a_struct(tmp_path):
    table = pa.table(
        {
            "id": [f"d{row}" for row in range(8)],
            "text": ["x"] * 8,
            "a": [{"b": 100}] * 8,
            "a.b": list(range(8)),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)

    rows, _ = read(tmp_path / "a.parquet", ["id", "a.b", "a"], [("a.b", ">=", 5)])
    nothing, _ = read(tmp_path / "a.parquet", ["id"], [("a.b", ">=", 50)])

    assert rows.to_pylist() == table.select(["id", "a.b", "a"]).slice(5).to_pylist()
    assert len(nothing) == 0


def test_duplicate_column_names_are_refused_only_where_they_are_read(tmp_path):
    columns = [["a"], ["x"], ["y"], ["z"]]
    table = pa.Table.from_arrays([pa.array(each) for each in columns], ["id", "text", "n", "n"])
    pq.write_table(table, tmp_path / "a.parquet")

    assert read(tmp_path / "a.parquet")[0].to_pylist() == [{"id": "a", "text": "x"}]
    with pytest.raises(InputError, match="a.parquet: two columns are named 'n'; rename one"):
        read(tmp_path / "a.parquet", ["id", "n"])
    with pytest.raises(InputError, match="a.parquet: two columns are named 'n'; rename one"):
        read(tmp_path / "a.parquet", ["id"], [("n", "==", "y")])


def test_a_name_that_is_no_utf8_is_one_line(tmp_path):
    pq.write_table(texts().rename_columns(["id", "WXYZ"]), tmp_path / "a", store_schema=False)
    data = (tmp_path / "a").read_bytes().replace(b"WXYZ", b"W\xff\xfeZ")
    (tmp_path / "a.parquet").write_bytes(data)

    with pytest.raises(InputError, match="a.parquet: the name of a column is not UTF-8"):
        list_shards([str(tmp_path / "a.parquet")])


# --- types -------------------------------------------------------------------------------------


def test_opaque_types_are_refused_only_where_they_are_read(tmp_path):
    wide = polars.Series([2**100, 1], dtype=polars.Int128)
    polars.DataFrame({"id": ["a", "b"], "text": ["x", "y"], "wide": wide}).write_parquet(
        tmp_path / "a.parquet"
    )

    assert read(tmp_path / "a.parquet")[0]["id"].to_pylist() == ["a", "b"]
    with pytest.raises(InputError, match="column 'wide' is of a type that pyarrow lacks"):
        read(tmp_path / "a.parquet", ["id", "wide"])


def test_types_of_duckdb_are_read_as_plain_types(tmp_path):
    path = tmp_path / "a.parquet"
    duckdb.sql(
        "copy (select uuid() as id, ('{\"a\": ' || i || '}')::json as text, (i % 2 = 0) as even, "
        f"i::hugeint as huge, interval (i) day as span from range(9) t(i)) to '{path}'"
    )
    wanted = duckdb.sql(f"select id::varchar, text::varchar, even from '{path}'").fetchall()
    shards = list_shards([str(path)])
    schema = corpus_schema(shards, ["id", "text", "even"])
    check_types(schema, ["text"], "id")

    rows, _ = read(path, ["id", "text", "even"])
    (one, *_), _ = read(path, ["id"], [("id", "==", wanted[3][0]), ("even", "==", False)])

    assert [tuple(row.values()) for row in rows.to_pylist()] == wanted
    assert one.to_pylist() == [wanted[3][0]]


@pytest.mark.parametrize("name", ["uuid", "json", "bool8", "tensor", "list of uuid", "decimal256"])
def test_extension_types_become_plain_ones(tmp_path, name):
    uuids = pa.array([bytes(range(16)), None, b"\xff" * 16], pa.uuid())
    tensor = pa.fixed_shape_tensor(pa.float32(), [2])
    column, values = {
        "uuid": (uuids, ["00010203-0405-0607-0809-0a0b0c0d0e0f", None,
                         "ffffffff-ffff-ffff-ffff-ffffffffffff"]),
        "json": (pa.array(["{}", None, "1"], pa.json_()), ["{}", None, "1"]),
        "bool8": (pa.ExtensionArray.from_storage(pa.bool8(), pa.array([0, None, 5], pa.int8())),
                  [False, None, True]),
        "tensor": (pa.ExtensionArray.from_storage(
            tensor, pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.float32(), 2))
        ), [[1, 2], [3, 4], [5, 6]]),
        "list of uuid": (pa.ListArray.from_arrays([0, 1, 1, 2], uuids), [
            [bytes(range(16))], [], [None]]),
        "decimal256": (pa.array([1, None, 2], pa.decimal256(76, 2)), [1, None, 2]),
    }[name]  # fmt: skip
    pq.write_table(pa.table({"id": ["a", "b", "c"], "c": column}), tmp_path / "a.parquet")

    rows, _ = read(tmp_path / "a.parquet", ["id", "c"])

    assert rows["c"].to_pylist() == values
    assert not isinstance(rows.schema.field("c").type, pa.BaseExtensionType)


# --- checksums and secrets ---------------------------------------------------------------------


@pytest.mark.parametrize("dictionary", [False, True])
def test_a_flipped_bit_is_found_by_the_page_checksum(tmp_path, dictionary):
    table = pa.table({"id": ["a", "b"] * 50, "text": ["the text", "another"] * 50})
    path = tmp_path / "a.parquet"
    pq.write_table(
        table, path, compression="none", write_page_checksum=True, use_dictionary=dictionary,
        write_statistics=False,
    )  # fmt: skip
    assert read(path)[0].equals(table)
    data = bytearray(path.read_bytes())
    data[data.index(b"the text")] ^= 1
    path.write_bytes(data)

    with pytest.raises(InputError, match=r"a.parquet: damaged .*checksum"):
        read(path)


class Keys(encryption.KmsClient):
    """Keys that are not wrapped at all: the tests have nothing to hide."""

    def __init__(self, settings):
        super().__init__()

    def wrap_key(self, key, name):
        return base64.b64encode(key)

    def unwrap_key(self, wrapped, name):
        return base64.b64decode(wrapped)


def encrypted(path, plaintext_footer):
    keys = encryption.CryptoFactory(Keys)
    how = encryption.EncryptionConfiguration(
        footer_key="f", column_keys={"k": ["text"]}, plaintext_footer=plaintext_footer
    )
    properties = keys.file_encryption_properties(encryption.KmsConnectionConfig(), how)
    table = pa.table({"id": ["a", "b"], "text": ["x", "y"], "title": ["p", "q"]})
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)


def test_an_encrypted_footer_is_one_line(tmp_path):
    encrypted(tmp_path / "a.parquet", plaintext_footer=False)

    with pytest.raises(InputError, match="a.parquet: its footer is encrypted; decrypt it"):
        list_shards([str(tmp_path / "a.parquet")])


def test_an_encrypted_column_is_one_line_and_the_others_can_be_read(tmp_path):
    encrypted(tmp_path / "a.parquet", plaintext_footer=True)

    assert read(tmp_path / "a.parquet", ["id", "title"])[0].to_pylist() == [
        {"id": "a", "title": "p"},
        {"id": "b", "title": "q"},
    ]
    with pytest.raises(InputError, match="a.parquet: column 'text' is encrypted; decrypt it"):
        read(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="a.parquet: column 'text' is encrypted; decrypt it"):
        read(tmp_path / "a.parquet", ["id"], [("text", "==", "x")])


# --- whole files -------------------------------------------------------------------------------

DAYS = [datetime.date(2026, 1, 1 + day) for day in range(20)]
ORDERED = {
    "uint64": pa.array([2**63 + n for n in range(20)], pa.uint64()),
    "uint8": pa.array(range(236, 256), pa.uint8()),
    "float16": pa.array(np.arange(20) - 9.5, pa.float16()),
    "float32": pa.array(np.arange(20) / 10, pa.float32()),
    "decimal": pa.array([n - 9 for n in range(20)], pa.decimal128(5, 2)),
    "date": pa.array(DAYS),
    "nanoseconds": pa.array([n - 9 for n in range(20)], pa.timestamp("ns")),
    "duration": pa.array([n - 9 for n in range(20)], pa.duration("s")),
    "binary": pa.array([bytes([200 + n]) for n in range(20)]),
    "bool8": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([0, 5] * 10, pa.int8())),
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("uint64", 2**63 + 5), ("uint64", -1), ("uint64", 2**70), ("uint8", 240.5), ("uint8", 300),
        ("float16", 0.5), ("float16", -3.5), ("float32", 0.3), ("decimal", 3),
        ("date", "2026-01-07"), ("nanoseconds", "1970-01-01"),
        ("duration", datetime.timedelta(seconds=3)), ("binary", b"\xd2"), ("bool8", True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("op", ["==", "!=", "<", ">="])
def test_statistics_never_hide_a_row_that_passes(tmp_path, name, value, op):
    table = pa.table({"id": [str(row) for row in range(20)], "c": ORDERED[name]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    pq.write_table(table, tmp_path / "b.parquet", write_statistics=False)

    rows, _ = read(tmp_path / "a.parquet", ["id"], [("c", op, value)])
    wanted, _ = read(tmp_path / "b.parquet", ["id"], [("c", op, value)])

    assert rows.equals(wanted)
    assert 0 < len(rows) < 20 or name in ("uint64", "uint8", "bool8")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Bytes of small files of several kinds."""
    folder = tmp_path_factory.mktemp("samples")
    table = texts(40).append_column("m", pa.array([[("k", "v")]] * 40, pa.map_("string", "string")))
    pq.write_table(table, folder / "a", write_page_checksum=True, write_page_index=True)
    pq.write_table(table, folder / "b", use_dictionary=False, column_encoding="DELTA_BYTE_ARRAY")
    encrypted(folder / "c", plaintext_footer=True)
    polars.DataFrame({"id": ["a"], "text": ["x"]}).write_parquet(folder / "d")
    return [path.read_bytes() for path in sorted(folder.iterdir())]


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_random_bytes_in_parquet_give_rows_or_an_input_error(samples, tmp_path_factory, data):
    content = bytearray(data.draw(st.sampled_from(samples)))
    for _ in range(data.draw(st.integers(1, 3))):
        # Most of the harm is done in the footer.
        place = data.draw(st.integers(max(0, len(content) - 1500), len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("any") / "a.parquet"
    path.write_bytes(content)

    with contextlib.suppress(InputError):
        rows, bad = read(path, filters=[("id", "!=", "d1")])
        assert len(rows) + len(bad) <= 10**6
