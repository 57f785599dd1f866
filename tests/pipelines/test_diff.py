"""Differences between two versions of a dataset, by id."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import stx as package
from stx_core.errors import SpecError
from stx_core.store.diff import snapshot_diff
from stx_core.store.snapshot import snapshot_files

SCHEMA = pa.schema(
    {"id": pa.int64(), "text": pa.string(), "n": pa.float64(), "tags": pa.list_(pa.string())}
)


@pytest.fixture(scope="module")
def model(tmp_path_factory, save_static_model):
    weights = np.arange(12, dtype=np.float32).reshape(3, 4)
    return save_static_model(tmp_path_factory.mktemp("model"), ["stars", "sand"], weights)


@pytest.fixture
def encode(tmp_path, model):
    def encode(rows, name="a", id_type="int64", **models):
        corpus = tmp_path / "corpus"
        corpus.mkdir(exist_ok=True)
        schema = pa.schema(
            [("id", id_type), ("text", "string"), ("n", "double"), ("tags", pa.list_(pa.string()))]
        )
        pq.write_table(pa.Table.from_pylist(rows, schema), corpus / f"{name}.parquet")
        return package.encode(
            inputs={"path": str(corpus), "columns": ["n", "tags"]},
            models=models or {"dense": str(model)},
            output=str(tmp_path / "out"),
            resources={"runner": "local", "supervised": False, "rows_per_unit": 2},
        )

    return encode


def rows(*ids, **changes):
    row = {"text": "stars", "n": 1.0, "tags": ["x"]}
    return [{"id": i} | row | changes.get(f"r{i}", {}) for i in ids]


def ids(diff):
    return diff.added.to_pylist(), diff.removed.to_pylist(), diff.changed.to_pylist()


def test_added_removed_and_changed_rows(encode, tmp_path):
    encode(rows(1, 2, 3, 4, 5))
    encode(rows(1, 2, 4, 5, 6, r5={"text": "sand"}))

    diff = snapshot_diff(str(tmp_path / "out"))

    assert (diff.old, diff.new, diff.output) == (1, 2, "dense")
    assert ids(diff) == ([6], [3], [5])
    assert diff.n_unchanged == 3
    assert ids(snapshot_diff(str(tmp_path / "out"), 2, 1)) == ([3], [6], [5])


def test_copied_columns_count_as_the_text_does_and_nan_and_null_equal_themselves(encode, tmp_path):
    same = {"r1": {"n": math.nan}, "r2": {"n": None, "tags": None}}
    encode(rows(1, 2, 3, 4, 5, 6, 7, **same))
    changes = [{"n": 2.0}, {"n": None}, {"n": math.nan}, {"tags": ["y"]}, {"tags": None}]
    encode(rows(1, 2, 3, 4, 5, 6, 7, **same, **{f"r{i}": c for i, c in enumerate(changes, 3)}))

    assert ids(snapshot_diff(str(tmp_path / "out"))) == ([], [], [3, 4, 5, 6, 7])


def test_rows_that_moved_to_another_file_are_unchanged(encode, tmp_path):
    encode(rows(1, 2, 3, 4))
    encode(rows(4, 3), "b")
    encode(rows(2, 1))

    diff = snapshot_diff(str(tmp_path / "out"), 1, 3)

    assert ids(diff) == ([], [], [])
    assert diff.n_unchanged == 4


def test_all_rows_changed_where_the_model_did(encode, tmp_path, save_static_model):
    encode(rows(1, 2, 3))
    other = save_static_model(tmp_path / "other", ["stars"], np.ones((2, 4), np.float32))
    encode(rows(1, 2, 4), dense=str(other))

    assert ids(snapshot_diff(str(tmp_path / "out"))) == ([4], [3], [1, 2])


def test_files_that_both_versions_have_are_not_read(encode, tmp_path):
    out = str(tmp_path / "out")
    encode(rows(1, 2))
    encode(rows(3, 4), "b")
    encode(rows(3, 5), "b")
    (both,) = set(snapshot_files(out, version=2)) & set(snapshot_files(out, version=3))
    Path(both).unlink()

    assert ids(snapshot_diff(out)) == ([5], [4], [])


def test_versions_that_cannot_be_compared_are_one_line(encode, tmp_path, model, stx):
    out = tmp_path / "out"
    encode(rows(1, 2))
    with pytest.raises(SpecError, match="no version before 1 can be opened"):
        snapshot_diff(str(out))
    both = {"dense": str(model), "again": str(model)}
    encode(rows(1, 2, 3), **both)
    encode(rows(1, 2), **both)

    code, _, errors = stx("diff", out)

    assert code == 2
    assert "name one (--output): dense, again" in errors
    code, printed, _ = stx("diff", out, "--output", "again", "--ids")
    assert (code, printed) == (0, "- 3\n")
    assert "removed               1: 3\n" in stx("diff", out, 2, 3, "--output", "dense")[1]


def test_ids_of_different_types_are_one_line(encode, tmp_path, stx):
    out = tmp_path / "out"
    encode(rows(1, 2))
    encode(rows("1", "2"), id_type="string")

    for old, new, said in ((1, 2, "int64, those of version 2 are string"), (2, 1, "string, those")):
        code, _, errors = stx("diff", out, old, new)

        assert code == 2
        assert f"the ids of version {old} are {said}" in errors
        assert errors.count("\n") == 1
