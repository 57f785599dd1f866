import io
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stx_core.errors import InputError
from stx_core.store.schema import (
    SPARSE_TYPE,
    dense_column,
    dense_matrix,
    dense_type,
    sparse_column,
    sparse_csr,
    to_parquet,
)

RNG = np.random.default_rng(0)


def dense_values(dtype, n=50, dim=8):
    if dtype in ("int8", "uint8"):
        info = np.iinfo(dtype)
        return RNG.integers(info.min, info.max, (n, dim), dtype=dtype, endpoint=True)
    return RNG.normal(size=(n, dim)).astype(dtype)


def vectors_table(dtype="float32"):
    offsets = np.arange(0, 51 * 2, 2)
    return pa.table(
        {
            "id": [f"d{row}" for row in range(50)],
            "embedding": dense_column(dense_values(dtype)),
            "sparse": sparse_column(
                offsets, np.tile([3, 70_000], 50), RNG.random(100).astype(np.float32)
            ),
        }
    )


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "uint8"])
def test_dense_vectors_survive_the_file_with_their_type(dtype):
    values = dense_values(dtype)

    data = to_parquet(pa.table({"embedding": dense_column(values)}))
    table = pq.read_table(io.BytesIO(data))

    assert table.schema.field("embedding").type == dense_type(8, dtype)
    np.testing.assert_array_equal(dense_matrix(table["embedding"]), values)


def test_dense_columns_share_memory_both_ways():
    values = dense_values("float32")

    matrix = dense_matrix(dense_column(values))

    assert np.shares_memory(matrix, values)


def test_slices_and_chunks_give_their_own_rows():
    values = dense_values("float32")
    column = dense_column(values)
    chunked = pa.chunked_array([column.slice(5, 10), column.slice(30, 3)])

    np.testing.assert_array_equal(dense_matrix(column.slice(7, 4)), values[7:11])
    np.testing.assert_array_equal(
        dense_matrix(chunked), np.concatenate([values[5:15], values[30:33]])
    )
    assert dense_matrix(column.slice(0, 0)).shape == (0, 8)
    assert dense_matrix(pa.chunked_array([], type=column.type)).shape == (0, 8)


def test_nan_and_infinity_stay_values():
    values = np.array([[np.nan, np.inf]], np.float32)

    np.testing.assert_array_equal(dense_matrix(dense_column(values)), values)


def test_null_vectors_are_refused():
    column = pa.array([[1.0, 2.0], None], dense_type(2))

    with pytest.raises(InputError, match="1 of 2 vectors are null"):
        dense_matrix(column)


@pytest.mark.parametrize("bad", [np.zeros((2, 0), np.float32), np.zeros((2, 2), np.float64)])
def test_vectors_of_no_width_or_another_type_are_refused(bad):
    with pytest.raises(ValueError, match="dimension|dtype"):
        dense_column(bad)


def test_sparse_rows_survive_the_file_and_slicing():
    offsets = np.array([0, 2, 2, 5])
    indices = np.array([1, 9, 0, 4, 30521])
    values = np.array([0.5, 1, 2, 3, 4], np.float32)

    data = to_parquet(pa.table({"sparse": sparse_column(offsets, indices, values)}))
    column = pq.read_table(io.BytesIO(data))["sparse"]

    assert column.type == SPARSE_TYPE
    for got, wanted in zip(sparse_csr(column), (offsets, indices, values), strict=True):
        np.testing.assert_array_equal(got, wanted)
    for part in (column.slice(1, 2), column.chunk(0).slice(1, 2)):
        got_offsets, got_indices, _ = sparse_csr(part)
        np.testing.assert_array_equal(got_offsets, [0, 0, 3])
        np.testing.assert_array_equal(got_indices, [0, 4, 30521])
    last_offsets, last_indices, _ = sparse_csr(column.chunk(0).slice(2, 1))
    np.testing.assert_array_equal(last_offsets, [0, 3])
    np.testing.assert_array_equal(last_indices, [0, 4, 30521])


def test_sparse_parts_that_disagree_are_refused():
    with pytest.raises(ValueError, match="offsets end at 3"):
        sparse_column(np.array([0, 3]), np.array([1, 2]), np.array([1.0, 2.0]))


def test_files_have_no_extension_types_and_refuse_them():
    schema = pq.read_schema(io.BytesIO(to_parquet(vectors_table())))
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((2, 3), np.float32))

    assert all(b"ARROW:extension:name" not in (field.metadata or {}) for field in schema)
    assert not any(isinstance(field.type, pa.BaseExtensionType) for field in schema)
    with pytest.raises(ValueError, match="no extension types"):
        to_parquet(pa.table({"v": tensor}))


def test_write_options_are_the_measured_ones():
    table = vectors_table()
    group = pq.read_metadata(io.BytesIO(to_parquet(table))).row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}

    assert {column.compression for column in columns.values()} == {"ZSTD"}
    assert "BYTE_STREAM_SPLIT" in columns["embedding.list.element"].encodings
    assert "BYTE_STREAM_SPLIT" in columns["sparse.values.list.element"].encodings
    assert columns["id"].has_dictionary_page
    assert not columns["embedding.list.element"].has_dictionary_page
    assert columns["id"].has_offset_index


def test_float16_is_not_split_by_byte_and_int8_uses_dictionaries():
    for dtype, dictionary in (("float16", False), ("int8", True)):
        data = to_parquet(pa.table({"v": dense_column(dense_values(dtype))}))
        column = pq.read_metadata(io.BytesIO(data)).row_group(0).column(0)

        assert "BYTE_STREAM_SPLIT" not in column.encodings
        assert column.has_dictionary_page is dictionary


def test_row_groups_are_cut_by_bytes(monkeypatch):
    monkeypatch.setattr("stx_core.store.schema.ROW_GROUP_BYTES", 1000)

    metadata = pq.read_metadata(
        io.BytesIO(to_parquet(pa.table({"v": dense_column(dense_values("float32", n=100))})))
    )

    assert metadata.num_row_groups == 4


def test_metadata_is_kept():
    data = to_parquet(vectors_table(), {"stx.model": "m"})

    assert pq.read_metadata(io.BytesIO(data)).metadata[b"stx.model"] == b"m"


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_duckdb_reads_the_vectors(tmp_path, dtype):
    import duckdb

    path = tmp_path / "x.parquet"
    table = vectors_table(dtype)
    path.write_bytes(to_parquet(table))

    rows = duckdb.sql(f"SELECT embedding, sparse.indices FROM '{path}'").fetchall()

    assert list(rows[7][0]) == pytest.approx(table["embedding"][7].as_py())
    assert list(rows[7][1]) == [3, 70_000]


def test_polars_reads_the_vectors_as_a_matrix(tmp_path):
    import polars

    path = tmp_path / "x.parquet"
    table = vectors_table()
    path.write_bytes(to_parquet(table))

    frame = polars.read_parquet(path)

    assert frame["embedding"].dtype == polars.Array(polars.Float32, 8)
    np.testing.assert_array_equal(frame["embedding"].to_numpy(), dense_matrix(table["embedding"]))


def test_datasets_reads_the_vectors_with_their_length(tmp_path):
    import datasets

    path = tmp_path / "x.parquet"
    path.write_bytes(to_parquet(vectors_table()))

    dataset = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))

    assert dataset.features["embedding"].length == 8
    assert np.shape(dataset.with_format("numpy")["embedding"][:]) == (50, 8)


def test_the_store_imports_neither_torch_nor_ray():
    code = (
        "import sys, pkgutil, importlib, stx_core.store as store\n"
        "for module in pkgutil.iter_modules(store.__path__):\n"
        "    importlib.import_module('stx_core.store.' + module.name)\n"
        "print(sorted({'torch', 'ray', 'transformers', 'datasets', 's3fs'} & set(sys.modules)))"
    )

    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout

    assert output.strip() == "[]"
