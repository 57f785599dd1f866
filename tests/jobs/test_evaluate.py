"""`stx evaluate` and `stx export`: rankings in every form in, the same numbers out."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx_core.store.files.filesystem import read_bytes, write_new
from stx_core.store.files.urls import join
from stx_core.store.schema import RANKING

RANKED = [
    ("q1", "d1", 1, 0.9), ("q1", "d2", 2, 0.8), ("q1", "d3", 3, 0.1),
    ("q2", "d9", 1, 0.9), ("q2", "d1", 2, 0.7), ("q2", "d2", 3, 0.5), ("q2", "d3", 4, 0.25),
    ("q7", "d1", 1, 0.3),
]  # fmt: skip
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td3\t2\nq2\td1\t1\nq3\td5\t1\n"
# q1: first and third are relevant; q2: the second; q3 is not ranked.
RR, P2 = (1 + 1 / 2 + 0) / 3, (1 / 2 + 1 / 2 + 0) / 3


@pytest.fixture
def qrels(tmp_path):
    (tmp_path / "qrels.tsv").write_text(QRELS)
    return tmp_path / "qrels.tsv"


@pytest.fixture
def ranking():
    return pa.table([list(column) for column in zip(*RANKED, strict=True)], schema=RANKING)


@pytest.fixture
def dataset(tmp_path, publish, ranking):
    """Queries go on in the next file, and a column stands beside those of a ranking."""
    extra = ranking.append_column("title", pa.array(["t"] * len(ranking)))
    return publish(tmp_path / "ranking", extra)


def test_a_dataset_is_measured_and_its_counts_are_told(stx, dataset, qrels):
    code, printed, _ = stx(
        "evaluate", dataset, qrels, "--measures", "RR@10, P@2", "--measures", "AP(rel=2)"
    )

    assert code == 0
    assert f"| RR@10     | {RR:.4f} |" in printed
    assert f"| P@2       | {P2:.4f} |" in printed
    assert f"| AP(rel=2) | {1 / 3 / 3:.4f} |" in printed
    assert "3 judged queries, 7 ranked documents; 1 queries not in the ranking" in printed
    assert "1 queries without judgements, left out" in printed


def test_results_are_written_as_json_and_markdown(stx, dataset, qrels, tmp_path):
    files = ("--json", tmp_path / "a.json", "--markdown", tmp_path / "a.md")

    _, printed, _ = stx("evaluate", dataset, qrels, *files)

    values = json.loads((tmp_path / "a.json").read_text())
    assert values["measures"]["RR@10"] == pytest.approx(RR)
    assert values["queries"]["q2"]["RR@10"] == 0.5
    assert (values["ranking"], values["qrels"]) == (dataset, str(qrels))
    assert (tmp_path / "a.md").read_text() == printed


def test_two_rankings_are_compared(stx, dataset, qrels, tmp_path):
    (tmp_path / "other.run").write_text("q1 Q0 d2 1 5 me\nq1 Q0 d1 2 4 me\nq3 Q0 d5 1 2 me\n")

    code, printed, _ = stx(
        *("evaluate", dataset, qrels, "--against", tmp_path / "other.run", "--output", "ranking"),
        *("--measures", "RR", "--json", tmp_path / "a.json"),
    )

    assert code == 0
    other = (1 / 2 + 0 + 1) / 3
    assert f"|  {RR:.4f} |  {other:.4f} |    {RR - other:+.4f} |" in printed
    values = json.loads((tmp_path / "a.json").read_text())
    assert values["against"]["measures"]["RR"] == pytest.approx(other)
    assert values["differences"][0]["low"] < 0 < values["differences"][0]["high"]


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.run", "trec"),
        ("a.run.gz", "trec"),
        ("a.parquet", "top_ranked"),
        ("a.jsonl", "top_ranked"),
        ("a.jsonl.gz", "top_ranked"),
    ],
)
def test_an_exported_ranking_has_the_same_measures(stx, dataset, qrels, tmp_path, name, format):
    code, printed, _ = stx("export", dataset, tmp_path / name, "--format", format)

    assert (code, printed) == (
        0,
        f"wrote 8 rows of {dataset} to {tmp_path / name} as {format}\n",
    )
    assert (tmp_path / name).read_bytes().startswith(b"\x1f\x8b") == name.endswith(".gz")
    assert stx("evaluate", tmp_path / name, qrels) == stx("evaluate", dataset, qrels)


def test_exports_have_the_form_that_other_tools_read(stx, dataset, tmp_path):
    stx("export", dataset, tmp_path / "a.run", "--format", "trec", "--tag", "mine")
    stx("export", dataset, tmp_path / "a.parquet", "--format", "top_ranked")

    assert (tmp_path / "a.run").read_text().splitlines()[6] == "q2 Q0 d3 4 0.25 mine"
    assert pq.read_table(tmp_path / "a.parquet").to_pylist() == [
        {"query-id": "q1", "corpus-ids": ["d1", "d2", "d3"]},
        {"query-id": "q2", "corpus-ids": ["d9", "d1", "d2", "d3"]},
        {"query-id": "q7", "corpus-ids": ["d1"]},
    ]


def test_rankings_judgements_and_exports_may_be_on_s3(stx, s3_root, publish, ranking):
    root = publish(join(s3_root, "ranking"), ranking)
    write_new(join(s3_root, "qrels.tsv.gz"), gzip.compress(QRELS.encode()))

    exported = stx("export", root, join(s3_root, "a.run.gz"), "--format", "trec")
    again = stx("export", root, join(s3_root, "a.run.gz"), "--format", "trec")
    code, printed, _ = stx(
        *("evaluate", join(s3_root, "a.run.gz"), join(s3_root, "qrels.tsv.gz")),
        *("--against", root, "--measures", "RR", "--json", join(s3_root, "a.json")),
    )

    assert (exported[0], again[0], code) == (0, 2, 0)
    assert f"{RR:.4f} |  {RR:.4f} |    +0.0000" in printed
    assert json.loads(read_bytes(join(s3_root, "a.json")))["measures"]["RR"] == pytest.approx(RR)


def test_an_export_overwrites_nothing_and_leaves_nothing_half_written(
    stx, dataset, tmp_path, publish, ranking
):
    (tmp_path / "a.run").write_text("precious")
    spaced = ranking.set_column(1, "doc_id", pa.array([f"d {i}" for i in range(len(ranking))]))
    publish(tmp_path / "spaced", spaced)

    taken = stx("export", dataset, tmp_path / "a.run", "--format", "trec")
    folder = stx("export", dataset, tmp_path / "ranking", "--format", "trec")
    bad = stx("export", tmp_path / "spaced", tmp_path / "b.run", "--format", "trec")

    assert (taken[0], folder[0], bad[0]) == (2, 2, 2)
    assert "a.run: exists; remove it" in taken[2]
    assert "ranking: is a folder" in folder[2]
    assert "doc_id 'd 0' is empty or holds white space" in bad[2]
    assert (tmp_path / "a.run").read_text() == "precious"
    assert not (tmp_path / "b.run").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["evaluate", "nowhere", "qrels.tsv"], 2, "nowhere: no such file or folder"),
        (["evaluate", "ranking", "nowhere.tsv"], 2, "nowhere.tsv: no such file or folder"),
        (
            ["evaluate", "ranking", "qrels.tsv", "--measures", "nDGC@5"],
            2,
            "measure 'nDGC@5' is not",
        ),
        (["evaluate", "ranking", "qrels.tsv", "--output", "dense"], 2, "has no output 'dense'"),
        (["evaluate", "qrels.tsv", "qrels.tsv"], 2, "qrels.tsv line 1: "),
        (
            ["export", "ranking", "a.run", "--format", "word"],
            2,
            "unknown; one of trec, top_ranked",
        ),
        (["export", "ranking", "a.txt", "--format", "top_ranked"], 2, "end the name in .parquet"),
        (["export", "ranking", "a", "--format", "faiss"], 2, "no vectors in this output"),
        (["export", "ranking", "a.run", "--format", "trec", "--tag", "a b"], 2, "tag 'a b'"),
        (["export", "nowhere", "a.run", "--format", "trec"], 1, "no snapshot was committed here"),
    ],
)
def test_invalid_arguments_are_reported_in_one_line_with_an_exit_code(
    stx, dataset, qrels, tmp_path, monkeypatch, arguments, code, message
):
    monkeypatch.chdir(tmp_path)

    ended, _, told = stx(*arguments)

    assert (ended, message in told, len(told.splitlines())) == (code, True, 1), told
    assert not (tmp_path / "a.run").exists()
