"""Rows through a function that the spec names, ``inputs.map``."""

import importlib
import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import stx as functions
from stx.pipelines.encode import run_encode
from stx.pipelines.encoding.keys import unit_keys
from stx.pipelines.planning.corpus import list_corpus
from stx.pipelines.retrieval.text_lookup import fetch_texts, index_texts
from stx.pipelines.spec.encode import EncodeSpec
from stx.pipelines.spec.file import parse_spec
from stx.pipelines.spec.parts import Inputs
from stx.pipelines.submit.submission import describe
from stx.pipelines.verify import encode_again
from stx_core.errors import InputError, SpecError
from stx_core.store.corpus.units import plan_units
from stx_core.store.snapshot import open_snapshot, quarantined_rows

HEAD = "import pyarrow as pa\nimport pyarrow.compute as pc\n\n\n"
CLEAN = """def clean(table):
    texts = pc.replace_substring_regex(table["html"], "<[^>]*>", "")
    table = table.append_column("text", texts)
    return table.append_column("size", pc.utf8_length(texts).cast(pa.int64()))
"""
MAPPED = {"map": "my_rows:clean", "map_columns": ["html"], "columns": ["size"]}


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """Writes the module `my_rows`, over what it was, and forgets that one."""
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    (tmp_path / "code").mkdir()

    def write(code):
        sys.modules.pop("my_rows", None)
        (tmp_path / "code/my_rows.py").write_text(HEAD + code)
        importlib.invalidate_caches()

    write(CLEAN)
    yield write
    sys.modules.pop("my_rows", None)


@pytest.fixture
def pages(tmp_path):
    """150 rows of HTML, the text of every tenth of which is empty."""
    html = [
        f"<p>{'' if i % 10 == 9 else 'plants eat' if i % 2 else 'light'}</p>" for i in range(150)
    ]
    path = tmp_path / "pages.parquet"
    pq.write_table(pa.table({"id": [f"d{i}" for i in range(150)], "html": html}), path)
    return path


def stored(tmp_path, *columns):
    return open_snapshot(str(tmp_path / "out")).to_table(columns=["id", *columns]).to_pydict()


def test_texts_and_columns_of_the_function_are_what_is_encoded(
    rows, pages, corpus, spec_of, tmp_path
):
    run_encode(spec_of(pages, inputs=MAPPED))
    plain = pa.table({"id": ["a", "b"], "text": ["plants eat", "light"]})
    pq.write_table(plain, tmp_path / "plain.parquet")
    run_encode(spec_of(tmp_path / "plain.parquet", output={"path": str(tmp_path / "plain")}))

    seen = stored(tmp_path, "embedding", "size", "content_hash")
    expected = open_snapshot(str(tmp_path / "plain")).to_table().to_pydict()
    quarantined = list(quarantined_rows(str(tmp_path / "out")))
    assert seen["id"] == [f"d{i}" for i in range(150) if i % 10 != 9]
    assert seen["size"][:2] == [5, 10]
    assert seen["content_hash"][:2] == expected["content_hash"][::-1]
    assert seen["embedding"][:2] == expected["embedding"][::-1]
    assert [row["id"] for row in quarantined] == [f"d{i}" for i in range(9, 150, 10)]
    assert {row["reason"] for row in quarantined} == {"empty_text"}


def test_an_edit_of_the_module_reads_again_and_encodes_what_became_another_text(
    rows, pages, spec_of, tmp_path
):
    spec = spec_of(pages, inputs=MAPPED)
    first, again = run_encode(spec), run_encode(spec)
    rows(CLEAN.replace('"<[^>]*>", "")', '"<[^>]*>", "")\n    texts = pc.replace_substring(texts, '
                       '"light", "stars")'))  # fmt: skip

    changed = run_encode(spec)

    assert [first.version, again.version, changed.version] == [1, 1, 2]
    assert set(stored(tmp_path, "size")["size"]) == {5, 10}
    assert changed.parts["dense"].carried_rows == 60
    (comparison,) = encode_again(str(tmp_path / "out"), 20, allow_code=True)
    assert comparison.is_same
    assert (comparison.n_foreign, comparison.unread) == (0, ())


def test_an_edit_without_loading_the_module_anew_is_refused(rows, pages, spec_of, tmp_path):
    spec = spec_of(pages, inputs=MAPPED)
    run_encode(spec)
    path = tmp_path / "code/my_rows.py"
    path.write_text(path.read_text() + "\n# edited\n")

    with pytest.raises(SpecError, match="edited after it was imported"):
        run_encode(spec)


def test_the_keys_of_a_spec_without_a_map_are_as_before(corpus, spec_of):
    spec = spec_of(corpus)
    listed = list_corpus(spec.inputs)
    units = plan_units(listed.shards[:1], 64)
    same = {"output": "dense", "output_fingerprint": "f"}
    explicit = spec.model_copy(
        update={"inputs": spec.inputs.model_copy(update={"map": None, "map_columns": ()})}
    )

    assert not {"map", "map_columns"} & spec.inputs.model_dump().keys()
    assert unit_keys(spec, units, listed.schema, **same) == unit_keys(
        explicit, units, listed.schema, **same
    )


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def clean(table):\n    return table.slice(1)\n", "gave 49 rows for 50"),
        ("def clean(table):\n    return table\n", "gave no columns 'text'; it gave id, html"),
        ("def clean(table):\n    return 7\n", "gave a int, not a pyarrow.Table"),
        ("def clean(table):\n    raise KeyError('x')\n", "inputs.map my_rows:clean: KeyError: 'x'"),
        (
            CLEAN + "\n\nforwards = clean\n\n\ndef clean(table):\n    table = forwards(table)\n"
            "    return table.take(list(range(len(table)))[::-1])\n",
            "column 'id' has other ids, or in another order",
        ),
        (
            CLEAN.replace("append_column(\"text\", texts)", "append_column('text', "
                          "pa.nulls(len(table)))"),
            "column 'text' is null in the first rows",
        ),
        ("clean = 7\n", "my_rows:clean is a int, not a function"),
        ("import not_there\n", "my_rows:clean cannot be imported (ModuleNotFoundError: No module"),
    ],
    ids=["rows", "columns", "kind", "raises", "order", "null", "value", "import"],
)  # fmt: skip
def test_what_breaks_the_contract_ends_the_run_in_one_line(
    rows, pages, spec_of, tmp_path, code, said
):
    rows(code)

    with pytest.raises((InputError, SpecError)) as raised:
        run_encode(spec_of(pages, inputs=MAPPED))

    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not list((tmp_path / "out").glob("data/*/*"))


def test_a_failure_in_a_later_unit_names_file_and_rows_and_quarantines_nothing(
    rows, pages, spec_of, tmp_path
):
    rows(
        CLEAN.replace(
            "def clean(table):\n",
            "def clean(table):\n    if len(table) == 50 and 'd130' in table['id'].to_pylist():\n"
            "        raise ValueError('odd row')\n",
        )
    )

    with pytest.raises(
        InputError,
        match=r"pages.parquet rows 100 to 150: inputs.map my_rows:clean: ValueError: odd",
    ):
        run_encode(spec_of(pages, inputs=MAPPED, resources={"rows_per_unit": 50}))


def test_a_filter_that_leaves_nothing_of_the_first_rows_still_gives_types(
    rows, pages, spec_of, tmp_path
):
    run_encode(spec_of(pages, inputs=MAPPED | {"filter": [["id", "==", "d130"]]}))

    assert stored(tmp_path, "size") == {"id": ["d130"], "size": [5]}


def test_texts_that_are_looked_up_by_id_go_through_the_function(rows, pages, tmp_path):
    asked = {"d3": "plants eat", "nobody": None, "d0": "light"}
    for id_column, names in (("id", list(asked)), (None, [f"{pages}:3", "nobody", f"{pages}:0"])):
        inputs = Inputs(path=str(pages), id_column=id_column, **MAPPED)
        source = index_texts(inputs, str(tmp_path))

        fetched = fetch_texts(source, pa.array(names))

        assert fetched.to_pylist() == list(asked.values())


def spec_file(tmp_path, spec):
    path = tmp_path / "spec.yaml"
    values = spec.model_dump(mode="json", exclude_unset=True)
    path.write_text(yaml.safe_dump(json.loads(json.dumps(values))))
    return path, values


def test_code_runs_only_where_the_command_line_allows_it(rows, pages, spec_of, tmp_path, stx):
    rows("raise SystemExit('imported')")
    path, values = spec_file(tmp_path, spec_of(pages, inputs=MAPPED))
    (tmp_path / "flow.yaml").write_text(yaml.safe_dump({"steps": [{"encode": values}]}))

    for command in (
        ["encode", path],
        ["encode", path, "--dry-run"],
        ["run", tmp_path / "flow.yaml"],
    ):
        code, _, error = stx(*command)
        assert (code, error.count("\n")) == (2, 1)
        assert "inputs.map: a spec may run code, my_rows:clean, only with --allow-code" in error
    with pytest.raises(SpecError, match="only with allow_code=True"):
        functions.encode(path)
    with pytest.raises(SpecError, match="only with allow_code=True"):
        functions.run({"steps": [{"encode": values}]})
    assert "my_rows" not in sys.modules
    rows(CLEAN)
    assert stx("run", tmp_path / "flow.yaml", "--allow-code")[0] == 0
    assert stx("encode", path, "--allow-code")[0] == 0
    assert "--allow-code" in describe(str(path), allow_code=True).command
    assert stx("verify", tmp_path / "out", "--reencode", 5)[0] == 2
    assert stx("verify", tmp_path / "out", "--reencode", 5, "--allow-code")[0] == 0


def test_a_dataset_is_repaired_through_its_map_where_that_is_allowed(
    rows, pages, spec_of, tmp_path, stx
):
    run_encode(spec_of(pages, inputs=MAPPED))
    before = stored(tmp_path, "embedding", "size")
    next((tmp_path / "out/data").rglob("*.parquet")).unlink()

    refused, _, error = stx("verify", tmp_path / "out", "--repair")
    repaired, _, _ = stx("verify", tmp_path / "out", "--repair", "--allow-code")

    assert (refused, repaired) == (2, 0)
    assert "only with --allow-code" in error
    assert stored(tmp_path, "embedding", "size") == before


def test_a_function_itself_can_be_given_in_python(rows, pages, spec_of, tmp_path):
    my_rows = importlib.import_module("my_rows")
    values = spec_of(pages).model_dump(exclude_unset=True)
    inputs = values["inputs"] | MAPPED | {"map": my_rows.clean}

    report = functions.encode(values, inputs=inputs, allow_code=True)

    assert report.committed
    assert stored(tmp_path, "size")["size"][0] == 5
    with pytest.raises(SpecError, match="workers import it by its name"):
        functions.encode(values, inputs=inputs | {"map": lambda table: table}, allow_code=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"map": "os.system"}, "write it as package.module:function"),
        ({"map_columns": ["html"]}, "map_columns: goes with map"),
    ],
)
def test_a_spec_says_where_the_function_is(changes, said):
    values = {"inputs": {"path": "a"} | changes, "models": {"d": {"model": "m"}}}

    with pytest.raises(SpecError, match=said):
        parse_spec(values | {"output": {"path": "out"}}, kind=EncodeSpec)
