"""`stx mine` and the export of training rows, from the command line."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx_core.store.files.filesystem import list_names
from stx_core.store.files.urls import join
from stx_core.store.schema import RANKING
from stx_core.store.snapshot import open_snapshot

RANKED = [(f"q{q}", f"d{(q + d) % 9}", d + 1, 0.9 - 0.1 * d) for q in range(4) for d in range(6)]
TEXTS = {"id": [f"d{i}" for i in range(9)], "text": [f'say "{i}" \u2028 ü' for i in range(9)]}


@pytest.fixture
def spec(tmp_path, publish):
    """A spec file over a ranking of four queries, each cut at the end of a query."""
    ranking = pa.table([list(column) for column in zip(*RANKED, strict=True)], schema=RANKING)
    publish(tmp_path / "ranking", ranking, rows_per_file=12)
    pq.write_table(pa.table(TEXTS), tmp_path / "documents.parquet")
    queries = {"id": [f"q{i}" for i in range(4)], "text": [f"ask {i}" for i in range(4)]}
    pq.write_table(pa.table(queries), tmp_path / "queries.parquet")
    (tmp_path / "qrels.tsv").write_text("q0\td0\t1\nq1\td2\t1\nq2\td8\t1\nq3\td4\t1\nq3\td5\t1\n")
    (tmp_path / "mine.yaml").write_text(
        f"""
candidates:
  ranking: {{path: {tmp_path}/ranking}}
positives: {tmp_path}/qrels.tsv
queries: {{path: {tmp_path}/queries.parquet}}
documents: {{path: {tmp_path}/documents.parquet}}
rules: {{num_negatives: 3, absolute_margin: 0.05}}
formats: [triplet, flag_embedding, tevatron]
output: {{path: {tmp_path}/mined}}
resources: {{runner: local, rows_per_unit: 6}}
"""
    )
    return tmp_path / "mine.yaml"


def test_negatives_their_numbers_and_the_page_are_told(stx, spec, tmp_path):
    planned = stx("mine", spec, "--dry-run")
    code, printed, told = stx("mine", spec)
    again = stx("mine", spec)

    assert (planned[0], code, again[0]) == (0, 0, 0), told
    assert "rules    num_negatives 3, absolute_margin 0.05" in planned[1]
    assert "to do    4 of 4 units of whole queries" in planned[1]
    assert "9 negatives of 18 candidates for 3 queries; 0 queries have fewer than 3" in printed
    assert "warning  1 positive pairs of" in printed
    assert "warning  1 queries have no positive with a score" in printed
    page = tmp_path / "mined/_stx/reports/1/report.md"
    assert f"report   {page.with_suffix('.html')}" in printed
    assert "| negatives | 9 |" in page.read_text()
    assert "nothing to do: version 1" in again[1]
    assert f"report   {page.with_suffix('.html')}" in again[1]


def test_a_query_in_two_places_is_named(stx, spec, tmp_path, publish):
    rows = [*RANKED, *[("q1", "d8", 7, 0.1), ("q1", "d7", 8, 0.05)]]
    ranking = pa.table([list(column) for column in zip(*rows, strict=True)], schema=RANKING)
    publish(tmp_path / "torn", ranking, rows_per_file=40)

    code, _, told = stx("mine", spec, "--set", f"candidates={{ranking: {{path: {tmp_path}/torn}}}}")

    assert code == 2
    assert "row 24: query 'q1' has rows elsewhere too (1 such queries)" in told
    assert len(told.splitlines()) == 1


def test_every_row_is_exported_as_one_line(stx, spec, tmp_path):
    stx("mine", spec)
    mined = tmp_path / "mined"
    wanted = open_snapshot(str(mined), output="flag_embedding").to_table().to_pylist()

    plain = stx(
        "export", mined, tmp_path / "a.jsonl", "--output", "flag_embedding", "--format", "jsonl"
    )
    packed = stx(
        "export", mined, tmp_path / "a.jsonl.gz", "--output", "tevatron", "--format", "jsonl"
    )

    assert plain[:2] == (0, f"wrote 3 rows of {mined} to {tmp_path}/a.jsonl as jsonl\n")
    lines = (tmp_path / "a.jsonl").read_bytes().decode().split("\n")[:-1]
    assert [json.loads(line) for line in lines] == wanted
    assert packed[0] == 0
    unpacked = gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()).decode().split("\n")
    passages = json.loads(unpacked[0])["negative_passages"]
    assert all(passage["text"] in TEXTS["text"] for passage in passages)


def test_an_output_is_exported_as_a_folder_of_parquet(stx, spec, tmp_path, s3_root):
    stx("mine", spec)
    mined = tmp_path / "mined"
    wanted = open_snapshot(str(mined), output="triplet").to_table()
    elsewhere = join(s3_root, "triplets")

    arguments = ("--output", "triplet", "--format", "parquet")
    here = stx("export", mined, tmp_path / "triplets", *arguments)
    again = stx("export", mined, tmp_path / "triplets", *arguments)
    there = stx("export", mined, elsewhere, *arguments)

    assert (here[0], again[0], there[0]) == (0, 2, 0), there[2]
    assert "exists; remove it" in again[2]
    assert pq.read_table(tmp_path / "triplets").equals(wanted)
    assert list_names(elsewhere) == list_names(str(tmp_path / "triplets"))


def test_what_json_cannot_hold_is_one_line(stx, tmp_path, publish):
    table = pa.table({"query_id": ["a", "b"], "score": [0.5, float("nan")]})
    publish(tmp_path / "numbers", table, output="numbers")

    bad = stx("export", tmp_path / "numbers", tmp_path / "a.jsonl", "--format", "jsonl")
    named = stx("export", tmp_path / "numbers", tmp_path / "a.json", "--format", "jsonl")

    assert (bad[0], named[0]) == (2, 2)
    assert "row 1: cannot be written as JSON" in bad[2]
    assert "end the name in .jsonl" in named[2]
    assert not (tmp_path / "a.jsonl").exists()
