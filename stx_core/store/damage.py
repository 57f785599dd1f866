"""Files of a dataset that are not what was written: found, noted, and proved again.

A file that is missing, or has another size, is found by listing the folders. That bytes changed is
seen only by who reads them: `stx verify`, or a run that copies rows. They leave a note of the file,
and the next run does its unit again. A note is a hint: whoever relies on one looks at the file.
"""

import json
import logging
from collections.abc import Collection
from contextlib import suppress
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stx_core.errors import DamagedFile, StoreError
from stx_core.store.data_file import check_whole
from stx_core.store.files.filesystem import list_names, read_bytes, size_table, write_over
from stx_core.store.files.parallel import parallel
from stx_core.store.files.urls import join
from stx_core.store.sealed import decode

logger = logging.getLogger(__name__)

FOLDER = "_stx/damaged"

Kind = Literal["bytes", "rows"]

_FOLDERS = ("data", "quarantine")
_FILES = ("file", "quarantine_file")
_SIZES = ("size", "quarantine_size")
NAMING = (
    *("file", "size", "checksum"),
    *("quarantine_file", "quarantine_size", "quarantine_checksum"),
)
"""Columns of `MANIFEST` and `RECORDS` that name files."""


def named_files(rows: pa.Table) -> pa.Table:
    """The files that rows name, see `MANIFEST` or `RECORDS`: row, name, size and checksum."""
    tables = []
    for file in _FILES:
        kind = file.removesuffix("file")
        columns = [rows[name] for name in (file, f"{kind}size", f"{kind}checksum")]
        table = pa.table([np.arange(len(rows)), *columns], ["row", "name", "size", "checksum"])
        tables.append(table.filter(pc.not_equal(table["name"], "")))
    return pa.concat_tables(tables)


def missing_or_resized(root: str, rows: pa.Table) -> pa.Table:
    """The files of `named_files` that have another size in bytes: it is ``actual``, or null.

    Costs a listing of the folders.
    """
    listed = pa.concat_tables([size_table(root, folder) for folder in _FOLDERS])
    places = np.arange(len(rows))
    tables = []
    for file, size in zip(_FILES, _SIZES, strict=True):
        # Columns of the rows are looked at where they are: millions are named, few are missing.
        is_named = pc.not_equal(rows[file], "")
        actual = listed["size"].take(pc.index_in(rows[file], value_set=listed["name"]))
        differs = pc.fill_null(pc.not_equal(actual, rows[size]), True)
        columns = [places, rows[file], rows[size], actual]
        table = pa.table(columns, ["row", "name", "size", "actual"])
        tables.append(table.filter(pc.and_(is_named, differs)))
    return pa.concat_tables(tables)


def names_one(rows: pa.Table, files: Collection[str]) -> pa.ChunkedArray:
    """(N,) bool, whether a row names one of these files."""
    names = pa.array(files, pa.string())
    return pc.or_(*(pc.is_in(rows[name], value_set=names) for name in _FILES))


def damaged_files(root: str, rows: pa.Table) -> frozenset[str]:
    """Files that rows name, and that are missing, of another size, or noted and still damaged.

    Costs a listing of the folders, and the bytes of files with a note.

    Args:
        root: the dataset.
        rows: see `MANIFEST` or `RECORDS`.

    Raises:
        StoreError: from the store.
    """
    if not len(rows):
        return frozenset()
    bad = set(missing_or_resized(root, rows)["name"].to_pylist())
    folder = join(root, FOLDER)

    def read(name: str) -> bytes:
        # gc removes notes of files that it removed.
        with suppress(FileNotFoundError):
            return read_bytes(join(folder, name))
        return b""

    notes = map(decode, parallel(read, list_names(folder)))
    noted = {n["file"]: n["kind"] for n in notes if n.get("kind") in get_args(Kind)}
    files = named_files(rows.filter(names_one(rows, noted)))
    suspects = files.filter(pc.is_in(files["name"], value_set=pa.array(noted, pa.string())))
    for name, checksum in zip(
        *suspects.select(["name", "checksum"]).to_pydict().values(), strict=True
    ):
        if name in bad:
            continue
        if noted[name] == "rows":
            bad.add(name)
            continue
        try:
            check_whole(join(root, name), checksum)
        except DamagedFile:
            bad.add(name)
    return frozenset(bad)


def note(root: str, file: str, kind: Kind = "bytes") -> None:
    """Leave a note of a file. Where nothing can be written it is only logged.

    Args:
        root: the dataset.
        file: name relative to it.
        kind: what is wrong: its bytes; or its rows, though the bytes are those that were written.
    """
    body = json.dumps({"file": file, "kind": kind}).encode()
    try:
        write_over(join(root, FOLDER, note_name(file)), body)
    except (StoreError, OSError) as error:
        logger.warning("no note of a damaged file can be left: %s", error)


def note_name(file: str) -> str:
    """Name of the note of a file."""
    return f"{file.replace('/', '.')}.json"
