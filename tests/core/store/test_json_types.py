"""Columns of JSON lines have one type that changes no value, over all rows of all files."""

import json
import math

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stx_core.errors import InputError
from stx_core.store.corpus import json_scan
from stx_core.store.corpus.columns import check_types, corpus_schema
from stx_core.store.corpus.json_scan import scan
from stx_core.store.corpus.json_types import Misfit, Profile, to_array, type_of
from stx_core.store.corpus.jsonl import _rows
from stx_core.store.corpus.readers import list_shards, read_rows
from stx_core.store.corpus.shards import Mark
from stx_core.store.corpus.units import plan_units

MANY = 1500


def write(path, rows):
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def read(urls, columns, rows_per_unit=700, ids=("id",)):
    """Values of the columns, and the bad rows, as a job plans and reads them."""
    urls = [urls] if isinstance(urls, str) else urls
    shards = list_shards(urls, columns=columns)
    schema = corpus_schema(shards, columns, ids)
    parts = [read_rows(unit, schema) for unit in plan_units(shards, rows_per_unit)]
    values = [row for part in parts for row in part.table.to_pylist()]
    bad = [(row.row, row.column, row.reason) for part in parts for row in part.bad]
    return schema, values, bad


def column(tmp_path, values, name="x", ids=()):
    """Type of a column, its values, and the rows that do not fit."""
    url = write(tmp_path / "a.jsonl", [{name: value} for value in values])
    schema, rows, bad = read(url, [name], ids=ids)
    return schema.field(name).type, [row[name] for row in rows], [row for row, _, _ in bad]


@pytest.mark.parametrize(
    ("early", "late", "kind"),
    [
        (1, 1.9, pa.float64()),
        (1.5, 2, pa.float64()),
        (None, "a", pa.string()),
        (None, 7, pa.int64()),
        ([], ["a"], pa.list_(pa.string())),
        ([], [[1.5]], pa.list_(pa.list_(pa.float64()))),
        ([1], [1.5], pa.list_(pa.float64())),
        ([None], [None, True], pa.list_(pa.bool_())),
        ({"a": 1}, {"a": 2.5, "b": "x"}, pa.struct([("a", pa.float64()), ("b", pa.string())])),
        ({"a": None}, {"a": [{"c": 1}]},
         pa.struct([("a", pa.list_(pa.struct([("c", pa.int64())])))])),
        (1, 2**63, pa.uint64()),
        (1, 2**64 - 1, pa.uint64()),
        (-1, 2**63 - 1, pa.int64()),
        (0.5, math.inf, pa.float64()),
        ("2020-01-01", "x", pa.string()),
    ],
)  # fmt: skip
@pytest.mark.parametrize("turn", [False, True])
def test_a_type_holds_what_comes_later_and_changes_nothing(tmp_path, early, late, kind, turn):
    values = [early] * MANY + [late]
    values = values[::-1] if turn else values

    found, read_back, bad = column(tmp_path, values)

    assert turn or found == kind
    assert bad == []
    assert len(read_back) == len(values)
    assert json.loads(json.dumps([read_back[0], read_back[-1]])) == [
        _filled(value, found) for value in (values[0], values[-1])
    ]


def _filled(value, kind):
    """A value as a column gives it back: objects have all keys."""
    if pa.types.is_struct(kind) and value is not None:
        return {part.name: _filled(value.get(part.name), part.type) for part in kind}
    if pa.types.is_list(kind) and value is not None:
        return [_filled(item, kind.value_type) for item in value]
    return value


@pytest.mark.parametrize(
    ("usual", "odd", "reason"),
    [
        ("a", 7, "wrong_type"), ("a", True, "wrong_type"), ("a", ["a"], "wrong_type"),
        ("a", {"b": 1}, "wrong_type"), (["a"], "abc", "wrong_type"),
        (["a"], ["b", 5], "wrong_type"),
        (["a"], {"a": 1}, "wrong_type"), (5, "5", "wrong_type"), (5, True, "wrong_type"),
        (True, 1, "wrong_type"), (True, "true", "wrong_type"), (5, [5], "wrong_type"),
        ({"a": 1}, {"a": "x"}, "wrong_type"), ({"a": 1}, [1], "wrong_type"),
        (5, 2**64, "wrong_type"),
        (-5, 2**63, "wrong_type"), (5, 10**300, "wrong_type"), (0.5, 2**53 + 1, "wrong_type"),
        ("a", "\ud800", "invalid_utf8"), (["a"], ["\ud800"], "wrong_type"),
        ({"a": 1}, {"\ud800": 1}, "wrong_type"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", [0, 700, MANY])
def test_a_value_of_another_kind_costs_its_row_alone(tmp_path, usual, odd, reason, place):
    values = [usual] * MANY
    values.insert(place, odd)
    url = write(tmp_path / "a.jsonl", [{"x": value} for value in values])

    _, rows, bad = read(url, ["x"])

    assert bad == [(place, "x", reason)]
    assert rows == [{"x": usual}] * MANY


def test_ids_stay_whole_numbers_beside_a_fraction(tmp_path):
    rows = [{"id": n, "text": "t"} for n in range(MANY)] + [{"id": 7.9, "text": "t"}]

    schema, found, bad = read(write(tmp_path / "a.jsonl", rows), ["id", "text"])

    assert schema.field("id").type == pa.int64()
    assert [row["id"] for row in found] == list(range(MANY))
    assert bad == [(MANY, "id", "wrong_type")]


def test_ids_beyond_63_bits_are_ids(tmp_path):
    ids = [1, 2**63, 2**64 - 1]
    schema, found, bad = read(
        write(tmp_path / "a.jsonl", [{"id": n} for n in [*ids, 2**64]]), ["id"]
    )

    check_types(schema, [], "id")
    assert [row["id"] for row in found] == ids
    assert bad == [(3, "id", "wrong_type")]


def test_types_are_those_of_all_files(tmp_path):
    first = write(tmp_path / "a.jsonl", [{"id": 1, "n": 1, "tags": [], "m": {"a": 1}}] * 3)
    second = write(tmp_path / "b.jsonl", [{"id": 2, "n": 0.5, "tags": ["x"], "m": {"b": 1}}] * 2)
    third = write(tmp_path / "c.jsonl", [{"id": "3"}, {"id": 4}])

    schema, rows, bad = read([first, second, third], ["id", "n", "tags", "m"])

    assert schema == pa.schema(
        [
            ("id", pa.int64()),
            ("n", pa.float64()),
            ("tags", pa.list_(pa.string())),
            ("m", pa.struct([("a", pa.int64()), ("b", pa.int64())])),
        ]
    )
    assert [row["n"] for row in rows] == [1.0] * 3 + [0.5] * 2 + [None]
    assert rows[0]["m"] == {"a": 1, "b": None}
    assert bad == [(0, "id", "wrong_type")]


def test_lines_beside_parquet_have_one_type_too(tmp_path):
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": ["a"], "n": [1]}), tmp_path / "a.parquet")
    lines = write(tmp_path / "b.jsonl", [{"id": "b", "n": 0.5}, {"id": 5, "n": 1}])

    schema, rows, bad = read([str(tmp_path / "a.parquet"), lines], ["id", "n"])

    assert schema.field("n").type == pa.float64()
    assert rows == [{"id": "a", "n": 1.0}, {"id": "b", "n": 0.5}]
    assert bad == [(1, "id", "wrong_type")]


def test_a_bad_row_says_what_it_holds_but_not_its_text(tmp_path):
    url = write(tmp_path / "a.jsonl", [{"x": "a"}, {"x": "b"}, {"x": {"secret": "word"}}])
    shards = list_shards([url])

    (unit,) = plan_units(shards, 10)
    (bad,) = read_rows(unit, corpus_schema(shards, ["x"])).bad

    assert bad.detail == "line 3: column 'x' should be string, not an object"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"x": "a", "x": "b"}', "malformed"),
        ('{"y": {"z": 1, "z": 2}, "x": "a"}', "malformed"),
        ('{"x": "a", "x": "a"}', None),
        ('{"x": "a", "\\ud800": 1}', None),
        ('{"x": "a", "": 1}', None),
        ('{"x": "a"} {"x": "b"}', "malformed"),
        ('{"x": "a"},', "malformed"),
    ],
)
def test_lines_are_read_or_refused_with_a_reason(tmp_path, line, reason):
    url = write(tmp_path / "a.jsonl", [{"x": "a"}, line, {"x": "a"}])

    _, rows, bad = read(url, ["x"])

    assert [row["x"] for row in rows] == ["a"] * (3 if reason is None else 2)
    assert bad == ([] if reason is None else [(1, None, reason)])


def test_nan_and_infinity_of_python_are_read_from_json(tmp_path):
    url = write(tmp_path / "a.jsonl", ['{"x": 1}', '{"x": NaN}', '{"x": -Infinity}'])

    schema, rows, bad = read(url, ["x"])

    assert schema.field("x").type == pa.float64()
    assert (rows[0]["x"], math.isnan(rows[1]["x"]), rows[2]["x"]) == (1.0, True, -math.inf)
    assert bad == []


def test_objects_that_cannot_be_stored_are_refused_by_name(tmp_path):
    url = write(tmp_path / "a.jsonl", [{"x": {}, "y": [{"z": {}}]}])
    deep = write(tmp_path / "b.jsonl", ['{"x": ' + "[" * 200 + "]" * 200 + "}"])

    for name, place in (("x", "x"), ("y", r"y\[\].z")):
        with pytest.raises(InputError, match=f"column '{place}' holds nothing but empty objects"):
            read(url, [name])
    assert read(deep, ["x"])[2] == [(0, "x", "wrong_type")]


def test_objects_with_too_many_keys_are_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr("stx_core.store.corpus.json_types._MAX_KEYS", 10)
    url = write(tmp_path / "a.jsonl", [{"x": {f"k{n}": 1}} for n in range(12)])

    with pytest.raises(InputError, match="'x' holds objects with more than 10 different keys"):
        read(url, ["x"])


def test_a_column_that_is_only_filtered_on_has_the_kind_of_the_value(tmp_path):
    values = [1, 2.5, "x", None, True, 2**63, 3]
    url = write(tmp_path / "a.jsonl", [{"id": str(n), "n": v} for n, v in enumerate(values)])
    (unit,) = plan_units(list_shards([url]), 10)
    schema = pa.schema([("id", pa.string())])

    def passing(*condition):
        rows = read_rows(unit, schema, [("n", *condition)])
        return "".join(rows.table["id"].to_pylist()), [row.row for row in rows.bad]

    assert passing(">", 2) == ("16", [2, 4, 5])
    assert passing("==", "x") == ("2", [0, 1, 4, 5, 6])
    assert passing("is null", None) == ("3", [])
    assert passing("is not null", None) == ("012456", [])
    assert passing("in", []) == ("", [])
    assert passing("==", True) == ("4", [0, 1, 2, 5, 6])


scalars = st.one_of(
    st.none(), st.booleans(), st.text(max_size=3), st.floats(),
    st.integers(-(2**64), 2**65), st.integers(-3, 3),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=5,
)


def same(one, other, kind):
    """Whether a value is what was written; objects may have got keys without a value."""
    if isinstance(one, dict):
        names = set(one) | set(other)
        return all(same(one.get(name), other.get(name), kind) for name in names)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other, [kind] * len(one)))
    if isinstance(one, float) and math.isnan(one):
        return math.isnan(other)
    return one == other and isinstance(one, bool) == isinstance(other, bool)


@settings(max_examples=150, deadline=None)
@given(st.lists(values, max_size=8))
def test_json_values_are_read_unchanged(found):
    found = json.loads(json.dumps(found))
    profile = Profile()
    profile.add(found)
    try:
        kind = type_of(profile, "x")
    except InputError:
        return
    for value in found:
        try:
            array = to_array([value], kind)
        except Misfit:
            continue
        assert same(value, array.to_pylist()[0], kind)
        assert array.validate(full=True) is None


lines = st.one_of(
    st.binary(max_size=8),
    st.builds(lambda row: json.dumps(row).encode(),
              st.dictionaries(st.sampled_from(["x", "y", "z"]), values, max_size=3)),
    st.sampled_from([b"", b"  ", b"\xef\xbb\xbf", b"\xef\xbb\xbf{}", b'{"x": NaN}', b'{"x": 1}',
                     b"null", b'{"x": "a"}', b'{"x": "b"}', b'{"x":"c"} {"x":1}', b'{"y": 2.5}']),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.lists(lines, max_size=30), st.sampled_from([1, 5, 20, 1000]), st.sampled_from([1, 9, 40]),
    st.booleans(),
)  # fmt: skip
def test_a_scan_finds_what_is_read_wherever_its_blocks_end(
    tmp_path_factory, data, max_bytes, block_bytes, ends
):
    path = tmp_path_factory.mktemp("scan") / "a"
    path.write_bytes(b"\n".join(data) + (b"\n" if ends else b""))
    with pytest.MonkeyPatch.context() as patch, path.open("rb") as stream:
        patch.setattr(json_scan, "_BLOCK_BYTES", block_bytes)
        patch.setattr(json_scan, "_SAMPLE_BYTES", block_bytes)
        fast = scan(stream, max_bytes, 3, ["x", "y"])
        stream.seek(0)
        slow = scan(stream, max_bytes, 3, None)
        stream.seek(0)
        rows = [row[:3] for row in _rows(stream, Mark(0, 0, 0), max_bytes)]

    assert fast.n_rows == slow.n_rows == len(rows)
    assert list(fast.marks) == list(slow.marks) == [Mark(*row) for row in rows[::3]]
    for name in ("x", "y"):
        kinds = [_kind(found.profiles.get(name), name) for found in (fast, slow)]
        assert kinds[0] == kinds[1]


def _kind(profile, name):
    try:
        return type_of(profile or Profile(), name)
    except InputError as error:
        return str(error)


def test_text_must_still_be_text(tmp_path):
    schema, _, _ = read(write(tmp_path / "a.jsonl", [{"text": 1}, {"text": 2}]), ["text"])

    with pytest.raises(InputError, match="'text' is int64, not string"):
        check_types(schema, ["text"])
