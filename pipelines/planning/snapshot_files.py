"""Files of committed snapshots as the input of a job: their units, and hashes of what they hold."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx_core.store.corpus.units import Unit
from stx_core.store.data_file import read_columns
from stx_core.store.files.urls import join
from stx_core.store.sealed import canonical_json
from stx_core.store.snapshot import read_manifest


class DataFile(NamedTuple):
    """A file of a snapshot: URL, checksum and rows."""

    url: str
    checksum: str
    rows: int


def snapshot_data(root: str, version: int, output: str) -> list[DataFile]:
    """The files of an output of one version, in corpus order; files without rows left out.

    Raises:
        StoreError: there is no such snapshot.
    """
    manifest = read_manifest(root, version)
    rows = manifest.filter(pc.equal(manifest["output"], output))
    columns = (rows[name].to_pylist() for name in ("file", "checksum", "file_rows"))
    files = (DataFile(join(root, name), *rest) for name, *rest in zip(*columns, strict=True))
    return [file for file in files if file.rows]


def take_unit(unit: Unit, columns: Sequence[str]) -> pa.Table:
    """Columns of the rows of a unit, from a file of a snapshot."""
    table = read_columns(unit.url, columns, np.arange(unit.start, unit.stop))
    return table.combine_chunks()


def digest(values: Any) -> str:  # noqa: ANN401  (JSON values)
    """SHA-256 of JSON values."""
    return hashlib.sha256(canonical_json(values)).hexdigest()


def files_digest(files: Sequence[DataFile]) -> str:
    """Hash of what files hold, in their order."""
    return digest([file.checksum for file in files])
