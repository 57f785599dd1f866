"""Bad input gives one clear line (what, where, what to do), and no row is lost."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx.pipelines.encode import run_encode
from stx.pipelines.planning.corpus import content_hashes
from stx_core.errors import InputError, ModelError
from stx_core.store.snapshot import open_snapshot, read_manifest


def write(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def quarantined(root):
    files = read_manifest(str(root)).column("quarantine_file").to_pylist()
    tables = [pq.read_table(root / file) for file in files if file]
    rows = [row for table in tables for row in table.to_pylist()]
    return sorted(rows, key=lambda row: (row["file"], row["row"]))


def ids(root):
    return sorted(open_snapshot(str(root)).to_table().column("id").to_pylist())


def one_line(error):
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_null_and_empty_texts_go_to_quarantine_with_file_row_and_reason(tmp_path, spec_of):
    shard = write(
        tmp_path / "c" / "a.parquet",
        id=["a", "b", "c", "d", "e"],
        text=["plants eat light", None, "", " \t\n", "stars"],
    )

    report = run_encode(spec_of(shard.parent))

    assert ids(tmp_path / "out") == ["a", "e"]
    found = quarantined(tmp_path / "out")
    assert [(row["row"], row["id"], row["reason"]) for row in found] == [
        (1, "b", "null_text"),
        (2, "c", "empty_text"),
        (3, "d", "empty_text"),
    ]
    assert {row["file"] for row in found} == {str(shard)}
    assert {row["column"] for row in found} == {"text"}
    assert report.parts["dense"].rows + report.parts["dense"].quarantined == 5


def test_empty_texts_are_encoded_when_asked_for(tmp_path, spec_of):
    shard = write(tmp_path / "c" / "a.parquet", id=[1, 2], text=["", "stars"])

    run_encode(spec_of(shard, output={"empty_text": "encode"}))

    assert ids(tmp_path / "out") == [1, 2]
    assert quarantined(tmp_path / "out") == []


def test_null_ids_go_to_quarantine(tmp_path, spec_of):
    shard = write(tmp_path / "c" / "a.parquet", id=["a", None], text=["stars", "sand"])

    run_encode(spec_of(shard))

    assert ids(tmp_path / "out") == ["a"]
    (row,) = quarantined(tmp_path / "out")
    assert (row["row"], row["id"], row["column"], row["reason"]) == (1, None, "id", "null_id")


def test_a_bad_row_stops_the_run_when_the_policy_says_fail(tmp_path, spec_of):
    shard = write(tmp_path / "c" / "a.parquet", id=["a", "b"], text=["stars", None])

    with pytest.raises(InputError, match="row 1: column 'text' is null") as error:
        run_encode(spec_of(shard, output={"on_bad_rows": "fail"}))

    assert "a.parquet" in one_line(error)
    assert "on_bad_rows: quarantine" in str(error.value)


def test_a_text_of_a_megabyte_is_encoded_from_its_beginning(tmp_path, spec_of):
    long = "plants eat light " * 60_000
    shard = write(tmp_path / "c" / "a.parquet", id=["a", "b"], text=[long, "stars"])

    run_encode(spec_of(shard))

    rows = open_snapshot(str(tmp_path / "out")).to_table().to_pylist()
    assert len(long) > 1_000_000
    assert {row["id"]: row["n_tokens"] for row in rows} == {"a": 180_000, "b": 1}


def test_invalid_utf8_in_parquet_goes_to_quarantine(tmp_path, spec_of):
    raw = pa.array([b"stars", b"\xff\xfe", b"sand"], pa.binary())
    text = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
    shard = write(tmp_path / "c" / "a.parquet", id=["a", "b", "c"], text=text)

    run_encode(spec_of(shard))

    assert ids(tmp_path / "out") == ["a", "c"]
    (row,) = quarantined(tmp_path / "out")
    assert (row["row"], row["id"], row["column"], row["reason"]) == (1, "b", "text", "invalid_utf8")


@pytest.mark.parametrize("packed", [False, True])
def test_bad_lines_of_jsonl_go_to_quarantine_with_their_row(tmp_path, spec_of, packed):
    lines = [
        b'{"id": "a", "text": "stars"}',
        b'{"id": "b", "text": ',
        b'{"id": "c", "text": "\xff"}',
        b'{"id": "d", "text": 5}',
        b'{"id": "e", "text": "sand"}',
    ]
    data = b"\n".join(lines) + b"\n"
    shard = tmp_path / ("a.jsonl.gz" if packed else "a.jsonl")
    shard.write_bytes(gzip.compress(data) if packed else data)

    report = run_encode(spec_of(shard))

    assert ids(tmp_path / "out") == ["a", "e"]
    assert [row["row"] for row in quarantined(tmp_path / "out")] == [1, 2, 3]
    assert report.parts["dense"].quarantined == 3


def test_bad_lines_of_csv_go_to_quarantine(tmp_path, spec_of):
    shard = tmp_path / "a.csv"
    shard.write_bytes(b'id,text\na,"stars\nof light"\nb,\xff\nc,sand\n')

    run_encode(spec_of(shard))

    assert ids(tmp_path / "out") == ["a", "c"]
    (row,) = quarantined(tmp_path / "out")
    assert row["row"] == 1


def test_duplicate_ids_are_kept_and_reported(tmp_path, spec_of):
    write(tmp_path / "c" / "a.parquet", id=["a", "b", "a"], text=["stars", "sand", "light"])
    write(tmp_path / "c" / "b.parquet", id=["b", "c"], text=["rivers", "glass"])

    report = run_encode(spec_of(tmp_path / "c"))

    assert ids(tmp_path / "out") == ["a", "a", "b", "b", "c"]
    (warning,) = report.warnings
    assert "2 ids occur more than once" in warning
    assert "'a'" in warning
    assert "output.duplicate_ids: fail" in warning


def test_duplicate_ids_refuse_the_commit_when_asked_for(tmp_path, spec_of):
    shard = write(tmp_path / "c" / "a.parquet", id=["a", "a"], text=["stars", "sand"])

    with pytest.raises(InputError, match="1 ids occur more than once") as error:
        run_encode(spec_of(shard, output={"duplicate_ids": "fail"}))

    one_line(error)


def test_a_missing_column_is_named_with_the_columns_that_are_there(tmp_path, spec_of):
    shard = write(tmp_path / "c" / "a.parquet", id=["a"], body=["stars"])

    with pytest.raises(
        InputError, match=r"a\.parquet: no column 'text'; it has body, id|id, body"
    ) as error:
        run_encode(spec_of(shard))

    one_line(error)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": ["a"], "text": [5]}, "column 'text' is int64, not string"),
        ({"id": [0.5], "text": ["stars"]}, "column 'id' is double, not string or integer"),
    ],
)
def test_a_column_of_the_wrong_type_is_named_with_its_type(tmp_path, spec_of, columns, message):
    shard = write(tmp_path / "c" / "a.parquet", **columns)

    with pytest.raises(InputError, match=message) as error:
        run_encode(spec_of(shard))

    one_line(error)


def test_an_empty_parquet_file_is_named(tmp_path, spec_of):
    write(tmp_path / "c" / "a.parquet", id=["a"], text=["stars"])
    (tmp_path / "c" / "b.parquet").write_bytes(b"")

    with pytest.raises(InputError, match=r"b\.parquet: ") as error:
        run_encode(spec_of(tmp_path / "c"))

    one_line(error)


def test_a_truncated_parquet_file_is_named(tmp_path, spec_of):
    shard = write(tmp_path / "c" / "a.parquet", id=["a"] * 100, text=["stars"] * 100)
    shard.write_bytes(shard.read_bytes()[:-20])

    with pytest.raises(InputError, match=r"a\.parquet: not a whole Parquet file") as error:
        run_encode(spec_of(shard))

    one_line(error)


def test_empty_files_of_lines_and_parquet_without_rows_are_fine(tmp_path, spec_of):
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "empty.jsonl").write_bytes(b"")
    (folder / "full.jsonl").write_text('{"id": "a", "text": "stars"}\n')

    run_encode(spec_of(folder))

    assert ids(tmp_path / "out") == ["a"]


def test_shards_whose_columns_have_types_that_do_not_fit_are_both_named(tmp_path, spec_of):
    write(tmp_path / "c" / "a.parquet", id=["a"], text=["stars"])
    write(tmp_path / "c" / "b.parquet", id=[7], text=["sand"])

    with pytest.raises(
        InputError, match=r"column 'id' is string in .*a\.parquet, but int64 in .*b\.parquet"
    ) as error:
        run_encode(spec_of(tmp_path / "c"))

    one_line(error)


def test_a_folder_that_is_not_there_is_named(tmp_path, spec_of):
    with pytest.raises(InputError, match="nowhere") as error:
        run_encode(spec_of(tmp_path / "nowhere"))

    one_line(error)


def test_a_model_folder_with_a_missing_file_is_named(tmp_path, spec_of, static_model, corpus):
    broken = tmp_path / "broken"
    (broken / "0_StaticEmbedding").mkdir(parents=True)
    (broken / "modules.json").write_bytes((static_model / "modules.json").read_bytes())

    with pytest.raises(ModelError, match="0_StaticEmbedding") as error:
        run_encode(spec_of(corpus, models={"dense": {"model": str(broken)}}))

    one_line(error)


def test_a_shard_that_changes_after_planning_is_refused(tmp_path, spec_of, corpus, monkeypatch):
    import stx.pipelines.encoding.inputs

    planned = stx.pipelines.encoding.inputs.list_corpus

    def list_then_overwrite(*arguments):
        found = planned(*arguments)
        write(corpus / "part-1.parquet", id=["x"], text=["stars"], lang=["en"])
        return found

    monkeypatch.setattr(stx.pipelines.encoding.inputs, "list_corpus", list_then_overwrite)

    with pytest.raises(InputError, match=r"part-1\.parquet: changed since it was planned") as error:
        run_encode(spec_of(corpus))

    one_line(error)


def test_empty_ids_go_to_quarantine(tmp_path, spec_of):
    shard = write(tmp_path / "c" / "a.parquet", id=["a", "", " "], text=["stars", "sand", "sea"])

    run_encode(spec_of(shard))

    assert ids(tmp_path / "out") == [" ", "a"]
    (row,) = quarantined(tmp_path / "out")
    assert (row["row"], row["id"], row["column"], row["reason"]) == (1, "", "id", "empty_id")


@pytest.mark.parametrize("title", [None, "", " \n"])
def test_blank_text_columns_leave_no_separator(tmp_path, spec_of, title):
    shard = write(
        tmp_path / "c" / "a.parquet",
        id=["a", "b", "c", "d"],
        title=["t", title, "t", title],
        body=["sand", "sand", title, title],
    )

    run_encode(spec_of(shard, inputs={"text_column": ["title", "body"]}))

    rows = open_snapshot(str(tmp_path / "out")).to_table(columns=["id", "content_hash"])
    assert rows["id"].to_pylist() == ["a", "b", "c"]
    wanted = content_hashes(pa.chunked_array([["t\nsand", "sand", "t"]]))
    assert rows["content_hash"].to_pylist() == wanted.to_pylist()
    (row,) = quarantined(tmp_path / "out")
    assert (row["id"], row["reason"]) == ("d", "empty_text" if title is not None else "null_text")
