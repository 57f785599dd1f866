"""CSV of every form; a quote out of place costs its row, with a reason, and nothing is lost."""

import csv
import io

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from stx.pipelines.spec.parts import Csv, Inputs
from stx_core.errors import InputError
from stx_core.store.corpus import csv_rows
from stx_core.store.corpus.columns import corpus_schema
from stx_core.store.corpus.readers import list_shards, read_rows
from stx_core.store.corpus.shards import CsvForm
from stx_core.store.corpus.units import plan_units

USUAL = CsvForm()
PLAIN = CsvForm(quote=None)


def read(path, data, form=USUAL, rows_per_unit=2, columns=("id", "text")):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    shards = list_shards([str(path)], csv=form)
    schema = corpus_schema(shards, columns)
    parts = [read_rows(unit, schema, csv=form) for unit in plan_units(shards, rows_per_unit)]
    rows = [tuple(row.values()) for part in parts for row in part.table.to_pylist()]
    return rows, [bad for part in parts for bad in part.bad]


MANY = "".join(f"r{n},text {n}\n" for n in range(1000))


@pytest.mark.parametrize(
    "broken",
    [
        'x,"open', 'x,"', '"x,y', 'x,"a "word" b"', 'x,"a \\"word\\" b"', 'x,"done" more',
        '"x"y,z', 'x,"""', 'x,"open"",', '"', '""",b',
    ],
)  # fmt: skip
@pytest.mark.parametrize("after", [MANY, MANY + 'z,"quoted, well"\n', 'z,"quoted"\n' + MANY, ""])
def test_a_broken_quote_costs_one_row_with_a_reason(tmp_path, broken, after):
    rows, bad = read(tmp_path / "a.csv", f"id,text\na,b\n{broken}\n{after}", rows_per_unit=400)

    expected = [tuple(row) for row in csv.reader(io.StringIO("a,b\n" + after))]
    assert rows == expected
    assert [(row.row, row.reason) for row in bad] == [(1, "malformed")]
    assert bad[0].detail.startswith("line 3: a quote is not closed, or text stands behind")


@pytest.mark.parametrize("broken", ['x\t"Hello" he said', 'x\t"open', 'x\t"a\\"b"'])
def test_quotes_in_fields_of_tsv_are_never_lost_in_silence(tmp_path, broken):
    rows, bad = read(tmp_path / "a.tsv", f"id\ttext\n{broken}\ny\tz\n")
    plain, none = read(tmp_path / "a.tsv", f"id\ttext\n{broken}\ny\tz\n", PLAIN)

    assert (rows, len(bad)) == ([("y", "z")], 1)
    assert plain == [tuple(broken.split("\t")), ("y", "z")]
    assert none == []


def test_quotes_inside_of_unquoted_fields_are_plain(tmp_path):
    rows, bad = read(tmp_path / "a.csv", 'id,text\na,5" nails\nb,say "hi"\n')

    assert rows == [("a", '5" nails'), ("b", 'say "hi"')]
    assert bad == []


def test_quotes_may_be_escaped(tmp_path):
    form = CsvForm(escape="\\")
    data = 'id,text\na,"say \\"hi\\", he said"\nb,"two ""words"""\nc,back\\\\slash\nd,one\\, two\n'

    rows, bad = read(tmp_path / "a.csv", data, form)

    assert [text for _, text in rows] == [
        'say "hi", he said', 'two "words"', "back\\slash", "one, two",
    ]  # fmt: skip
    assert bad == []


def test_a_collection_of_ms_marco_is_read_as_it_is(tmp_path):
    form = CsvForm(quote=None, columns=("id", "text"))
    lines = ['0\tThe "presence" of', '1\t"Quoted', "2\tit's\u2028one, line", "3\t", "4\ta\\tb"]

    rows, bad = read(tmp_path / "collection.tsv", "\r\n".join(lines), form)

    assert rows == [tuple(line.split("\t")) for line in lines]
    assert bad == []


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("form", [CsvForm(delimiter=";"), CsvForm(delimiter="|", quote="'")])
def test_delimiters_and_quotes_may_be_others(tmp_path, name, form):
    sign, quote = form.delimiter, form.quote
    data = f"id{sign}text\na{sign}{quote}b{sign}c{quote}\n"

    assert read(tmp_path / name, data, form) == ([("a", f"b{sign}c")], [])


def test_columns_that_nobody_asks_for_may_have_one_name(tmp_path):
    data = "id,,text,,x,x\na,1,b,2,3,4\n"

    assert read(tmp_path / "a.csv", data) == ([("a", "b")], [])
    for name in ("", "x"):
        with pytest.raises(InputError, match=rf"a\.csv: two columns are named '{name}'"):
            read(tmp_path / "a.csv", data, columns=("id", name))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("form", [CsvForm(), CsvForm(columns=("id", "text"))])
def test_marks_and_line_ends_are_no_text_but_stay_within_quotes(tmp_path, end, bom, form):
    header = "" if form.columns else f"id,text{end}"

    rows, bad = read(
        tmp_path / "a.csv", f'{bom}{header}a,"one{end}two"{end}{end}"b",c{end}'.encode(), form
    )

    assert rows == [("a", f"one{end}two"), ("b", "c")]
    assert bad == []


def test_a_file_without_a_header_says_what_to_do(tmp_path):
    with pytest.raises(
        InputError, match="no valid UTF-8 CSV; mend it, or name the columns in inpu"
    ):
        read(tmp_path / "a.csv", b'1,"open\n')
    with pytest.raises(InputError, match=r"lines end in CR alone.*tr '\\r' '\\n'"):
        read(tmp_path / "a.csv", "id,text\ra,b\r")


def test_a_filter_compares_numbers_of_both_kinds(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,n\na,1\nb,2.5\nc,\nd,x\n")
    (unit,) = plan_units(list_shards([str(path)]), 10)

    rows = read_rows(unit, pa.schema([("id", pa.string())]), [("n", ">=", 2)])

    assert rows.table["id"].to_pylist() == ["b"]
    assert [row.row for row in rows.bad] == [3]


cells = st.text(st.sampled_from('ab,"\\\n\r '), max_size=5)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(cells, min_size=2, max_size=2), max_size=6), st.data())
def test_what_writers_write_is_read_whatever_stands_beside_it(tmp_path_factory, rows, data):
    buffer = io.StringIO(newline="")
    csv.writer(buffer, quoting=csv.QUOTE_ALL).writerows([["id", "text"], *rows])
    path = tmp_path_factory.mktemp("csv") / "a.csv"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_rows, "MARK_ROWS", 2)
        found, bad = read(path, buffer.getvalue(), rows_per_unit=data.draw(st.integers(1, 4)))

    assert found == [tuple(row) for row in rows]
    assert bad == []


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from('ab,"\\\n\r'), max_size=40), st.integers(1, 3), st.integers(8, 60))
def test_any_text_gives_the_same_rows_whatever_the_units(tmp_path_factory, text, per_unit, limit):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(b"id,text\n" + text.encode())

    def rows_of(rows_per_unit):
        shards = list_shards([str(path)], max_text_bytes=limit)
        schema = pa.schema([("id", pa.string()), ("text", pa.string())])
        units = plan_units(shards, rows_per_unit)
        parts = [read_rows(unit, schema, (), "id", limit) for unit in units]
        return (
            [row for part in parts for row in part.table.to_pylist()],
            [row for part in parts for row in part.bad],
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_rows, "MARK_ROWS", per_unit)
        assert rows_of(per_unit) == rows_of(1000)


def test_the_spec_says_what_characters_mean():
    assert Csv(quote=None, columns=("id", "text")).form == CsvForm(
        quote=None, columns=("id", "text")
    )
    for wrong in ({"quote": ","} | {"delimiter": ","}, {"escape": "ab"}, {"quote": "\n"},
                  {"columns": ["a", "a"]}, {"quote": '"', "escape": '"'}):  # fmt: skip
        with pytest.raises(ValidationError):
            Csv.model_validate(wrong)


def test_specs_without_the_key_have_the_hashes_that_they_had():
    assert "csv" not in Inputs(path="a").model_dump(mode="json")
    changed = Inputs(path="a", csv=Csv(quote=None)).model_dump(mode="json", exclude={"path"})
    assert changed["csv"]["quote"] is None
