"""Parquet files as Milvus and Pinecone import them in bulk."""

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from stx.pipelines.exports.numbers_as_text import json_keys, sparse_text
from stx.pipelines.exports.options import ExportOptions
from stx.pipelines.exports.payload import payload_json
from stx.pipelines.exports.tables import write_table_parts
from stx.pipelines.exports.vectors import Batch, check_ids, named, open_vectors, positive
from stx_core.errors import SpecError
from stx_core.store.files.urls import join

# https://milvus.io/docs/limitations.md, https://docs.pinecone.io/reference/api/database-limits
_MILVUS_ID_BYTES, _PINECONE_ID_BYTES = 65_535, 512

# As pymilvus writes: importers know fewer encodings than readers of data lakes do.
_USE_DICTIONARY = False

_PINECONE_METRICS = {"cosine": "cosine", "dot": "dotproduct", "euclidean": "euclidean"}


def write_milvus(dataset: ds.FileSystemDataset, destination: str, options: ExportOptions) -> int:
    """Write files for the bulk import of Milvus and Zilliz; gives the rows. See `write_parts`.

    Columns are ``id``, the vector, and ``$meta``: copied columns as JSON, for a collection with
    dynamic fields. As pymilvus' own bulk writer has them: float32 as a list of floats, float16 as a
    list of its bytes, sparse vectors as JSON text. An id that occurs twice is imported twice.

    Raises:
        InputError: an id is empty or has more than 65,535 bytes, a copied value has no JSON, or a
            weight is negative.
    """
    vectors = open_vectors(dataset, options, "milvus", "dense", "sparse")
    if vectors.kind == "sparse":
        kind = pa.string()
    else:
        kind = pa.list_(pa.uint8() if vectors.is_half else pa.float32())
    schema = pa.schema([("id", pa.string()), (vectors.column, kind), ("$meta", pa.string())])

    def table(batch: Batch) -> pa.Table:
        check_ids(batch, "milvus", max_bytes=_MILVUS_ID_BYTES)
        if vectors.kind == "sparse":
            offsets, indices, values = positive(batch, "milvus")
            inside = sparse_text(offsets, json_keys(named(indices, None)), values)
            column = pa.array([f"{{{text}}}" for text in inside.to_pylist()])
        else:
            numbers = batch.vectors.flatten()
            if vectors.is_half:
                numbers = pa.array(numbers.to_numpy().view(np.uint8))
            ends = np.linspace(0, len(numbers), len(batch) + 1).astype(np.int32)
            column = pa.ListArray.from_arrays(pa.array(ends), numbers, type=kind)
        return pa.table([batch.ids, column, payload_json(batch)], schema=schema)

    return write_table_parts(vectors, destination, schema, table, use_dictionary=_USE_DICTIONARY)


def write_pinecone(dataset: ds.FileSystemDataset, destination: str, options: ExportOptions) -> int:
    """Write files for Pinecone's import into vector indexes; gives the rows. See `write_parts`.

    They lie in a folder that is named like the namespace, ``__default__`` if none is given. Columns
    are ``id``, ``values`` or ``sparse_values``, and ``metadata``: copied columns as JSON. An id
    that occurs twice: it is not documented which row Pinecone keeps.

    Raises:
        SpecError: the model compares by manhattan, or a copied column is neither text, number,
            boolean nor a list of texts.
        InputError: an id is empty, has more than 512 characters or is not ASCII.
    """
    vectors = open_vectors(dataset, options, "pinecone", "dense", "sparse")
    vectors.metric(_PINECONE_METRICS)
    # https://docs.pinecone.io/guides/index-data/indexing-overview#metadata
    for field in vectors.payload:
        kind = field.type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            fits = pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type)
        else:
            fits = not pa.types.is_nested(kind)
        if not fits:
            raise SpecError(
                f"column {field.name!r} is {kind}, and Pinecone takes texts, numbers, booleans and "
                "lists of texts; leave it out with --columns"
            )
    name = options.name or "__default__"
    if "/" in name or name.startswith("."):
        raise SpecError(f"--name {name}: is no name of a namespace")
    if vectors.kind == "dense":
        values = pa.field("values", pa.list_(pa.float32()))
    else:
        parts = [("indices", pa.list_(pa.int64())), ("values", pa.list_(pa.float32()))]
        values = pa.field("sparse_values", pa.struct(parts))
    schema = pa.schema([("id", pa.string()), values, ("metadata", pa.string())])

    def table(batch: Batch) -> pa.Table:
        check_ids(batch, "pinecone", max_bytes=_PINECONE_ID_BYTES, plain_ascii=True)
        column = batch.vectors.cast(values.type)
        return pa.table([batch.ids, column, payload_json(batch)], schema=schema)

    return write_table_parts(
        vectors, join(destination, name), schema, table, use_dictionary=_USE_DICTIONARY
    )
