"""Files of a dataset that are not what was written: found, noted, and proved again.

A file that is missing, or has another size, is found by listing the folders. That bytes changed is
seen only by who reads them: `stx verify`, or a run that copies rows. They leave a note of the file,
and the next run does its unit again. A note is a hint: whoever relies on one looks at the file.
"""

import json
import logging
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from stx_core.errors import DamagedFile, StoreError
from stx_core.store.data_file import check_whole
from stx_core.store.files.filesystem import list_names, list_sizes, read_bytes, write_over
from stx_core.store.files.parallel import parallel
from stx_core.store.files.urls import join
from stx_core.store.sealed import decode

logger = logging.getLogger(__name__)

FOLDER = "_stx/damaged"

Kind = Literal["bytes", "rows"]

_FILES = ("file", "quarantine_file")
NAMING = (
    *("file", "size", "checksum"),
    *("quarantine_file", "quarantine_size", "quarantine_checksum"),
)
"""Columns of `MANIFEST` and `RECORDS` that name files."""


def sizes(root: str) -> dict[str, int]:
    """Sizes in bytes of the files of a dataset that hold rows, by name relative to it."""
    return {
        f"{folder}/{name}": size
        for folder in ("data", "quarantine")
        for name, size in list_sizes(join(root, folder)).items()
    }


def named_files(rows: pa.Table) -> Iterator[tuple[str, int, str]]:
    """Name, size and checksum of the files that rows name, see `MANIFEST` or `RECORDS`."""
    for file in _FILES:
        kind = file.removesuffix("file")
        columns = (rows[name].to_pylist() for name in (file, f"{kind}size", f"{kind}checksum"))
        yield from (each for each in zip(*columns, strict=True) if each[0])


def names_one(rows: pa.Table, files: Collection[str]) -> pa.ChunkedArray:
    """(N,) bool, whether a row names one of these files."""
    wanted = pa.array(files, pa.string())
    return pc.or_(*(pc.is_in(rows[name], value_set=wanted) for name in _FILES))


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
    there, noted = sizes(root), _notes(root)
    bad = set()
    for name, size, checksum in named_files(rows):
        if there.get(name) != size or (name in noted and _is_damaged(root, name, checksum, noted)):
            bad.add(name)
    return frozenset(bad)


def _is_damaged(root: str, name: str, checksum: str, noted: dict[str, Kind]) -> bool:
    if noted[name] == "rows":
        return True
    try:
        check_whole(join(root, name), checksum)
    except DamagedFile:
        return True
    return False


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
    """What the note of a file is called."""
    return f"{file.replace('/', '.')}.json"


def _notes(root: str) -> dict[str, Kind]:
    """What is noted, by file."""
    folder = join(root, FOLDER)

    def read(name: str) -> dict[str, Any]:
        # gc removes notes of files that it removed.
        with suppress(FileNotFoundError):
            return decode(read_bytes(join(folder, name)))
        return {}

    found = parallel(read, list_names(folder))
    return {str(each["file"]): each["kind"] for each in found if each.get("kind") in get_args(Kind)}
