"""The files of a snapshot open unchanged in other engines, vectors with their fixed length."""

import datasets
import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx.pipelines.encode import run_encode
from stx_core.store.snapshot import open_snapshot, read_manifest, snapshot_files


@pytest.fixture
def files(corpus, spec_of, tmp_path):
    run_encode(spec_of(corpus, inputs={"columns": ["lang"]}))
    names = read_manifest(str(tmp_path / "out")).column("file").to_pylist()
    return [str(tmp_path / "out" / name) for name in names]


@pytest.fixture
def expected(files, tmp_path):
    table = open_snapshot(str(tmp_path / "out")).to_table()
    vectors = np.array(table.column("embedding").to_pylist(), np.float32)
    return dict(zip(table.column("id").to_pylist(), vectors, strict=True))


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, vector in expected.items():
        np.testing.assert_array_equal(np.asarray(found[name], np.float32), vector)


def test_pyarrow_sees_fixed_size_vectors_and_no_extension_type(files, expected):
    table = pq.read_table(files)

    kind = table.schema.field("embedding").type
    assert (pa.types.is_fixed_size_list(kind), kind.list_size) == (True, 8)
    for file in files:
        for field in pq.read_schema(file):
            assert not isinstance(field.type, pa.BaseExtensionType)
            assert b"ARROW:extension:name" not in (field.metadata or {})
    columns = table.column("id").to_pylist(), table.column("embedding").to_pylist()
    assert_same(dict(zip(*columns, strict=True)), expected)


def test_datasets_sees_the_length_of_the_vectors(files, expected, tmp_path):
    found = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )

    assert found.features["embedding"].length == 8
    assert_same(dict(zip(found["id"], found["embedding"], strict=True)), expected)


def test_duckdb_computes_with_the_vectors(files, expected):
    rows = duckdb.sql(
        f"select id, embedding, array_cosine_similarity(embedding::FLOAT[8], embedding::FLOAT[8]) "
        f"from read_parquet({files})"
    ).fetchall()

    assert_same({name: vector for name, vector, _ in rows}, expected)
    assert {round(similarity, 5) for _, _, similarity in rows} == {1.0}


def test_polars_gives_a_matrix(files, expected):
    frame = polars.read_parquet(files)

    assert frame.schema["embedding"] == polars.Array(polars.Float32, 8)
    matrix = frame["embedding"].to_numpy()
    assert matrix.shape == (250, 8)
    assert_same(dict(zip(frame["id"].to_list(), matrix, strict=True)), expected)


def test_sparse_vectors_open_everywhere(corpus, spec_of, tmp_path, splade_model):
    sparse = {"model": str(splade_model), "type": "sparse"}
    run_encode(spec_of(corpus, models={"splade": sparse}))
    files = snapshot_files(str(tmp_path / "out"), output="splade")
    expected = {
        row["id"]: row["sparse_embedding"]
        for row in open_snapshot(str(tmp_path / "out"), output="splade").to_table().to_pylist()
    }
    query = f"select id, sparse_embedding from read_parquet({files})"

    with_datasets = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )

    assert dict(duckdb.sql(query).fetchall()) == expected
    assert dict(polars.read_parquet(files).select("id", "sparse_embedding").rows()) == expected
    assert {row["id"]: row["sparse_embedding"] for row in with_datasets} == expected
