"""Any output as one folder of Parquet files, for tools that read folders."""

import os
import tempfile

import pyarrow.dataset as ds

from pipelines.exports.options import ExportOptions
from stx_core.errors import SpecError
from stx_core.store.files.filesystem import arrow_filesystem, download, list_objects, upload
from stx_core.store.files.urls import join, redact


def write_parquet(dataset: ds.FileSystemDataset, destination: str, options: ExportOptions) -> int:
    """Copy the files of an output to a folder, named in their order; gives the rows written.

    Files are copied one by one, each whole or not at all. Where a copy was broken off, remove the
    folder and start again.

    Raises:
        SpecError: something is in the folder.
        StoreError: a file cannot be read or written.
    """
    if list_objects(destination):
        raise SpecError(f"{redact(destination)}: exists; remove it, or export to another name")
    root = arrow_filesystem(options.source)[1].rstrip("/")
    with tempfile.TemporaryDirectory(prefix="stx-") as folder:
        path = os.path.join(folder, "file")
        for number, file in enumerate(dataset.files):
            # Paths of a dataset have no scheme; what follows its root is the same in its URL.
            download(join(options.source, file.removeprefix(root).lstrip("/")), path)
            upload(path, join(destination, f"part-{number:05}.parquet"))
    rows: int = dataset.count_rows()
    return rows
