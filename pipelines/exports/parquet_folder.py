"""Any output as one folder of Parquet files, for tools that read folders."""

import os
import tempfile

import pyarrow.dataset as ds
import pyarrow.parquet as pq

from stx.pipelines.exports.options import ExportOptions
from stx_core.errors import DamagedFile, SpecError
from stx_core.store.data_file import WAY_BACK, hash_bytes
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
    n_rows = 0
    root = arrow_filesystem(options.source)[1].rstrip("/")
    with tempfile.TemporaryDirectory(prefix="stx-") as folder:
        path = os.path.join(folder, "file")
        for number, file in enumerate(dataset.files):
            # Paths of a dataset have no scheme; what follows its root is the same in its URL.
            url = join(options.source, file.removeprefix(root).lstrip("/"))
            download(url, path)
            if hash_bytes(path)[1] != options.checksums[number]:
                raise DamagedFile(
                    f"{redact(url)}: damaged, its checksum does not match; {WAY_BACK}"
                )
            n_rows += pq.read_metadata(path).num_rows
            upload(path, join(destination, f"part-{number:05}.parquet"))
    return n_rows
