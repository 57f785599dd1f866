"""Datasets written in the forms of other tools."""

from collections.abc import Callable

import pyarrow.dataset as ds

from pipelines.exports.jsonl import write_jsonl
from pipelines.exports.options import ExportOptions
from pipelines.exports.parquet_folder import write_parquet
from pipelines.exports.top_ranked import write_top_ranked
from pipelines.exports.trec import write_trec
from stx_core.errors import SpecError
from stx_core.store.snapshot import open_snapshot

# Streams a dataset to a URL where nothing may be; gives the rows written.
Writer = Callable[[ds.FileSystemDataset, str, ExportOptions], int]

WRITERS: dict[str, Writer] = {
    "trec": write_trec,
    "top_ranked": write_top_ranked,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
}


def run_export(
    path: str, destination: str, format: str, *, output: str | None = None, tag: str = "stx"
) -> int:
    """Write one output of a dataset in another form.

    Args:
        path: the dataset.
        destination: file, or folder of the format parquet; path or URL; nothing may be there.
        format: a name of `WRITERS`.
        output: which output; needed when there are several.
        tag: see `ExportOptions`.

    Returns:
        How many rows were written.

    Raises:
        SpecError: the format is unknown, the destination exists or its name does not fit.
        InputError: the dataset holds what the form cannot; see its writer.
        StoreError: no snapshot, no such output, or the destination cannot be written.
    """
    if format not in WRITERS:
        raise SpecError(f"--format {format}: unknown; one of {', '.join(WRITERS)}")
    options = ExportOptions(source=path, tag=tag)
    return WRITERS[format](open_snapshot(path, output=output), destination, options)
