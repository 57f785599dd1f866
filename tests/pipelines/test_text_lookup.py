"""Texts by id: every format, ids of both types, and what is read of a file."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx.pipelines.retrieval import text_lookup
from stx.pipelines.retrieval.text_lookup import fetch_texts, index_texts, known_ids, publish_texts
from stx.pipelines.spec.parts import Inputs
from stx_core.errors import InputError
from stx_core.store.corpus import parquet

N_ROWS = 500


def table_of(ids):
    return pa.table({"id": ids, "text": [f"text of {one}" for one in ids]})


def write(folder, kind, table):
    folder.mkdir(exist_ok=True)
    if kind == "parquet":
        pq.write_table(table.slice(0, 300), folder / "a.parquet", row_group_size=40)
        pq.write_table(table.slice(300), folder / "b.parquet", row_group_size=1000)
    elif kind == "jsonl":
        lines = [json.dumps(row) for row in table.to_pylist()]
        (folder / "a.jsonl").write_text("\n".join(lines) + "\n")
    elif kind == "csv":
        lines = [f"{row['id']},{row['text']}" for row in table.to_pylist()]
        (folder / "a.csv").write_text("\n".join(["id,text", *lines]) + "\n")
    elif kind == "arrow":
        import datasets

        datasets.Dataset(table).save_to_disk(str(folder / "saved"))
        return folder / "saved"
    return folder


def source_of(tmp_path, path, **more):
    (tmp_path / "scratch").mkdir(exist_ok=True)
    source = index_texts(Inputs(path=str(path), **more), str(tmp_path / "scratch"))
    (tmp_path / "run").mkdir(exist_ok=True)
    return publish_texts(source, str(tmp_path / "run"))


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv", "arrow"])
@pytest.mark.parametrize("integers", [False, True])
def test_every_id_finds_its_text_in_every_format(tmp_path, monkeypatch, kind, integers):
    if kind == "arrow":
        pytest.importorskip("datasets")
    monkeypatch.setattr(text_lookup, "_LINE_ROWS", 64)
    monkeypatch.setattr("stx_core.store.corpus.readers._ROWS_AT_ONCE", 64)
    numbers = np.random.default_rng(0).permutation(N_ROWS).tolist()
    ids = numbers if integers else [f"d{number}" for number in numbers]
    source = source_of(tmp_path, write(tmp_path / "corpus", kind, table_of(ids)))
    unknown = -5 if integers else "nowhere"
    wanted = pa.array([ids[499], ids[0], unknown, None, ids[0], ids[301], ids[70]])

    found = fetch_texts(source, wanted)

    expected = [None if one in (unknown, None) else f"text of {one}" for one in wanted.to_pylist()]
    assert found.type == pa.string()
    assert found.to_pylist() == expected
    assert known_ids(source, wanted).tolist() == [text is not None for text in expected]
    everything = fetch_texts(source, pa.array(ids))
    assert everything.to_pylist() == [f"text of {one}" for one in ids]


def test_numbers_are_found_by_their_decimal_strings(tmp_path):
    source = source_of(tmp_path, write(tmp_path / "corpus", "parquet", table_of([7, 8, 9])))

    assert fetch_texts(source, pa.array(["9", "7", "07"])).to_pylist() == [
        "text of 9", "text of 7", None,
    ]  # fmt: skip


def test_of_equal_ids_the_first_row_counts(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, texts in (("a", ["1st", "2nd"]), ("b", ["3rd", "4th"])):
        pq.write_table(pa.table({"id": ["x", "x"], "text": texts}), folder / f"{name}.parquet")

    assert fetch_texts(source_of(tmp_path, folder), pa.array(["x"])).to_pylist() == ["1st"]


def test_row_groups_without_a_wanted_row_are_not_read(tmp_path, monkeypatch):
    ids = [f"d{i}" for i in range(N_ROWS)]
    source = source_of(tmp_path, write(tmp_path / "corpus", "parquet", table_of(ids)))
    read = []
    tables = parquet._tables

    def watched(file, group, names, span, at_once):
        # The row groups have 40 rows each.
        read.append((group, tuple(names), *(40 * group + edge for edge in span)))
        return tables(file, group, names, span, at_once)

    monkeypatch.setattr(parquet, "_tables", watched)

    fetch_texts(source, pa.array(["d41", "d79", "d41", "d299"]))

    assert read == [(1, ("text",), 41, 80), (7, ("text",), 299, 300)]


def test_columns_are_joined_and_filters_hold(tmp_path):
    path = tmp_path / "c.parquet"
    table = pa.table({"id": [1, 2, 3], "title": ["A", None, "C"], "body": ["a", "b", None],
                      "lang": ["en", "en", "de"]})  # fmt: skip
    pq.write_table(table, path)
    source = source_of(tmp_path, path, text_column=("title", "body"), filter=[["lang", "==", "en"]])

    assert fetch_texts(source, pa.array([1, 2, 3])).to_pylist() == ["A\na", "b", None]


def test_a_null_text_is_null_though_its_id_is_known(tmp_path):
    path = tmp_path / "c.parquet"
    pq.write_table(pa.table({"id": ["a", "b", None], "text": ["x", None, "y"]}), path)
    source = source_of(tmp_path, path)

    assert fetch_texts(source, pa.array(["a", "b"])).to_pylist() == ["x", None]
    assert known_ids(source, pa.array(["a", "b", "c"])).tolist() == [True, True, False]


def test_invalid_lines_are_left_out(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text('{"id": "a", "text": "x"}\nnot json\n{"id": "c", "text": 5}\n')

    source = source_of(tmp_path, path)

    assert fetch_texts(source, pa.array(["a", "c"])).to_pylist() == ["x", None]


def test_rows_without_ids_have_those_that_encode_gives(tmp_path):
    path = tmp_path / "c.parquet"
    pq.write_table(pa.table({"text": ["x", "y"]}), path)
    source = source_of(tmp_path, path, id_column=None)

    assert fetch_texts(source, pa.array([f"{path}:1", f"{path}:2"])).to_pylist() == ["y", None]


def test_a_shard_that_changed_is_refused(tmp_path):
    folder = write(tmp_path / "corpus", "parquet", table_of(["a", "b"]))
    source = source_of(tmp_path, folder)
    pq.write_table(table_of(["b", "a", "c"]), folder / "a.parquet")

    with pytest.raises(InputError, match="changed since it was planned"):
        fetch_texts(source, pa.array(["a"]))


def test_an_empty_corpus_and_no_ids_are_fine(tmp_path):
    folder = write(tmp_path / "corpus", "parquet", table_of(pa.array([], pa.string())))
    source = source_of(tmp_path, folder)

    assert fetch_texts(source, pa.array(["a"])).to_pylist() == [None]
    assert len(fetch_texts(source, pa.array([], pa.string()))) == 0


def test_a_published_index_is_taken_again(tmp_path, monkeypatch):
    folder = write(tmp_path / "corpus", "parquet", table_of(["a", "b"]))
    source = source_of(tmp_path, folder)
    monkeypatch.setattr(text_lookup, "write_index", None)

    again = index_texts(source.inputs, str(tmp_path), published=str(tmp_path / "run"))

    assert again == source
    assert os.listdir(tmp_path / "run") == [source.index.rsplit("/", 1)[-1]]
