"""Any bytes under any name are rows, bad rows, or one line that says what to do."""

import gzip
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from stx.pipelines.planning.corpus import list_corpus, read_unit
from stx.pipelines.reranking.text_tables import is_text_table, read_text_table
from stx.pipelines.spec.parts import Inputs, Output
from stx_core.errors import StxError
from stx_core.evaluation.qrels import read_qrels
from stx_core.evaluation.rankings import read_rankings
from stx_core.store.corpus.units import plan_units

ROW = {"id": "a", "text": "stars"}
LINE = json.dumps(ROW).encode() + b"\n"
TABLE = b"id,text\na,stars\n"


def plan(path, **more):
    return list_corpus(Inputs(path=str(path), **more))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", LINE.replace(b"\n", b"\r") * 2, r"end in CR alone.*tr '\\r' '\\n'"),
        ("a.csv", TABLE.replace(b"\n", b"\r"), r"end in CR alone.*tr '\\r' '\\n'"),
        ("a.jsonl", LINE.decode().encode("utf-16"), "is UTF-16 text.*iconv -f UTF-16 -t UTF-8"),
        ("a.jsonl", LINE.decode().encode("utf-16-be"), "begins with NUL bytes.*UTF-16"),
        ("a.jsonl", LINE.decode().encode("utf-32"), "is UTF-32 text"),
        ("a.csv", TABLE.decode().encode("utf-16"), "is UTF-16 text"),
        ("a.tsv", TABLE.decode().encode("utf-32"), "is UTF-32 text"),
        ("a.jsonl", json.dumps([ROW, ROW]).encode(), "is one JSON array.*jq -c"),
        ("a.jsonl", json.dumps([ROW, ROW], indent=1).encode(), "is one JSON array"),
        ("a.jsonl", b"[\n" + LINE[:-1] + b",\n" + LINE + b"]\n", "is one JSON array"),
        ("a.jsonl", b"\xef\xbb\xbf[" + LINE + b"]", "is one JSON array"),
        ("a.jsonl", json.dumps(ROW, indent=1).encode(), "spread over lines.*jq -c"),
        (
            "a.jsonl.gz",
            gzip.compress(json.dumps([ROW, ROW]).encode(), mtime=0),
            "is one JSON array",
        ),
        ("a.jsonl", b"WARC/1.0\r\nWARC-Type: warcinfo\r\n", r"a web archive \(WARC\)"),
        ("a.jsonl", gzip.compress(LINE, mtime=0), "is compressed by gzip.*ends in .gz"),
        ("a.csv", gzip.compress(TABLE, mtime=0), "is compressed by gzip"),
        (
            "a.jsonl.gz",
            gzip.compress(gzip.compress(LINE, mtime=0), mtime=0),
            "is compressed by gzip",
        ),
        ("a.jsonl.gz", LINE, r"damaged gzip.*take \.gz off its name"),
        ("a.csv.gz", TABLE, "damaged gzip"),
        ("a.jsonl", b"PK\x03\x04rest", "a zip archive.*unpack it"),
        ("a.jsonl", b"PAR1rest", "a Parquet file.*set the format"),
        ("a.jsonl", b"<html>\n</html>\n", "no row has a column 'id'; no line of it is a JSON obj"),
        ("a.jsonl", b'{"key": "a", "text": "b"}\n', "no row has a column 'id'; it has key, text"),
        ("a.txt", LINE, "cannot tell its format"),
        ("a.json", LINE, "cannot tell its format"),
    ],
)
def test_a_file_of_another_kind_is_one_clear_line(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)

    with pytest.raises(StxError, match=rf"{name}: .*{message}") as error:
        plan(tmp_path / name)

    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "first", [b"[1, 2]\n", b"{\n", b"a\rb\n", b'"PAR1"\n', b"null\n", b"\xff\n", b"\r\r\n"]
)
def test_an_odd_first_line_does_not_make_a_file_another_kind(tmp_path, first):
    (tmp_path / "a.jsonl").write_bytes(first + LINE * 3)

    corpus = plan(tmp_path / "a.jsonl")

    assert corpus.schema.names == ["id", "text"]


def test_a_format_goes_for_every_file_of_a_folder(tmp_path):
    pq.write_table(pa.Table.from_pylist([ROW]), tmp_path / "a.parquet")
    (tmp_path / "README.md").write_text("hello")

    with pytest.raises(
        StxError, match=r"README.md: .*format: parquet goes for every file.*\*\*/\*"
    ):
        plan(tmp_path, format="parquet")
    assert len(plan(tmp_path / "**/*.parquet", format="parquet").shards) == 1


def test_names_that_no_column_can_have_are_refused_in_the_spec():
    for wrong in ({"columns": ("\ud800",)}, {"id_column": "\udc00"}, {"text_column": ()},
                  {"path": ()}, {"filter": [["\ud800", "==", 1]]}):  # fmt: skip
        with pytest.raises(ValidationError):
            Inputs.model_validate({"path": "a"} | wrong)


def parquet_bytes():
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([ROW, {"id": "b", "text": None}]), sink)
    return sink.getvalue().to_pybytes()


SEEDS = {
    ".jsonl": LINE * 3 + b'{"id": "b", "text": [1, {"x": 2e308}], "n": 1}\n',
    ".csv": TABLE + b'b,"two\nlines, ""quoted"""\n',
    ".tsv": TABLE.replace(b",", b"\t"),
    ".parquet": parquet_bytes(),
    ".run": b"q Q0 d 1 0.5 me\nq Q0 e 2 0.25 me\n",
    ".qrels": b"query-id\tcorpus-id\tscore\nq\td\t1\n",
    ".ranking.jsonl": b'{"query_id": "q", "doc_id": "d", "rank": 1, "score": 0.5}\n' * 2
    + b'{"query-id": 1, "corpus-ids": ["a"]}\n',
    ".texts.jsonl": b'{"query": "q", "document": "d", "score": 1}\n' * 2,
}
PIECES = [b"", b"\n", b"\r", b"\0", b'"', b"\\", b",", b"\t", b"[", b"]", b"{", b"}", b"\xff",
          b"\xed\xa0\x80", b"\xef\xbb\xbf", b"NaN", b"1e999", b"-", b"9" * 30, b"\\ud800",
          b'"id"', b'"score": 1, ', b"null", b"true", b"\x1f\x8b", b"PAR1", b" ",
          b"[" * 3000]  # fmt: skip


def spoiled(data, chance):
    for _ in range(chance.randint(1, 4)):
        place, length = chance.randint(0, len(data)), chance.choice([0, 0, 1, 3, 30])
        piece = chance.choice([*PIECES, chance.randbytes(chance.randint(1, 9))])
        data = data[:place] + piece + data[place + length :]
    return chance.choice([data, data, data, data[: chance.randint(0, len(data))]])


def read_corpus(path):
    inputs = Inputs(path=str(path), max_text_bytes=500)
    corpus = list_corpus(inputs)
    n_rows = 0
    for unit in plan_units(corpus.shards, 2):
        n_rows += read_unit(unit, corpus.schema, inputs, Output(path="out")).num_rows
    assert n_rows == sum(shard.n_rows for shard in corpus.shards)
    assert all(shard.n_rows >= 0 for shard in corpus.shards)


def read_texts(path):
    if is_text_table([str(path)]):
        read_text_table([str(path)])


READERS = [
    read_corpus,
    lambda path: list(read_rankings(str(path))),
    lambda path: read_qrels(str(path)),
    read_texts,
]


def test_a_footer_whose_counts_differ_is_damaged(tmp_path):
    # One byte further on in the footer: the number of rows of a row group.
    data = parquet_bytes()
    refused = 0
    for place in range(len(data) - 500, len(data) - 8, 15):
        path = tmp_path / f"{place}.parquet"
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            shards = plan(path).shards
        except StxError:
            refused += 1
        else:
            assert [shard.n_rows for shard in shards] == [2]
    assert refused


@pytest.mark.parametrize("ending", SEEDS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_random_bytes_give_rows_or_bad_rows_or_an_input_error(tmp_path, ending, packed, seed):
    chance = random.Random(f"{ending} {packed} {seed}")
    data = spoiled(SEEDS[ending], chance)
    if packed:
        data = gzip.compress(data)
        data = spoiled(data, chance) if seed % 2 else data
    path = tmp_path / f"a{ending}{'.gz' if packed else ''}"
    path.write_bytes(data)

    lines = []
    for reader in READERS:
        try:
            reader(path)
        except StxError as error:
            lines.append(str(error))
    # Commands escape the rest: a column can have any name.
    assert not any("\n" in line or "\x1b" in line for line in lines)
