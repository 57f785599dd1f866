"""Arrow types of what is written, Parquet settings, and the way between columns and arrays."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stx_core.errors import InputError

DenseDtype = Literal["float32", "float16", "int8", "uint8"]

QUARANTINE = pa.schema(
    [
        pa.field("unit", pa.string()),
        pa.field("file", pa.string()),
        pa.field("row", pa.int64()),
        pa.field("id", pa.string()),
        pa.field("column", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)

_EXACT_IDS = b"stx.exact_ids"


def with_exact_ids(schema: pa.Schema, column: str) -> pa.Schema:
    """Declare that files of a schema have one row for each row of the unit, with its id here."""
    return schema.with_metadata({**(schema.metadata or {}), _EXACT_IDS: column.encode()})


def exact_ids(schema: pa.Schema) -> str | None:
    """The column that `with_exact_ids` named; None where a row in may give several or none."""
    column = (schema.metadata or {}).get(_EXACT_IDS)
    return None if column is None else str(column.decode())


SPARSE_TYPE = pa.struct(
    [
        pa.field("indices", pa.list_(pa.field("element", pa.int32()))),
        pa.field("values", pa.list_(pa.field("element", pa.float32()))),
    ]
)
"""Type of a sparse vector column: sorted indices with their weights."""

# Queries with their documents, best first: what search writes, reranking reads, measures judge.
RANKING = pa.schema(
    [
        pa.field("query_id", pa.string()),
        pa.field("doc_id", pa.string()),
        pa.field("rank", pa.int32()),  # from 1
        pa.field("score", pa.float32()),  # higher is better
    ]
)

# Judgements of documents for queries: 0 is not relevant, higher is more relevant.
QRELS = pa.schema(
    [
        pa.field("query_id", pa.string()),
        pa.field("doc_id", pa.string()),
        pa.field("score", pa.int32()),
    ]
)

# Readers load a row group at once: 32 MB is what bulk importers of search engines expect.
ROW_GROUP_BYTES = 32 * 2**20

# Strings, and integers of 8 bits, which have 256 values.
_REPETITIVE = (pa.string(), pa.large_string(), pa.int8(), pa.uint8())

# What `datasets` writes too: pages cut by content, so that hubs store equal parts once.
_CONTENT_CHUNKS = {"min_chunk_size": 2**18, "max_chunk_size": 2**20, "norm_level": 0}


def dense_type(dim: int, dtype: DenseDtype = "float32") -> pa.DataType:
    """Type of a dense vector column: ``fixed_size_list<dtype>[dim]``, never an extension type."""
    if dim < 1:
        raise ValueError(f"a vector has at least one dimension, got {dim}")
    if dtype not in get_args(DenseDtype):
        raise ValueError(f"dtype must be one of {get_args(DenseDtype)}, got {dtype!r}")
    # Parquet calls list items "element"; the same name here survives every round trip.
    return pa.list_(pa.field("element", pa.from_numpy_dtype(dtype)), dim)


def dense_column(values: np.ndarray) -> pa.FixedSizeListArray:
    """Wrap (N, D) float32, float16, int8 or uint8 as a column; no copy if C-contiguous."""
    if values.ndim != 2:
        raise ValueError(f"expected an (N, D) array, got shape {values.shape}")
    kind = dense_type(values.shape[1], values.dtype.name)  # type: ignore[arg-type]
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, type=kind)


def dense_matrix(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Give a dense column as (N, D); no copy where it is one chunk.

    Raises:
        InputError: the column has nulls, or is no fixed-size list.
    """
    if not pa.types.is_fixed_size_list(column.type):
        raise InputError(f"expected vectors as fixed_size_list, the column is {column.type}")
    if column.null_count:
        raise InputError(f"{column.null_count} of {len(column)} vectors are null")
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    width = column.type.list_size
    parts = [chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, width) for chunk in chunks]
    if len(parts) == 1:
        matrix: np.ndarray = parts[0]
        return matrix
    return np.concatenate(parts or [np.empty((0, width), column.type.value_type.to_pandas_dtype())])


def sparse_column(offsets: np.ndarray, indices: np.ndarray, values: np.ndarray) -> pa.StructArray:
    """Wrap CSR rows as a column.

    Args:
        offsets: (N + 1,) integer; row i owns ``[offsets[i], offsets[i + 1])``. At most 2**31
            non-zeros in all.
        indices: (T,) integer, ascending within a row.
        values: (T,) float.
    """
    if len(indices) != len(values) or int(offsets[-1]) != len(indices):
        raise ValueError(
            f"offsets end at {int(offsets[-1])}, but there are {len(indices)} indices "
            f"and {len(values)} values"
        )
    kind = SPARSE_TYPE
    ends = pa.array(offsets.astype(np.int32))
    return pa.StructArray.from_arrays(
        [
            pa.ListArray.from_arrays(
                ends, pa.array(indices.astype(np.int32, copy=False)), type=kind[0].type
            ),
            pa.ListArray.from_arrays(
                ends, pa.array(values.astype(np.float32, copy=False)), type=kind[1].type
            ),
        ],
        fields=list(kind),
    )


def sparse_csr(
    column: pa.Array | pa.ChunkedArray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give a sparse column as CSR: offsets (N + 1,) int64, indices (T,) int32, values (T,) float32.

    Raises:
        InputError: the column has nulls, or is no struct of indices and values.
    """
    if not pa.types.is_struct(column.type) or column.type.names != ["indices", "values"]:
        raise InputError(f"expected struct<indices, values>, the column is {column.type}")
    if column.null_count:
        raise InputError(f"{column.null_count} of {len(column)} sparse vectors are null")
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    indices, values = column.flatten()
    offsets = indices.offsets.to_numpy().astype(np.int64)
    return (
        offsets - offsets[0],
        indices.flatten().to_numpy(zero_copy_only=True),
        values.flatten().to_numpy(zero_copy_only=True),
    )


class WriteOptions(TypedDict):
    """Arguments of `pyarrow.parquet.write_table`."""

    compression: str
    compression_level: int
    use_dictionary: list[str]
    use_byte_stream_split: list[str]
    write_page_index: bool
    write_page_checksum: bool
    use_content_defined_chunking: dict[str, int]


def write_options(schema: pa.Schema) -> WriteOptions:
    """Parquet settings for a schema (measured on 60,000 unit vectors of 384 numbers).

    zstd for all; dictionaries for strings and 8-bit vectors, which Parquet would else store as
    32-bit integers; float32 vectors split by byte (smaller, and faster to read). Not for float16:
    DuckDB cannot read that.
    """
    leaves = [leaf for field in schema for leaf in _leaves(field.name, field.type)]
    in_list = [(path, kind) for path, kind in leaves if path.endswith(".list.element")]
    return {
        "compression": "zstd",
        "compression_level": 3,
        "use_dictionary": [path for path, kind in leaves if kind in _REPETITIVE],
        "use_byte_stream_split": [path for path, kind in in_list if pa.types.is_float32(kind)],
        "write_page_index": True,
        # Readers that check them see a flipped bit; the others are not troubled.
        "write_page_checksum": True,
        "use_content_defined_chunking": _CONTENT_CHUNKS,
    }


def _leaves(path: str, kind: pa.DataType) -> list[tuple[str, pa.DataType]]:
    if pa.types.is_struct(kind):
        return [leaf for field in kind for leaf in _leaves(f"{path}.{field.name}", field.type)]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _leaves(f"{path}.list.element", kind.value_type)
    return [(path, kind)]


def to_parquet(table: pa.Table, metadata: Mapping[str, str] | None = None) -> bytes:
    """Write a table as one Parquet file in memory: uploads are then all or nothing.

    Args:
        table: no extension types; readers disagree about them.
        metadata: put into the file's key-value metadata, beside the Arrow schema.
    """
    for field in table.schema:
        if isinstance(field.type, pa.BaseExtensionType):
            raise ValueError(f"column {field.name!r} is {field.type}: no extension types in files")
    table = table.replace_schema_metadata(dict(metadata or {}))
    rows = ROW_GROUP_BYTES * max(1, table.num_rows) // max(1, table.nbytes)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=max(1, rows), **write_options(table.schema))
    data: bytes = sink.getvalue().to_pybytes()
    return data


def from_parquet(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a file that `to_parquet` wrote, in this thread: those of some columns that it has.

    Not by `pq.read_table`: that goes through a scanner whose threads may still hold the bytes when
    the interpreter ends, which aborts the process.
    """
    source = pa.BufferReader(data)
    with pq.ParquetFile(source, page_checksum_verification=True) as parquet:
        table: pa.Table = parquet.read(columns, use_threads=False)
    return table
