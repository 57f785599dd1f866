"""Rankings and judgements in the forms of other tools are read alike; what is wrong is named."""

import gzip
import json

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from stx_core.errors import InputError
from stx_core.evaluation import text_blocks
from stx_core.evaluation.qrels import read_qrels
from stx_core.evaluation.rankings import dataset_tables, read_rankings
from stx_core.evaluation.top_ranked import top_ranked
from stx_core.evaluation.trec import trec_lines
from stx_core.evaluation.whole_queries import whole_queries
from stx_core.store.files.filesystem import write_new
from stx_core.store.files.urls import join
from stx_core.store.schema import QRELS, RANKING

JUDGED = [("q1", "d1", 2), ("q1", "d2", 0), ("q2", "d1", 1)]
RANKED = [("q1", "d1", 1, 0.5), ("q1", "d2", 2, 0.25), ("q2", "dü", 1, -1.0)]
NO_SCORES = [(*row[:3], None) for row in RANKED]
NO_RANKS = [(*row[:2], row[3]) for row in RANKED]
LISTS = [("q1", ["d1", "d2"]), ("q2", ["dü"])]
BY_RANK = [(query, document, rank, -float(rank)) for query, document, rank, _ in RANKED]


GOOD = '{"qid": "q", "pid": "d", "score": 1}\n'


def rows(table):
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def read_all(url, **options):
    table = pa.concat_tables(list(read_rankings(str(url), **options)))
    assert table.schema == RANKING
    return rows(table)


def save(path, text):
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return str(path)


def objects(names, values):
    return "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in values)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("qrels.txt", "q1 0 d1 2\nq1 0 d2 0\nq2 0 d1 1\n"),
        ("qrels.gz", "\ufeffq1 0 d1 2\r\n\nq1\t0  d2\t0\r\n  q2 Q0 d1 1  "),
        ("test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td1\t1\n"),
        ("test.tsv.gz", "q1\td1\t2.0\nq1\td2\t0\nq2\td1\t1\n"),
        ("a.jsonl", objects(["query-id", "corpus-id", "score"], JUDGED)),
        ("a.jsonl.gz", objects(["query_id", "doc_id", "relevance"], JUDGED)),
    ],
)
def test_judgements_of_every_form_are_read_alike(tmp_path, name, text):
    table = read_qrels(save(tmp_path / name, text))

    assert table.schema == QRELS
    assert rows(table) == JUDGED


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]
)
def test_judgements_in_parquet_may_have_the_types_of_the_hub(tmp_path, kind):
    query, document, score = zip(*JUDGED, strict=True)
    table = pa.table(
        {
            "query-id": pa.array(query).cast(kind),
            "split": ["test"] * 3,
            "corpus-id": pa.array(document).cast(kind),
            "score": pa.array(score, pa.float64()),
        }
    )
    pq.write_table(table, tmp_path / "qrels.parquet")

    assert rows(read_qrels(str(tmp_path / "qrels.parquet"))) == JUDGED


def test_whole_numbers_are_taken_as_ids(tmp_path):
    pq.write_table(pa.table({"qid": [1], "pid": [7], "score": [1]}), tmp_path / "a.parquet")

    assert rows(read_qrels(str(tmp_path / "a.parquet"))) == [("1", "7", 1)]


def test_ids_with_quotes_and_hashes_are_read_as_they_are(tmp_path):
    path = save(tmp_path / "a.tsv", 'q"1\t"d1\t1\n#q\td,2\t1\n')

    assert rows(read_qrels(path)) == [('q"1', '"d1', 1), ("#q", "d,2", 1)]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.run", "q1 Q0 d1 1 0.5 me\nq1 Q0 d2 2 0.25 me\nq2 Q0 dü 1 -1 me\n", RANKED),
        ("a.run.gz", "q1\tQ0\td1\t0\t0.5\tme\r\nq1 Q0 d2 1 .25  me\n\nq2 Q0 dü 0 -1e0 me", RANKED),
        ("a.tsv", "q1\td1\t1\nq1\td2\t2\nq2\tdü\t1\n", BY_RANK),
        ("b.tsv", "q1\td1\t1\t0.5\nq1\td2\t2\t0.25\nq2\tdü\t1\t-1\n", RANKED),
        ("a.jsonl", objects(["qid", "docid", "rank", "score"], RANKED), RANKED),
        ("b.jsonl", objects(["query-id", "corpus-id", "rank", "score"], NO_SCORES), BY_RANK),
        ("c.jsonl", objects(["query_id", "doc_id", "score"], NO_RANKS), RANKED),
        ("d.jsonl", objects(["query-id", "corpus-ids"], LISTS), BY_RANK),
    ],
)  # fmt: skip
def test_rankings_of_every_form_are_read_alike(tmp_path, name, text, expected):
    assert read_all(save(tmp_path / name, text)) == expected


def test_mteb_candidates_in_parquet_are_ranked_by_their_place(tmp_path):
    table = pa.table({"query-id": ["q1", "q0", "q2"], "corpus-ids": [["d1", "d2"], [], ["dü"]]})
    pq.write_table(table, tmp_path / "a.parquet")

    assert read_all(tmp_path / "a.parquet") == BY_RANK


def test_without_ranks_documents_are_ranked_by_score_over_the_borders_of_blocks(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(text_blocks, "BLOCK_BYTES", 50)
    scored = [("q1", f"d{i}", float(i % 5)) for i in range(10)] + [("q2", "d1", 1.0)]

    found = read_all(save(tmp_path / "a.jsonl", objects(["query_id", "doc_id", "score"], scored)))

    best = [f"d{i}" for score in (4, 3, 2, 1, 0) for i in range(10) if i % 5 == score]
    assert [row[1] for row in found] == [*best, "d1"]
    assert [row[2] for row in found] == [*range(1, 11), 1]


@pytest.mark.parametrize("block_bytes", [1, 7, 30, 1000])
def test_lines_are_read_once_wherever_blocks_end(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(text_blocks, "BLOCK_BYTES", block_bytes)
    lines = [f"q{i // 4} Q0 d{i} {i % 4 + 1} {9 - i % 4} me" for i in range(40)]

    found = read_all(save(tmp_path / "a.run", "\n".join(lines)))

    assert found == [(f"q{i // 4}", f"d{i}", i % 4 + 1, 9 - i % 4) for i in range(40)]


@pytest.mark.parametrize("block_bytes", [16, 40, 1000])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("q3 Q0 d1 1 0.5", r"'q3 Q0 d1 1 0.5' is not 'query_id … doc_id rank score …'"),
        ("q3 Q0 d1 one 0.5 me", "invalid value 'one'"),
        ("q3 Q0 d1 -1 0.5 me", "rank is negative"),
        ("q3 Q0 d1 1 high me", "invalid value 'high'"),
    ],
)
def test_a_bad_line_of_a_run_file_is_named(tmp_path, monkeypatch, block_bytes, bad, message):
    monkeypatch.setattr(text_blocks, "BLOCK_BYTES", block_bytes)
    good = [f"q1 Q0 d{i} {i} 0.5 me" for i in range(1, 30)]
    path = save(tmp_path / "a.run", "\n".join([*good[:20], "", bad, *good[20:], bad]))

    with pytest.raises(InputError, match=rf"a\.run line 22: .*{message}"):
        read_all(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "query-id\tcorpus-id\tscore\nq\td\t1\nq\td2\t0.5\n", "line 3: .*0.5"),
        ("a.tsv", "q\td\t1\n\td2\t1\n", "line 2: .*query_id is null or empty"),
        ("a.txt", b"q 0 d 1\nq 0 \xff 1\n", "line 2: .*UTF8"),
        ("a.jsonl", GOOD + '{"qid": "q", "pid"', "line 2: .*JSON"),
        ("a.jsonl", GOOD + '{"qid": 1, "pid": "d", "score": 1}', "line 2"),
        ("a.jsonl", GOOD + '{"qid": "q", "score": 1}', "line 2: .*doc_id is null"),
        ("a.jsonl", GOOD.replace('"q"', "1.5"), "line 1: .*query_id is double"),
        ("a.jsonl", GOOD.replace("qid", "query"), r"a\.jsonl: needs a column query_id or"),
        ("a.jsonl", "[1]", "the first line is no JSON object"),
        ("a.txt", "query_id,score\n", "'query_id,score', is of no known form; known are beir"),
        ("a.txt", "", "holds no judgements"),
        ("a.parquet", "q 0 d 1", r"a\.parquet: no Parquet file"),
        ("a.gz", b"q 0 d 1", "of no known form|damaged gzip"),
    ],
)  # fmt: skip
def test_bad_judgements_are_refused_with_their_place(tmp_path, name, text, message):
    data = text.encode() if isinstance(text, str) else text
    (tmp_path / name).write_bytes(data)

    with pytest.raises(InputError, match=message):
        read_qrels(str(tmp_path / name))


def test_a_bad_row_of_a_parquet_file_is_named(tmp_path):
    ids = [f"d{i}" for i in range(70_000)]
    scores = [1] * 70_000
    scores[69_000] = None
    pq.write_table(pa.table({"qid": ids, "pid": ids, "score": scores}), tmp_path / "a.parquet")

    with pytest.raises(InputError, match="row 69000: score is null"):
        read_qrels(str(tmp_path / "a.parquet"))


def test_a_named_format_wins_over_the_name_and_must_fit(tmp_path):
    path = save(tmp_path / "a.jsonl", "q1 0 d1 2\n")

    assert rows(read_qrels(path, "trec")) == [("q1", "d1", 2)]
    with pytest.raises(InputError, match="is not of the form beir"):
        read_qrels(path, "beir")
    with pytest.raises(InputError, match="unknown format 'csv'; one of beir, jsonl, parquet, trec"):
        read_qrels(path, "csv")


def test_a_folder_of_splits_is_not_mixed_but_a_glob_is_read(tmp_path):
    save(tmp_path / "dev.tsv", "q1\td1\t1\n")
    save(tmp_path / "test.tsv", "q2\td1\t1\n")

    with pytest.raises(InputError, match=r"holds 2 files \(dev.tsv, test.tsv"):
        read_qrels(str(tmp_path))
    assert rows(read_qrels(f"{tmp_path}/*.tsv")) == [("q1", "d1", 1), ("q2", "d1", 1)]


def test_what_is_absent_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere.run: no such file or folder"):
        read_all(tmp_path / "nowhere.run")
    with pytest.raises(InputError, match="has no outputs; leave out 'dense'"):
        read_all(save(tmp_path / "a.run", "q1 Q0 d1 1 0.5 me"), output="dense")


def test_files_are_read_from_s3_too(s3_root):
    lines = "".join(
        f"{query} Q0 {document} {rank} {score} t\n" for query, document, rank, score in RANKED
    )
    write_new(join(s3_root, "a.run.gz"), gzip.compress(lines.encode()))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"qid": ["q1"], "pid": ["d1"], "score": [2]}), sink)
    write_new(join(s3_root, "qrels.parquet"), sink.getvalue().to_pybytes())

    assert read_all(join(s3_root, "a.run.gz")) == RANKED
    assert rows(read_qrels(join(s3_root, "qrels.parquet"))) == JUDGED[:1]


def ranking(values=RANKED):
    return pa.table([list(column) for column in zip(*values, strict=True)], schema=RANKING)


def test_a_run_file_is_read_back_as_it_was_written(tmp_path):
    scores = [1 / 3, 1e-30, 123456.789, -0.0, 5.0]
    table = ranking([(f"q{i}", f'd"{i}', 1, score) for i, score in enumerate(scores)])

    path = save(tmp_path / "a.run", trec_lines(table, "me") + trec_lines(table.slice(5), "me"))

    assert read_all(path) == rows(table)
    assert trec_lines(table.slice(4), "me") == b'q4 Q0 d"4 1 5 me\n'
    assert trec_lines(pa.concat_tables([table.slice(4), table.slice(4)]), "me").count(b"\n") == 2


@pytest.mark.parametrize("space", [" ", "\t", "\n", "\x0b", "\x1c", "\x85", "\u00a0", "\u3000"])
def test_a_run_file_cannot_hold_white_space_in_ids(space):
    assert len(f"a{space}b".split()) == 2
    with pytest.raises(InputError, match="doc_id .* holds white space"):
        trec_lines(ranking([("q", "d", 1, 1.0), ("q", f"a{space}b", 2, 0.5)]), "me")


def test_candidates_are_listed_best_first_whatever_the_order_of_rows():
    table = ranking([("q1", "d2", 2, 0.25), ("q1", "d1", 1, 0.5), ("q2", "d3", 1, 0.1)])

    assert rows(top_ranked(table)) == [("q1", ["d1", "d2"]), ("q2", ["d3"])]


def test_a_dataset_without_the_columns_of_a_ranking_is_refused():
    with pytest.raises(InputError, match="out: no ranking, it lacks rank, score; it has query_id"):
        next(dataset_tables(ds.dataset(ranking().drop_columns(["rank", "score"])), "out"))


@pytest.mark.parametrize("cuts", [[0], [1], [2, 3], [1, 2, 3, 4, 5, 6], [3, 3, 5]])
def test_queries_are_whole_wherever_tables_were_cut(cuts):
    queries = ["a", "a", "a", "b", "c", "c", "c"]
    table = ranking([(query, f"d{i}", 1, 1.0) for i, query in enumerate(queries)])
    ends = [*cuts, len(table)]
    parts = [table.slice(start, stop - start) for start, stop in zip([0, *cuts], ends, strict=True)]

    whole = list(whole_queries(parts))

    assert pa.concat_tables(whole).equals(table)
    found = [query for part in whole for query in sorted(set(part["query_id"].to_pylist()))]
    assert found == ["a", "b", "c"]


def test_a_query_that_comes_back_is_refused():
    table = ranking([("q1", "d1", 1, 1.0), ("q2", "d1", 1, 1.0), ("q1", "d2", 2, 0.5)])

    with pytest.raises(InputError, match="query 'q1': its rows do not stand together"):
        list(whole_queries([table.slice(row, 1) for row in range(3)]))
    with pytest.raises(InputError, match="query 'q1': its rows do not stand together"):
        list(whole_queries([table]))


@pytest.mark.parametrize("block_bytes", [40, 1000])
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # What is no column of a ranking may hold anything.
        (['{"qid": "q", "pid": "a", "rank": 1, "x": [1, "a", {}]}',
          '{"qid": "q", "pid": "b", "rank": 2, "x": 5, "y": null}'], ["a", "b"]),
        (['{"query-id": "p", "corpus-ids": []}',
          '{"query-id": "q", "corpus-ids": ["a", "b"]}'], ["a", "b"]),
        (['{"query-id": 0, "corpus-ids": []}', '{"query-id": 1, "corpus-ids": [5, 6]}'],
         ["5", "6"]),
        (['{"qid": 1, "pid": 5, "score": 2}',
          '{"qid": 1, "pid": 18446744073709551615, "score": 1.5}'], ["5", "18446744073709551615"]),
        (['{"qid": "q", "pid": "a", "rank": 1, "score": null}',
          '{"qid": "q", "pid": "b", "rank": 2, "score": 0.5}'], ["a", "b"]),
    ],
)  # fmt: skip
def test_lines_are_typed_by_all_of_them(tmp_path, monkeypatch, lines, expected, block_bytes):
    monkeypatch.setattr(text_blocks, "BLOCK_BYTES", block_bytes)

    found = read_all(save(tmp_path / "a.jsonl", "\n".join(lines) + "\n"))

    assert [row[1] for row in found] == expected


@pytest.mark.parametrize("block_bytes", [40, 1000])
@pytest.mark.parametrize(
    ("second", "message"),
    [
        ('{"qid": 5, "pid": "b", "score": 1}', "line 2"),
        ('{"qid": ["q"], "pid": "b", "score": 1}', "line 2"),
        ('{"qid": "q", "pid": "b", "score": "high"}', "line 2|score is string"),
        ('{"qid": "q", "pid": "b", "score": 1, "score": 2}', "line 2.*twice"),
        ('{"qid": "q", "pid": "\\ud800", "score": 1}', "line 2"),
        ("null", "line 2"),
    ],
)
def test_lines_that_do_not_fit_the_others_are_named(
    tmp_path, monkeypatch, second, message, block_bytes
):
    monkeypatch.setattr(text_blocks, "BLOCK_BYTES", block_bytes)
    first = '{"qid": "q", "pid": "a", "score": 1.5}\n'

    with pytest.raises(InputError, match=message):
        read_all(save(tmp_path / "a.jsonl", first + second + "\n"))


def test_a_column_that_appears_late_is_not_lost_in_silence(tmp_path, monkeypatch):
    monkeypatch.setattr(text_blocks, "BLOCK_BYTES", 40)
    rows = ['{"qid": "q", "pid": "a", "score": 1}', '{"qid": "q", "pid": "b", "rank": 1}']

    with pytest.raises(InputError, match="'rank' appears after lines without one"):
        read_all(save(tmp_path / "a.jsonl", "\n".join(rows)))


def test_ids_that_are_no_text_are_named(tmp_path):
    raw = pa.array([b"a", b"\xff"], pa.binary())
    text = pa.StringArray.from_buffers(2, raw.buffers()[1], raw.buffers()[2])
    pq.write_table(pa.table({"qid": text, "pid": text, "score": [1, 1]}), tmp_path / "a.parquet")

    with pytest.raises(InputError, match="row 1: .*UTF8"):
        read_qrels(str(tmp_path / "a.parquet"))
    with pytest.raises(InputError, match="line 2: .*UTF8"):
        read_qrels(
            save(tmp_path / "a.jsonl", GOOD.encode() + GOOD.encode().replace(b'q"', b'\xff"'))
        )


def test_a_column_that_stands_twice_is_named(tmp_path):
    table = pa.table([["q"], ["d"], [1], [2]], ["qid", "pid", "score", "score"])
    pq.write_table(table, tmp_path / "a.parquet")

    with pytest.raises(InputError, match="two columns are named 'score'"):
        read_qrels(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize("name", ["a.run", "a.tsv", "a.jsonl"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (GOOD.encode("utf-16"), "is UTF-16 text.*iconv"),
        (GOOD.encode("utf-16-le"), "begins with NUL bytes"),
        (gzip.compress(b"q Q0 d 1 1 t\n", mtime=0), "is compressed by gzip.*ends in .gz"),
        (b"PK\x03\x04rest", "is a zip archive"),
        (b"PAR1rest", "is a Parquet file"),
        (b"WARC/1.0\r\n", r"web archive \(WARC\)"),
    ],
)
def test_files_of_other_kinds_are_called_what_they_are(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)

    with pytest.raises(InputError, match=rf"{name}: .*{message}"):
        read_qrels(str(tmp_path / name))


def test_lines_that_end_in_cr_alone_are_named(tmp_path):
    with pytest.raises(InputError, match=r"lines end in CR alone.*tr '\\r' '\\n'"):
        read_all(save(tmp_path / "a.run", "q Q0 d 1 1 t\rq Q0 e 2 1 t\r"))
