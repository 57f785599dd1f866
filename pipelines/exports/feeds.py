"""JSON lines for engines that index what they are fed: Vespa, Anserini, Seismic."""

import re
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from stx.pipelines.exports.numbers_as_text import dense_text, json_keys, lines, sparse_text
from stx.pipelines.exports.options import ExportOptions
from stx.pipelines.exports.parts import write_parts
from stx.pipelines.exports.payload import opened, payload_json
from stx.pipelines.exports.vectors import (
    Batch,
    Vectors,
    check_ids,
    named,
    open_vectors,
    positive,
    sparse_names,
    without_zeros,
)
from stx_core.errors import SpecError

# Impact indexes hold integers; this is what the authors of SPLADE multiply by.
# https://github.com/castorini/pyserini/blob/master/docs/experiments-spladev2.md
IMPACT_SCALE = 100

_VESPA_METRICS = {"cosine": "angular", "dot": "dotproduct", "euclidean": "euclidean"}


def write_lines(
    vectors: Vectors,
    destination: str,
    line: Callable[[Batch], bytes],
    *,
    ending: str = ".jsonl",
    beside: dict[str, bytes] | None = None,
) -> int:
    """Write a folder of text files, see `write_parts`; `line` gives the lines of a batch."""

    def write(part: Vectors, path: str) -> None:
        with open(path, "wb") as stream:
            for batch in part.batches():
                stream.write(line(batch))

    return write_parts(vectors, destination, ending, write, beside=beside)


def vector_json(batch: Batch, names: pa.Array | None, form: str) -> pa.Array:
    """N vectors: the inside of a JSON array, or, if sparse, of an object of positive weights."""
    if pa.types.is_fixed_size_list(batch.vectors.type):
        return dense_text(batch)
    offsets, indices, values = positive(batch, form)
    return sparse_text(offsets, json_keys(named(indices, names)), values)


def impacts(batch: Batch, form: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sparse vectors with weights as integers, as `sparse_csr`; those that become 0 go."""
    offsets, indices, values = positive(batch, form)
    return without_zeros(offsets, indices, np.rint(values * IMPACT_SCALE).astype(np.int32))


def write_vespa(dataset: ds.FileSystemDataset, destination: str, options: ExportOptions) -> int:
    """Write a feed of ``put`` operations, and a schema; gives the rows. See `write_parts`.

    Dense vectors are an indexed tensor, sparse ones a mapped tensor. An id that occurs twice: Vespa
    keeps what it is fed last.

    Raises:
        SpecError: the name of the document type or of a column is none for Vespa.
        InputError: a weight is negative.
    """
    vectors = open_vectors(dataset, options, "vespa", "dense", "sparse")
    name = options.name or "documents"
    for identifier in (name, *(field.name for field in vectors.payload)):
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", identifier):
            raise SpecError(f"{identifier!r}: names in Vespa are letters, digits and _")
    names = sparse_names(options)
    first, last = ('{"values":[', "]}}}") if vectors.kind == "dense" else ('{"cells":{', "}}}}")

    def line(batch: Batch) -> bytes:
        check_ids(batch, "vespa")
        document_ids = json_keys(pc.binary_join_element_wise(f"id:{name}:{name}::", batch.ids, ""))
        fields = opened(payload_json(batch, ids=True), f'"{vectors.column}":{first}')
        weights = vector_json(batch, names, "vespa")
        pieces = ('{"put":', document_ids, ',"fields":', fields, weights, last)
        return lines(*pieces)

    schema = _vespa_schema(vectors, name).encode()
    return write_lines(vectors, destination, line, beside={f"{name}.sd": schema})


def _vespa_schema(vectors: Vectors, name: str) -> str:
    if vectors.kind == "dense":
        metric = vectors.metric(_VESPA_METRICS)
        kind = f"tensor<{'bfloat16' if vectors.is_half else 'float'}>(x[{vectors.dim}])"
        how = f"indexing: attribute | index\n      attribute {{ distance-metric: {metric} }}"
        score = f"closeness(field, {vectors.column})"
    else:
        kind, how = "tensor<float>(term{})", "indexing: attribute"
        score = f"sum(query(q) * attribute({vectors.column}))"
    fields = "".join(
        f"    field {field.name} type {_vespa_type(field.type)} "
        "{ indexing: attribute | summary }\n"
        for field in vectors.payload
    )
    return (
        f"schema {name} {{\n  document {name} {{\n"
        "    field id type string { indexing: attribute | summary }\n"
        f"{fields}    field {vectors.column} type {kind} {{\n      {how}\n    }}\n  }}\n"
        f"  rank-profile default {{\n    inputs {{ query(q) {kind} }}\n"
        f"    first-phase {{ expression: {score} }}\n  }}\n}}\n"
    )


def _vespa_type(kind: pa.DataType) -> str:
    """Columns of structs are fed as JSON has them; their type has to be set by hand."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"array<{_vespa_type(kind.value_type)}>"
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind):
        return "long"
    return "double" if pa.types.is_floating(kind) else "string"


def write_anserini(dataset: ds.FileSystemDataset, destination: str, options: ExportOptions) -> int:
    """Write JSON lines for Anserini and Pyserini; gives the rows. See `write_parts`.

    Dense: ``docid`` and ``vector``, a JsonDenseVectorCollection. Sparse: ``id``, ``contents`` and
    ``vector`` with weights times 100 as integers, a JsonVectorCollection of impacts. Copied
    columns have no place. An id that occurs twice is indexed twice.

    Raises:
        InputError: a weight is negative.
    """
    vectors = open_vectors(dataset, options, "anserini", "dense", "sparse")
    names = sparse_names(options)

    def line(batch: Batch) -> bytes:
        check_ids(batch, "anserini")
        ids = json_keys(batch.ids)
        if vectors.kind == "dense":
            return lines('{"docid":', ids, ',"vector":[', dense_text(batch), "]}")
        offsets, indices, values = impacts(batch, "anserini")
        weights = sparse_text(offsets, json_keys(named(indices, names)), values)
        return lines('{"id":', ids, ',"contents":"","vector":{', weights, "}}")

    return write_lines(vectors, destination, line)


def write_seismic(dataset: ds.FileSystemDataset, destination: str, options: ExportOptions) -> int:
    """Write JSON lines for Seismic: ``id`` and ``vector``; gives the rows. See `write_parts`.

    Copied columns have no place. An id that occurs twice is indexed twice.

    Raises:
        InputError: a weight is negative.
    """
    vectors = open_vectors(dataset, options, "seismic", "sparse")
    names = sparse_names(options)

    def line(batch: Batch) -> bytes:
        weights = vector_json(batch, names, "seismic")
        return lines('{"id":', json_keys(batch.ids), ',"vector":{', weights, "}}")

    return write_lines(vectors, destination, line)
