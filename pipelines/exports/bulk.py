"""Bulk requests of Elasticsearch and OpenSearch."""

import json
from collections.abc import Mapping

import pyarrow.compute as pc
import pyarrow.dataset as ds

from stx.pipelines.exports.feeds import vector_json, write_lines
from stx.pipelines.exports.numbers_as_text import json_keys, lines
from stx.pipelines.exports.options import ExportOptions
from stx.pipelines.exports.payload import opened, payload_json
from stx.pipelines.exports.vectors import Batch, Vectors, check_ids, open_vectors, sparse_names

# https://www.elastic.co/docs/reference/elasticsearch/mapping-reference/mapping-id-field
_MAX_ID_BYTES = 512

_ELASTICSEARCH = {"cosine": "cosine", "dot": "max_inner_product", "euclidean": "l2_norm"}
_OPENSEARCH = {"cosine": "cosinesimil", "dot": "innerproduct", "euclidean": "l2"}


def write_elasticsearch(
    dataset: ds.FileSystemDataset, destination: str, options: ExportOptions
) -> int:
    """Write bulk requests, and ``index.json`` to create the index with; gives the rows.

    Dense vectors are a dense_vector, sparse ones a sparse_vector. An id that occurs twice:
    Elasticsearch keeps what it gets last. See `write_parts`.

    Raises:
        InputError: an id is empty or has more than 512 bytes, or a weight is negative.
    """
    vectors = open_vectors(dataset, options, "elasticsearch", "dense", "sparse")
    if vectors.kind == "dense":
        metric = vectors.metric(_ELASTICSEARCH)
        field = {"type": "dense_vector", "dims": vectors.dim, "similarity": metric}
    else:
        field = {"type": "sparse_vector"}
    return _write(vectors, destination, field)


def write_opensearch(
    dataset: ds.FileSystemDataset, destination: str, options: ExportOptions
) -> int:
    """Write bulk requests, and ``index.json`` to create the index with; gives the rows.

    Dense vectors are a knn_vector, sparse ones rank_features, which every version has. An id that
    occurs twice: OpenSearch keeps what it gets last. See `write_parts`.

    Raises:
        InputError: an id is empty or has more than 512 bytes, or a weight is negative.
    """
    vectors = open_vectors(dataset, options, "opensearch", "dense", "sparse")
    if vectors.kind == "sparse":
        return _write(vectors, destination, {"type": "rank_features"})
    metric = vectors.metric(_OPENSEARCH)
    field = {"type": "knn_vector", "dimension": vectors.dim, "space_type": metric}
    return _write(vectors, destination, field, settings={"index.knn": True})


def _write(
    vectors: Vectors,
    destination: str,
    field: Mapping[str, object],
    settings: Mapping[str, bool] | None = None,
) -> int:
    """Write the requests, and the index: copied columns are left to the engine's own detection."""
    properties = {"id": {"type": "keyword"}, vectors.column: field}
    index: dict[str, object] = {"mappings": {"properties": properties}}
    if settings:
        index["settings"] = settings
    names = sparse_names(vectors.options)
    first, last = ("[", "]}") if vectors.kind == "dense" else ("{", "}}")

    def line(batch: Batch) -> bytes:
        check_ids(batch, vectors.form, max_bytes=_MAX_ID_BYTES)
        actions = pc.binary_join_element_wise('{"index":{"_id":', json_keys(batch.ids), "}}\n", "")
        fields = opened(payload_json(batch, ids=True), f'"{vectors.column}":{first}')
        return lines(actions, fields, vector_json(batch, names, vectors.form), last)

    beside = {"index.json": json.dumps(index, indent=1).encode()}
    return write_lines(vectors, destination, line, ending=".ndjson", beside=beside)
