"""Vectors as Arrow tables, and Arrow tables as Parquet files."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stx.pipelines.exports.parts import write_parts
from stx.pipelines.exports.vectors import Batch, Vectors
from stx_core.store.schema import ROW_GROUP_BYTES


def table_schema(vectors: Vectors) -> pa.Schema:
    """``id`` as string, the copied columns that go along, the vector as it is."""
    vector = pa.field(vectors.column, vectors.vector_type)
    return pa.schema([pa.field("id", pa.string()), *vectors.payload, vector])


def table_of(batch: Batch, schema: pa.Schema) -> pa.Table:
    """A batch as a table: id, copied columns and vector, in the types of a schema."""
    columns = [batch.ids, *batch.payload.columns, batch.vectors]
    return pa.table(
        [
            column if column.type == kind else column.cast(kind)
            for column, kind in zip(columns, schema.types, strict=True)
        ],
        schema=schema,
    )


def write_table_parts(
    vectors: Vectors,
    destination: str,
    schema: pa.Schema,
    table: Callable[[Batch], pa.Table],
    *,
    beside: Mapping[str, bytes] | None = None,
    rows_per_part: int | None = None,
    **settings: Any,  # noqa: ANN401
) -> int:
    """Write a folder of Parquet files, see `write_parts`.

    Args:
        vectors: what to write.
        destination: folder or URL.
        schema: of the files.
        table: gives the rows of a batch.
        beside: see `write_parts`.
        rows_per_part: likewise.
        settings: of pyarrow's writer.
    """

    def write(part: Vectors, path: str) -> None:
        write_tables(path, schema, map(table, part.batches()), **settings)

    return write_parts(
        vectors, destination, ".parquet", write, beside=beside, rows_per_part=rows_per_part
    )


def write_tables(path: str, schema: pa.Schema, tables: Iterable[pa.Table], **settings: Any) -> None:  # noqa: ANN401
    """Write a Parquet file with row groups of 32 MB or more, the last one excepted."""
    waiting: list[pa.Table] = []
    with pq.ParquetWriter(path, schema, **settings) as writer:
        for table in tables:
            waiting.append(table)
            if sum(item.nbytes for item in waiting) >= ROW_GROUP_BYTES:
                writer.write_table(pa.concat_tables(waiting))
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting))
