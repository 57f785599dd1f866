"""What a first try with a corpus of one's own meets, before and without a spec."""

import gzip
import json
import re
import shlex

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from stx.pipelines.spec.command_line import condition_of, usual_columns
from stx_core.errors import SpecError
from stx_core.store.corpus.peek import peek
from stx_core.store.corpus.shards import CsvForm


@pytest.fixture
def beir(tmp_path):
    """JSON lines as BEIR has them."""
    path = tmp_path / "corpus.jsonl.gz"
    rows = [{"_id": f"d{i}", "title": "stars", "text": f"sand {i}", "year": i} for i in range(5)]
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory, save_static_model):
    weights = np.ones((3, 4), np.float32)
    return save_static_model(tmp_path_factory.mktemp("model"), ["stars", "sand"], weights)


def test_usual_names_of_columns_are_taken_and_said(stx, beir, model, tmp_path):
    code, printed, errors = stx("encode", beir, tmp_path / "out", "-m", model)

    assert code == 0, errors
    assert "columns: the id is _id, the text title and text\n" in printed
    assert "d0" in stx("show", tmp_path / "out", "--rows", "1")[1]


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (["id", "text", "lang"], ("id", ["text"])),
        (["text", "_id", "id"], ("id", ["text"])),
        (["docid", "content"], ("docid", ["content"])),
        (["URL", "Title", "Body"], ("URL", ["Title", "Body"])),
        (["corpus-id", "title"], ("corpus-id", ["title"])),
    ],
)
def test_usual_columns(names, columns):
    assert usual_columns(names, "corpus") == columns


@pytest.mark.parametrize(
    ("names", "named", "line"),
    [
        (["nr", "text"], (None, None), "has the columns nr, text; .* an id: add --id-column NAME"),
        (["id", "words"], (None, None), "columns id, words; .* a text: add --text-column NAME"),
        (["nr", "text"], (None, ["text"]), "--id-column NAME, or --set inputs.id_column=null"),
        ([], ("id", None), "has the columns \\(none\\)"),
    ],
)
def test_columns_that_are_called_otherwise_are_listed_with_the_option(names, named, line):
    with pytest.raises(SpecError, match=line):
        usual_columns(names, "corpus", *named)


def test_options_are_keys_of_the_spec(stx, beir, model, tmp_path):
    code, printed, errors = stx(
        *("encode", beir, "-o", tmp_path / "out", "-m", model, "--id-column", "_id"),
        *("--text-column", "text", "--columns", "title,year", "--filter", "year >= 3"),
        *("--dtype", "float32", "--batch-tokens", "64"),
    )

    assert code == 0, errors
    (run,) = (tmp_path / "out/_stx/runs").iterdir()
    spec = yaml.safe_load((run / "spec.yaml").read_text())
    assert spec["inputs"]["text_column"] == ["text"]
    assert spec["inputs"]["columns"] == ["title", "year"]
    assert spec["models"]["dense"]["dtype"] == "float32"
    assert spec["resources"]["token_budget"] == 64
    assert "2 rows" in printed


@pytest.mark.parametrize(
    "options",
    [
        ("inputs.id_column=null", "inputs.text_column=words"),
        ("inputs.csv.columns=[id,text]",),
    ],
)
def test_columns_that_set_names_are_not_looked_for(stx, model, tmp_path, options):
    corpus = tmp_path / "corpus.csv"
    corpus.write_text("nr,words\n1,stars\n")
    sets = [part for option in options for part in ("--set", option)]

    code, printed, errors = stx("encode", corpus, tmp_path / "out", "-m", model, *sets, "--dry-run")

    assert code == 0, errors
    assert "columns:" not in printed


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_a_delimiter_that_is_not_usual_is_said_with_the_option(stx, model, tmp_path, delimiter):
    corpus = tmp_path / "corpus.csv"
    corpus.write_text(f'"id"{delimiter}"text"\n1{delimiter}"stars, sand"\n')

    code, _, errors = stx("encode", corpus, tmp_path / "out", "-m", model, "--dry-run")

    assert code == 2
    (option,) = re.findall(r"add (--set '.*')\n", errors)
    command = ("encode", corpus, tmp_path / "out", "-m", model, *shlex.split(option))
    code, printed, errors = stx(*command)
    assert code == 0, errors
    assert "columns: the id is id, the text text\n" in printed
    assert "1 row" in printed
    # A spec that is written for it says the same.
    code, printed, errors = stx("init", corpus, "-", "-m", model)
    assert code == 0, errors
    assert yaml.safe_load(printed)["inputs"]["csv"] == {"delimiter": delimiter}


def test_columns_are_looked_for_as_the_settings_of_csv_say(stx, model, tmp_path):
    corpus = tmp_path / "corpus.csv"
    corpus.write_text("docid#'my, content'#text\n1#x#stars\n")
    sets = ("--set", 'inputs.csv.delimiter="#"', "--set", 'inputs.csv.quote="\'"')

    code, printed, errors = stx("encode", corpus, tmp_path / "out", "-m", model, *sets, "--dry-run")

    assert code == 0, errors
    assert "columns: the id is docid, the text text\n" in printed
    form = CsvForm("#", quote="'")
    assert list(peek([str(corpus)], csv=form).columns) == ["docid", "my, content", "text"]


def test_options_go_before_a_spec(stx, beir, model, tmp_path):
    spec = tmp_path / "encode.yaml"
    assert stx("init", beir, spec, "-m", model, "-o", tmp_path / "first")[0] == 0

    code, printed, errors = stx("encode", spec, "-o", tmp_path / "second", "--filter", "year<2")

    assert code == 0, errors
    assert f"committed version 1 of {tmp_path / 'second'}" in printed
    assert not (tmp_path / "first").exists()


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("lang == en", ["lang", "==", "en"]),
        ("lang=en", ["lang", "==", "en"]),
        ("line != x", ["line", "!=", "x"]),
        ("year>=2020", ["year", ">=", 2020]),
        ("lang in [en, de]", ["lang", "in", ["en", "de"]]),
        ("main lang not in [en]", ["main lang", "not in", ["en"]]),
        ("text is not null", ["text", "is not null"]),
    ],
)
def test_conditions(text, condition):
    assert condition_of(text) == condition


@pytest.mark.parametrize("text", ["", "lang", "lang ==", "== en", "lang is null 3"])
def test_a_text_that_is_no_condition_is_refused(text):
    with pytest.raises(SpecError, match="COLUMN OPERATOR VALUE"):
        condition_of(text)


@pytest.mark.parametrize("command", ["encode", "mine", "run"])
def test_data_in_the_place_of_a_spec_is_recognised(stx, beir, command):
    code, _, errors = stx(command, beir)

    assert code == 2
    assert f"{beir} is data (jsonl), not a spec: `stx encode {beir} OUTPUT --model NAME`" in errors
    assert f"`stx init {beir} encode.yaml`" in errors


@pytest.mark.parametrize(
    ("command", "key", "job"),
    [("encode", "rerankers", "rerank"), ("mine", "models", "encode"), ("retrieve", "steps", "run")],
)
def test_a_spec_of_another_job_is_named(stx, tmp_path, command, key, job):
    spec = tmp_path / "spec.yaml"
    spec.write_text(f"{key}: {{}}\n")

    code, _, errors = stx(command, spec)

    assert code == 2
    assert errors == f"stx: {spec} is a spec of another job: run `stx {job} {spec}`\n"


def test_init_writes_a_spec_that_can_be_run(stx, beir, model, tmp_path):
    spec = tmp_path / "encode.yaml"

    code, printed, errors = stx("init", beir, spec, "-m", model, "-o", tmp_path / "out")

    assert code == 0, errors
    assert printed.startswith(f"wrote {spec}: the id is _id, the text title and text\n")
    assert "#   year: int64\n" in spec.read_text()
    assert "# columns: [year]" in spec.read_text()
    code, printed, errors = stx("encode", spec, "--dry-run")
    assert (code, "5 rows" in printed) == (0, True), errors
    # What is a comment is right, too.
    lines = spec.read_text().replace("VALUE", "3").splitlines()
    lines = lines[lines.index("inputs:") :]
    free = "\n".join(re.sub(r"^( *)# ", r"\1", line) for line in lines)
    assert yaml.safe_load(free)["inputs"]["filter"] == [["year", "==", 3]]


def test_init_writes_over_nothing(stx, beir, tmp_path):
    spec = tmp_path / "encode.yaml"
    spec.write_text("mine")

    code, _, errors = stx("init", beir, spec)

    assert (code, spec.read_text()) == (2, "mine")
    assert f"{spec} is there already" in errors


@pytest.mark.parametrize("name", ["no", "null", "3", "a: b", "it's", '"', "ü #", "[x"])
def test_init_quotes_names_that_yaml_would_read_otherwise(stx, tmp_path, name):
    path = tmp_path / "corpus.parquet"
    pq.write_table(pa.table({name: ["1"], "text": ["stars"]}), path)

    code, printed, errors = stx("init", path, "-", "--id-column", name)

    assert code == 0, errors
    assert yaml.safe_load(printed)["inputs"]["id_column"] == name


def test_a_peek_sees_columns_of_each_format(tmp_path):
    table = pa.table({"a": [1], "b": ["x"]})
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text('"a","b,c"\n1,"x\ny"\n')
    (tmp_path / "c.tsv").write_text("\ufeffa\tb\n1\tx\n")
    (tmp_path / "d.jsonl").write_text('{"a": 1}\n{"b": "x", "a": 2.5}\n')
    (tmp_path / "day=3").mkdir()
    pq.write_table(table, tmp_path / "day=3/a.parquet")

    def columns(name):
        return peek([str(tmp_path / name)]).columns

    assert columns("a.parquet") == {"a": "int64", "b": "string"}
    assert list(columns("b.csv")) == ["a", "b,c"]
    assert list(columns("c.tsv")) == ["a", "b"]
    assert columns("d.jsonl") == {"a": "double", "b": "string"}
    assert list(columns("day=3")) == ["a", "b", "day"]
    assert peek([str(tmp_path / "*.parquet"), str(tmp_path / "day=3")]).n_files == 2


def test_the_version_is_shown(stx):
    import stx as package

    assert stx("--version") == (0, f"stx {package.__version__}\n", "")


def test_no_line_of_the_help_is_cut_off(stx):
    code, printed, _ = stx("--help")

    assert code == 0
    assert "..." not in printed.partition("\n")[2]


def test_quarantined_rows_are_listed_with_place_and_reason(stx, model, tmp_path):
    corpus = tmp_path / "corpus.csv"
    corpus.write_text("id,text\n1,stars\n2,\n,sand\n4,  \n")
    assert stx("encode", corpus, tmp_path / "out", "-m", model)[0] == 0

    code, printed, _ = stx("show", tmp_path / "out", "--quarantined")

    assert code == 0
    assert printed.splitlines() == [
        f"{corpus} row 1 id 2, column text: empty_text: is empty",
        f"{corpus} row 2 id , column id: empty_id: is empty",
        f"{corpus} row 3 id 4, column text: empty_text: is empty",
        "empty_text 2, empty_id 1",
    ]
    assert stx("show", tmp_path / "out", "--reason", "empty_id")[1].splitlines() == [
        printed.splitlines()[1],
        "empty_id 1",
    ]
    assert stx("show", tmp_path / "out", "--reason", "crash")[1] == "no such row\n"
