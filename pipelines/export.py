"""Datasets written in the forms of other tools."""

import os
from collections.abc import Callable
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as ds

from stx.pipelines.exports.bulk import write_elasticsearch, write_opensearch
from stx.pipelines.exports.bulk_parquet import write_milvus, write_pinecone
from stx.pipelines.exports.ciff import write_ciff
from stx.pipelines.exports.feeds import write_anserini, write_seismic, write_vespa
from stx.pipelines.exports.huggingface import write_huggingface
from stx.pipelines.exports.indexes import write_faiss, write_usearch
from stx.pipelines.exports.jsonl import write_jsonl
from stx.pipelines.exports.lakes import write_delta, write_iceberg, write_lance
from stx.pipelines.exports.options import ExportOptions
from stx.pipelines.exports.parquet_folder import write_parquet
from stx.pipelines.exports.pgvector import write_pgvector
from stx.pipelines.exports.qdrant import write_qdrant
from stx.pipelines.exports.top_ranked import write_top_ranked
from stx.pipelines.exports.trec import write_trec
from stx_core.errors import SpecError
from stx_core.store.files.apart import refuse_overlap
from stx_core.store.files.filesystem import SCHEMES, refuse_credentials
from stx_core.store.files.urls import scheme
from stx_core.store.snapshot import open_snapshot, read_manifest, snapshot_info

# Streams a dataset to a place; gives the rows that are there then.
Writer = Callable[[ds.FileSystemDataset, str, ExportOptions], int]

WRITERS: dict[str, Writer] = {
    "trec": write_trec,
    "top_ranked": write_top_ranked,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
    "huggingface": write_huggingface,
    "lance": write_lance,
    "delta": write_delta,
    "iceberg": write_iceberg,
    "qdrant": write_qdrant,
    "milvus": write_milvus,
    "pinecone": write_pinecone,
    "pgvector": write_pgvector,
    "elasticsearch": write_elasticsearch,
    "opensearch": write_opensearch,
    "vespa": write_vespa,
    "faiss": write_faiss,
    "usearch": write_usearch,
    "anserini": write_anserini,
    "seismic": write_seismic,
    "ciff": write_ciff,
}

# Forms of a single file, which may lie anywhere.
_ONE_FILE = ("trec", "top_ranked", "jsonl", "ciff")
# Forms that carry nothing but ids and vectors.
_BARE = ("anserini", "seismic", "ciff")
_OTHER_OPTIONS: dict[str, tuple[str, ...]] = {
    "name": ("pgvector", "pinecone", "vespa"),
    "recipe": ("faiss",),
    "catalog": ("iceberg",),
    "vocabulary": ("anserini", "ciff", "elasticsearch", "seismic", "vespa"),
    "columns": tuple(
        name for name in WRITERS if name not in ("trec", "top_ranked", "jsonl", "parquet", *_BARE)
    ),
}


def run_export(
    path: str,
    destination: str,
    format: str,
    *,
    output: str | None = None,
    tag: str = "stx",
    **more: Any,  # noqa: ANN401
) -> int:
    """Write one output of a dataset in another form.

    Args:
        path: the dataset.
        destination: file, folder, URL or name inside an engine; see the form's writer.
        format: a name of `WRITERS`.
        output: which output; needed when there are several.
        tag: see `ExportOptions`.
        more: further fields of `ExportOptions`; None where not given.

    Returns:
        How many rows were written.

    Raises:
        SpecError: the format is unknown, an option does not go with it, the destination exists or
            its name does not fit, the kind of vectors does not, or a package is not installed.
        InputError: the dataset holds what the form cannot; see its writer.
        StoreError: no snapshot, no such output, or the destination cannot be written.
    """
    if format not in WRITERS:
        raise SpecError(f"--format {format}: unknown; one of {', '.join(WRITERS)}")
    for name, value in more.items():
        if value is not None and format not in _OTHER_OPTIONS[name]:
            raise SpecError(f"--{name} goes with {', '.join(_OTHER_OPTIONS[name])}, not {format}")
    destination = os.path.expanduser(destination)
    if scheme(destination) in SCHEMES:
        refuse_credentials(destination)
    if format not in _ONE_FILE and not more.get("catalog"):
        refuse_overlap(destination, [path], "the destination")
    info = snapshot_info(path)
    dataset = open_snapshot(path, output=output, version=info.version)
    name = output or next(iter(info.outputs))
    # The files of the output, in the order in which it is opened.
    manifest = read_manifest(path, info.version)
    is_file = pc.and_(pc.equal(manifest["output"], name), pc.not_equal(manifest["file"], ""))
    files = manifest.filter(is_file)
    options = ExportOptions(
        source=path,
        facts=info.outputs[name],
        file_rows=tuple(files["rows_out"].to_pylist()),
        checksums=tuple(files["checksum"].to_pylist()),
        tag=tag,
        **more,
    )
    return WRITERS[format](dataset, destination, options)
